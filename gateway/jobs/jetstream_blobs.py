"""The files of a fleet on a stream of NATS JetStream: in parts, with a record of each file that is written last.

Below the prefix ``wfb`` the subjects are

``part.UPLOAD.N``   a part of an upload, numbered from 0, and
``file.HASH``       the record of a file, by its name's hash: its upload, size, SHA-256, and how long its parts stay

A file is there once its record is. Every part goes by itself after ``_KEPT_S``, also those of an upload that was cut
off; a file that is needed for longer is put again in time. Previews are replies to requests at ``wfp.JOB``, of the
gateway that has one.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from ..durable import move_durably, partial_file
from ..settings import NatsAccess
from .blobs import Blobs
from .jetstream import RECORDS, Layout, Stream, Transaction, View
from .store import StoreError

# Parts are written once, so that any replica may serve who reads one.
_LAYOUT = Layout("WFB", "wfb", {**RECORDS.options, "allow_direct": True})
_PREVIEWS = "wfp"
_PART_BYTES = 1 << 19  # nats-server takes messages of 1 MiB by default
_AT_ONCE = 4  # parts that are on their way
_CHECK_BYTES = 1 << 16
_KEPT_S = 14 * 86400
_COPIES = 10_000  # files whose SHA-256 is remembered
_PREVIEW_S = 0.4  # for another gateway's reply

_LOG = logging.getLogger("wan_flf2v.gateway")


@dataclass
class _Shown:
    """A preview that this gateway shows: the connection at which it is asked for, its version, and its bytes."""

    client: Client
    subscription: Subscription
    version: int
    image: bytes


class JetStreamBlobs(Blobs):
    """``Blobs`` on a stream. The constructor blocks; it raises ``StoreFileError``."""

    def __init__(self, access: NatsAccess) -> None:
        self._stream = Stream(access, _LAYOUT)
        self._fetching: weakref.WeakValueDictionary[Path, asyncio.Lock] = weakref.WeakValueDictionary()
        self._copies: dict[Path, str] = {}  # files of this gateway whose SHA-256 is known
        self._shown: dict[str, _Shown] = {}

    def close(self) -> None:
        """Finish what was begun, and disconnect; blocks."""
        self._stream.close()

    async def check(self) -> None:
        """Raise ``StoreError`` unless the stream can be written."""
        await self._stream.run(lambda: self._stream.put(self._part("check", 0), bytes(_CHECK_BYTES), ttl_s=60))

    async def put(self, data: Path, name: str) -> float | None:
        return await self._stream.run(lambda: self._put(data / name, name))

    async def _put(self, path: Path, name: str) -> float | None:
        size, digest = await asyncio.to_thread(_measure, path)
        self._note(path, digest)
        if await self._stream.transact(lambda transaction: self._use(transaction, name, digest)):
            return None
        upload, now = uuid.uuid4().hex, time.time()
        count = await self._send(path, upload)
        file = {
            "name": name, "upload": upload, "parts": count, "size": size, "sha256": digest, "used_at": now,
            "until": now + _KEPT_S,
        }  # fmt: skip

        async def write(transaction: Transaction) -> Any:
            before = await transaction.read(self._file(name))
            transaction.write(self._file(name), file, ttl_s=_KEPT_S)
            return before

        before = await self._stream.transact(write)
        if before is None:
            return now
        await self._clear(before["upload"])
        return None

    async def _send(self, path: Path, upload: str) -> int:
        """Write the parts of a file; return how many there are. What cannot be finished is removed."""
        count = 0
        try:
            with path.open("rb") as file:
                while parts := await asyncio.to_thread(lambda: list(_read(file))):
                    subjects = [self._part(upload, count + number) for number in range(len(parts))]
                    writes = map(functools.partial(self._stream.put, ttl_s=_KEPT_S), subjects, parts)
                    for error in await asyncio.gather(*writes, return_exceptions=True):  # none is on its way then
                        if error is not None:
                            raise error
                    count += len(parts)
        except BaseException:
            await self._clear(upload)
            raise
        return count

    async def _use(self, transaction: Transaction, name: str, digest: str) -> bool:
        """Note that a file is needed; ``False`` if it is not there, is another one, or must be put again."""
        file = await transaction.read(self._file(name))
        if file is None or file["sha256"] != digest or _ages(file):
            return False
        if await self._stream.subjects(self._subject("part", file["upload"], "*")) != file["parts"]:
            return False
        now = time.time()
        transaction.write(self._file(name), {**file, "used_at": now}, ttl_s=max(1, int(file["until"] - now)))
        return True

    async def find(self, data: Path, name: str) -> bool:
        return await self._stream.run(lambda: self._bring(data / name, name))

    async def _bring(self, path: Path, name: str) -> bool:
        lock = self._fetching.setdefault(path, asyncio.Lock())
        async with lock:  # those who ask for one file at the same time share a copy
            tried = None
            while (file := await self._find(name)) is not None and file["upload"] != tried:
                if await self._is_copy(path, file["sha256"]) or await self._receive(file, path):
                    return True
                tried = file["upload"]  # it may have been put again meanwhile
            if tried is None:
                return await asyncio.to_thread(path.is_file)  # it was kept here before there was a fleet
            _LOG.error("file of the fleet is damaged or not whole, it is removed name=%s", name)
            await self._forget(name, lambda file: file["upload"] == tried)  # so that it can be put again
            return False

    async def _is_copy(self, path: Path, digest: str) -> bool:
        """Return whether a file is the one with this SHA-256.

        A gateway that died before it ended a job may have a result that another attempt's has replaced since.
        """
        try:
            if self._copies.get(path) != digest:
                self._note(path, (await asyncio.to_thread(_measure, path))[1])
            return self._copies[path] == digest and await asyncio.to_thread(path.is_file)
        except FileNotFoundError:
            return False

    def _note(self, path: Path, digest: str) -> None:
        if len(self._copies) >= _COPIES:
            self._copies.clear()
        self._copies[path] = digest

    async def _receive(self, file: dict[str, Any], path: Path) -> bool:
        """Write the file of a record; ``False``, and no file, if a part lacks or the content is another one."""
        digest = hashlib.sha256()

        def write(parts: list[bytes]) -> None:
            for part in parts:
                stream.write(part)
                digest.update(part)

        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path.parent, path.name) as partial:
            with partial.open("wb") as stream:
                for first in range(0, file["parts"], _AT_ONCE):
                    numbers = range(first, min(first + _AT_ONCE, file["parts"]))
                    subjects = [self._part(file["upload"], number) for number in numbers]
                    found = await asyncio.gather(*map(self._stream.content, subjects))
                    parts = [part for part in found if part is not None]
                    if len(parts) < len(found):
                        return False
                    await asyncio.to_thread(write, parts)
            if digest.hexdigest() != file["sha256"]:
                return False
            await asyncio.to_thread(move_durably, partial, path)
        self._note(path, file["sha256"])
        return True

    async def has(self, name: str) -> bool:
        return await self._stream.run(lambda: self._find(name)) is not None

    async def remove(self, name: str, unused_since: float) -> None:
        await self._stream.run(lambda: self._forget(name, lambda file: file["used_at"] <= unused_since))

    async def _forget(self, name: str, condition: Callable[[dict[str, Any]], bool]) -> None:
        async def forget(transaction: Transaction) -> Any:
            file = await transaction.read(self._file(name))
            if file is None or not condition(file):
                return None
            transaction.remove(self._file(name))
            return file

        file = await self._stream.transact(forget)
        if file is not None:
            await self._clear(file["upload"])

    async def listed(self, folder: str) -> dict[str, int]:
        return {name: file["size"] for name, file in (await self._list(folder)).items()}

    async def _list(self, folder: str) -> dict[str, dict[str, Any]]:
        files = View(self._stream, self._subject("file", "*"), lambda record: record.data)
        found = (await self._stream.run(files.look)).values()
        return {file["name"]: file for file in found if file["name"].startswith(f"{folder}/")}

    async def tidy(self, data: Path, folder: str, needed: Callable[[str], bool], unused_since: float) -> None:
        known = await self._list(folder)
        for name, file in known.items():
            if not needed(name):
                if file["used_at"] <= unused_since:
                    await self.remove(name, unused_since)
            elif _ages(file) and await self.find(data, name):
                await self.put(data, name)
        for name in await asyncio.to_thread(_files, data, folder):
            if name not in known and needed(name):
                with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                    await self.put(data, name)

    # Previews

    async def show(self, job_id: str, image: bytes) -> bool:
        with contextlib.suppress(StoreError, nats.errors.Error, OSError):
            await self._stream.run(lambda: self._show(job_id, image))
        return True

    async def _show(self, job_id: str, image: bytes) -> None:
        client, shown = self._stream.client(), self._shown.get(job_id)
        if shown is not None and shown.client is client:
            self._shown[job_id] = _Shown(client, shown.subscription, time.time_ns(), image)
            return
        reply = functools.partial(self._reply, job_id)
        subscription = await client.subscribe(self._preview(job_id), cb=reply)
        self._shown[job_id] = _Shown(client, subscription, time.time_ns(), image)
        await client.flush(timeout=1)  # subscribe() returns before the server knows of it

    async def hide(self, job_id: str) -> None:
        async def hide() -> None:
            if (shown := self._shown.pop(job_id, None)) is not None:
                await shown.subscription.unsubscribe()

        with contextlib.suppress(StoreError, nats.errors.Error, OSError):
            await self._stream.run(hide)

    async def _reply(self, job_id: str, request: Msg) -> None:
        shown = self._shown.get(job_id)
        if shown is not None:
            version = shown.version.to_bytes(8, "big")
            with contextlib.suppress(nats.errors.Error, OSError):
                await request.respond(b"" if request.data == version else version + shown.image)

    async def shown(self, job_id: str, known: int) -> tuple[int, bytes] | None:
        async def ask() -> Msg:
            return await self._stream.client().request(self._preview(job_id), known.to_bytes(8, "big"), _PREVIEW_S)

        with contextlib.suppress(StoreError, nats.errors.Error, OSError):  # often that no gateway shows one
            reply = (await self._stream.run(ask)).data
            return (int.from_bytes(reply[:8], "big"), reply[8:]) if reply else None
        return None

    # Records and subjects

    async def _find(self, name: str) -> dict[str, Any] | None:
        record = await self._stream.last(self._file(name))
        return record.data if record is not None else None

    async def _clear(self, upload: str) -> None:
        with contextlib.suppress(StoreError):  # then its parts go by themselves
            await self._stream.clear(self._subject("part", upload, "*"))

    def _subject(self, *words: str) -> str:
        return ".".join((self._stream.prefix, *words))

    def _file(self, name: str) -> str:
        return self._subject("file", hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest())

    def _part(self, upload: str, number: int) -> str:
        return self._subject("part", upload, str(number))

    def _preview(self, job_id: str) -> str:
        return f"{_PREVIEWS}{self._stream.prefix.removeprefix(_LAYOUT.prefix)}.{job_id}"


def _ages(file: dict[str, Any]) -> bool:
    """Return whether half of the time is over for which a file's parts stay."""
    return bool(file["until"] - time.time() < _KEPT_S / 2)


def _measure(path: Path) -> tuple[int, str]:
    """Return a file's size and SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_PART_BYTES):
            digest.update(part)
        return file.tell(), digest.hexdigest()


def _read(file: BinaryIO) -> Iterator[bytes]:
    """Yield the next parts of a file, as many as go at once; none at its end."""
    for _ in range(_AT_ONCE):
        if part := file.read(_PART_BYTES):
            yield part


def _files(data: Path, folder: str) -> list[str]:
    """Return the files below a folder of the data folder, without those that are being written."""
    found = (path for path in (data / folder).rglob("*") if not path.name.startswith(".") and path.is_file())
    return [path.relative_to(data).as_posix() for path in found]
