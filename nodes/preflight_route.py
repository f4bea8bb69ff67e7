"""``POST /wan_flf2v/preflight``: is anything wrong with a prompt, before it is queued?"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from aiohttp import web

from ..preflight.checks import check_graph


def add_preflight_route(routes: web.RouteTableDef) -> None:
    """Add the route to the host's server.

    Body: ``{"prompt": API prompt}``. Answer: ``{"errors": […], "warnings": […]}``, texts that stand for themselves; 400
    with ``{"error": …}`` if there is no prompt in the body. Only files in the host's model folders are looked at.
    """

    @routes.post("/wan_flf2v/preflight")
    async def post_preflight(request: web.Request) -> web.Response:
        try:
            body = json.loads(await request.read())
        except (ValueError, RecursionError):
            body = None
        prompt = body.get("prompt") if isinstance(body, Mapping) else None
        if not isinstance(prompt, Mapping):
            return web.json_response(
                {"error": 'a JSON object with "prompt", a graph in API form, is expected'}, status=400
            )
        report = await asyncio.to_thread(check_graph, prompt)  # it reads files
        return web.json_response({"errors": report.errors, "warnings": report.warnings})
