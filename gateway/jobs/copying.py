"""Copies tokens, added models and unfinished jobs from the store in a file to the one on NATS."""

from __future__ import annotations

import contextlib
from pathlib import Path

from ..settings import NatsAccess
from .opening import on_nats, store_file
from .sqlite_store import SqliteStore
from .store import StoreFileError

_COPIER = "copy"  # as holder of the right to dispatch


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
