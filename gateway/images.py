"""The images of a request: fetches, checks and stores each, whether URL, data URI, uploaded file or name."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import os
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..client.comfy import OutputFile
from ..client.errors import ServerRefusedError, ServerResponseError, ServerUnreachableError
from ..client.images import ImageError
from .decoders import Decoders
from .durable import move_durably, partial_file
from .fetch import Fetcher, FetchError
from .jobs.addresses import NO_OUTWARD, Address, Outward, addresses_of, resolved
from .jobs.store import Store, StoreError
from .settings import Settings
from .shares import Shares

_CONTENT_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp"}
_INPUTS = "inputs"
_FILE_ID = re.compile(r"file_[0-9a-f]{32}")
_NOT_PLAIN = re.compile(r'[/\\:*?"<>|]|\.\.|\]$|^\.|\.$')
_BLANKS = re.compile(r"[ \t\r\n]+")
_MAX_NAME_BYTES = 255  # what common file systems allow
_NOT_THERE = (400, 403)  # beside 404: ComfyUI's status for a file that it does not show
_COMFYUI_TIMEOUT_S = 2.0
_NAME_KNOWN_S = 10.0
_UNUSED_S = 3600.0  # an image without a request is kept this long: its request may be about to be accepted
# Fetches under way, of all tokens and of one, each until its image is decoded: so many files, each of the setting
# max_image_bytes at most, lie on the disk meanwhile.
_FETCHES, _FETCHES_EACH = 16, 4


@dataclass(frozen=True)
class ImageInput:
    """An image of a request: a file below ``<data>/inputs/`` if ``stored``, else one in ComfyUI's input folder.

    ``places`` says of each ComfyUI whether that may have the latter. They stand in the order of the settings.
    """

    name: str
    stored: bool
    content_type: str = ""
    size: int = 0
    places: Mapping[Address, bool] = field(default_factory=dict, hash=False)


@dataclass
class Intake:
    """What one request has brought so far: the token's id, the names of kept images, and files that are arriving."""

    token: str
    names: list[str] = field(default_factory=list)
    files: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)


@dataclass
class _Use:
    """How many requests that are not accepted yet use a stored image, and when one of them made it, if one did.

    ``made_ns`` is the file's ``st_mtime_ns``: a later one shows that another process of the API uses it too.
    ``shared_at`` is when one of them put it into the fleet's files, if one did.
    """

    count: int = 0
    made_ns: int | None = None
    shared_at: float | None = None
    storing: asyncio.Lock = field(default_factory=asyncio.Lock)


