"""Closes connections that send no request in time (slow clients), since each holds a socket and sockets are few."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

_HEADERS_WAIT_S = 20.0  # for the first request's headers; later requests have aiohttp's keep-alive limit
_LOOK_EVERY_S = 2.0


class SilentClients:
    """Tracks which connections of a server have sent a request."""

    def __init__(self) -> None:
        self._served: set[web.RequestHandler] = set()
        self._since: dict[web.RequestHandler, float] = {}

    def attach(self, app: web.Application) -> None:
        """Watch the requests of an application; call this before it starts."""

        @web.middleware
        async def note(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self._served.add(request.protocol)
            return await handler(request)

        app.middlewares.insert(0, note)

    async def close(self, server: web.Server) -> None:
        """Until cancelled, close the connections that sent no whole request in time."""
        while True:
            now, connections = asyncio.get_running_loop().time(), set(server.connections)
            self._served &= connections
            self._since = {known: self._since.get(known, now) for known in connections - self._served}
            for connection, since in self._since.items():
                if now - since > _HEADERS_WAIT_S and connection.transport is not None:
                    connection.transport.close()
            await asyncio.sleep(_LOOK_EVERY_S)
