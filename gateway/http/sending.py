"""Sends long responses, and drops a client that stops reading: each holds a socket and a file, and these are few."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

READ_WAIT_S = 20.0  # for a client to take the next piece, as it has for a piece of a body that it sends
_PIECE_BYTES = 1 << 18  # so the lowest rate is 13 kB/s

_LOG = logging.getLogger("wan_flf2v.gateway")


class FilePart(web.StreamResponse):
    """The bytes from ``first`` up to ``end`` of the file ``path``; ``options`` are those of any response."""

    def __init__(self, path: Path, first: int, end: int, **options: Any) -> None:
        super().__init__(**options)
        self._path = path
        self._first = first
        self.content_length = end - first

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if request.method == "HEAD":
            return await super().prepare(request)
        with await asyncio.to_thread(self._path.open, "rb") as file:
            file.seek(self._first)
            writer = await super().prepare(request)
            if request.transport is not None:  # send() must wait for every byte, also for the last ones
                request.transport.set_write_buffer_limits(high=0)
            left = self.content_length or 0
            while left > 0 and (piece := await asyncio.to_thread(file.read, min(_PIECE_BYTES, left))):
                await send(request, self, piece)
                left -= len(piece)
        return writer


async def send(request: web.BaseRequest, response: web.StreamResponse, piece: bytes) -> None:
    """Send a piece of a response; if the client does not take it in time, drop it: ``ConnectionResetError``."""

    async def write() -> None:
        await response.write(piece)
        await request.writer.drain()

    try:
        await asyncio.wait_for(write(), READ_WAIT_S)
    except asyncio.TimeoutError:
        if request.transport is not None:
            drop(request.transport)
        raise ConnectionResetError("The client does not read.") from None


def drop(transport: asyncio.WriteTransport) -> None:
    """Close the connection of a client that does not read; ``close()`` would wait until it has."""
    _LOG.info("client dropped, it does not read remote=%s", (transport.get_extra_info("peername") or ("?",))[0])
    transport.abort()
