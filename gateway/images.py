"""The images of a request: fetches, checks and stores each, whether URL, data URI, uploaded file or name."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import ImageOps

from ..client.comfy import ComfyClient, OutputFile
from ..client.errors import ServerAnswerError, ServerUnreachableError
from ..client.images import ImageError, accepted_image
from .durable import write_durably
from .fetch import Fetcher, FetchError
from .jobs.store import Store
from .settings import Settings

_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
_CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
_ORIENTATION = 0x0112  # the EXIF tag
_FILE_ID = re.compile(r"file_[0-9a-f]{32}")
_NOT_PLAIN = re.compile(r'[/\\:*?"<>|]|\.\.|\]$|^\.|\.$')
_MAX_NAME_BYTES = 255  # what common file systems allow
_NOT_THERE = (400, 403)  # beside 404: ComfyUI's status for a file that it does not show
_COMFYUI_TIMEOUT_S = 2.0
_NAME_KNOWN_S = 10.0
_UNUSED_S = 3600.0  # an image without a request is kept this long: its request may be about to be accepted
_DECODERS = 2  # at once: each can take Pillow's pixel limit times 4 bytes of memory


@dataclass(frozen=True)
class ImageInput:
    """An image of a request: a file below ``<data>/inputs/`` if ``stored``, else one in ComfyUI's input folder."""

    name: str
    stored: bool
    content_type: str = ""
    size: int = 0


class Images:
    """Takes images from requests, and keeps them below ``<data>/inputs/`` under names made of their content."""

    def __init__(self, settings: Settings, store: Store, fetcher: Fetcher) -> None:
        self._settings = settings
        self._store = store
        self._fetcher = fetcher
        self._folder = settings.data / "inputs"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._decoders = ThreadPoolExecutor(_DECODERS, "wan-flf2v-images")
        self._comfyui_names: dict[str, float] = {}  # name in ComfyUI's input folder -> how long it counts as there

    async def resolve(self, text: str, token: str) -> ImageInput:
        """Find the image that a request with this token's id names; ``ImageError`` if it cannot be used.

        ``text`` is an HTTPS URL, a base64 data URI, the id of an uploaded file, or the name of a file in ComfyUI's
        input folder. If ComfyUI does not respond, a name is accepted: ComfyUI checks it before the run.
        """
        if text[:5].lower() == "data:":
            return await self._keep(lambda: _decode_data_uri(text, self._settings.max_image_bytes))
        if "://" in text:
            try:
                content = await self._fetcher.get(text, self._settings.max_image_bytes)
            except FetchError as error:
                raise ImageError(str(error)) from error
            return await self.keep(content)
        if _FILE_ID.fullmatch(text):
            return await self._uploaded(text, token)
        return await self._in_comfyui(text)

    async def keep(self, content: bytes) -> ImageInput:
        """Check an image file's content and keep it, durably; ``ImageError`` if it cannot be used."""
        return await self._keep(lambda: content)

    def path(self, name: str) -> Path:
        """Return the path of a stored image."""
        return self._folder / name

    async def purge(self) -> int:
        """Delete uploads older than results are kept, and images that nothing needs; return the number of images."""
        now = time.time()
        needed = await self._store.inputs_in_use()
        for file in await self._store.files():
            if file.created_at < now - self._settings.result_ttl_s:
                await self._store.remove_file(file.id)
            else:
                needed.add(file.stored)

        def delete() -> int:
            unneeded = [path for path in self._folder.iterdir() if path.name not in needed]
            return sum(_delete_unused(path, now - _UNUSED_S) for path in unneeded)

        return await asyncio.to_thread(delete)

    async def _keep(self, read: Callable[[], bytes]) -> ImageInput:
        def work() -> ImageInput:
            content, suffix = _check(read(), self._settings)
            name = hashlib.sha256(content).hexdigest() + suffix
            if not _touch(self.path(name)):
                write_durably(self.path(name), content)
            return ImageInput(name, True, _CONTENT_TYPES[suffix], len(content))

        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    async def _uploaded(self, file_id: str, token: str) -> ImageInput:
        file = await self._store.get_file(file_id)
        if file is None or file.token != token or not _touch(self.path(file.stored)):
            raise ImageError(f'There is no file "{file_id}". Upload it again with POST /v1/files.')
        return ImageInput(file.stored, True, file.content_type, file.size)

    async def _in_comfyui(self, name: str) -> ImageInput:
        check_name(name)
        now = time.monotonic()
        if self._comfyui_names.get(name, 0.0) < now:
            if not await self._comfyui_has(name):
                raise ImageError(
                    f'There is no file "{name}" in ComfyUI\'s input folder. Give a file that is there, an https:// '
                    "address, a data:image/…;base64, URI, or the id of an uploaded file."
                )
            self._comfyui_names = {known: end for known, end in self._comfyui_names.items() if end >= now}
            self._comfyui_names[name] = now + _NAME_KNOWN_S
        return ImageInput(name, False)

    async def _comfyui_has(self, name: str) -> bool:
        """Ask ComfyUI for the file. True also if it does not respond soon: a model may be loading."""
        file = OutputFile(name, "", "input", "")
        try:
            async with ComfyClient(self._settings.comfyui_url, verify_tls=self._settings.comfyui_verify_tls) as client:
                return await asyncio.wait_for(client.has_file(file), _COMFYUI_TIMEOUT_S)
        except ServerAnswerError as error:
            return error.status not in _NOT_THERE
        except (ServerUnreachableError, asyncio.TimeoutError):
            return True


