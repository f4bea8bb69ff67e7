"""Backs an API up into one file and restores it: its store, its keys, the images of its requests, and its results.

The file is a tar archive. It has secrets in it, so that only its owner may read it. Images and results are those of the
data folder, and of the fleet.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

from ..durable import move_durably, partial_file
from ..settings import NatsAccess
from .opening import on_nats, open_store, store_file
from .records import REQUEST_ID
from .sqlite_store import SqliteStore
from .store import Store, StoreFileError

_ON_FILE, _ON_NATS = "store.sqlite3", "store.jetstream"
_KEYS = ("signing.key", "webhook.secret")
_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_FOLDERS = {  # of the files that are kept: how they are found there, and named in the archive
    "inputs": ("inputs/*", re.compile(f"inputs/{_NAME}")),
    "results": ("results/*/*", re.compile(f"results/{REQUEST_ID.pattern}/{_NAME}")),
}

Counts: TypeAlias = dict[str, int]  # how many files there are of each folder: "inputs" are images


async def back_up(file: Path, data: Path, nats: NatsAccess | None) -> Counts:
    """Write ``file``; gateways may run meanwhile. Returns how many images and results it has.

    Raises what ``open_store`` raises, and ``StoreError``.
    """
    counts = dict.fromkeys(_FOLDERS, 0)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        copy = Path(folder) / (_ON_NATS if nats else _ON_FILE)
        async with contextlib.AsyncExitStack() as stack:
            store = open_store(data, nats)
            stack.push_async_callback(store.close)
            await store.back_up(copy)  # before the files: a job has its images, and its result, before it says so
            partial = stack.enter_context(partial_file(file.parent, file.name))
            with tarfile.open(partial, "w") as archive:
                archive.add(copy, copy.name)
                for kind, (pattern, name_of) in _FOLDERS.items():
                    own = {path.relative_to(data).as_posix() for path in data.glob(pattern)}
                    shared = await store.blobs.listed(kind)
                    for name in sorted(each for each in own | shared.keys() if name_of.fullmatch(each)):
                        counts[kind] += await _add_kept(archive, data, name, store if name in shared else None, folder)
                for name in _KEYS:
                    _add(archive, data, name)
            move_durably(partial, file)
    return counts


async def restore(file: Path, data: Path, nats: NatsAccess | None) -> Counts:
    """Put what ``back_up`` wrote where there is no store yet, with no gateway running. Returns what it returned.

    The store comes last: after a restore that broke off, another one begins from scratch. Raises what ``open_store``
    raises, ``StoreFileError`` also if there is a store, or ``file`` is no such file, and ``StoreError``.
    """
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _opened(file) as archive:
        names = archive.getnames()
        wanted, other = (_ON_NATS, _ON_FILE) if nats else (_ON_FILE, _ON_NATS)
        if other in names:
            raise StoreFileError(
                f"{file} was made with{'out' if nats else ''} --nats. Restore it so; then `wan-flf2v store copy` "
                "can copy from the file to NATS."
            )
        if wanted not in names:
            raise StoreFileError(
                f"{file} is no backup of this API: it has no {wanted}. `wan-flf2v store backup` makes one."
            )
        if not nats and store_file(data).exists():
            raise StoreFileError(f"There is a store already: {store_file(data)}. Move it away, or give another --data.")
        kept = {kind: [name for name in names if of.fullmatch(name)] for kind, (_, of) in _FOLDERS.items()}
        files = [name for each in kept.values() for name in each]
        for name in (*files, *(name for name in _KEYS if name in names)):
            (data / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _extracted(archive, name, data / name) as partial:
                move_durably(partial, data / name)
        with _extracted(archive, wanted, data / _ON_FILE) as partial:
            if nats:
                store = on_nats(nats)
                try:
                    for name in files:
                        await store.blobs.put(data, name)
                    await store.restore(partial)
                finally:
                    await store.close()
            else:
                await SqliteStore(partial).close()  # raises if it is damaged
                move_durably(partial, store_file(data))
    return {kind: len(each) for kind, each in kept.items()}


async def _add_kept(archive: tarfile.TarFile, data: Path, name: str, store: Store | None, spare: str) -> bool:
    """Add a file as ``store``'s fleet has it, which is brought to the folder ``spare`` meanwhile, or the folder's own.

    The folder may have the result of an attempt that was given up.
    """
    if store is not None and await store.blobs.find(Path(spare), name):
        _add(archive, Path(spare), name)
        Path(spare, name).unlink()
        return True
    return _add(archive, data, name)


def _add(archive: tarfile.TarFile, data: Path, name: str) -> bool:
    """Add a file of the data folder, if it is still there."""
    with contextlib.suppress(FileNotFoundError):
        archive.add(data / name, name, recursive=False)
        return True
    return False


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        archive = tarfile.open(file)  # noqa: SIM115 -- closed below
    except tarfile.TarError as error:
        raise StoreFileError(
            f"{file} is no backup of this API ({error}). `wan-flf2v store backup` makes one."
        ) from error
    with archive:
        yield archive


@contextlib.contextmanager
def _extracted(archive: tarfile.TarFile, name: str, target: Path) -> Iterator[Path]:
    """Give a file of the archive beside ``target``, to be moved there."""
    content = archive.extractfile(name)
    if content is None:
        raise StoreFileError(f"{name} in the backup is no file.")
    with partial_file(target.parent, target.name) as partial:
        with partial.open("wb") as stream:
            shutil.copyfileobj(content, stream)
        yield partial
