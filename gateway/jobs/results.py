"""The result of a job: its files on disk, its signed addresses, and the purge of old results."""

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
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from ...client.comfy import ComfyClient, OutputFile
from ..durable import read_secret, sync, sync_folder, write_durably
from ..settings import Settings
from .records import REQUEST_ID, Job
from .store import Store

if TYPE_CHECKING:
    from PIL.Image import Image

_VIDEO, _FRAME = "video.mp4", "frame0.png"
CONTENT_TYPES = {_VIDEO: "video/mp4", _FRAME: "image/png"}
_KEY_BYTES = 32
_EXPIRES = re.compile(r"[0-9]{1,12}")


class ResultError(Exception):
    """ComfyUI's file is not a video that can be read; the text is for the client."""


class StorageError(Exception):
    """The result cannot be written now, such as when the disk is full; try again later."""


class InvalidLinkError(Exception):
    """The address of a result is incomplete, or was changed."""


class ExpiredLinkError(Exception):
    """The address of a result has expired."""


class Results:
    """The files of ended jobs, in ``<data>/results/<id>/``."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._folder = settings.data / "results"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._key = read_secret(settings.data / "signing.key", secrets.token_bytes(_KEY_BYTES))

    async def collect(self, client: ComfyClient, file: OutputFile, job_id: str) -> dict[str, str]:
        """Copy a job's video from ComfyUI and save its first frame; both survive a power cut when this returns.

        Returns the file names by kind, ``video`` and ``image``. May be repeated. Raises a ``ComfyError`` if ComfyUI
        does not send the file, ``ResultError`` if it is not a video, ``StorageError`` if it cannot be written here.
        """
        folder = self._folder / job_id
        try:
            folder.mkdir(exist_ok=True)
            video = await client.download(file, folder / _VIDEO)
            await asyncio.to_thread(_finish, video)
        except OSError as error:
            raise StorageError(f"The result of request {job_id} cannot be written: {error}") from error
        return {"video": _VIDEO, "image": _FRAME}

    def lost(self, job: Job) -> bool:
        """Return whether a succeeded job's files are gone, because someone deleted them."""
        return any(not (self._folder / job.id / name).is_file() for name in (job.output or {}).values())

    def urls(self, job: Job, base_url: str) -> dict[str, str | list[str]]:
        """Return a succeeded job's output as clients get it; the addresses are valid for the configured time.

        ``base_url`` is this API's address as the client sees it, without ``/v1``.
        """
        expires = str(int(time.time() + self._settings.url_ttl_s))
        links = {}
        for kind, name in (job.output or {}).items():
            query = urlencode({"expires": expires, "signature": self._sign(job.id, name, expires)})
            links[kind] = f"{base_url}/v1/results/{job.id}/{name}?{query}"
        plural: dict[str, list[str]] = {f"{kind}s": [link] for kind, link in links.items()}
        return {**links, **plural}

    async def verify(self, job_id: str, name: str, expires: str, signature: str) -> Path | None:
        """Return the file that a signed address names, ``None`` if the result is no longer kept.

        Raises ``InvalidLinkError`` and ``ExpiredLinkError``.
        """
        # Checked even if the signature is right: only these shapes may name a file.
        well_formed = REQUEST_ID.fullmatch(job_id) and name in CONTENT_TYPES and _EXPIRES.fullmatch(expires)
        given = signature.encode("utf-8", "replace")
        if not well_formed or not hmac.compare_digest(self._sign(job_id, name, expires).encode(), given):
            raise InvalidLinkError
        if int(expires) < time.time():
            raise ExpiredLinkError
        path = self._folder / job_id / name
        job = await self._store.get(job_id)
        return path if job is not None and not job.expired and path.is_file() else None

    async def purge(self) -> int:
        """Expire the results that are older, or in all larger, than the settings allow; delete their files.

        The oldest expire first. Returns how many jobs expired.
        """
        limit = time.time() - self._settings.result_ttl_s
        sizes = await asyncio.to_thread(self._sizes)
        total, expired = sum(sizes.values()), []
        for job_id, finished_at in await self._store.unexpired():
            size = sizes.get(job_id, 0)
            if finished_at < limit or (size and total > self._settings.results_max_bytes):
                expired.append(job_id)
                total -= size
        await self._store.expire(expired)
        for job_id in sizes:  # also those of a purge that did not finish
            job = await self._store.get(job_id)
            if job is not None and job.expired:
                await asyncio.to_thread(shutil.rmtree, self._folder / job_id, ignore_errors=True)
        return len(expired)

    def _sizes(self) -> dict[str, int]:
        return {path.name: _size(path) for path in self._folder.iterdir() if REQUEST_ID.fullmatch(path.name)}

    def _sign(self, job_id: str, name: str, expires: str) -> str:
        return hmac.new(self._key, f"{job_id}/{name}?{expires}".encode(), hashlib.sha256).hexdigest()


def _finish(video: Path) -> None:
    """Save frame 0, and wait until both files are on disk."""
    image = io.BytesIO()
    _first_frame(video).save(image, "PNG", compress_level=1)
    sync(video)
    write_durably(video.with_name(_FRAME), image.getvalue())
    sync_folder(video.parent.parent)


def _first_frame(video: Path) -> Image:
    import av  # it is large, and only the process that dispatches needs it

    try:
        with av.open(str(video)) as container:
            for frame in container.decode(video=0):
                image: Image = frame.to_image()
                return image
    except (av.error.FFmpegError, IndexError) as error:
        raise ResultError("ComfyUI's video cannot be read. ComfyUI's log may say more.") from error
    raise ResultError("ComfyUI's video has no frames. ComfyUI's log may say more.")


def _size(folder: Path) -> int:
    """Return the size of the files in a folder; one that is deleted meanwhile counts as 0."""
    size = 0
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                size += path.stat().st_size
    return size
