"""All that this pack adds to ComfyUI's server: the preflight route, the routes for a gateway, and the API under /v1."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import folder_paths
from aiohttp import web
from comfy.cli_args import args
from server import PromptServer

from ..preflight.checks import check_graph
from ..preflight.editor import view_samplers

_LOG = logging.getLogger("wan_flf2v.nodes")
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 -- an address that listens everywhere, and how to reach it
_LISTENING_POLL_S = 0.1
_TAKEN_KNOWN = 10_000  # the latest prompt ids; a late prompt is late by seconds


async def mount() -> None:
    """Add everything to ComfyUI's server while it loads its node packs; the nodes load even if the API cannot."""
    server = getattr(PromptServer, "instance", None)
    if server is None:  # ComfyUI is used as a library
        return
    _add_preflight_routes(server.routes)
    try:
        await _mount_api(server)
    except Exception as error:  # noqa: BLE001 -- whatever it is, the nodes must load
        _LOG.exception("hosted API of wan-flf2v is off path=/v1: %s", error)


def _add_preflight_routes(routes: web.RouteTableDef) -> None:
    """Add the routes that look at a prompt before it is queued.

    ``POST /wan_flf2v/preflight``: is anything wrong with it? The response is ``{"errors": […], "warnings": […]}`` whose
    texts need no context. ``POST /wan_flf2v/samplers`` is for the editor: what node 57 shows, see ``view_samplers``.
    The request is ``{"prompt": API prompt}``; without a prompt the response is 400 and ``{"error": …}``. Only files in
    ComfyUI's model folders are looked at.
    """

    def add(path: str, look: Callable[[Mapping[str, Any]], Any]) -> None:
        @routes.post(path)
        async def post(request: web.Request) -> web.Response:
            try:
                body = json.loads(await request.read())
            except (ValueError, RecursionError):
                body = None
            prompt = body.get("prompt") if isinstance(body, Mapping) else None
            if not isinstance(prompt, Mapping):
                return web.json_response(
                    {"error": 'a JSON object with "prompt", a graph in API form, is expected'}, status=400
                )
            return web.json_response(await asyncio.to_thread(look, prompt))  # it reads files

    add("/wan_flf2v/preflight", lambda prompt: asdict(check_graph(prompt)))
    add("/wan_flf2v/samplers", view_samplers)


async def _mount_api(server: PromptServer) -> None:
    """Add the hosted API. Add the routes for a gateway too, also where the API is off."""
    # Not at the top: this needs pydantic, one of ComfyUI's optional requirements.
    from ..gateway.http.app import PREFIX, create_app
    from ..gateway.jobs.comfyui import FOLDER, ONCE
    from ..gateway.jobs.opening import store_file
    from ..gateway.jobs.records import ATTEMPT_NAME
    from ..gateway.jobs.tokens import first_token
    from ..gateway.serve import check_address
    from ..gateway.settings import read_settings

    _add_gateway_routes(server.routes, FOLDER, ATTEMPT_NAME.fullmatch)
    server.add_on_prompt_handler(_refuse_repeats(ONCE))
    data = Path(folder_paths.get_user_directory()) / "wan_flf2v"
    file = data / "api.json"
    own = {"comfyui_url": _own_url(), "comfyui_verify_tls": False, "comfyui_tokens": (), "nats_url": None}
    settings = read_settings(data, file if file.exists() else None, **own)
    if not settings.mount:
        _LOG.info('hosted API of wan-flf2v is off path=%s: the setting "mount" is false', PREFIX)
        return
    for host in args.listen.split(","):
        check_address(host.strip(), settings.auth)
    first = not store_file(data).exists()
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.auth:
        first |= await first_token(data)

    async def listening() -> None:
        while not hasattr(server, "address"):  # ComfyUI sets it when it listens
            await asyncio.sleep(_LISTENING_POLL_S)

    app = create_app(settings, own_url=_own_url(), mounted=True, ready=listening)
    server.app.add_subapp(PREFIX, app)
    url = (settings.base_url or _own_url()).rstrip("/") + PREFIX
    _tell_where(url, data / "token" if settings.auth else None, file, first=first)


def _tell_where(url: str, token: Path | None, settings_file: Path, *, first: bool) -> None:
    """Say in the log where the API is; on the first start also what it is, and how to switch it off."""
    if not first:
        _LOG.info("hosted API of wan-flf2v is on url=%s", url)
        return
    _LOG.info(
        "hosted API of wan-flf2v is on url=%s: it takes requests as the hosted service does, and runs them here. "
        "Nothing leaves this machine, except to addresses that a request names (of images, of a webhook). %s "
        'To switch it off, write {"mount": false} into %s and restart ComfyUI.',
        *(url, f"The token is in {token}." if token is not None else "It asks for no token.", settings_file),
    )


def _own_url() -> str:
    """Return the address at which this ComfyUI can be reached from this machine."""
    host = args.listen.split(",")[0].strip()
    host = _ANY.get(host, host)
    scheme = "https" if args.tls_keyfile and args.tls_certfile else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{args.port}"


def _refuse_repeats(once: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a handler that refuses a prompt of the API that was queued before; ComfyUI calls it with each prompt.

    ComfyUI takes the same prompt id twice. The last prompt of a killed gateway may arrive late, after the next gateway
    has queued it again. The handler empties the second prompt of an id if its ``extra_data`` has ``once``; ComfyUI
    refuses an empty prompt.
    """
    taken: dict[str, None] = {}

    def handler(request: dict[str, Any]) -> dict[str, Any]:
        extra, prompt_id = request.get("extra_data"), request.get("prompt_id")
        if not (isinstance(extra, dict) and extra.get(once) is True and isinstance(prompt_id, str)):
            return request
        if prompt_id in taken:
            _LOG.warning("prompt was queued before and is refused request_id=%s", prompt_id)
            return {**request, "prompt": {}}
        taken[prompt_id] = None
        if len(taken) > _TAKEN_KNOWN:
            del taken[next(iter(taken))]
        return request

    return handler


def _add_gateway_routes(routes: web.RouteTableDef, folder: str, is_attempt_name: Callable[[str], object]) -> None:
    """Add what the API, mounted here or in a gateway, asks ComfyUI for."""
    instance = uuid.uuid4().hex

    @routes.get("/wan_flf2v/instance")
    async def get_instance(request: web.Request) -> web.Response:
        """Return a text that differs for each start of this ComfyUI."""
        return web.json_response({"instance": instance})

    @routes.delete("/wan_flf2v/inputs/{name}")
    async def delete_inputs(request: web.Request) -> web.Response:
        """Remove the images that the API uploaded for a request, and an empty file that holds its video's name.

        The name is the request's id; those of its second attempt and later end in ``-2`` and so on.
        """
        name = request.match_info["name"]
        if not is_attempt_name(name):
            return web.json_response({"error": "a request id is expected"}, status=400)
        videos = (Path(folder_paths.get_output_directory()) / folder).glob(f"{name}_*.mp4")
        await asyncio.to_thread(_delete_empty, videos)
        images = Path(folder_paths.get_input_directory()) / folder / name
        await asyncio.to_thread(shutil.rmtree, images, ignore_errors=True)
        if os.path.lexists(images):  # on Windows, while a program has an image open
            return web.json_response({"error": "the images cannot be removed yet"}, status=500)
        return web.Response(status=204)


def _delete_empty(files: Iterable[Path]) -> None:
    for file in files:
        with contextlib.suppress(OSError):  # another process may have it open
            if file.stat().st_size == 0:
                file.unlink()
