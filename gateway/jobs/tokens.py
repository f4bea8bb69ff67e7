"""Bearer tokens: how they are made, the hash that is kept of each, and the rate limit of each."""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from ..durable import read_secret, sync_folder
from .opening import store_file
from .records import Token
from .sqlite_store import SqliteStore
from .store import Store
from .webhooks import new_secret, shared_secret

# For every caller of an API without tokens, which takes calls from its own machine alone.
ANONYMOUS = Token("anonymous", "", 0.0, None, None, None, id="anonymous", operator=True)
_PREFIX = "wf_"
_FIRST_NAME = "default"
_LOG = logging.getLogger("wan_flf2v.gateway")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class TokenNameError(ValueError):
    """A token cannot have this name."""


async def create_token(
    store: Store,
    name: str,
    *,
    rate_per_minute: int | None = None,
    queue_limit: int | None = None,
    text: str | None = None,
    webhook_secret: str | None = None,
    operator: bool = False,
) -> tuple[str, Token]:
    """Make a token called ``name``; return its text, which is kept nowhere, and its record.

    ``text`` and ``webhook_secret`` are new random ones by default. A limit of ``None`` is that of the settings. Raises
    ``TokenNameError`` if the name is taken, or is not 1 to 64 ASCII letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name) or name == ANONYMOUS.name:
        raise TokenNameError(f'"{name}" cannot name a token. Use 1 to 64 letters, digits, dots, dashes, underscores.')
    text = text or _new_text()
    secret = webhook_secret or new_secret()
    token = Token(name, hash_token(text), time.time(), secret, rate_per_minute, queue_limit, operator=operator)
    if not await store.add_token(token):
        raise TokenNameError(f'There is already a token "{name}". Choose another name, or revoke that one.')
    return text, token


async def first_token(data: Path) -> bool:
    """Make an operator's token on the first start and write it into ``<data>/token``, which only this user can read.

    Its webhooks are signed with ``shared_secret``. The text is in a file before the token is valid: after a start that
    was killed in between, the next one goes on from there. Where the token's file was kept and the store is new, the
    store gets that token. Returns whether the store got one.
    """
    file, draft, path = data / "token", data / "token.new", store_file(data)
    if file.exists() and not (path.exists() and path.stat().st_size):
        file.replace(draft)
    store = SqliteStore(path)
    try:
        if not file.exists() and (draft.exists() or not await store.tokens()):
            text = read_secret(draft, _new_text().encode()).decode().strip()
            if await find_token(store, text) is None:
                secret = shared_secret(store, data)
                await create_token(store, _FIRST_NAME, text=text, webhook_secret=secret, operator=True)
            draft.replace(file)
            sync_folder(data)
            return True
        if file.exists() and await find_token(store, file.read_text("utf-8").strip()) is None:
            _LOG.warning(
                "token is unknown: that in %s was revoked. Delete the file; without other tokens a new one is made.",
                file,
            )
        return False
    finally:
        await store.close()


def _new_text() -> str:
    return _PREFIX + secrets.token_urlsafe(32)


def hash_token(text: str) -> str:
    """Return the hash that is kept of a token. A token has 256 random bits: nobody can guess it from a plain hash."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


async def find_token(store: Store, text: str) -> Token | None:
    """Return the record of a token's text; ``None`` if it is unknown or revoked."""
    return await store.find_token(hash_token(text))


async def is_valid(store: Store, token_id: str) -> bool:
    """Return whether the token with this id was not revoked; an API without tokens has one that never is."""
    return token_id == ANONYMOUS.id or await store.find_token_by_id(token_id) is not None


class RateLimiter:
    """One token bucket in memory for each token's id; it holds the requests of ten seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}  # id -> requests left, and when that was

    def wait_s(self, token: str, per_minute: int) -> float:
        """Take one request from the bucket; return 0, or the seconds to wait if the bucket is empty."""
        now, size = self._clock(), max(1.0, per_minute / 6)
        left, then = self._buckets.get(token, (size, now))
        left = min(size, left + (now - then) * per_minute / 60)
        if left < 1:
            self._buckets[token] = (left, now)
            return (1 - left) * 60 / per_minute if per_minute > 0 else 60.0
        self._buckets[token] = (left - 1, now)
        return 0.0
