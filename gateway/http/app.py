"""Makes the HTTP application from its parts, for a gateway or ComfyUI's server, with its background tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from ..decoders import Decoders
from ..fetch import Fetcher
from ..images import Images
from ..jobs.catalogue import Catalogue
from ..jobs.dispatcher import Dispatcher
from ..jobs.opening import open_outward, open_store
from ..jobs.records import Job
from ..jobs.results import Results
from ..jobs.store import StoreError
from ..jobs.webhooks import WebhookSender
from ..settings import Settings
from .files import FileRoutes
from .metrics import Metrics
from .middleware import AccessLog, Authentication, Cors, HiddenTokens, handle_expect, respond_to_errors
from .models import Availability, ModelRoutes, offered
from .ops import OpsRoutes
from .page import PageRoutes
from .request_body import LargeBodies
from .requests import RequestRoutes, SubmitRoute
from .responses import result_response

PREFIX = "/v1"
_PURGE_EVERY_S = 600.0
_HIDDEN_TOKENS = HiddenTokens()
_LOG = logging.getLogger("wan_flf2v.gateway")


def create_app(
    settings: Settings, *, own_url: str, mounted: bool = False, ready: Callable[[], Awaitable[None]] | None = None
) -> web.Application:
    """Return the application. It serves, and dispatches if no other process does, from start-up to clean-up.

    If ``mounted``, its paths lack ``/v1``, for ``add_subapp``; otherwise ``/healthz``, ``/readyz`` and ``/metrics`` are
    at the root too. ``own_url`` is this API's address for webhooks of requests that came another way. Nothing is
    dispatched before ``ready`` returns.
    """
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store, fetcher = open_store(settings.data, settings.nats, max_wait_s=settings.max_wait_s), Fetcher(settings)
    decoders, outward = Decoders(), open_outward(settings.nats)
    results, images = Results(settings, store), Images(settings, store, fetcher, decoders, outward)
    dispatcher = Dispatcher(store, settings, results, outward)

    def webhook_body(job: Job, base_url: str | None) -> Mapping[str, Any]:
        base = (settings.base_url or base_url or own_url).rstrip("/")
        output = results.urls(job, base) if job.status == "succeeded" else None
        return result_response(job, output).model_dump(mode="json", exclude_unset=True)

    sender = WebhookSender(settings, store, fetcher, webhook_body)
    models, metrics, large_bodies = Catalogue(store, offered(settings)), Metrics(), LargeBodies()
    cors, authentication = Cors(settings.cors_origins), Authentication(settings, store, results)
    requests = RequestRoutes(settings, store, results, dispatcher, models)
    availability = Availability(settings, models, outward)
    ops = OpsRoutes(settings, store, models, metrics, authentication, availability)
    page = PageRoutes(auth=settings.auth, mounted=mounted)
    groups = (
        requests,
        ModelRoutes(models, availability),
        SubmitRoute(settings, store, images, results, fetcher, dispatcher, models, availability, large_bodies),
        FileRoutes(settings, store, images, results, large_bodies),
        ops,
        page,
    )

    middlewares = (cors.permit, AccessLog(metrics).record, respond_to_errors, authentication.check)
    app = web.Application(middlewares=middlewares)
    prefix = "" if mounted else PREFIX
    routes = [(prefix + route.path, route) for group in groups for route in group.routes()]
    if not mounted:
        routes += [(route.path, route) for group in (ops, page) for route in group.root_routes()]
    options = {"expect_handler": handle_expect}
    app.add_routes([web.RouteDef(route.method, path, route.handler, route.kwargs | options) for path, route in routes])
    app.on_response_prepare.append(cors.allow_origin)
    app.on_shutdown.append(requests.stop_streams)
    logging.getLogger("aiohttp.server").addFilter(_HIDDEN_TOKENS)

    async def run_background(_: web.Application) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(work, name=name)
            for name, work in (
                ("outward", outward.run()),
                ("dispatcher", dispatcher.run(ready)),
                ("webhooks", sender.run()),
                ("purge", _purge(results, images)),
            )
        ]
        for task in tasks:
            task.add_done_callback(_report)
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        decoders.close()
        await store.close()

    app.cleanup_ctx.append(run_background)
    return app


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.critical("background task stopped task=%s", task.get_name(), exc_info=error)


async def _purge(results: Results, images: Images) -> None:
    """Delete old results and unused images, again and again."""
    while True:
        try:
            await results.purge()
            await images.purge()
        except (OSError, StoreError):
            _LOG.exception("purge failed")
        await asyncio.sleep(_PURGE_EVERY_S)
