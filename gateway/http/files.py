"""Uploading an image, for clients that have no address to give."""

from __future__ import annotations

import asyncio
import time
import uuid

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError

from ...client.images import ImageError
from ..jobs.records import StoredFile
from .bodies import BODY_WAIT_S, CHUNK_WAIT_S, TOO_SLOW, UNSUPPORTED_TYPE, too_large, turn
from .errors import INVALID, ApiError, validation_error
from .middleware import too_many
from .responses import FileAnswer, json_answer, timestamp
from .state import state_of, token_of

_FIELD = "file"
_MAX_NAME_CHARACTERS = 255
_CHUNK_BYTES = 1 << 16


async def upload(request: web.Request) -> web.Response:
    """Keep an image; the id in the answer is what an image parameter takes."""
    async with turn(request, state_of(request).large_bodies):
        return await _upload(request)


async def _upload(request: web.Request) -> web.Response:
    state, token = state_of(request), token_of(request)
    try:
        name, content = await asyncio.wait_for(_read(request, state.settings.max_image_bytes), BODY_WAIT_S)
    except asyncio.TimeoutError:
        raise ApiError(TOO_SLOW, "The body came too slowly. Send it again.") from None
    except (ValueError, HttpProcessingError, ConnectionError):  # aiohttp's words for a form that is none, or ends early
        raise ApiError(INVALID, "The body is not valid multipart/form-data.") from None
    try:
        image = await state.images.keep(content)
    except ImageError as error:
        raise validation_error([{"loc": ["body", _FIELD], "msg": f"{_FIELD}: {error}", "type": "image"}]) from None
    file = StoredFile(
        id=f"file_{uuid.uuid4().hex}",
        token=token.id,
        name=name,
        stored=image.name,
        content_type=image.content_type,
        size=image.size,
        created_at=time.time(),
    )
    oldest = await state.store.add_file(file, state.settings.uploads_max_bytes)
    if oldest is not None:
        limit = f"The uploads of this token would be larger than {state.settings.uploads_max_bytes >> 20} MiB in all."
        raise too_many(limit, oldest + state.settings.result_ttl_s - time.time())
    answer = FileAnswer(
        id=file.id,
        name=file.name,
        content_type=file.content_type,
        size=file.size,
        created_at=timestamp(file.created_at),
    )
    return json_answer(answer)


async def _read(request: web.Request, max_bytes: int) -> tuple[str, bytes]:
    """Return name and content of the one file that the form holds."""
    if request.content_type != "multipart/form-data":
        message = f'The body must be a form, sent as multipart/form-data, with the image in its only field, "{_FIELD}".'
        raise ApiError(UNSUPPORTED_TYPE, message)
    if request.content_length is not None and request.content_length > max_bytes + (1 << 16):
        raise too_large(max_bytes)
    form = await request.multipart()
    part = await form.next()
    if not isinstance(part, BodyPartReader) or part.name != _FIELD:
        message = f'The form must have the image in its only field, "{_FIELD}".'
        raise validation_error([{"loc": ["body", _FIELD], "msg": message, "type": "missing"}])
    content = bytearray()
    while chunk := await asyncio.wait_for(part.read_chunk(_CHUNK_BYTES), CHUNK_WAIT_S):
        content += chunk
        if len(content) > max_bytes:
            raise too_large(max_bytes)
    if await form.next() is not None:
        message = f'The form must have one field only, "{_FIELD}".'
        raise validation_error([{"loc": ["body"], "msg": message, "type": "extra_forbidden"}])
    # The name is only ever shown to its owner again: it never becomes a path.
    name = "".join(character for character in part.filename or "" if character.isprintable())
    return name[:_MAX_NAME_CHARACTERS], bytes(content)


ROUTES = [web.post("/files", upload)]
