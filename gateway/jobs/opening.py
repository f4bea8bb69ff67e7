"""Opens the job store that the settings name: the file in the data folder, or the one on NATS JetStream."""

from __future__ import annotations

import math
from pathlib import Path

from .sqlite_store import SqliteStore
from .store import Store, StoreFileError


def store_file(data: Path) -> Path:
    """Return the file of the embedded store in a data folder."""
    return data / "store.sqlite3"


def open_store(data: Path, nats_url: str | None, *, max_wait_s: float = math.inf) -> Store:
    """Return the store on the servers of ``nats_url``; without one, that in the file of the data folder.

    Blocks. Raises ``StoreFileError`` and ``OSError``.
    """
    if not nats_url:
        return SqliteStore(store_file(data), max_wait_s=max_wait_s)
    try:
        from .jetstream_store import JetStreamStore
    except ImportError as error:
        raise StoreFileError(
            f"--nats needs the extra [cluster] ({error}): "
            'pip install "wan-flf2v[serve,cluster] @ git+<this repository>"'
        ) from error
    return JetStreamStore(nats_url, max_wait_s=max_wait_s)
