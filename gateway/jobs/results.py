"""The files of a job on disk (its result, its preview while it runs), signed addresses, and the purge of old files."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import io
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from ...client.comfy import ComfyClient, OutputFile
from ..durable import partial_file, sync, sync_folder, write_durably
from ..settings import Settings
from .records import REQUEST_ID, Job
from .store import Store

if TYPE_CHECKING:
    from PIL.Image import Image

_VIDEOS = {  # the end of a file's name -> its content type
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
    ".gif": "image/gif",
}
_RESULTS = "results"
_FRAME, _IMAGE = "frame0.png", "image.png"
CONTENT_TYPES = {".png": "image/png", **_VIDEOS}  # the end of a result's name -> its content type
_NAME = re.compile(r"(?:video|frame0|image)(?:-[0-9]{1,9})?\.[a-z0-9]{1,9}")
_KEY_BYTES = 32
_EXPIRES = re.compile(r"[0-9]{1,12}")
_EVENTS = "events"
_EVENTS_EXPIRE_AT_FULL_S = 3600  # so that the address, which each status call gives, rarely changes
MAX_PREVIEW_BYTES = 1 << 15
_PREVIEW_QUALITIES = (85, 70, 50, 30)
_JPEG = b"\xff\xd8\xff"
_CLOCKS_S = 60.0  # how much the clocks of two gateways may differ


class ResultError(Exception):
    """ComfyUI's file is not a video that can be read; the text is for the client."""


class StorageError(Exception):
    """A file cannot be written now, such as when the disk is full; try again later."""


class InvalidLinkError(Exception):
    """A signed address is incomplete, or was changed."""


class ExpiredLinkError(Exception):
    """A signed address has expired."""


