"""Opens what the settings name: the job store, in a file or on NATS JetStream, and the way to outward workers."""

from __future__ import annotations

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


def on_nats(nats: NatsAccess, *, max_wait_s: float = math.inf) -> JetStreamStore:
    """Return the store on the servers that ``nats`` leads to; raises what ``open_store`` raises."""
    try:
        from .jetstream_store import JetStreamStore
    except ImportError as error:
        raise StoreFileError(f"--nats needs the extra [cluster] ({error}): {CLUSTER}") from error
    return JetStreamStore(nats, max_wait_s=max_wait_s)
