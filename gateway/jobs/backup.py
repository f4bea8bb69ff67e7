"""Backs an API up into one file and restores it: its store, its keys, and the images of its requests; not the results.

The file is a tar archive. It has secrets in it, so that only its owner may read it. The images are those of the data
folder, and of the fleet.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ..durable import move_durably, partial_file, write_durably
from ..settings import NatsAccess
from .opening import on_nats, open_store, store_file
from .sqlite_store import SqliteStore
from .store import Store, StoreFileError

_ON_FILE, _ON_NATS = "store.sqlite3", "store.jetstream"
_KEYS = ("signing.key", "webhook.secret")
_IMAGE = re.compile(r"inputs/[A-Za-z0-9_-][A-Za-z0-9._-]*")


async def back_up(file: Path, data: Path, nats: NatsAccess | None) -> int:
    """Write ``file``; gateways may run meanwhile. Returns how many images it has.

    Raises what ``open_store`` raises, and ``StoreError``.
    """
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=f".{file.name}.") as folder:
        copy = Path(folder) / (_ON_NATS if nats else _ON_FILE)
        async with contextlib.AsyncExitStack() as stack:
            store = open_store(data, nats)
            stack.push_async_callback(store.close)
            await store.back_up(copy)  # before the images: a job has its images before it is accepted
            partial = stack.enter_context(partial_file(file.parent, file.name))
            with tarfile.open(partial, "w") as archive:
                archive.add(copy, copy.name)
                own = (path.relative_to(data).as_posix() for path in data.glob("inputs/*"))
                names = {name for name in (*own, *await store.blobs.listed("inputs")) if _IMAGE.fullmatch(name)}
                added = [await _add_image(archive, data, name, store, Path(folder)) for name in sorted(names)]
                for name in _KEYS:
                    _add(archive, data, name)
            move_durably(partial, file)
    return sum(added)


async def restore(file: Path, data: Path, nats: NatsAccess | None) -> int:
    """Put what ``back_up`` wrote where there is no store yet, with no gateway running. Returns the number of images.

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
        images = [name for name in names if _IMAGE.fullmatch(name)]
        (data / "inputs").mkdir(mode=0o700, exist_ok=True)
        for name in (*images, *(name for name in _KEYS if name in names)):
            write_durably(data / name, _file(archive, name).read())
        with partial_file(data, _ON_FILE) as partial:
            with partial.open("wb") as target:
                shutil.copyfileobj(_file(archive, wanted), target)
            if nats:
                store = on_nats(nats)
                try:
                    for name in images:
                        await store.blobs.put(data, name)
                    await store.restore(partial)
                finally:
                    await store.close()
            else:
                await SqliteStore(partial).close()  # raises if it is damaged
                move_durably(partial, store_file(data))
    return len(images)


async def _add_image(archive: tarfile.TarFile, data: Path, name: str, store: Store, spare: Path) -> bool:
    """Add an image of the data folder, or of the fleet, from where it is brought to the folder ``spare`` meanwhile."""
    if _add(archive, data, name):
        return True
    found = await store.blobs.find(spare, name) and _add(archive, spare, name)
    (spare / name).unlink(missing_ok=True)
    return found


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


def _file(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    content = archive.extractfile(name)
    if content is None:
        raise StoreFileError(f"{name} in the backup is no file.")
    return content