class Results:
    """The files of ended jobs, in ``<data>/results/<id>/``, and of running ones, ``<data>/previews/<id>.jpg``.

    Of a fleet's results, the folder has those that were made or asked for at this gateway; its previews are in no file.
    The constructor blocks.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._folder = settings.data / _RESULTS
        self._folder.mkdir(parents=True, exist_ok=True)
        self._previews = settings.data / "previews"
        self._previews.mkdir(exist_ok=True)
        self._key = store.secret(settings.data / "signing.key", secrets.token_bytes(_KEY_BYTES))

    async def collect(self, client: ComfyClient, file: OutputFile, job: Job) -> dict[str, str]:
        """Copy the video of a job's attempt from ComfyUI and save its first frame; then both survive a power cut.

        All gateways of a fleet have them then. Each attempt has its own names: one that was given up, such as that of a
        gateway which stood still, replaces nothing of a later one's.

        Returns the file names by kind, ``video`` and ``image``; of a PNG file, ``image`` alone. May be repeated. Raises
        a ``ComfyError`` if ComfyUI does not send the file, ``ResultError`` if it is neither a video nor a PNG,
        ``StorageError`` if it cannot be written here, ``StoreError`` if the fleet cannot keep it.
        """
        folder, suffix = self._folder / job.id, Path(file.filename).suffix.lower()
        if suffix not in (*_VIDEOS, ".png"):
            raise ResultError(
                f"The workflow wrote {file.filename}, but this API can give {', '.join((*_VIDEOS, '.png'))}. Its "
                "operator can choose another format in the workflow, and add it again."
            )
        names = {"image": _IMAGE} if suffix == ".png" else {"video": f"video{suffix}", "image": _FRAME}
        output = {kind: _of_attempt(name, job.attempt) for kind, name in names.items()}
        try:
            folder.mkdir(exist_ok=True)
            copy = await client.download(file, folder / next(iter(output.values())))
            await asyncio.to_thread(_finish, copy, folder / output["image"])
            for name in output.values():
                await self._store.blobs.put(self._settings.data, _blob(job.id, name))
        except OSError as error:
            raise StorageError(f"The result of request {job.id} cannot be written: {error}") from error
        return output

    async def drop(self, job: Job, output: Mapping[str, str]) -> None:
        """Delete what ``collect`` kept of an attempt if a later one was handed out since; what remains is purged."""
        now = await self._store.get(job.id)
        if now is not None and now.attempt > job.attempt:
            for name in output.values():
                await self._store.blobs.remove(_blob(job.id, name), time.time())
                with contextlib.suppress(OSError):
                    (self._folder / job.id / name).unlink(missing_ok=True)

    async def lost(self, job: Job) -> bool:
        """Return whether a succeeded job's files are gone, because someone deleted them."""
        if not job.output:
            return False
        names = job.output.values()
        elsewhere = await asyncio.to_thread(
            lambda: [name for name in names if not (self._folder / job.id / name).is_file()]
        )
        return not all([await self._store.blobs.has(_blob(job.id, name)) for name in elsewhere])

    def urls(self, job: Job, base_url: str) -> dict[str, str | list[str]]:
        """Return a succeeded job's output as clients get it; the addresses are valid for the configured time.

        ``base_url`` is this API's address as the client sees it, without ``/v1``.
        """
        expires = str(int(time.time() + self._settings.url_ttl_s))
        links = {}
        for kind, name in (job.output or {}).items():
            links[kind] = f"{base_url}/v1/results/{job.id}/{name}?{self._signed(job.id, name, expires)}"
        plural: dict[str, list[str]] = {f"{kind}s": [link] for kind, link in links.items()}
        return {**links, **plural}

    async def verify(self, job_id: str, name: str, expires: str, signature: str) -> Path | None:
        """Return the file that a signed address names, ``None`` if the result is no longer kept.

        Raises ``InvalidLinkError`` and ``ExpiredLinkError``.
        """
        if not _NAME.fullmatch(name):  # the events are no file
            raise InvalidLinkError
        self._check(job_id, name, expires, signature)
        job = await self._store.get(job_id)
        if job is None or job.expired or name not in (job.output or {}).values():
            return None
        found = await self._store.blobs.find(self._settings.data, _blob(job_id, name))
        return self._folder / job_id / name if found else None

    def events_url(self, job_id: str, base_url: str) -> str:
        """Return an address of a job's event stream that needs no token; valid for the configured time or longer.

        It can be used any number of times: an EventSource connects again to the same address.
        """
        full = int(time.time()) // _EVENTS_EXPIRE_AT_FULL_S * _EVENTS_EXPIRE_AT_FULL_S + _EVENTS_EXPIRE_AT_FULL_S
        query = self._signed(job_id, _EVENTS, str(int(full + self._settings.url_ttl_s)))
        return f"{base_url}/v1/requests/{job_id}/{_EVENTS}?{query}"

    def verify_events(self, job_id: str, expires: str, signature: str) -> None:
        """Check a signed address of a job's event stream; raises ``InvalidLinkError`` and ``ExpiredLinkError``."""
        self._check(job_id, _EVENTS, expires, signature)

    async def keep_preview(self, job_id: str, image: bytes) -> None:
        """Put an image in the place of the job's last preview, as a JPEG of ``MAX_PREVIEW_BYTES`` at most.

        A preview is only shown: what is no image is left out, and a full disk stops nothing.
        """

        def write(small: bytes) -> None:
            with partial_file(self._previews, job_id) as partial:
                partial.write_bytes(small)
                partial.replace(self._previews / f"{job_id}.jpg")

        with contextlib.suppress(OSError):
            small = await asyncio.to_thread(_small_jpeg, image)
            if not await self._store.blobs.show(job_id, small):
                await asyncio.to_thread(write, small)

    async def preview(self, job_id: str, known: int) -> tuple[int, bytes] | None:
        """Return the job's preview and its version; ``None`` if there is none, or it is the ``known`` one."""
        path = self._previews / f"{job_id}.jpg"
        with contextlib.suppress(OSError):
            if (version := path.stat().st_mtime_ns) != known:
                return version, await asyncio.to_thread(path.read_bytes)
            return None
        return await self._store.blobs.shown(job_id, known)

    async def drop_preview(self, job_id: str) -> None:
        """Delete the preview of a job that no longer runs."""
        await self._store.blobs.hide(job_id)
        with contextlib.suppress(OSError):  # on Windows, while it is read; purge() does it then
            (self._previews / f"{job_id}.jpg").unlink(missing_ok=True)

    async def purge(self) -> None:
        """Expire the results that are older, or in all larger, than the settings allow; delete their files.

        The oldest expire first.
        """
        began = time.time()
        limit = began - self._settings.result_ttl_s
        own = await asyncio.to_thread(self._sizes)
        fleet = await self._fleet_sizes()
        sizes = {**own, **fleet} if fleet else own
        total, expired, kept = sum(sizes.values()), [], set[str]()
        running = {job.id for job in await self._store.queue()}  # before those that ended: one may end in between
        for job_id, finished_at in await self._store.unexpired():
            size = sizes.get(job_id, 0)
            if finished_at < limit or (size and total > self._settings.results_max_bytes):
                expired.append(job_id)
                total -= size
            else:
                kept.add(job_id)
        kept |= running.difference(expired)
        await self._store.expire(expired)
        for job_id in own.keys() - kept:  # also those of a purge that did not finish
            job = await self._store.get(job_id)
            if job is not None and job.expired:
                await asyncio.to_thread(shutil.rmtree, self._folder / job_id, ignore_errors=True)
        await self._store.blobs.tidy(
            self._settings.data, _RESULTS, lambda name: _job_of(name) in kept, began - _CLOCKS_S
        )
        for path in self._previews.glob("*.jpg"):  # of a process that was killed
            if path.stem not in running:
                await self.drop_preview(path.stem)

    async def _fleet_sizes(self) -> Counter[str]:
        sizes: Counter[str] = Counter()
        for name, size in (await self._store.blobs.listed(_RESULTS)).items():
            sizes[_job_of(name)] += size
        return sizes

    def _sizes(self) -> dict[str, int]:
        return {path.name: _size(path) for path in self._folder.iterdir() if REQUEST_ID.fullmatch(path.name)}

    def _check(self, job_id: str, name: str, expires: str, signature: str) -> None:
        # Checked even if the signature is right: only these shapes may name a file.
        well_formed = REQUEST_ID.fullmatch(job_id) and _EXPIRES.fullmatch(expires)
        given = signature.encode("utf-8", "replace")
        if not well_formed or not hmac.compare_digest(self._sign(job_id, name, expires).encode(), given):
            raise InvalidLinkError
        if int(expires) < time.time():
            raise ExpiredLinkError

    def _signed(self, job_id: str, name: str, expires: str) -> str:
        return urlencode({"expires": expires, "signature": self._sign(job_id, name, expires)})

    def _sign(self, job_id: str, name: str, expires: str) -> str:
        return hmac.new(self._key, f"{job_id}/{name}?{expires}".encode(), hashlib.sha256).hexdigest()


