"""The files of results, for whoever has a signed address."""

from __future__ import annotations

from aiohttp import web

from ..jobs.results import CONTENT_TYPES, ExpiredLinkError, InvalidLinkError
from .errors import FORBIDDEN, NOT_FOUND, ApiError
from .middleware import public
from .state import state_of


@public
async def get_file(request: web.Request) -> web.StreamResponse:
    """Answer a result's file, whole or a range of it; the signature stands for a token."""
    name = request.match_info["name"]
    query = request.query.get("expires", ""), request.query.get("signature", "")
    try:
        path = await state_of(request).results.verify(request.match_info["request_id"], name, *query)
    except InvalidLinkError:
        raise ApiError(FORBIDDEN, "The address of this result is not complete or was changed.") from None
    except ExpiredLinkError:
        message = "The address of this result has expired. Ask for the request's result again to get a new one."
        raise ApiError(FORBIDDEN, message) from None
    if path is None:
        raise ApiError(NOT_FOUND, "This result is no longer kept.")
    headers = {
        "Content-Type": CONTENT_TYPES[name],
        "Content-Disposition": f'inline; filename="{name}"',
        "Cache-Control": "private, max-age=3600",
        "X-Content-Type-Options": "nosniff",
    }
    return web.FileResponse(path, headers=headers)


ROUTES = [web.get("/results/{request_id}/{name}", get_file)]
