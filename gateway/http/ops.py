"""For those who run the API: is it up, can it work, what has it done."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from aiohttp import web

from ...client.comfy import ComfyClient
from ...client.errors import ComfyError
from ...contract.parameters import ModelContract
from ...contract.workflow import graph_for
from ..jobs.records import Status
from .middleware import known_token, public
from .openapi import document
from .state import STATE, State, state_of

_READY_KNOWN_S = 3.0
_PROBE_S = 5.0
_STATUSES: tuple[Status, ...] = ("in_queue", "in_progress", "succeeded", "failed", "cancelled")
_FILE_INPUTS = ("unet_name", "clip_name", "vae_name")
_READY: web.AppKey[dict[str, Any]] = web.AppKey("ready", dict)


@public
async def healthz(request: web.Request) -> web.Response:
    """Answer 200 while this process serves and its store can be read."""
    await state_of(request).store.count(None, "in_progress")
    return web.json_response({"status": "ok"})


@public
async def readyz(request: web.Request) -> web.Response:
    """Answer 200 if a request could run now, else 503; with a token also what is missing: ComfyUI, the pack, files."""
    known = request.config_dict[_READY]
    async with known["lock"]:  # calls that come together share one look
        if known.get("until", 0.0) < time.monotonic():
            problems = await _problems(state_of(request))
            known.update(until=time.monotonic() + _READY_KNOWN_S, problems=problems)
        problems = known["problems"]
    answer: dict[str, Any] = {"ready": not problems}
    if await known_token(request) is not None:
        answer["problems"] = problems
    return web.json_response(answer, status=503 if problems else 200)


async def metrics(request: web.Request) -> web.Response:
    """Answer Prometheus' text format."""
    state = state_of(request)
    jobs: dict[str, int] = {status: await state.store.count(None, status) for status in _STATUSES}
    text = state.metrics.render(jobs, host_up=(await state.store.health()).comfyui == "up")
    return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


@public
async def openapi(request: web.Request) -> web.Response:
    """Answer this API's description."""
    return web.json_response(document(list(state_of(request).models.values())))


def add_state(app: web.Application, state: State) -> None:
    """Give an application what its routes share."""
    app[STATE] = state
    app[_READY] = {"lock": asyncio.Lock()}


async def _problems(state: State) -> list[str]:
    """Return what keeps requests from running; for several models it is enough that one could."""
    if (await state.store.health()).dispatcher == "down":
        return ["The API's dispatcher failed; it tries again soon. The API's log says more."]
    try:
        missing = await asyncio.wait_for(_probe(state), _PROBE_S)
    except asyncio.TimeoutError:
        return [f"ComfyUI did not answer within {_PROBE_S:g} s. It may be loading a model, or hang."]
    except ComfyError as error:
        return [str(error)]
    return [] if not all(missing) else missing[0]


async def _probe(state: State) -> list[list[str]]:
    async with ComfyClient(state.settings.comfyui_url, verify_tls=state.settings.comfyui_verify_tls) as client:
        await client.system_stats()
        return [await _missing(client, model) for model in state.models.values()]


async def _missing(client: ComfyClient, model: ModelContract) -> list[str]:
    problems = []
    for node in graph_for(model).values():
        info = await client.object_info(node["class_type"])
        if info is None:
            problems.append(f"ComfyUI has no node {node['class_type']}. Install or update the wan-flf2v node pack.")
            continue
        for name in _FILE_INPUTS:
            wanted = node["inputs"].get(name)
            if wanted is not None and wanted not in _choices(info, name):
                problems.append(f"The model file {wanted} is missing.")
    return problems


def _choices(info: dict[str, Any], name: str) -> list[str]:
    """Return the files an input offers: ComfyUI lists them in the type's place, or as options of a COMBO."""
    kind, *rest = info["input"]["required"].get(name) or [[]]
    options = kind if isinstance(kind, list) else (rest[0] if rest else {}).get("options", [])
    return [str(option) for option in options]


OPS_ROUTES = [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]
ROUTES = [*OPS_ROUTES, web.get("/openapi.json", openapi)]
