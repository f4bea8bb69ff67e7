"""The names of output files: reserved, so that no other process takes them, and temporary ones beside them.

Several ComfyUI processes may write into one folder. All of them count the same files there and come to the same number,
so a number belongs to a process only once its file exists.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def reserved(folder: Path, name: str, counter: int, suffix: str) -> Iterator[Path]:
    """Make the empty file ``NAME_COUNTER_SUFFIX`` and give its path; where one is taken, the next counter is tried.

    Leaving by an exception deletes the file, leaving normally keeps it.

    Args:
        folder: it must exist.
        name: what the file's name begins with.
        counter: the first number to try.
        suffix: what the file's name ends with, such as ``.mp4``.

    Raises:
        OSError: no such file can be made there.
    """
    for number in itertools.count(counter):
        path = numbered(folder, name, number, suffix)
        with contextlib.suppress(FileExistsError):
            path.touch(exist_ok=False)  # exclusive: of two processes, one fails
            break
    try:
        yield path
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def numbered(folder: Path, name: str, counter: int, suffix: str) -> Path:
    """Return the path of the file with this number."""
    return folder / f"{name}_{counter:05}_{suffix}"


def temporary(path: Path) -> Path:
    """Return a path beside ``path`` that no other call returns.

    The name has ten characters, fewer than any reserved one: a folder that takes that one takes this.
    """
    return path.with_name(f".~{secrets.token_hex(4)}")
