"""The files of results, for whoever has a signed address."""

from __future__ import annotations

from aiohttp import web

from ..jobs.results import CONTENT_TYPES
from .middleware import public
from .state import state_of


@public
async def get_file(request: web.Request) -> web.StreamResponse:
    """Answer a result's file, whole or a range of it; the signature stands for a token."""
    name = request.match_info["name"]
    path = await state_of(request).results.verify(
        request.match_info["request_id"], name, request.query.get("expires", ""), request.query.get("signature", "")
    )
    headers = {
        "Content-Type": CONTENT_TYPES[name],
        "Content-Disposition": f'inline; filename="{name}"',
        "Cache-Control": "private, max-age=3600",
        "X-Content-Type-Options": "nosniff",
    }
    return web.FileResponse(path, headers=headers)


ROUTES = [web.get("/results/{request_id}/{name}", get_file)]
