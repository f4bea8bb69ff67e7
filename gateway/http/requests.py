"""What became of a request: status, result, cancel, and a stream of events."""

from __future__ import annotations

import asyncio
import uuid

from aiohttp import web

from ..jobs.order import queue_position
from ..jobs.records import Job
from .addresses import base_url
from .errors import INVALID, NOT_FOUND, ApiError
from .middleware import too_many
from .responses import CancelAnswer, StatusAnswer, json_answer, result_answer, status_answer, status_word
from .state import State, may_see, state_of, token_of

_HEARTBEAT_S = 15.0
_MAX_STREAMS = 64  # of one token


async def status(request: web.Request) -> web.Response:
    """Answer where a request stands."""
    job = await find_job(request)
    return json_answer(await _status(state_of(request), job, base_url(request, state_of(request).settings)))


async def result(request: web.Request) -> web.Response:
    """Answer the result, or the present state."""
    job, state = await find_job(request), state_of(request)
    output = state.results.urls(job, base_url(request, state.settings)) if job.status == "succeeded" else None
    return json_answer(result_answer(job, output))


async def cancel(request: web.Request) -> web.Response:
    """Cancel a request, waiting or running; a finished one stays what it is."""
    job, state = await find_job(request), state_of(request)
    outcome = await state.store.cancel(job.id)
    state.dispatcher.poke()
    job = await state.store.get(job.id) or job
    answer = CancelAnswer(
        request_id=job.id,
        status=status_word(job),
        outcome="not_cancellable" if outcome == "finished" else "cancelled",
    )
    return json_answer(answer, status=202)


async def events(request: web.Request) -> web.StreamResponse:
    """Stream a request's status as server-sent events, one for each change, until it has ended.

    An event's id is the request's version: with ``Last-Event-ID`` the present state is sent only if it is newer. A
    finished request of which the client knows the end is answered 204, which tells an EventSource to stop.
    """
    job, state, token = await find_job(request), state_of(request), token_of(request)
    last = _last_event(request)
    if job.finished and job.version <= last:
        return web.Response(status=204)
    if state.streams.get(token.id, 0) >= _MAX_STREAMS:
        raise too_many(f"More than {_MAX_STREAMS} event streams are open.", 5)
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter for nginx
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **headers})
    base = base_url(request, state.settings)
    state.streams[token.id] = state.streams.get(token.id, 0) + 1
    try:
        await response.prepare(request)
        await _stream(state, job.id, base, last, response)
    except ConnectionError:
        pass  # the client left
    finally:
        state.streams[token.id] -= 1
    return response


async def _stream(state: State, job_id: str, base: str, last: int, response: web.StreamResponse) -> None:
    changes, known_position = state.store.follow(job_id), None
    stopping = asyncio.create_task(state.stopping.wait())
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
                answer = status_answer(job, base, position, await state.store.health())
                body = answer.model_dump_json(exclude_unset=True)
                await response.write(f"id: {job.version}\nevent: status\ndata: {body}\n\n".encode())
                last = job.version
            change = asyncio.ensure_future(anext(changes))
    except StopAsyncIteration:
        pass  # the job has ended
    finally:
        stopping.cancel()
        change.cancel()


async def find_job(request: web.Request) -> Job:
    """Return the request that the path names; ``ApiError`` if it is not this token's, expired, or no id at all."""
    text = request.match_info["request_id"]
    try:
        known = str(uuid.UUID(text)) == text
    except ValueError:
        known = False
    if not known:
        raise ApiError(INVALID, "The request id is not one: a lowercase UUID is expected, as submitting answered it.")
    job = await state_of(request).store.get(text)
    if job is None or not may_see(token_of(request), job):
        raise ApiError(NOT_FOUND, f"There is no request {text}, or it has expired.")
    return job


async def _status(state: State, job: Job, base: str) -> StatusAnswer:
    position = queue_position(job.id, await state.store.queue()) if job.status == "in_queue" else None
    return status_answer(job, base, position, await state.store.health())


def _last_event(request: web.Request) -> int:
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else 0


ROUTES = [
    web.get("/requests/{request_id}/status", status),
    web.get("/requests/{request_id}/result", result),
    web.post("/requests/{request_id}/cancel", cancel),
    web.get("/requests/{request_id}/events", events, allow_head=False),
]
