"""Starts and stops the server of ``wan-flf2v serve``: address checks, listening, silent connections, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web

from .http.app import create_app
from .http.middleware import RequestHandler, is_loopback
from .http.sending import READ_WAIT_S, drop
from .jobs.addresses import addresses_of
from .nats_monitor import check_sync
from .settings import Settings

_SHUTDOWN_S = 10.0  # for requests that are being handled; jobs need none, they go on where they are
_KEEPALIVE_S = 30.0
_BACKLOG = 1024
_HEADERS_WAIT_S = 20.0  # for the first request's headers; later requests have aiohttp's keep-alive limit
_LOOK_EVERY_S = 2.0
_COLLECT_AT = (5_000, 10, 20)  # objects, and collections of each next generation; Python 3.12's own: 700, 10, 10
_SWITCH_S = 0.001  # Python's own: 0.005

_LOG = logging.getLogger("wan_flf2v.gateway")


class ServeError(Exception):
    """The API cannot be served like this; the text says why and what to do."""


def default_data() -> Path:
    """Return where a gateway keeps its data by default: the platform's folder for a user's data."""
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = Path.home() / "Library" / "Application Support"
    else:
        root = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return root / "wan-flf2v"


def check_address(host: str, auth: bool) -> None:
    """Refuse to serve without tokens where others can reach it; raises ``ServeError``."""
    if not auth and not is_loopback(host):
        raise ServeError(f"--no-auth with --host {host} would let anyone use this machine. Use --host 127.0.0.1.")


def serve(settings: Settings, host: str, port: int, on_start: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``on_start`` gets the address.

    Raises ``ServeError``, ``ConfigError``, ``StoreFileError`` and ``OSError``.
    """
    check_address(host, settings.auth)
    addresses_of(settings)
    asyncio.run(_serve(settings, host, port, on_start))


async def _serve(settings: Settings, host: str, port: int, on_start: Callable[[str], None]) -> None:
    listener = _listen(host, port)
    own_url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    if settings.nats_url:
        await check_sync(settings)
    app = create_app(settings, own_url=own_url)
    silent = SilentClients()
    silent.attach(app)
    runner = web.AppRunner(app, shutdown_timeout=_SHUTDOWN_S, handler_cancellation=False)
    await runner.setup()
    server, loop = runner.server, asyncio.get_running_loop()
    assert server is not None  # set by setup()  # noqa: S101
    options: dict[str, Any] = {"access_log": None, "keepalive_timeout": _KEEPALIVE_S}
    # Not a web.SockSite: its connections respond to what is not HTTP with plain text.
    site = await loop.create_server(
        lambda: RequestHandler(server, loop=loop, **options), sock=listener, backlog=_BACKLOG
    )
    guard = asyncio.create_task(silent.close(server))
    # A full collection takes 0.1 s in which nobody is served: so it looks at nothing that is there now, and is rare.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AT)
    sys.setswitchinterval(_SWITCH_S)  # the threads of the store and of NATS wait no longer than this for the event loop
    try:
        on_start(own_url)
        await _until_told()
    finally:
        _LOG.info("gateway stopping")
        guard.cancel()
        site.close()
        await runner.cleanup()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise ServeError(f"Cannot listen at {host}, port {port}: {error.strerror}. Choose another --port.") from error


async def _until_told() -> None:
    """Wait for SIGINT or SIGTERM; on Windows Ctrl-C comes as KeyboardInterrupt."""
    told = asyncio.Event()
    with contextlib.suppress(NotImplementedError):
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, told.set)
    while not told.is_set():
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(told.wait(), 1.0)  # Windows runs Ctrl-C's handler only when the loop wakes


class SilentClients:
    """Closes connections that send no request in time, or read no response: each holds a socket; these are few."""

    def __init__(self) -> None:
        self._served: set[web.RequestHandler] = set()
        self._since: dict[web.RequestHandler, float] = {}
        self._unread: dict[web.RequestHandler, tuple[int, float]] = {}  # bytes that wait to be sent, and since when

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
        """Until cancelled, close the connections that sent no whole request in time, or take nothing of a response."""
        while True:
            now, connections = asyncio.get_running_loop().time(), set(server.connections)
            self._served &= connections
            self._since = {known: self._since.get(known, now) for known in connections - self._served}
            for connection, since in self._since.items():
                if now - since > _HEADERS_WAIT_S and connection.transport is not None:
                    connection.transport.close()
            self._drop_those_that_do_not_read(connections, now)
            await asyncio.sleep(_LOOK_EVERY_S)

    def _drop_those_that_do_not_read(self, connections: set[web.RequestHandler], now: float) -> None:
        unread = {}
        for connection in connections:
            transport = connection.transport
            size = transport.get_write_buffer_size() if transport is not None else 0
            if transport is None or size == 0:
                continue
            known_size, since = self._unread.get(connection, (0, now))
            unread[connection] = (size, since) if size == known_size else (size, now)
            if now - unread[connection][1] > READ_WAIT_S:
                drop(transport)
        self._unread = unread
