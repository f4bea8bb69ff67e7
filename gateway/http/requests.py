"""The routes of requests: submit (checks, images, idempotency key, queue limit), status, result, cancel, events."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import uuid
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from ...client.images import ImageError
from ...contract.parameters import ModelContract, Value
from ...contract.validation import ContractError, validate
from ..fetch import Fetcher, FetchError
from ..images import Images
from ..jobs.dispatcher import Dispatcher
from ..jobs.order import queue_position
from ..jobs.records import REQUEST_ID, Job, Submission
from ..jobs.results import Results
from ..jobs.store import IdempotencyConflictError, QueueFullError, Store
from ..settings import Settings
from . import errors
from .addresses import base_url
from .errors import ApiError, bad_field, field_entry, too_many, validation_error
from .middleware import token_of
from .models import MAX_PROMPT_CHARACTERS, find_model
from .request_body import LargeBodies, in_thread_if_large, read_json_object
from .responses import CancelResponse, json_response, result_response, status_response, status_word, submit_response

_LOG = logging.getLogger("wan_flf2v.gateway")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_QUEUE_FULL_WAIT_S = 30
_HEARTBEAT_S = 15.0
_MAX_STREAMS = 64  # of one token
_STREAMS_FULL_WAIT_S = 5


class SubmitRoute:
    """``POST /models/{model_id}``."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        images: Images,
        fetcher: Fetcher,
        dispatcher: Dispatcher,
        models: Mapping[str, ModelContract],
        large_bodies: LargeBodies,
    ) -> None:
        self._settings = settings
        self._store = store
        self._images = images
        self._fetcher = fetcher
        self._dispatcher = dispatcher
        self._models = models
        self._large_bodies = large_bodies

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/models/{model_id:.+}", self.submit)]

    async def submit(self, request: web.Request) -> web.Response:
        """Accept a request for a model; a request that got a 200 survives a crash."""
        async with self._large_bodies.slot(request):
            return await self._submit(request)

    async def _submit(self, request: web.Request) -> web.Response:
        token = token_of(request)
        model = find_model(self._models, request.match_info["model_id"])
        webhook = _webhook(request)
        body = await read_json_object(request, self._settings.max_body_bytes)
        idempotency = await in_thread_if_large(request, lambda: _idempotency(request, model, body, webhook))
        base = base_url(request, self._settings)
        limit = self._settings.queue_limit if token.queue_limit is None else token.queue_limit
        try:
            earlier = await self._store.submitted_before(token.id, idempotency) if idempotency else None
            if earlier is not None:
                return json_response(submit_response(earlier.id, base))
            values = await in_thread_if_large(request, lambda: _validate(model, body))
            if await self._store.count(token.id, "in_queue") >= limit:  # before anything is fetched
                raise QueueFullError
            if webhook is not None:
                await self._check_webhook(webhook)
            inputs = await self._resolve_images(model, values, token.id)
            submission = Submission(
                id=str(uuid.uuid4()),
                token=token.id,
                model_id=model.model_id,
                values=values,
                inputs=inputs,
                idempotency=idempotency,
                webhook=webhook,
                webhook_secret=token.webhook_secret,
                base_url=base,
                queue_limit=limit,
            )
            job = await self._store.submit(submission)
        except QueueFullError:
            raise too_many(errors.QUEUE_FULL, _QUEUE_FULL_WAIT_S, limit=limit) from None
        except IdempotencyConflictError:
            problem = bad_field(errors.IDEMPOTENCY_CONFLICT, "header", "Idempotency-Key")
            raise validation_error([problem]) from None
        self._dispatcher.poke()
        _LOG.info("request accepted request_id=%s token=%s model=%s", job.id, token.name, model.model_id)
        return json_response(submit_response(job.id, base))

    async def _resolve_images(self, model: ModelContract, values: dict[str, Value], token: str) -> dict[str, str]:
        """Fetch and check the images; return parameter key → stored file. ``values`` gets their short names."""
        inputs: dict[str, str] = {}
        problems: list[dict[str, Any]] = []
        for parameter in model.parameters:
            if not parameter.is_image:
                continue
            key = parameter.key
            try:
                image = await self._images.resolve(str(values[key]), token)
            except ImageError as error:
                problems.append(bad_field(errors.INVALID_IMAGE, "body", key, key=key, reason=error))
                continue
            if image.stored:
                inputs[key] = image.name
            values[key] = image.name
        if problems:
            raise validation_error(problems)
        return inputs

    async def _check_webhook(self, url: str) -> None:
        try:
            await self._fetcher.check(url)
        except FetchError as error:
            raise validation_error([bad_field(errors.INVALID_WEBHOOK, "query", "webhook", reason=error)]) from None


