"""The routes for operators: ``/healthz``, ``/readyz`` (can requests be sent), ``/metrics``, ``/workers``, OpenAPI."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import asdict, replace
from typing import Any

from aiohttp import web

from ..durable import check_room
from ..jobs.catalogue import Catalogue
from ..jobs.records import STATUSES, UNFINISHED, Token, WorkerState
from ..jobs.store import Store, StoreError, within
from ..settings import Settings
from .errors import ApiError, ErrorKind, kind_of
from .metrics import Metrics
from .middleware import Authentication, public, token_of
from .models import Availability, Problem
from .openapi import document

_LOG = logging.getLogger("wan_flf2v.gateway")
_DISK_KNOWN_S = 3.0
_DISPATCHER_DOWN = Problem("The API's dispatcher failed; it tries again soon. The API's log says more.")
_READY_S = 4.0  # for the store: probes of readiness wait few seconds


class OpsRoutes:
    """Health, readiness, metrics, workers and the OpenAPI document."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        models: Catalogue,
        metrics: Metrics,
        authentication: Authentication,
        availability: Availability,
    ) -> None:
        self._settings = settings
        self._store = store
        self._models = models
        self._metrics = metrics
        self._authentication = authentication
        self._availability = availability
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
        return [
            *self.root_routes(),
            web.get("/workers", self.workers),
            web.get("/openapi.json", self.openapi),
        ]

    @public
    async def healthz(self, _: web.Request) -> web.Response:
        """Return 200 while this process serves and can keep what it is sent, else 503 or 507 with the reason."""
        async with self._writing:  # calls at the same time share one attempt
            if self._disk_known_until < time.monotonic():
                self._disk_problem = await self._find_disk_problem()
                self._disk_known_until = time.monotonic() + _DISK_KNOWN_S
        if self._disk_problem is not None:
            raise ApiError(self._disk_problem)
        return web.json_response({"status": "ok"})

    @public
    async def readyz(self, request: web.Request) -> web.Response:
        """Return 200 if a request could run now, else 503 and, with a token, why not. It speaks of no single model.

        What can keep every request from running is the dispatcher, ComfyUI, or what all models lack there.

        A gateway of a fleet without a worker is ``degraded`` with 200: it takes requests, whose number tells an
        autoscaler to start workers. Behind a load balancer it would get none if this were a 503.
        """
        with within(_READY_S):
            health, token = await self._store.health(), await self._authentication.find(request)
        problem = _DISPATCHER_DOWN if health.dispatcher == "down" else await self._availability.problem()
        down = problem is not None and not problem.waits
        status = "ready" if problem is None else "down" if down else "degraded"
        body: dict[str, Any] = {"ready": problem is None, "status": status}
        if token is not None:
            body["problems"] = [] if problem is None else [problem.text]
        return web.json_response(body, status=503 if down else 200)

    async def metrics(self, request: web.Request) -> web.Response:
        """Return the metrics in Prometheus' text format; only an operator's have the workers' names."""
        jobs: dict[str, int] = {status: await self._store.count(None, status) for status in STATUSES}
        queue, models = await self._store.queue(), await self._models.all()
        counts = Counter((job.model_id, job.status) for job in queue)
        names = dict.fromkeys([*models, *(job.model_id for job in queue)])  # one that was removed may have jobs
        unfinished = {(name, status): counts[name, status] for name in names for status in UNFINISHED}
        up = (await self._store.health()).comfyui == "up"
        workers = _as_seen(await self._store.workers(), token_of(request))
        text = self._metrics.render(jobs, unfinished, comfyui_up=up, workers=workers)
        return web.Response(text=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def workers(self, request: web.Request) -> web.Response:
        """Return how each ComfyUI is doing: the fields of ``WorkerState``, some of them only to an operator."""
        workers = [asdict(worker) for worker in await self._workers(token_of(request))]
        return web.json_response({"workers": workers}, headers={"Cache-Control": "no-store"})

    @public
    async def openapi(self, _: web.Request) -> web.Response:
        """Return the OpenAPI document."""
        return web.json_response(document((await self._models.all()).values()))

    async def _workers(self, token: Token) -> list[WorkerState]:
        """Return the workers as this token may see them: requests of other tokens only if it is an operator's."""
        workers = _as_seen(await self._store.workers(), token)
        if token.operator:
            return workers
        ids = [worker.request_id for worker in workers if worker.request_id is not None]
        jobs = await asyncio.gather(*map(self._store.get, ids))
        own = {job.id for job in jobs if job is not None and job.token == token.id}
        return [each if each.request_id in own else replace(each, request_id=None, attempt=None) for each in workers]

    async def _find_disk_problem(self) -> ErrorKind | None:
        """Try to write, into the store and beside it; return what a client is told if that fails."""
        try:
            await self._store.check()
            await asyncio.to_thread(check_room, self._settings.data)
        except (StoreError, OSError) as error:
            _LOG.warning("nothing can be kept: %s", error)
            return kind_of(error)
        return None


def _as_seen(workers: list[WorkerState], token: Token) -> list[WorkerState]:
    """Return the workers with what a token may see of them: addresses, instances and errors are an operator's."""
    if token.operator:
        return workers
    return [
        replace(worker, name=f"ComfyUI {number}", instance=None, error=None) for number, worker in enumerate(workers, 1)
    ]
