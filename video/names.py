"""The names of output files: reserved, so that no other process takes them; temporary, while they are written.

Several ComfyUI processes may write into one folder. All of them count the same files there and come to the same number,
so a number belongs to a process only once its file exists. What a killed process leaves is removed at the next start,
what another machine leaves a day later: while a file is written, a note says which, and the process keeps a lock that
the system takes away when the process ends. Numbers of processes would not do: each container counts its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import logging
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

_LOG = logging.getLogger("wan_flf2v.video")

# Over some network drives no lock is seen by other machines; each process that runs writes more often than this.
_REST_S = 24 * 3600


@contextlib.contextmanager
def reserved(folder: Path, name: str, counter: int, suffix: str, notes: Path | None = None) -> Iterator[Path]:
    """Make the empty file ``NAME_COUNTER_SUFFIX`` and give its path; where one is taken, the next counter is tried.

    Leaving by an exception deletes it, leaving normally keeps it.

    Args:
        folder: it must exist.
        name: what the file's name begins with.
        counter: the first number to try.
        suffix: what the file's name ends with, such as ``.mp4``; where it is empty, a folder is made.
        notes: the folder for the note that ``remove_leftovers`` reads; it is made if it is not there.

    Raises:
        OSError: no such file can be made there.
    """
    with contextlib.ExitStack() as stack:
        for number in itertools.count(counter):
            path = numbered(folder, name, number, suffix)
            with contextlib.suppress(FileExistsError), contextlib.ExitStack() as attempt:
                if notes is not None:
                    attempt.enter_context(_noted(notes, path))
                if suffix:
                    path.touch(exist_ok=False)  # exclusive: of two processes, one fails
                else:
                    path.mkdir()
                stack.push(attempt.pop_all())
                break
        try:
            yield path
        except BaseException:
            _remove(path)
            raise


def numbered(folder: Path, name: str, counter: int, suffix: str) -> Path:
    """Return the path of the file with this number."""
    return folder / f"{name}_{counter:05}_{suffix}"


def temporary(path: Path) -> Path:
    """Return the path beside ``path`` where the file is written; each path has its own.

    The name has ten characters, fewer than any reserved one: a folder that takes that one takes this.
    """
    return path.with_name(f".~{hashlib.blake2b(os.fsencode(path.name), digest_size=4).hexdigest()}")


def remove_leftovers(notes: Path) -> None:
    """Remove what killed processes left, by their notes: unfinished files and empty reserved ones.

    Two notes name one path where a process was killed before it saw that another one had the name.
    """
    left, held = {}, set()
    with contextlib.ExitStack() as locks:  # held to the end, so that two processes that start remove nothing twice
        for note in notes.glob("*.json"):
            owned = False
            try:
                locks.enter_context(_lock(note).acquire(timeout=0))
            except Timeout:
                owned = True
            except (OSError, NotImplementedError):
                continue
            try:
                known = json.loads(note.read_text(encoding="utf-8"))
                path = Path(known["path"])
                if owned or (known.get("machine") != platform.node() and _written_lately(note, path)):
                    held.add(path)
                else:
                    left[note] = path
            except (OSError, ValueError, KeyError, TypeError):
                if not owned:  # cut short when its writer was killed, before there was a file
                    locks.callback(_forget, note)
        for note, path in left.items():
            if path in held:
                continue
            try:
                for unfinished in _leftovers(path):
                    _remove(unfinished)
                locks.callback(_forget, note)
            except OSError as error:  # another program holds it: the next start tries again
                _LOG.warning("what a killed process left cannot be removed: %s", error)


@contextlib.contextmanager
def _noted(notes: Path, path: Path) -> Iterator[None]:
    """Keep a note that this process writes the file; where there can be none, the video matters more."""
    note = notes / f"{secrets.token_hex(8)}.json"
    known = {"path": str(path.absolute()), "machine": platform.node()}
    with contextlib.ExitStack() as lock:
        with contextlib.suppress(OSError, NotImplementedError):
            notes.mkdir(parents=True, exist_ok=True)
            lock.enter_context(_lock(note))  # first: a note without a lock is a killed process's
            note.write_text(json.dumps(known), encoding="utf-8")
        try:
            yield
        finally:
            lock.close()  # Windows deletes no file that is open
            _forget(note)


def _lock(note: Path) -> FileLock:
    return FileLock(note.with_suffix(".lock"))


def _forget(note: Path) -> None:
    for file in (note.with_suffix(".lock"), note):
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def _written_lately(note: Path, path: Path) -> bool:
    """Return whether the note or its unfinished file is newer than what nobody writes any more."""
    unfinished = temporary(path)
    newest = max(one.stat().st_mtime for one in (note, unfinished if unfinished.exists() else note))
    return time.time() - newest < _REST_S


def _leftovers(path: Path) -> list[Path]:
    """Return which of a path and its temporary one are there and unfinished; a finished file has something in it.

    A folder that is moved file by file has something in it too, but so has its temporary one until it is whole.
    """
    unfinished = temporary(path)
    if path.is_dir():
        is_whole = any(path.iterdir()) and not (unfinished.is_dir() and any(unfinished.iterdir()))
    else:
        is_whole = not path.exists() or path.stat().st_size > 0
    return [*([] if is_whole else [path]), *([unfinished] if unfinished.exists() else [])]


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
