"""Reads what clients send: nothing larger, slower, deeper or more ambiguous than the contract has a use for."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from aiohttp import web

from .errors import INVALID, ApiError

TOO_LARGE = 413001
UNSUPPORTED_TYPE = 415001
TOO_SLOW = 408001
MAX_DEPTH = 16  # the contract's own bodies have depth 1
MAX_ITEMS = 200_000  # commas and brackets in a body; those of prompts count too
MAX_VALUES = 1_000  # in a body: keys of objects and items of lists, all together
LARGE_BYTES = 1 << 20  # few bodies from here on are worked on at once, and in a thread
CHUNK_WAIT_S = 20.0  # for the next piece of a body
BODY_WAIT_S = 300.0  # for all of it

Result = TypeVar("Result")


def is_large(request: web.Request) -> bool:
    """Whether a request's body is large, or may be: its length is not said."""
    return request.content_length is None or request.content_length > LARGE_BYTES


def turn(request: web.Request, large_bodies: asyncio.Semaphore) -> contextlib.AbstractAsyncContextManager[None]:
    """Wait for a large body's turn, so that few are in memory at once; small ones need none."""
    return large_bodies if is_large(request) else contextlib.nullcontext()


async def aside(request: web.Request, work: Callable[[], Result]) -> Result:
    """Do what takes long with a large body in a thread, and at once with a small one."""
    return await asyncio.to_thread(work) if is_large(request) else work()


async def read_json_object(request: web.Request, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object that a request carries.

    Raises ``ApiError``: the body is no JSON object or not sent as JSON, has a key twice, NaN, Infinity or half a
    surrogate pair, nests deeper than ``MAX_DEPTH``, is larger than ``max_bytes``, or comes too slowly.
    """
    if request.content_type != "application/json":
        message = f'The body must be JSON, sent with "Content-Type: application/json", not {request.content_type}.'
        raise ApiError(UNSUPPORTED_TYPE, message)
    body = b"".join([chunk async for chunk in read_chunks(request, max_bytes)])
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_ITEMS:
        raise _too_many()
    value = await asyncio.to_thread(_parse, body) if len(body) > LARGE_BYTES else _parse(body)
    if not isinstance(value, dict):
        raise ApiError(INVALID, f"The body must be a JSON object, got {_kind(value)}.")
    return value


async def read_chunks(request: web.Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield a request's body as it comes; ``ApiError`` if it is larger than ``max_bytes`` or comes too slowly."""
    if request.content_length is not None and request.content_length > max_bytes:
        raise too_large(max_bytes)
    loop, size = asyncio.get_running_loop(), 0
    deadline = loop.time() + BODY_WAIT_S
    while True:
        try:
            chunk = await asyncio.wait_for(request.content.readany(), min(CHUNK_WAIT_S, deadline - loop.time()))
        except asyncio.TimeoutError:
            raise ApiError(TOO_SLOW, "The body came too slowly. Send it again.") from None
        except (web.PayloadAccessError, ConnectionError):
            raise ApiError(INVALID, "The body ended before its end.") from None
        if not chunk:
            return
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes)
        yield chunk


def too_large(max_bytes: int) -> ApiError:
    """Return the error for a body over the limit."""
    return ApiError(TOO_LARGE, f"The body is larger than {max_bytes >> 20} MiB. Send images as URLs, or smaller ones.")


def _parse(body: bytes) -> Any:
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        _check(value)
    except ApiError:
        raise
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise ApiError(INVALID, f"The body is not valid JSON in UTF-8: {error}.") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ApiError(INVALID, f"The body has the key {json.dumps(twice[:80])} twice. Give it once.")
    return found


def _no_constant(name: str) -> Any:
    raise ApiError(INVALID, f"The body has {name}, which is not JSON. Give a number.")


def _check(value: Any) -> None:
    """Refuse what cannot be written down again: half surrogate pairs, and depth."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()  # UnicodeEncodeError is a ValueError
            elif isinstance(item, list):
                count += len(item)
                below += item
            elif isinstance(item, dict):
                count += len(item)
                below += [*item.keys(), *item.values()]
        if count > MAX_VALUES:
            raise _too_many()
        if not below:
            return
        level = below
    raise _too_deep()


def _too_many() -> ApiError:
    return ApiError(INVALID, "The body has too many items: a request is one flat object of at most ten values.")


def _too_deep() -> ApiError:
    return ApiError(INVALID, f"The body nests deeper than {MAX_DEPTH} levels. A request is one flat object.")


def _kind(value: object) -> str:
    names: dict[type, str] = {list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
