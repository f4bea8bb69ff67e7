"""Requests to an API that is killed in between: each call is made again until there is a response."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ..client.errors import HostedApiError, ServerUnreachableError
from ..client.hosted_api import HostedApi
from ..contract.parameters import DEMO, END_IMAGE, LENGTH, PROMPT, RESOLUTION, SEED, START_IMAGE, STEPS, Value

FRAMES = 17
FAST: dict[str, Value] = {RESOLUTION.key: "96x128 (3:4)", LENGTH.key: FRAMES, STEPS.key: 1}  # on a real ComfyUI
ENDS = ("succeeded", "failed", "cancelled")
_RETRY_S = 0.25
_UNKNOWN, _TOO_MANY = 404, 429


async def submit(
    api: HostedApi, values: Mapping[str, Value], deadline: float, webhook: str | None = None
) -> str | None:
    """Submit the demo's example with ``values``, under one key until it is accepted, and return the request's id.

    ``webhook`` is told about its end. Each has another seed, so that nothing comes from ComfyUI's cache. ``None`` if
    nothing is accepted until ``deadline``, of ``time.monotonic``; ``HostedApiError`` if the request is refused.
    """
    example = {parameter.key: parameter.default for parameter in (PROMPT, START_IMAGE, END_IMAGE)}
    given = {**example, **values, SEED.key: uuid.uuid4().int % 2**32}
    key = str(uuid.uuid4())
    accepted = await _until_response(
        lambda: api.submit(DEMO.model_id, given, idempotency_key=key, webhook=webhook), deadline
    )
    return None if accepted is None else str(accepted["request_id"])


async def wait_for_end(api: HostedApi, request_id: str, deadline: float) -> dict[str, Any] | None:
    """Return the result once the request has ended; ``None`` if it is unknown, or has not ended at the deadline."""
    while True:
        try:
            result = await _until_response(lambda: api.result(request_id), deadline)
        except HostedApiError as error:
            if error.status != _UNKNOWN:
                raise
            return None
        if result is None or result["status"] in ENDS:
            return result
        await asyncio.sleep(_RETRY_S)


async def _until_response(call: Callable[[], Awaitable[dict[str, Any]]], deadline: float) -> dict[str, Any] | None:
    while time.monotonic() < deadline:
        try:
            return await call()
        except ServerUnreachableError:
            pass
        except HostedApiError as error:
            if 400 <= error.status < 500 and error.status != _TOO_MANY:
                raise
        await asyncio.sleep(_RETRY_S)
    return None
