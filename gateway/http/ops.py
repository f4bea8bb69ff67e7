"""The routes for operators: ``/healthz``, ``/readyz`` (can a request run), ``/metrics``, ``/openapi.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ...contract.parameters import ModelContract
from ..jobs.records import Status
from ..jobs.store import Store
from .availability import Availability
from .metrics import Metrics
from .middleware import Authentication, public
from .openapi import document

_STATUSES: tuple[Status, ...] = ("in_queue", "in_progress", "succeeded", "failed", "cancelled")


class OpsRoutes:
    """Health, readiness, metrics and the OpenAPI document."""

    def __init__(
        self,
        store: Store,
        models: Mapping[str, ModelContract],
        metrics: Metrics,
        authentication: Authentication,
        availability: Availability,
    ) -> None:
        self._store = store
        self._document = document(models.values())
        self._metrics = metrics
        self._authentication = authentication
        self._availability = availability

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
        """Return 200 while this process serves and its store can be read."""
        await self._store.count(None, "in_progress")
        return web.json_response({"status": "ok"})

    @public
    async def readyz(self, request: web.Request) -> web.Response:
        """Return 200 if a request could run now, else 503 and, with a token, why not. It speaks of no single model."""
        problems = await self._find_problems()
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

    async def _find_problems(self) -> list[str]:
        """Return what keeps every request from running: the dispatcher, ComfyUI, or what all models lack there."""
        if (await self._store.health()).dispatcher == "down":
            return ["The API's dispatcher failed; it tries again soon. The API's log says more."]
        problem = await self._availability.problem()
        return [problem] if problem is not None else []
