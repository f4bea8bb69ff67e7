"""The routes of requests: submit (checks, images, idempotency key, queue), list, status, result, cancel, events."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from ...client.images import ImageError
from ...contract.parameters import MAX_PROMPT_CHARACTERS, MODELS, ModelContract, Value
from ...contract.validation import ContractError, validate
from ..fetch import Fetcher, FetchError
from ..images import ImageInput, Images, Intake
from ..jobs.catalogue import Catalogue
from ..jobs.dispatcher import Dispatcher
from ..jobs.records import NUMBERS, REQUEST_ID, STATUSES, Health, Job, Submission, Token, new_request_id
from ..jobs.results import Results
from ..jobs.store import IdempotencyConflictError, QueueFullError, Store, StoreError, within
from ..jobs.tokens import ANONYMOUS
from ..settings import Settings
from . import errors
from .errors import ApiError, bad_field, field_entry, too_many, validation_error
from .middleware import WRITE_S, base_url, linked, token_of
from .models import MAX_LIMIT, MODEL_PATH, Availability, boolean_query, find_model, integer_query
from .request_body import LargeBodies, arrived
from .responses import (
    CancelResponse,
    json_response,
    list_response,
    result_response,
    status_response,
    status_word,
    submit_response,
)
from .sending import send

_LOG = logging.getLogger("wan_flf2v.gateway")
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_EVERY_STATUS = "webhook_intermediate_status"  # the hosted API's query parameter
_QUEUE_FULL_WAIT_S = 30
_HEARTBEAT_S = 15.0
_TOKEN_LOOK_S = 0.75  # how often an open stream asks whether its token was revoked: it ends within twice that
_HEALTH_LOOK_S = 0.25  # as often as a store looks for changes
_PREVIEW_LOOK_S = 0.5
_MAX_STREAMS = 64  # of one token
_STREAMS_FULL_WAIT_S = 5
_Source: TypeAlias = str | Path | ImageError  # an image as Images.unpack gave it, or why it did not


class SubmitRoute:
    """``POST /models/{model_id}``."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        images: Images,
        results: Results,
        fetcher: Fetcher,
        dispatcher: Dispatcher,
        models: Catalogue,
        availability: Availability,
        large_bodies: LargeBodies,
    ) -> None:
        self._settings = settings
        self._store = store
        self._images = images
        self._results = results
        self._fetcher = fetcher
        self._dispatcher = dispatcher
        self._models = models
        self._availability = availability
        self._large_bodies = large_bodies

    def routes(self) -> list[web.RouteDef]:
        return [web.post(MODEL_PATH, self.submit)]

    async def submit(self, request: web.Request) -> web.Response:
        """Accept a request for a model; a request that got a 200 survives a crash."""
        token = token_of(request)
        with within(WRITE_S):
            model = await find_model(self._models, request.match_info["model_id"])
        webhook = _webhook(request)
        every_status = boolean_query(request, _EVERY_STATUS)
        base = base_url(request, self._settings)
        limit = self._settings.queue_limit if token.queue_limit is None else token.queue_limit
        try:
            async with self._large_bodies.place(request), self._images.intake(token.id) as intake:
                async with arrived(request, self._settings.max_body_bytes, self._settings.data) as body:
                    values, sources, idempotency = await self._large_bodies.read(
                        request, body, lambda content: self._read(request, model, content, webhook, intake)
                    )
                with within(WRITE_S):
                    earlier = await self._store.submitted_before(token.id, idempotency) if idempotency else None
                    if earlier is not None:
                        return self._accepted(earlier.id, base)
                    if lacking := await self._availability.lacking(model):  # this and the next before any fetch
                        raise ApiError(errors.MODEL_UNAVAILABLE, lacking, reason=" ".join(lacking))
                    if await self._store.count(token.id, "in_queue") >= limit:
                        raise QueueFullError
                if webhook is not None:
                    await self._check_webhook(webhook)
                images = await self._resolve_images(sources, intake)
                await self._images.share(images.values())
                submission = Submission(
                    id=new_request_id(),
                    token=token.id,
                    model_id=model.model_id,
                    values={**values, **{key: image.name for key, image in images.items()}},
                    inputs={key: image.name for key, image in images.items() if image.stored},
                    idempotency=idempotency,
                    webhook=webhook,
                    webhook_every_status=every_status,
                    webhook_secret=token.webhook_secret,
                    base_url=base,
                    queue_limit=limit,
                )
                with within(WRITE_S):
                    job = await self._store.submit(submission)
        except QueueFullError:
            raise too_many(errors.QUEUE_FULL, _QUEUE_FULL_WAIT_S, limit=limit) from None
        except IdempotencyConflictError:
            problem = bad_field(errors.IDEMPOTENCY_CONFLICT, "header", "Idempotency-Key")
            raise validation_error([problem]) from None
        self._dispatcher.poke()
        _LOG.info("request accepted request_id=%s token=%s model=%s", job.id, token.name, model.model_id)
        return self._accepted(job.id, base)

    def _accepted(self, job_id: str, base: str) -> web.Response:
        return json_response(submit_response(job_id, base, self._results.events_url(job_id, base)))

    def _read(
        self, request: web.Request, model: ModelContract, body: dict[str, Any], webhook: str | None, intake: Intake
    ) -> tuple[dict[str, Value], dict[str, _Source], tuple[str, str] | None]:
        """Return the values without the images, the images, and the idempotency key with a hash of the request."""
        values = _validate(model, body)
        texts = {parameter.key: str(values.pop(parameter.key)) for parameter in model.parameters if parameter.is_image}
        sources: dict[str, _Source] = {}
        for key, text in texts.items():
            try:
                sources[key] = self._images.unpack(text, intake)
            except ImageError as error:
                sources[key] = error
        return values, sources, _idempotency(request, model, body, webhook)

    async def _resolve_images(self, sources: Mapping[str, _Source], intake: Intake) -> dict[str, ImageInput]:
        """Fetch and check the images of the parameters, all at once; every one that cannot be used is reported."""

        async def resolve(source: _Source) -> ImageInput | ImageError:
            try:
                return source if isinstance(source, ImageError) else await self._images.resolve(source, intake)
            except ImageError as error:
                return error

        found = await asyncio.gather(*map(resolve, sources.values()), return_exceptions=True)
        images: dict[str, ImageInput] = {}
        problems: list[dict[str, Any]] = []
        for key, image in zip(sources, found, strict=True):
            if isinstance(image, ImageError):
                problems.append(bad_field(errors.INVALID_IMAGE, "body", key, key=key, reason=image))
            elif isinstance(image, BaseException):
                raise image
            else:
                images[key] = image
        for key, reason in self._images.scattered(images).items():
            problems.append(bad_field(errors.INVALID_IMAGE, "body", key, key=key, reason=reason))
        if problems:
            raise validation_error(problems)
        return images

    async def _check_webhook(self, url: str) -> None:
        try:
            await self._fetcher.check(url)
        except FetchError as error:
            raise validation_error([bad_field(errors.INVALID_WEBHOOK, "query", "webhook", reason=error)]) from None


