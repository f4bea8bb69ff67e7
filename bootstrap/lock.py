"""The set-up lock: one set-up at a time, released by the operating system when its process ends."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import say

POLL_S = 0.2


@contextmanager
def setup_lock(folder: Path) -> Iterator[None]:
    """Hold the lock file in ``folder``, which is created; wait while another process holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "setup.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if not _try_lock(descriptor):
            say("waiting for another set-up to finish")
            while not _try_lock(descriptor):
                time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
