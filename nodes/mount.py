"""Mounts the API in ComfyUI's own server, under ``/v1``. Imported by ComfyUI only: the one file here that knows it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths  # type: ignore[import-not-found]
from aiohttp import web
from comfy.cli_args import args  # type: ignore[import-not-found]
from server import PromptServer  # type: ignore[import-not-found]

from ..gateway.config import read_settings
from ..gateway.http.app import PREFIX, create_app
from ..gateway.jobs.comfyui import FOLDER, ONCE
from ..gateway.jobs.records import REQUEST_ID
from ..gateway.jobs.tokens import first_token
from ..gateway.serve import check_address

_LOG = logging.getLogger(__name__)
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- what to call an address that listens everywhere
_LISTENING_POLL_S = 0.1
_TAKEN_KNOWN = 10_000  # the latest prompt ids; a late prompt is late by seconds


async def mount() -> None:
    """Add the API and what it needs of the host to ComfyUI's server; called while ComfyUI loads its node packs.

    Raises whatever goes wrong: the caller logs it, since nodes must work without the API.
    """
    server = PromptServer.instance
    _add_host_routes(server.routes)
    server.add_on_prompt_handler(_take_once())
    data = Path(folder_paths.get_user_directory()) / "wan_flf2v"
    file = data / "api.json"
    settings = read_settings(data, file if file.exists() else None)
    settings = replace(settings, comfyui_url=_own_url(), comfyui_verify_tls=False)  # it is this very process
    if not settings.mount:
        _LOG.info('wan-flf2v: the hosted API at %s is off: the setting "mount" is false', PREFIX)
        return
    for host in args.listen.split(","):
        check_address(host.strip(), settings.auth)
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.auth:
        await first_token(settings.data)
    app = create_app(settings, own_url=_own_url(), mounted=True, ready=lambda: _listening(server))
    server.app.add_subapp(PREFIX, app)


def _own_url() -> str:
    """Return the address at which this ComfyUI can be reached from this machine."""
    host = args.listen.split(",")[0].strip()
    host = _ANY.get(host, host)
    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{args.port}"


async def _listening(server: PromptServer) -> None:
    """Wait until ComfyUI listens: it sets its address then."""
    while not hasattr(server, "address"):
        await asyncio.sleep(_LISTENING_POLL_S)


def _take_once() -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return what ComfyUI is to call with every prompt before it is queued: empties the API's second ones of one id.

    ComfyUI takes the same prompt id twice. A gateway that is killed may have a prompt on its way that arrives after the
    next gateway has looked for it, in vain, and queued it again. ComfyUI refuses an empty prompt.
    """
    taken: dict[str, None] = {}

    def handler(request: dict[str, Any]) -> dict[str, Any]:
        extra, prompt_id = request.get("extra_data"), request.get("prompt_id")
        if not (isinstance(extra, dict) and extra.get(ONCE) is True and isinstance(prompt_id, str)):
            return request
        if prompt_id in taken:
            _LOG.warning("wan-flf2v: request %s was queued before and is not queued again", prompt_id)
            return {**request, "prompt": {}}
        taken[prompt_id] = None
        if len(taken) > _TAKEN_KNOWN:
            del taken[next(iter(taken))]
        return request

    return handler


def _add_host_routes(routes: web.RouteTableDef) -> None:
    """Add what the API, here or in a gateway, asks of the host itself."""
    instance = uuid.uuid4().hex

    @routes.get("/wan_flf2v/instance")
    async def get_instance(request: web.Request) -> web.Response:
        """Answer a text that is another one for every start of this ComfyUI."""
        return web.json_response({"instance": instance})

    @routes.delete("/wan_flf2v/inputs/{request_id}")
    async def delete_inputs(request: web.Request) -> web.Response:
        """Remove the images that the API uploaded for a request: that folder and no other."""
        request_id = request.match_info["request_id"]
        if not REQUEST_ID.fullmatch(request_id):
            return web.json_response({"error": "a request id is expected"}, status=400)
        folder = Path(folder_paths.get_input_directory()) / FOLDER / request_id
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        if os.path.lexists(folder):  # on Windows, while someone has an image open
            return web.json_response({"error": "the images cannot be removed yet"}, status=500)
        return web.Response(status=204)