class RequestRoutes:
    """``/requests/{request_id}/`` and ``status``, ``result``, ``cancel`` or ``events``."""

    def __init__(self, settings: Settings, store: Store, results: Results, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._store = store
        self._results = results
        self._dispatcher = dispatcher
        self._streams: Counter[str] = Counter()  # token id -> open event streams
        self._stopping = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/requests/{request_id}/status", self.status),
            web.get("/requests/{request_id}/result", self.result),
            web.post("/requests/{request_id}/cancel", self.cancel),
            web.get("/requests/{request_id}/events", self.events, allow_head=False),
        ]

    async def status(self, request: web.Request) -> web.Response:
        """Return the status of a request."""
        job, base = await self._find_job(request), base_url(request, self._settings)
        position = queue_position(job.id, await self._store.queue()) if job.status == "in_queue" else None
        return json_response(status_response(job, base, position, await self._store.health()))

    async def result(self, request: web.Request) -> web.Response:
        """Return the result, or the present state."""
        job, base = await self._find_job(request), base_url(request, self._settings)
        output = self._results.urls(job, base) if job.status == "succeeded" else None
        return json_response(result_response(job, output))

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a waiting or running request; a finished one stays as it is."""
        job = await self._find_job(request)
        outcome = await self._store.cancel(job.id)
        self._dispatcher.poke()
        job = await self._store.get(job.id) or job
        body = CancelResponse(
            request_id=job.id,
            status=status_word(job),
            outcome="not_cancellable" if outcome == "finished" else "cancelled",
        )
        return json_response(body, status=202)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream a request's status as server-sent events, one for each change, until the request has ended.

        An event's id is the job's version. With ``Last-Event-ID``, the present state is sent only if it is newer. If
        the client knows the end already, the response is 204, which tells an EventSource to stop.
        """
        job, token = await self._find_job(request), token_of(request)
        text = request.headers.get("Last-Event-ID", "")
        last = int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0
        if job.finished and job.version <= last:
            return web.Response(status=204)
        if self._streams[token.id] >= _MAX_STREAMS:
            raise too_many(errors.STREAMS_FULL, _STREAMS_FULL_WAIT_S, limit=_MAX_STREAMS)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter for nginx
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **headers})
        base = base_url(request, self._settings)
        self._streams[token.id] += 1
        try:
            await response.prepare(request)
            await self._stream(job.id, base, last, response)
        except ConnectionError:
            pass  # the client left
        finally:
            self._streams[token.id] -= 1
        return response

    async def stop_streams(self, _: web.Application) -> None:
        """End all event streams, so that they do not hold up the shutdown."""
        self._stopping.set()

    async def _stream(self, job_id: str, base: str, last: int, response: web.StreamResponse) -> None:
        changes, known_position = self._store.follow(job_id), None
        stopping = asyncio.create_task(self._stopping.wait())
        change = asyncio.ensure_future(anext(changes))
        try:
            while not stopping.done():
                await asyncio.wait((change, stopping), timeout=_HEARTBEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if not change.done():
                    await response.write(b": still here\n\n")
                    continue
                job, position = change.result()
                moved = position is not None and known_position is not None and position != known_position
                known_position = position
                if job.version > last or moved:
                    status = status_response(job, base, position, await self._store.health())
                    body = status.model_dump_json(exclude_unset=True)
                    await response.write(f"id: {job.version}\nevent: status\ndata: {body}\n\n".encode())
                    last = job.version
                change = asyncio.ensure_future(anext(changes))
        except StopAsyncIteration:
            pass  # the job has ended
        finally:
            stopping.cancel()
            change.cancel()

    async def _find_job(self, request: web.Request) -> Job:
        """Return the job that the path names; ``ApiError`` for an invalid id, or if this token has no such job."""
        request_id = request.match_info["request_id"]
        if not REQUEST_ID.fullmatch(request_id):
            raise ApiError(errors.INVALID_REQUEST_ID)
        job = await self._store.get(request_id)
        if job is None or job.token != token_of(request).id or job.expired or self._results.lost(job):
            raise ApiError(errors.NO_SUCH_REQUEST, request_id=request_id)
        return job


def _validate(model: ModelContract, body: dict[str, Any]) -> dict[str, Value]:
    problems: list[dict[str, Any]] = []
    values: dict[str, Value] = {}
    try:
        values = validate(model, body)
    except ContractError as error:
        problems = [field_entry(("body", *field.loc), field.msg, field.type) for field in error.errors]
    for parameter in model.parameters:
        key, text = parameter.key, body.get(parameter.key)
        if not parameter.is_image and isinstance(text, str) and len(text) > MAX_PROMPT_CHARACTERS:
            sizes = {"length": len(text), "limit": MAX_PROMPT_CHARACTERS}
            problems.append(bad_field(errors.PROMPT_TOO_LONG, "body", key, key=key, **sizes))
    if problems:
        raise validation_error(problems)
    return values


def _webhook(request: web.Request) -> str | None:
    """Return ``?webhook=``. Any other query is an error, since it may be a misspelt one."""
    problems = [
        bad_field(errors.UNKNOWN_QUERY, "query", name, name=json.dumps(name[:80]))
        for name in request.query
        if name != "webhook"
    ]
    found = request.query.getall("webhook", [])
    if len(found) > 1:
        problems.append(bad_field(errors.DUPLICATE_WEBHOOK, "query", "webhook"))
    if problems:
        raise validation_error(problems)
    return found[0] if found else None


def _idempotency(
    request: web.Request, model: ModelContract, body: dict[str, Any], webhook: str | None
) -> tuple[str, str] | None:
    """Return the request's idempotency key and a hash of all that it asks for; ``None`` without a key."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _IDEMPOTENCY_KEY.fullmatch(key):
        raise validation_error([bad_field(errors.INVALID_IDEMPOTENCY_KEY, "header", "Idempotency-Key")])
    text = json.dumps([model.model_id, webhook, body], sort_keys=True)
    return key, hashlib.sha256(text.encode()).hexdigest()
