"""The routes of files: the upload of an image, and the download of a result by its signed link."""

from __future__ import annotations

import asyncio
import time
import uuid
from pathlib import Path

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from ...client.images import ImageError
from ..images import ImageInput, Images, Intake
from ..jobs.records import StoredFile
from ..jobs.results import CONTENT_TYPES, ExpiredLinkError, InvalidLinkError, Results
from ..jobs.store import Store, within
from ..jobs.tokens import is_valid
from ..settings import Settings
from . import errors
from .errors import ApiError, bad_field, too_many, validation_error
from .middleware import WRITE_S, public, token_of
from .request_body import LargeBodies, Pace, too_large
from .responses import UploadResponse, json_response, timestamp
from .sending import FilePart

_FIELD = "file"
_FORM_BYTES = 1 << 16  # around the image
_MAX_NAME_CHARACTERS = 255
_CHUNK_BYTES = 1 << 16


class FileRoutes:
    """``POST /files`` and ``GET /results/{request_id}/{name}``."""

    def __init__(
        self, settings: Settings, store: Store, images: Images, results: Results, large_bodies: LargeBodies
    ) -> None:
        self._settings = settings
        self._store = store
        self._images = images
        self._results = results
        self._large_bodies = large_bodies

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/files", self.upload), web.get("/results/{request_id}/{name}", self.download)]

    async def upload(self, request: web.Request) -> web.Response:
        """Keep an image; the id in the response can be the value of an image parameter."""
        _check_headers(request, self._settings.max_image_bytes)
        token = token_of(request)
        async with self._large_bodies.place(request), self._images.intake(token.id) as intake:
            name, image = await self._keep_image(request, intake)
            await self._images.share([image])
            file = StoredFile(
                id=f"file_{uuid.uuid4().hex}",
                token=token.id,
                name=name,
                stored=image.name,
                content_type=image.content_type,
                size=image.size,
                created_at=time.time(),
            )
            max_bytes = self._settings.uploads_max_bytes
            with within(WRITE_S):
                oldest = await self._store.add_file(file, max_bytes)
            if oldest is not None:
                wait_s = oldest + self._settings.result_ttl_s - time.time()
                raise too_many(errors.UPLOADS_FULL, wait_s, limit=max_bytes >> 20)
        body = UploadResponse(
            id=file.id,
            name=file.name,
            content_type=file.content_type,
            size=file.size,
            created_at=timestamp(file.created_at),
        )
        return json_response(body)

    async def _keep_image(self, request: web.Request, intake: Intake) -> tuple[str, ImageInput]:
        """Read and keep the image of a form; return the name that the client gave it, and the kept image."""
        file = self._images.arriving(intake)
        try:
            name = await _read_form(request, file, self._settings.max_image_bytes)
        except (ValueError, HttpProcessingError):  # aiohttp raises them for a form that is damaged
            raise ApiError(errors.INVALID_FORM) from None
        try:
            return name, await self._images.keep(file, intake)
        except ImageError as error:
            problem = bad_field(errors.INVALID_IMAGE, "body", _FIELD, key=_FIELD, reason=error)
            raise validation_error([problem]) from None

    @public
    async def download(self, request: web.Request) -> web.StreamResponse:
        """Send a file of a result, whole or a range of it; the signature in the link takes the place of a token.

        The link is valid no longer than the token of the request is.
        """
        request_id, name = request.match_info["request_id"], request.match_info["name"]
        query = request.query.get("expires", ""), request.query.get("signature", "")
        try:
            path = await self._results.verify(request_id, name, *query)
        except InvalidLinkError:
            raise ApiError(errors.INVALID_LINK) from None
        except ExpiredLinkError:
            raise ApiError(errors.EXPIRED_LINK) from None
        if path is None:
            raise ApiError(errors.NO_SUCH_RESULT)
        job = await self._store.get(request_id)
        if job is None or not await is_valid(self._store, job.token):
            raise ApiError(errors.REVOKED_LINK)
        tag = f"{request_id}-{name}"  # a result never changes
        headers = {
            "Content-Type": CONTENT_TYPES[path.suffix],
            "Content-Disposition": f'inline; filename="{name}"',
            "Cache-Control": "private, max-age=3600",
            "X-Content-Type-Options": "nosniff",
            "Accept-Ranges": "bytes",
            "ETag": f'"{tag}"',
        }
        if any(known.value in (tag, "*") for known in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        try:
            size = path.stat().st_size
        except FileNotFoundError:  # purged a moment ago
            raise ApiError(errors.NO_SUCH_RESULT) from None
        if "Range" not in request.headers:
            return FilePart(path, 0, size, headers=headers)
        first, end = _range(request, size)
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
        return FilePart(path, first, end, status=206, headers=headers)


def _range(request: web.Request, size: int) -> tuple[int, int]:
    """Return the first byte that the request asks for, and the one after the last; ``ApiError`` if there is none."""
    try:
        first, end, _ = request.http_range.indices(size)
    except ValueError:  # not one range of bytes
        first = end = 0
    if first >= end:
        raise ApiError(errors.NO_SUCH_RANGE, {"size": size}, size=size, last=size - 1)
    return first, end


def _check_headers(request: web.Request, max_bytes: int) -> None:
    """Raise ``ApiError`` for a body that its headers say cannot be a form with an image; nothing is read."""
    if request.content_type != "multipart/form-data":
        raise ApiError(errors.NOT_SENT_AS_FORM, field=_FIELD, content_type=request.content_type)
    if request.content_length is not None and request.content_length > max_bytes + _FORM_BYTES:
        raise too_large(max_bytes)


async def _read_form(request: web.Request, file: Path, max_bytes: int) -> str:
    """Write the one file that the form holds to ``file``, and return its name."""
    pace, form = Pace(), await request.multipart()
    part = await pace.wait(form.next())
    if not isinstance(part, BodyPartReader) or part.name != _FIELD:
        raise validation_error([bad_field(errors.FIELD_MISSING, "body", _FIELD, field=_FIELD)])
    with file.open("wb") as stream:
        while chunk := await pace.read(part.read_chunk(_CHUNK_BYTES)):
            if pace.size > max_bytes:
                raise too_large(max_bytes)
            await asyncio.to_thread(stream.write, chunk)
    if await pace.wait(form.next()) is not None:
        raise validation_error([bad_field(errors.EXTRA_FIELD, "body", field=_FIELD)])
    # Only its owner ever sees the name again: it never becomes a path.
    name = "".join(character for character in part.filename or "" if character.isprintable())
    return name[:_MAX_NAME_CHARACTERS]
