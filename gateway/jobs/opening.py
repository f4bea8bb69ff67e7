"""Opens the job store that the settings name, the file in the data folder or the one on NATS JetStream.

It also opens what leads to outward workers, and copies what matters from the first store to the second.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings import NatsAccess
from .addresses import NO_OUTWARD, Outward
from .sqlite_store import SqliteStore
from .store import Store, StoreFileError

if TYPE_CHECKING:
    from .jetstream_store import JetStreamStore

CLUSTER = 'pip install "wan-flf2v[serve,cluster] @ git+<this repository>"'
_COPIER = "copy"  # as holder of the right to dispatch


def store_file(data: Path) -> Path:
    """Return the file of the embedded store in a data folder."""
    return data / "store.sqlite3"


def open_store(data: Path, nats: NatsAccess | None, *, max_wait_s: float = math.inf) -> Store:
    """Return the store on NATS; without it, that in the file of the data folder.

    Blocks. Raises ``StoreFileError`` and ``OSError``.
    """
    return (
        SqliteStore(store_file(data), max_wait_s=max_wait_s) if nats is None else on_nats(nats, max_wait_s=max_wait_s)
    )


def open_outward(nats: NatsAccess | None) -> Outward:
    """Return the outward workers that NATS leads to; without it there are none. Raises ``StoreFileError``."""
    if nats is None:
        return NO_OUTWARD
    from .outward import OutwardWorkers  # the store was opened before: what this needs is installed

    return OutwardWorkers(nats)


async def copy_to_nats(data: Path, nats: NatsAccess) -> tuple[int, int, int]:
    """Copy the tokens, added models and unfinished jobs in the file of a data folder to NATS, with the jobs' images.

    Returns how many tokens, models and jobs were not there yet. Raises what ``open_store`` raises, ``StoreFileError``
    also if a gateway runs on the file, and ``StoreError``.
    """
    async with contextlib.AsyncExitStack() as stack:
        source = SqliteStore(store_file(data))
        stack.push_async_callback(source.close)
        target = on_nats(nats)
        stack.push_async_callback(target.close)
        if not await source.lead(_COPIER):
            raise StoreFileError(f"A gateway runs requests of {data}, and another would run them too. Stop it first.")
        stack.push_async_callback(source.resign, _COPIER)
        tokens, priorities = [], await source.priorities()
        for token in await source.tokens():
            tokens.append(await target.add_token(token))
            if tokens[-1] and token.id in priorities:
                await target.set_priority(token.name, priorities[token.id])
        models = [await target.add_model(model) for model in await source.models()]
        jobs = []
        for unfinished in await source.unfinished():
            for image in unfinished.job.inputs.values():
                with contextlib.suppress(FileNotFoundError):
                    await target.blobs.put(data, f"inputs/{image}")
            jobs.append(await target.adopt(unfinished))
    return sum(tokens), sum(models), sum(jobs)


def on_nats(nats: NatsAccess, *, max_wait_s: float = math.inf) -> JetStreamStore:
    """Return the store on the servers that ``nats`` leads to; raises what ``open_store`` raises."""
    try:
        from .jetstream_store import JetStreamStore
    except ImportError as error:
        raise StoreFileError(f"--nats needs the extra [cluster] ({error}): {CLUSTER}") from error
    return JetStreamStore(nats, max_wait_s=max_wait_s)
