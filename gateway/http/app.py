"""The HTTP application: of its own, or mounted in ComfyUI's server, under the same paths."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from ..fetch import Fetcher
from ..images import Images
from ..jobs.dispatcher import Dispatcher
from ..jobs.records import Job
from ..jobs.results import Results
from ..jobs.sqlite_store import SqliteStore
from ..jobs.store import StoreError
from ..jobs.webhooks import WebhookSender
from ..settings import Settings
from . import files, model_routes, ops, requests, result_files, submit
from .middleware import allow_origin, authenticate, errors, observe, preflight
from .models import offered
from .responses import result_answer
from .state import STATE, State

PREFIX = "/v1"
_PURGE_EVERY_S = 600.0
_LOG = logging.getLogger("wan_flf2v.gateway")
_MIDDLEWARES = (preflight, observe, errors, authenticate)
_ROUTES = (
    *requests.ROUTES,
    *model_routes.ROUTES,
    *submit.ROUTES,
    *files.ROUTES,
    *result_files.ROUTES,
    *ops.ROUTES,
)


def create_app(
    settings: Settings, *, own_url: str, mounted: bool = False, ready: Callable[[], Awaitable[None]] | None = None
) -> web.Application:
    """Return the application; it works, and dispatches if no other process does, from start-up to clean-up.

    Mounted, its paths are without ``/v1``, where it is to be added as a sub-application; of its own, ``/healthz``,
    ``/readyz`` and ``/metrics`` are at the root too. ``own_url`` is this API's address for messages (webhooks) of
    requests that were not sent here. Nothing is dispatched before ``ready`` returns.
    """
    app = web.Application(middlewares=_MIDDLEWARES)
    prefix = "" if mounted else PREFIX
    app.add_routes([web.RouteDef(route.method, prefix + route.path, route.handler, route.kwargs) for route in _ROUTES])
    if not mounted:
        app.add_routes(ops.OPS_ROUTES)
    state = _open(settings)
    ops.add_state(app, state)
    app.cleanup_ctx.append(lambda _: _work(state, own_url, ready))
    app.on_response_prepare.append(allow_origin)
    app.on_shutdown.append(_stop_streams)
    return app


def _open(settings: Settings) -> State:
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    store = SqliteStore(settings.data / "store.sqlite3")
    fetcher = Fetcher(settings)
    results = Results(settings, store)
    dispatcher = Dispatcher(store, settings, results)
    return State(
        settings=settings,
        store=store,
        results=results,
        images=Images(settings, store, fetcher),
        fetcher=fetcher,
        dispatcher=dispatcher,
        models=offered(settings),
    )


async def _work(state: State, own_url: str, ready: Callable[[], Awaitable[None]] | None) -> AsyncIterator[None]:
    """Run what goes on beside the requests, as long as the application runs."""

    def body_of(job: Job, base_url: str | None) -> Mapping[str, Any]:
        base = (state.settings.base_url or base_url or own_url).rstrip("/")
        output = state.results.urls(job, base) if job.status == "succeeded" else None
        return result_answer(job, output).model_dump(mode="json", exclude_unset=True)

    async def dispatch() -> None:
        if ready is not None:
            await ready()
        await state.dispatcher.run()

    sender = WebhookSender(state.settings, state.store, state.fetcher, body_of)
    tasks = [
        asyncio.create_task(dispatch(), name="dispatcher"),
        asyncio.create_task(sender.run(), name="webhooks"),
        asyncio.create_task(_purge(state), name="purge"),
    ]
    for task in tasks:
        task.add_done_callback(_report)
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await state.store.close()


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _LOG.critical("event=stopped part=%s", task.get_name(), exc_info=error)


async def _purge(state: State) -> None:
    """Let old results and unused images go, now and then."""
    while True:
        try:
            await state.results.purge()
            await state.images.purge()
        except (OSError, StoreError):
            _LOG.exception("event=purge outcome=error")
        await asyncio.sleep(_PURGE_EVERY_S)


async def _stop_streams(app: web.Application) -> None:
    app[STATE].stopping.set()
