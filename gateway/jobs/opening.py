"""Opens the job store that the settings name: the file in the data folder, or the one on NATS JetStream.

It copies what matters from the first to the second.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

from .sqlite_store import SqliteStore
from .store import Store, StoreFileError

if TYPE_CHECKING:
    from .jetstream_store import JetStreamStore

_COPIER = "copy"  # as holder of the right to dispatch


def store_file(data: Path) -> Path:
    """Return the file of the embedded store in a data folder."""
    return data / "store.sqlite3"


def open_store(data: Path, nats_url: str | None, *, max_wait_s: float = math.inf) -> Store:
    """Return the store on the servers of ``nats_url``; without one, that in the file of the data folder.

    Blocks. Raises ``StoreFileError`` and ``OSError``.
    """
    if not nats_url:
        return SqliteStore(store_file(data), max_wait_s=max_wait_s)
    return on_nats(nats_url, max_wait_s=max_wait_s)


async def copy_to_nats(data: Path, nats_url: str) -> tuple[int, int, int]:
    """Copy the tokens, added models and unfinished jobs in the file of a data folder to NATS.

    Returns how many tokens, models and jobs were not there yet. Raises what ``open_store`` raises, ``StoreFileError``
    also if a gateway runs on the file, and ``StoreError``.
    """
    async with contextlib.AsyncExitStack() as stack:
        source = SqliteStore(store_file(data))
        stack.push_async_callback(source.close)
        target = on_nats(nats_url)
        stack.push_async_callback(target.close)
        if not await source.lead(_COPIER):
            raise StoreFileError(f"A gateway runs requests of {data}, and another would run them too. Stop it first.")
        stack.push_async_callback(source.resign, _COPIER)
        tokens = [await target.add_token(token) for token in await source.tokens()]
        models = [await target.add_model(model) for model in await source.models()]
        jobs = [await target.adopt(unfinished) for unfinished in await source.unfinished()]
    return sum(tokens), sum(models), sum(jobs)


def on_nats(nats_url: str, *, max_wait_s: float = math.inf) -> JetStreamStore:
    """Return the store on the servers of ``nats_url``; raises what ``open_store`` raises."""
    try:
        from .jetstream_store import JetStreamStore
    except ImportError as error:
        raise StoreFileError(
            f"--nats needs the extra [cluster] ({error}): "
            'pip install "wan-flf2v[serve,cluster] @ git+<this repository>"'
        ) from error
    return JetStreamStore(nats_url, max_wait_s=max_wait_s)
