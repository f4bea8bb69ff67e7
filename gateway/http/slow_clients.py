"""Closes connections that are opened and then ask for nothing: each holds a socket, and sockets are few."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

HEADERS_WAIT_S = 20.0  # for the first request's headers, all of them; later ones have aiohttp's keep-alive limit
_LOOK_EVERY_S = 2.0


class SilentClients:
    """Knows which connections of a server have brought a request yet."""

    def __init__(self, wait_s: float = HEADERS_WAIT_S) -> None:
        self._wait_s = wait_s
        self._served: set[web.RequestHandler] = set()
        self._since: dict[web.RequestHandler, float] = {}

    def attach(self, app: web.Application) -> None:
        """See the requests of an application, before it starts."""

        @web.middleware
        async def note(
            request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            self._served.add(request.protocol)
            return await handler(request)

        app.middlewares.insert(0, note)

    async def close(self, server: web.Server) -> None:
        """Until cancelled, close the connections that brought no whole request in time."""
        while True:
            now, connections = asyncio.get_running_loop().time(), set(server.connections)
            self._served &= connections
            self._since = {known: self._since.get(known, now) for known in connections - self._served}
            for connection, since in self._since.items():
                if now - since > self._wait_s and connection.transport is not None:
                    connection.transport.close()
            await asyncio.sleep(min(_LOOK_EVERY_S, self._wait_s / 4))
