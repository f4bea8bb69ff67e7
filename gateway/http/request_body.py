"""Reads bodies of requests within limits of size, speed, depth and item count; large ones wait on disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from ..shares import Shares
from . import errors
from .errors import ApiError
from .middleware import token_of

MAX_DEPTH = 16  # a valid body has depth 1
MAX_ITEMS = 200_000  # commas and brackets in a body; those in prompts count too
MAX_VALUES = 1_000  # in a body: keys of objects and items of lists, all together
LARGE_BYTES = 1 << 20
ARRIVING, ARRIVING_EACH = 16, 4  # large bodies of requests without a response yet, of all tokens and of one
IN_MEMORY, IN_MEMORY_EACH = 2, 1  # large bodies that are parsed
CHUNK_WAIT_S = 20.0  # for the next piece of a body
BODY_WAIT_S = 300.0  # for the whole body
MIN_BYTES_PER_S = 16_384  # on average, after the first CHUNK_WAIT_S

Result = TypeVar("Result")


class LargeBodies:
    """Limits how many large bodies are on the disk and in memory at once; tokens share both, and small ones never wait.

    A body is large above ``LARGE_BYTES``, or while its length is unknown, as that of a compressed one.
    """

    def __init__(self) -> None:
        self._arriving = Shares(ARRIVING, ARRIVING_EACH)
        self._in_memory = Shares(IN_MEMORY, IN_MEMORY_EACH)

    def place(self, request: web.Request) -> contextlib.AbstractAsyncContextManager[None]:
        """Return a context that waits until the body of this request may come, and lie on the disk."""
        known = request.content_length is not None and "Content-Encoding" not in request.headers
        small = known and (request.content_length or 0) <= LARGE_BYTES
        return contextlib.nullcontext() if small else self._arriving.slot(token_of(request).id)

    async def read(self, request: web.Request, body: Body, work: Callable[[dict[str, Any]], Result]) -> Result:
        """Return what ``work`` makes of a body's JSON object; a large one is in memory only meanwhile, in a thread.

        Raises ``ApiError`` if the body is no JSON object, has a key twice, NaN, Infinity or half a surrogate pair, or
        is nested deeper than ``MAX_DEPTH``.
        """
        if body.size <= LARGE_BYTES:
            return work(_parse_object(body))
        async with self._in_memory.slot(token_of(request).id):
            return await asyncio.to_thread(lambda: work(_parse_object(body)))


class Body:
    """A JSON body that has come whole; a large one lies in a nameless file."""

    def __init__(self, stream: tempfile.SpooledTemporaryFile[bytes], size: int) -> None:
        self.stream = stream
        self.size = size


@contextlib.asynccontextmanager
async def arrived(request: web.Request, max_bytes: int, folder: Path) -> AsyncIterator[Body]:
    """Read the JSON body of a request; a large one into ``folder``, where it is gone at the end of the block.

    Raises ``ApiError`` if it is not sent as JSON, is larger than ``max_bytes``, or comes too slowly.
    """
    if request.content_type != "application/json":
        raise ApiError(errors.NOT_SENT_AS_JSON, content_type=request.content_type)
    if (request.content_length or 0) > max_bytes:
        raise too_large(max_bytes)
    with tempfile.SpooledTemporaryFile(LARGE_BYTES, dir=str(folder)) as stream:
        pace = Pace()
        while chunk := await pace.read(request.content.readany()):
            if pace.size > max_bytes:
                raise too_large(max_bytes)
            if pace.size > LARGE_BYTES:
                await asyncio.to_thread(stream.write, chunk)
            else:
                stream.write(chunk)
        yield Body(stream, pace.size)


class Pace:
    """Times a body that comes: neither a piece nor the whole may take too long, and who drips is refused."""

    def __init__(self) -> None:
        self.size = 0
        self._waited = 0.0

    async def read(self, piece: Awaitable[bytes]) -> bytes:
        """Wait for the next piece and count its bytes; raises ``ApiError``."""
        content = await self.wait(piece)
        self.size += len(content)
        return content

    async def wait(self, work: Awaitable[Result]) -> Result:
        """Wait for something that depends on the client's next bytes; raises ``ApiError``."""
        clock = asyncio.get_running_loop().time
        start, earned = clock(), CHUNK_WAIT_S + self.size / MIN_BYTES_PER_S
        try:
            return await asyncio.wait_for(work, min(CHUNK_WAIT_S, min(earned, BODY_WAIT_S) - self._waited))
        except asyncio.TimeoutError:
            raise ApiError(errors.TOO_SLOW) from None
        except (web.PayloadAccessError, ConnectionError):
            raise ApiError(errors.BODY_CUT_OFF) from None
        except web.RequestPayloadError:  # its chunks or its compression are damaged
            raise ApiError(errors.BODY_DAMAGED) from None
        finally:
            self._waited += clock() - start


def too_large(max_bytes: int) -> ApiError:
    """Return the error for a body over the limit."""
    return ApiError(errors.TOO_LARGE, limit=max_bytes >> 20)


def _parse_object(body: Body) -> dict[str, Any]:
    body.stream.seek(0)
    content = body.stream.read()
    if content.count(b",") + content.count(b"[") + content.count(b"{") > MAX_ITEMS:
        raise ApiError(errors.TOO_MANY_ITEMS)
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
        _check(value)
    except RecursionError:
        raise ApiError(errors.TOO_DEEP, limit=MAX_DEPTH) from None
    except ValueError as error:
        raise ApiError(errors.INVALID_JSON, reason=error) from None
    if not isinstance(value, dict):
        kinds: dict[type, str] = {list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
        raise ApiError(errors.NOT_AN_OBJECT, kind=kinds.get(type(value), "a number"))
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
