"""Durable files and secrets: written whole, synced to disk, readable by the owner only (mode 0600)."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ROOM_BYTES = 1 << 20


def write_durably(path: Path, content: bytes, *, replace: bool = True) -> None:
    """Write ``content`` to ``path``, readable by the owner only. When this has returned, it survives a power cut.

    With ``replace=False`` an existing file stays as it is.
    """
    with partial_file(path.parent, path.name) as partial:
        partial.write_bytes(content)
        if replace:
            move_durably(partial, path)
        else:
            sync(partial)
            _keep_first(partial, path)
            sync_folder(path.parent)


@contextlib.contextmanager
def partial_file(folder: Path, name: str) -> Iterator[Path]:
    """Give a new empty file in ``folder``, readable by the owner only; delete it if it is still there at the end."""
    partial = folder / f".{name}.{secrets.token_hex(8)}.part"
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def move_durably(partial: Path, path: Path) -> None:
    """Give a file its final name in its folder, replacing a file there. Then it survives a power cut."""
    sync(partial)
    partial.replace(path)
    sync_folder(path.parent)


def read_secret(path: Path, new: bytes) -> bytes:
    """Return the content of a secret file. If there is no file, write ``new``; of several processes, one does."""
    if not path.exists():
        write_durably(path, new, replace=False)
    return path.read_bytes()


def is_full(error: OSError) -> bool:
    """Return whether an error says that the disk, or what this user may take of it, is full."""
    return error.errno in _FULL


def check_room(folder: Path) -> None:
    """Write a MiB into a nameless file that is gone at once; ``OSError`` if the folder's disk does not take it."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        stream.write(bytes(_ROOM_BYTES))


def sync(path: Path) -> None:
    """Wait until the file's content is on the disk."""
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the folder's list of files is on the disk; Windows has no way to ask for it."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _keep_first(partial: Path, path: Path) -> None:
    try:
        path.hardlink_to(partial)  # fails if another process was faster
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        if not path.exists():
            partial.replace(path)