class RequestRoutes:
    """``/requests``, and ``/requests/{request_id}/`` with ``status``, ``result``, ``cancel`` or ``events``."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        results: Results,
        dispatcher: Dispatcher,
        models: Catalogue,
    ) -> None:
        self._settings = settings
        self._store = store
        self._results = results
        self._dispatcher = dispatcher
        self._models = models
        self._streams: Counter[str] = Counter()  # token id -> open event streams
        self._health: Health | None = None
        self._health_at = -math.inf
        self._valid_at: dict[str, float] = {}  # hash of a token with a stream -> when it was looked up last
        self._stopping = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/requests", self.list_requests),
            web.get("/requests/{request_id}/status", self.status),
            web.get("/requests/{request_id}/result", self.result),
            web.post("/requests/{request_id}/cancel", self.cancel),
            web.get("/requests/{request_id}/events", self.events, allow_head=False),
        ]

    async def list_requests(self, request: web.Request) -> web.Response:
        """List the requests of the token, newest first; ``cursor`` is the last request of the list before."""
        token, asked = token_of(request), request.query.get("status")
        status = next((known for known in STATUSES if known == asked), None)
        if asked is not None and status is None:
            raise ApiError(errors.QUERY_NOT_STATUS, statuses=", ".join(STATUSES))
        limit = integer_query(request, "limit", default=20, low=1, high=MAX_LIMIT)
        before = None
        if (cursor := request.query.get("cursor")) is not None:
            if not REQUEST_ID.fullmatch(cursor):
                raise ApiError(errors.INVALID_CURSOR)
            before = await self._store.get(cursor)
            if before is None or before.token != token.id:
                raise ApiError(errors.NO_SUCH_REQUEST, request_id=cursor)
        found = await self._store.newest(token.id, limit + 1, status=status, before=before)
        page = found[:limit]
        lost = await asyncio.gather(*map(self._results.lost, page))
        kept = [job for job, is_lost in zip(page, lost, strict=True) if not is_lost]
        next_cursor = page[-1].id if len(found) > limit else None
        return json_response(list_response(kept, MODELS | await self._models.all(), next_cursor))

    async def status(self, request: web.Request) -> web.Response:
        """Return the status of a request."""
        job, base = await self._find_job(request), base_url(request, self._settings)
        position = await self._store.position(job.id) if job.status == "in_queue" else None
        if position is None and job.status == "in_queue":  # it was started meanwhile
            job = await self._find_job(request)
        events_url = self._results.events_url(job.id, base)
        return json_response(status_response(job, base, position, await self._store.health(), events_url=events_url))

    async def result(self, request: web.Request) -> web.Response:
        """Return the result, or the present state."""
        job, base = await self._find_job(request), base_url(request, self._settings)
        output = self._results.urls(job, base) if job.status == "succeeded" else None
        return json_response(result_response(job, output))

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel a waiting or running request; a finished one stays as it is."""
        with within(WRITE_S):
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

    @linked
    async def events(self, request: web.Request) -> web.StreamResponse:
        """Stream a request's status as server-sent events, one for each change, until the request has ended.

        An event's id is the job's stamp. With ``Last-Event-ID``, the present state is sent only if it is newer. If the
        client knows the end already, the response is 204, which tells an EventSource to stop. The stream ends also
        when the token is revoked. With ``preview=1`` it also has pictures of what is being made, without an id.
        """
        job, token, preview = await self._find_job(request), token_of(request), boolean_query(request, "preview")
        text = request.headers.get("Last-Event-ID", "")
        last = int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0
        if last // NUMBERS > job.version:  # of another request, or of a store that was put back
            last = 0
        if job.finished and job.stamp <= last:
            return web.Response(status=204)
        if self._streams[token.id] >= _MAX_STREAMS:
            where = " at this gateway" if self._settings.nats is not None else ""
            raise too_many(errors.STREAMS_FULL, _STREAMS_FULL_WAIT_S, limit=_MAX_STREAMS, where=where)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter for nginx
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **headers})
        base = base_url(request, self._settings)
        self._streams[token.id] += 1
        try:
            await response.prepare(request)
            await self._stream(request, job.id, base, last, response, preview=preview)
        except ConnectionError:
            pass  # the client left
        except StoreError as error:  # the response has begun, so it can only end; the client asks again
            _LOG.warning("event stream ended request_id=%s: %s", job.id, error)
        finally:
            self._streams[token.id] -= 1
        return response

    async def stop_streams(self, _: web.Application) -> None:
        """End all event streams, so that they do not hold up the shutdown."""
        self._stopping.set()

    async def _stream(
        self, request: web.Request, job_id: str, base: str, last: int, response: web.StreamResponse, *, preview: bool
    ) -> None:
        token, known_position, known_preview = token_of(request), None, 0
        changes = self._store.follow(job_id)
        stopping = asyncio.create_task(self._stopping.wait())
        change = asyncio.ensure_future(anext(changes))
        clock = asyncio.get_running_loop().time
        sent_at = clock()
        try:
            while not stopping.done():
                timeout = _PREVIEW_LOOK_S if preview else _TOKEN_LOOK_S
                await asyncio.wait((change, stopping), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if not await self._is_valid(token):
                    return
                message = b""
                if change.done():
                    job, position = change.result()
                    moved = position is not None and known_position is not None and position != known_position
                    known_position = position
                    if job.stamp > last or moved:
                        # Without a new events_url: who has the link to this stream could renew it for ever.
                        status = status_response(job, base, position, await self._recent_health())
                        body = status.model_dump_json(exclude_unset=True)
                        message = f"id: {job.stamp}\nevent: status\ndata: {body}\n\n".encode()
                        last = job.stamp
                    change = asyncio.ensure_future(anext(changes))
                elif clock() - sent_at >= _HEARTBEAT_S:
                    message = b": still here\n\n"
                # The newest: what came while the client read the last message is never sent.
                if preview and (found := await self._results.preview(job_id, known_preview)) is not None:
                    known_preview, image = found
                    body = json.dumps({"image": f"data:image/jpeg;base64,{base64.b64encode(image).decode()}"})
                    message += f"event: preview\ndata: {body}\n\n".encode()
                if message:
                    await send(request, response, message)
                    sent_at = clock()
        except StopAsyncIteration:
            pass  # the job has ended
        finally:
            stopping.cancel()
            change.cancel()

    async def _recent_health(self) -> Health:
        """Return the store's health, as of a moment ago; all streams share the look."""
        now = asyncio.get_running_loop().time()
        if self._health is None or now - self._health_at > _HEALTH_LOOK_S:
            self._health_at = now  # first, so that no other stream looks too
            self._health = await self._store.health()
        return self._health

    async def _is_valid(self, token: Token) -> bool:
        """Return whether a token was not revoked, as of a moment ago; its streams share the look."""
        now = asyncio.get_running_loop().time()
        if token is ANONYMOUS or now - self._valid_at.get(token.hash, -math.inf) < _TOKEN_LOOK_S:
            return True
        self._valid_at[token.hash] = now
        if await self._store.find_token(token.hash) is None:
            self._valid_at.pop(token.hash, None)
            return False
        return True

    async def _find_job(self, request: web.Request) -> Job:
        """Return the job that the path names; ``ApiError`` for an invalid id, or if this token has no such job."""
        request_id = request.match_info["request_id"]
        if not REQUEST_ID.fullmatch(request_id):
            raise ApiError(errors.INVALID_REQUEST_ID)
        job = await self._store.get(request_id)
        if job is None or job.token != token_of(request).id or job.expired or await self._results.lost(job):
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
    """Return ``?webhook=``. Queries that are not known are ignored, as by the hosted API."""
    found = request.query.getall("webhook", [])
    if len(found) > 1:
        raise validation_error([bad_field(errors.DUPLICATE_WEBHOOK, "query", "webhook")])
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
    every_status = boolean_query(request, _EVERY_STATUS)
    text = json.dumps([model.model_id, webhook, every_status, _in_one_form(body)], sort_keys=True)
    return key, hashlib.sha256(text.encode()).hexdigest()


def _in_one_form(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body in which equal numbers look equal: 4.0 is 4, in JSON as in the contract."""
    return {
        key: int(value) if isinstance(value, float) and value.is_integer() else value for key, value in body.items()
    }