def check_name(name: str) -> None:
    """Raise ``ImageError`` unless ``name`` is a plain file name on every system.

    ComfyUI would take slashes for folders, ``[output]`` at the end for another folder and ``blake3:`` for a hash.
    """
    fits = 0 < len(name.encode("utf-8", "replace")) <= _MAX_NAME_BYTES
    if not fits or not name.isprintable() or name != name.strip() or _NOT_PLAIN.search(name):
        raise ImageError(
            "This is neither an https:// address, a data:image/…;base64, URI, the id of an uploaded file, nor the "
            "plain name of a file in ComfyUI's input folder. Give one of these."
        )


def _decode_data_uri(text: str, max_bytes: int) -> bytes:
    head, comma, encoded = text.partition(",")
    if not comma or not re.fullmatch(r"data:image/[a-z0-9.+-]{1,40};base64", head, re.IGNORECASE):
        raise ImageError("This is not an image as a data URI. Give it as data:image/png;base64,… (or jpeg, webp).")
    if len(encoded) // 4 * 3 > max_bytes + 2:
        raise ImageError(_too_large(max_bytes))
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("The data URI is not valid base64. Encode the image file's bytes again.") from error


def _check(content: bytes, settings: Settings) -> tuple[bytes, str]:
    """Return the content to keep, upright, and the suffix of its file type."""
    if len(content) > settings.max_image_bytes:
        raise ImageError(_too_large(settings.max_image_bytes))
    with accepted_image(content, settings.max_image_pixels) as image:
        if image.format != "MPO" and image.getexif().get(_ORIENTATION, 1) == 1:
            return content, _SUFFIXES[image.format or ""]
        # Not every ComfyUI turns an image as its EXIF says, or leaves out the second picture of an MPO file.
        upright = io.BytesIO()
        ImageOps.exif_transpose(image).convert("RGB").save(upright, "PNG", compress_level=1)
        return upright.getvalue(), ".png"


def _touch(path: Path) -> bool:
    """Mark the file as used now, for ``purge``; return whether it is there."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True


def _delete_unused(path: Path, before: float) -> bool:
    """Delete a file that was last used ``before``. Rename it first: a request may take it at this moment."""
    renamed = path.with_name(f".{path.name}.unused")
    try:
        if path.stat().st_mtime >= before:
            return False
        path.replace(renamed)
        if renamed.stat().st_mtime >= before:
            renamed.replace(path)
            return False
        renamed.unlink()
    except FileNotFoundError:  # another process was faster
        return False
    return True


def _too_large(max_bytes: int) -> str:
    return f"The image is larger than {max_bytes >> 20} MB. Give a smaller one."
