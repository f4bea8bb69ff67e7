"""Reads the body of a request as JSON within limits of size, time, depth and item count; two large bodies at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from aiohttp import web

from . import errors
from .errors import ApiError

MAX_DEPTH = 16  # a valid body has depth 1
MAX_ITEMS = 200_000  # commas and brackets in a body; those in prompts count too
MAX_VALUES = 1_000  # in a body: keys of objects and items of lists, all together
LARGE_BYTES = 1 << 20
LARGE_AT_ONCE = 2  # large bodies in memory, until their content is stored
CHUNK_WAIT_S = 20.0  # for the next piece of a body
BODY_WAIT_S = 300.0  # for the whole body

Result = TypeVar("Result")


class LargeBodies:
    """Limits how many large bodies are in memory at once; small ones never wait."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(LARGE_AT_ONCE)

    def slot(self, request: web.Request) -> contextlib.AbstractAsyncContextManager[None]:
        """Return a context that waits until the body of this request may be read."""
        return self._slots if _is_large(request) else contextlib.nullcontext()


async def in_thread_if_large(request: web.Request, work: Callable[[], Result]) -> Result:
    """Do work on a request's body: in a thread if the body is large, so that other requests do not wait."""
    return await asyncio.to_thread(work) if _is_large(request) else work()


def _is_large(request: web.Request) -> bool:
    """Return whether a body is large, or has an unknown length."""
    return request.content_length is None or request.content_length > LARGE_BYTES


async def read_json_object(request: web.Request, max_bytes: int) -> dict[str, Any]:
    """Return the JSON object that a request carries.

    Raises ``ApiError`` if the body is no JSON object or not sent as JSON, has a key twice, NaN, Infinity or half a
    surrogate pair, is nested deeper than ``MAX_DEPTH``, is larger than ``max_bytes``, or arrives too slowly.
    """
    if request.content_type != "application/json":
        raise ApiError(errors.NOT_SENT_AS_JSON, content_type=request.content_type)
    body = b"".join([chunk async for chunk in _read_chunks(request, max_bytes)])
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_ITEMS:
        raise ApiError(errors.TOO_MANY_ITEMS)
    value = await asyncio.to_thread(_parse, body) if len(body) > LARGE_BYTES else _parse(body)
    if not isinstance(value, dict):
        kinds: dict[type, str] = {list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
        raise ApiError(errors.NOT_AN_OBJECT, kind=kinds.get(type(value), "a number"))
    return value


async def _read_chunks(request: web.Request, max_bytes: int) -> AsyncIterator[bytes]:
    """Yield the body as it arrives."""
    if request.content_length is not None and request.content_length > max_bytes:
        raise too_large(max_bytes)
    loop, size = asyncio.get_running_loop(), 0
    deadline = loop.time() + BODY_WAIT_S
    while True:
        try:
            chunk = await asyncio.wait_for(request.content.readany(), min(CHUNK_WAIT_S, deadline - loop.time()))
        except asyncio.TimeoutError:
            raise ApiError(errors.TOO_SLOW) from None
        except (web.PayloadAccessError, ConnectionError):
            raise ApiError(errors.BODY_CUT_OFF) from None
        if not chunk:
            return
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes)
        yield chunk


def too_large(max_bytes: int) -> ApiError:
    """Return the error for a body over the limit."""
    return ApiError(errors.TOO_LARGE, limit=max_bytes >> 20)


def _parse(body: bytes) -> Any:
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        _check(value)
    except RecursionError:
        raise ApiError(errors.TOO_DEEP, limit=MAX_DEPTH) from None
    except ValueError as error:
        raise ApiError(errors.INVALID_JSON, reason=error) from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ApiError(errors.DUPLICATE_KEY, key=json.dumps(twice[:80]))
    return found


def _no_constant(name: str) -> Any:
    raise ApiError(errors.NOT_A_NUMBER, value=name)


def _check(value: Any) -> None:
    """Refuse half surrogate pairs, which cannot be written as UTF-8, too many values, and too much depth."""
    level, count = [value], 0
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                item.encode()  # UnicodeEncodeError is a ValueError
            elif isinstance(item, list):
                count += len(item)
                below += item
            elif isinstance(item, dict):
                count += len(item)
                below += [*item.keys(), *item.values()]
        if count > MAX_VALUES:
            raise ApiError(errors.TOO_MANY_ITEMS)
        if not below:
            return
        level = below
    raise ApiError(errors.TOO_DEEP, limit=MAX_DEPTH)