class Images:
    """Takes images from requests, and keeps them below ``<data>/inputs/`` under names made of their content.

    Of a fleet's images, the folder has those that came, or were needed, at this gateway.
    """

    def __init__(
        self,
        settings: Settings,
        store: Store,
        fetcher: Fetcher,
        decoders: Decoders,
        outward: Outward = NO_OUTWARD,
    ) -> None:
        self._settings = settings
        self._addresses = addresses_of(settings)
        self._outward = outward
        self._store = store
        self._fetcher = fetcher
        self._decoders = decoders
        self._folder = settings.data / _INPUTS
        self._folder.mkdir(parents=True, exist_ok=True)
        self._fetches = Shares(_FETCHES, _FETCHES_EACH)
        self._uses: dict[str, _Use] = {}
        # Name in ComfyUI's input folder -> where it is, and until when that counts.
        self._comfyui_names: dict[str, tuple[Mapping[Address, bool], float]] = {}

    @contextlib.asynccontextmanager
    async def intake(self, token: str) -> AsyncIterator[Intake]:
        """Take the images of one request with this token's id until it is accepted.

        If the block raises, the request is refused: those of its images that nothing else needs are deleted.
        """
        with contextlib.ExitStack() as files:
            intake = Intake(token, files=files)
            try:
                yield intake
            except BaseException:
                await self._let_go(intake.names, refused=True)
                raise
            await self._let_go(intake.names, refused=False)

    def arriving(self, intake: Intake) -> Path:
        """Return a new file for an image that arrives; it is gone at the end of the intake unless it is kept."""
        return intake.files.enter_context(partial_file(self._folder, "arriving"))

    def unpack(self, text: str, intake: Intake) -> str | Path:
        """Return a data URI's image as a file, so that it need not stay in memory; return any other text as it is.

        Raises ``ImageError`` if the data URI cannot be read.
        """
        if text[:5].lower() != "data:":
            return text
        content = _decode_data_uri(text, self._settings.max_image_bytes)
        file = self.arriving(intake)
        file.write_bytes(content)
        return file

    async def resolve(self, source: str | Path, intake: Intake) -> ImageInput:
        """Find the image that a request names; ``ImageError`` if it cannot be used.

        ``source`` is a file from ``unpack`` or a text: an HTTPS URL, the id of an uploaded file, or the name of a file
        in ComfyUI's input folder. If ComfyUI does not respond, a name is accepted: ComfyUI checks it before the run.
        One where nothing listens, though, does not count beside another that responds that it has no such file.
        """
        if isinstance(source, Path):
            return await self.keep(source, intake)
        if "://" in source:
            return await self._fetch(source, intake)
        if _FILE_ID.fullmatch(source):
            return await self._uploaded(source, intake.token)
        return await self._in_comfyui(source)

    def scattered(self, images: Mapping[str, ImageInput]) -> dict[str, str]:
        """Return, if no ComfyUI has all files that are in input folders, by their keys where each is; else nothing."""
        named = {key: image for key, image in images.items() if image.places}
        everywhere = [image.places for image in named.values()]
        if not named or any(all(places.get(address) for places in everywhere) for address in everywhere[0]):
            return {}
        for image in named.values():
            self._comfyui_names.pop(image.name, None)  # it may be put there for the next request
        return {key: _where(image) for key, image in named.items()}

    async def keep(self, file: Path, intake: Intake) -> ImageInput:
        """Check an image that has arrived and keep it, durably; ``ImageError`` if it cannot be used."""
        plain = await self._decoders.make_plain(file, self._settings.max_image_pixels, intake.token)
        name = plain.sha256 + plain.suffix
        use = self._uses.setdefault(name, _Use())
        use.count += 1
        intake.names.append(name)
        async with use.storing:
            use.made_ns = await asyncio.to_thread(_store, file, self.path(name), use.made_ns)
        return ImageInput(name, True, _CONTENT_TYPES[plain.suffix], plain.size)

    async def share(self, images: Iterable[ImageInput]) -> None:
        """Let all gateways of the fleet have the stored ones; only then may what needs them be accepted."""
        for name in {image.name for image in images if image.stored}:
            use = self._uses.get(name) or _Use()  # of an uploaded file nothing is noted
            async with use.storing:
                shared_at = await self._store.blobs.put(self._settings.data, _blob(name))
                use.shared_at = use.shared_at if shared_at is None else shared_at

    def path(self, name: str) -> Path:
        """Return the path of a stored image."""
        return self._folder / name

    async def purge(self) -> None:
        """Delete uploads older than results are kept, and images that nothing needs."""
        now = time.time()
        for file in await self._store.files():
            if file.created_at < now - self._settings.result_ttl_s:
                await self._store.remove_file(file.id)
        needed = await self._needed()
        shared = {_blob(name) for name in needed}
        await self._store.blobs.tidy(self._settings.data, _INPUTS, shared.__contains__, now - _UNUSED_S)

        def delete() -> None:
            # Names and no paths, which take several times as much memory: an hour's images can be many.
            with os.scandir(self._folder) as entries:
                names = [entry.name for entry in entries if entry.name not in needed]
            for name in names:
                _delete_unused(self.path(name), int((now - _UNUSED_S) * 1e9))

        await asyncio.to_thread(delete)

    async def _needed(self) -> set[str]:
        """Return the names of the images that unfinished jobs and uploads need."""
        return await self._store.inputs_in_use() | {file.stored for file in await self._store.files()}

    async def _let_go(self, names: list[str], *, refused: bool) -> None:
        """Note that a request is accepted or refused. What requests only made to be refused, the last one deletes."""
        unused: dict[str, _Use] = {}
        for name in names:
            use = self._uses[name]
            use.count -= 1
            if not use.count:
                del self._uses[name]
                unused[name] = use
        if not refused or not any(use.made_ns or use.shared_at for use in unused.values()):
            return
        with contextlib.suppress(StoreError, OSError):  # purge will do it
            for name in unused.keys() - await self._needed():
                use = unused[name]
                if use.shared_at is not None:
                    await self._store.blobs.remove(_blob(name), use.shared_at)
                if use.made_ns is not None:
                    await asyncio.to_thread(_delete_unused, self.path(name), use.made_ns)

    async def _fetch(self, url: str, intake: Intake) -> ImageInput:
        async with self._fetches.slot(intake.token):
            file = self.arriving(intake)
            with file.open("wb") as stream:
                try:
                    await self._fetcher.save(url, stream, self._settings.max_image_bytes)
                except FetchError as error:
                    raise ImageError(str(error)) from error
            return await self.keep(file, intake)

    async def _uploaded(self, file_id: str, token: str) -> ImageInput:
        file = await self._store.get_file(file_id)
        if (
            file is None
            or file.token != token
            or not await self._store.blobs.find(self._settings.data, _blob(file.stored))
            or not _touch(self.path(file.stored), time.time_ns())
        ):
            raise ImageError(f'There is no file "{file_id}". Upload it again with POST /v1/files.')
        return ImageInput(file.stored, True, file.content_type, file.size)

    async def _in_comfyui(self, name: str) -> ImageInput:
        check_name(name)
        now = time.monotonic()
        places, end = self._comfyui_names.get(name, ({}, 0.0))
        if end < now:
            places = await self._places(name)
            if places and not any(places.values()):
                raise ImageError(
                    f'There is no file "{name}" in ComfyUI\'s input folder. Give a file that is there, an https:// '
                    "address, a data:image/…;base64, URI, or the id of an uploaded file."
                )
            self._comfyui_names = {known: found for known, found in self._comfyui_names.items() if found[1] >= now}
            self._comfyui_names[name] = places, now + _NAME_KNOWN_S
        return ImageInput(name, False, places=places)

    async def _places(self, name: str) -> dict[Address, bool]:
        """Ask each ComfyUI whether it has the file. ``True`` also if it does not respond soon: it may load a model."""
        addresses = [*await resolved(self._addresses), *self._outward.addresses()]
        found = await asyncio.gather(*(self._has(address, name) for address in addresses))
        if_down = False not in found
        return {address: if_down if has is None else has for address, has in zip(addresses, found, strict=True)}

    async def _has(self, address: Address, name: str) -> bool | None:
        """Return whether a ComfyUI may have the file, ``None`` if nothing listens there."""
        try:
            async with address.client() as client:
                file = OutputFile(name, "", "input", "")
                return await asyncio.wait_for(client.has_file(file), _COMFYUI_TIMEOUT_S)
        except ServerResponseError as error:
            return error.status not in _NOT_THERE
        except ServerRefusedError:
            return None
        except (ServerUnreachableError, asyncio.TimeoutError):
            return True


