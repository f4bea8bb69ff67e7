"""What this machine has: main memory and disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import psutil


def available_ram() -> int:
    """Return the bytes of main memory that models could have: what is free, and what this process holds already.

    What the process holds counts because the models of an earlier run may be among it; they are used again or make
    room. Pages shared with files are left out of it where the system tells them: they count as free already.
    """
    own = psutil.Process().memory_info()
    return psutil.virtual_memory().available + own.rss - getattr(own, "shared", 0)


def free_disk(folder: Path) -> int | None:
    """Return the free bytes where ``folder`` is or will be made; ``None`` where the file system does not tell."""
    for place in (folder, *folder.parents):
        try:
            usage = shutil.disk_usage(place)
        except OSError:  # not there yet
            continue
        return usage.free if usage.total else None
    return None
