"""The routes for operators: ``/healthz``, ``/readyz`` (what is missing on ComfyUI), ``/metrics``, ``/openapi.json``."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ...client.comfy import ComfyClient
from ...client.errors import ComfyError
from ...contract.parameters import ModelContract
from ...contract.workflow import graph_for
from ..durable import check_room
from ..jobs.records import Status
from ..jobs.store import Store, StoreError
from ..settings import Settings
from .errors import ApiError, ErrorKind, kind_of
from .metrics import Metrics
from .middleware import Authentication, public
from .openapi import document

_LOG = logging.getLogger("wan_flf2v.gateway")
_READY_KNOWN_S = 3.0
_PROBE_S = 5.0
_STATUSES: tuple[Status, ...] = ("in_queue", "in_progress", "succeeded", "failed", "cancelled")
_FILE_INPUTS = ("unet_name", "clip_name", "vae_name")


class OpsRoutes:
    """Health, readiness, metrics and the OpenAPI document."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        models: Mapping[str, ModelContract],
        metrics: Metrics,
        authentication: Authentication,
    ) -> None:
        self._settings = settings
        self._store = store
        self._models = models
        self._document = document(models.values())
        self._metrics = metrics
        self._authentication = authentication
        self._looking = asyncio.Lock()
        self._problems: list[str] = []
        self._known_until = 0.0
        self._writing = asyncio.Lock()
        self._disk_problem: ErrorKind | None = None
        self._disk_known_until = 0.0

    def root_routes(self) -> list[web.RouteDef]:
        """Return the routes that a gateway also has without ``/v1``."""
        return [
            web.get("/healthz", self.healthz),
            web.get("/readyz", self.readyz),
            web.get("/metrics", self.metrics),
        ]

    def routes(self) -> list[web.RouteDef]:
        return [*self.root_routes(), web.get("/openapi.json", self.openapi)]

    @public
    async def healthz(self, _: web.Request) -> web.Response:
        """Return 200 while this process serves and can keep what it is sent, else 503 or 507 with the reason."""
        async with self._writing:  # calls at the same time share one attempt
            if self._disk_known_until < time.monotonic():
                self._disk_problem = await self._find_disk_problem()
                self._disk_known_until = time.monotonic() + _READY_KNOWN_S
        if self._disk_problem is not None:
            raise ApiError(self._disk_problem)
        return web.json_response({"status": "ok"})

    @public
    async def readyz(self, request: web.Request) -> web.Response:
        """Return 200 if a request could run now, else 503; with a token also what is missing: ComfyUI, pack, files."""
        async with self._looking:  # calls at the same time share one look
            if self._known_until < time.monotonic():
                self._problems = await self._find_problems()
                self._known_until = time.monotonic() + _READY_KNOWN_S
            problems = self._problems
        body: dict[str, Any] = {"ready": not problems}
        if await self._authentication.find(request) is not None:
            body["problems"] = problems
        return web.json_response(body, status=503 if problems else 200)

    async def metrics(self, _: web.Request) -> web.Response:
        """Return the metrics in Prometheus' text format."""
        jobs: dict[str, int] = {status: await self._store.count(None, status) for status in _STATUSES}
        text = self._metrics.render(jobs, comfyui_up=(await self._store.health()).comfyui == "up")
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    @public
    async def openapi(self, _: web.Request) -> web.Response:
        """Return the OpenAPI document."""
        return web.json_response(self._document)

    async def _find_disk_problem(self) -> ErrorKind | None:
        """Try to write, into the store and beside it; return what a client is told if that fails."""
        try:
            await self._store.check()
            await asyncio.to_thread(check_room, self._settings.data)
        except (StoreError, OSError) as error:
            _LOG.warning("nothing can be kept: %s", error)
            return kind_of(error)
        return None

    async def _find_problems(self) -> list[str]:
        """Return what keeps requests from running; of several models, one that could run is enough."""
        if (await self._store.health()).dispatcher == "down":
            return ["The API's dispatcher failed; it tries again soon. The API's log says more."]
        try:
            missing = await asyncio.wait_for(self._probe(), _PROBE_S)
        except asyncio.TimeoutError:
            return [f"ComfyUI did not respond within {_PROBE_S:g} s. It may be loading a model, or hang."]
        except ComfyError as error:
            return [str(error)]
        return missing[0] if all(missing) else []

    async def _probe(self) -> list[list[str]]:
        """Ask ComfyUI for what each model needs; return what is missing for each."""
        url, verify_tls = self._settings.comfyui_url, self._settings.comfyui_verify_tls
        async with ComfyClient(url, verify_tls=verify_tls) as client:
            await client.system_stats()
            return [await _missing(client, model) for model in self._models.values()]


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
    """Return the files that an input offers: ComfyUI lists them as the input's type, or as options of a COMBO."""
    kind, *rest = info["input"]["required"].get(name) or [[]]
    options = kind if isinstance(kind, list) else (rest[0] if rest else {}).get("options", [])
    return [str(option) for option in options]