def _blob(name: str) -> str:
    """Return what a stored image is called among the files of a fleet."""
    return f"{_INPUTS}/{name}"


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
    # Clients break lines, as MIME does, and leave out the padding.
    encoded = _BLANKS.sub("", encoded).rstrip("=")
    try:
        content = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError("The data URI is not valid base64. Encode the image file's bytes again.") from error
    if len(content) > max_bytes:
        raise ImageError(_too_large(max_bytes))
    return content


def _store(file: Path, path: Path, made_ns: int | None) -> int | None:
    """Give an image its name unless it is there already; return ``_Use.made_ns``."""
    if made_ns is not None and path.exists():
        return made_ns
    now_ns = time.time_ns()
    if _touch(path, now_ns):
        return None
    _touch(file, now_ns)
    move_durably(file, path)
    return now_ns


def _touch(path: Path, now_ns: int) -> bool:
    """Mark the file as used now, for ``_delete_unused``; return whether it is there."""
    try:
        os.utime(path, ns=(now_ns, now_ns))
    except FileNotFoundError:
        return False
    return True


def _delete_unused(path: Path, latest_ns: int) -> None:
    """Delete a file unless it was used after ``latest_ns``. Rename it first: a request may take it at this moment."""
    renamed = path.with_name(f".{path.name}.unused")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        if path.stat().st_mtime_ns > latest_ns:
            return
        path.replace(renamed)
        if renamed.stat().st_mtime_ns > latest_ns:
            renamed.replace(path)
        else:
            renamed.unlink()


def _where(image: ImageInput) -> str:
    """Return on which ComfyUIs a file is. They have numbers: clients get no address of the network behind the API."""
    numbers = [str(number) for number, there in enumerate(image.places.values(), 1) if there]
    return (
        f'The file "{image.name}" is in the input folder of ComfyUI {", ".join(numbers)} of {len(image.places)}, and '
        "none has all files that this request names. Put them into the input folder of one, or upload them with "
        "POST /v1/files and give their ids."
    )


def _too_large(max_bytes: int) -> str:
    return f"The image is larger than {max_bytes >> 20} MB. Give a smaller one."