def _blob(job_id: str, name: str) -> str:
    """Return what a file of a job's result is called among the files of a fleet."""
    return f"{_RESULTS}/{job_id}/{name}"


def _job_of(blob: str) -> str:
    return blob.split("/")[1]


def _of_attempt(name: str, attempt: int) -> str:
    """Return a file's name for an attempt: that of the second is video-2.mp4."""
    stem, dot, suffix = name.partition(".")
    return name if attempt <= 1 else f"{stem}-{attempt}{dot}{suffix}"


def _finish(copy: Path, image: Path) -> None:
    """Check that the file can be read, save its frame 0 as ``image`` if it is another file, and write all to disk."""
    frame = io.BytesIO()
    _first_frame(copy).save(frame, "PNG", compress_level=1)
    sync(copy)
    sync_folder(copy.parent)
    if image != copy:
        write_durably(image, frame.getvalue())
    sync_folder(copy.parent.parent)


def _first_frame(video: Path) -> Image:
    import av  # it is large, and only the process that dispatches needs it

    try:
        with av.open(str(video)) as container:
            for frame in container.decode(video=0):
                # PyAV 14 keeps the range of the file if nothing is said, and black would be 16.
                image: Image = frame.reformat(format="rgb24", dst_color_range="JPEG").to_image()
                return image
    except (av.error.FFmpegError, IndexError) as error:
        raise ResultError("ComfyUI's video cannot be read. ComfyUI's log may say more.") from error
    raise ResultError("ComfyUI's video has no frames. ComfyUI's log may say more.")


def _small_jpeg(image: bytes) -> bytes:
    """Return a JPEG of ``MAX_PREVIEW_BYTES`` at most; ``OSError`` if ``image`` is none that Pillow reads."""
    if len(image) <= MAX_PREVIEW_BYTES and image.startswith(_JPEG):
        return image
    from PIL import Image  # only where one is too large

    try:
        with Image.open(io.BytesIO(image)) as opened:
            picture = opened.convert("RGB")
    except (SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise OSError(f"no image: {error}") from error
    while True:
        for quality in _PREVIEW_QUALITIES:
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=quality)
            if stream.tell() <= MAX_PREVIEW_BYTES:
                return stream.getvalue()
        picture.thumbnail((picture.width // 2, picture.height // 2))


def _size(folder: Path) -> int:
    """Return the size of the files in a folder; one that is deleted meanwhile counts as 0."""
    size = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                size += path.stat().st_size
    return size
