"""The program of ``wan-flf2v worker``: it connects to NATS and passes calls of gateways on to the ComfyUI beside it.

A call comes through a pipe (``jobs/pipes.py``), as HTTP. Only the calls that running a job needs are passed on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import re
import signal
import socket
import time
import uuid
from collections.abc import AsyncIterator
from typing import TypeAlias

import aiohttp
import nats.errors
from aiohttp import web
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..client.comfy import REFUSED
from ..client.errors import ServerRefusedError, ServerUnreachableError
from .jobs.addresses import Address, addresses_of
from .jobs.nats_connection import NatsConnection
from .jobs.pipes import OPEN, PROTOCOL, WORKER_NAME, Pipes, prefix_of
from .settings import ConfigError, NatsAccess, Settings

_HELLO_S = 2.0
_FLUSH_S = 2
_NOBODY_S = 60.0  # a gateway that dispatches asks every few seconds; another one takes over sooner
_HEARTBEAT_S = 30.0  # of websockets, so that both ends notice when a gateway or ComfyUI is gone
_HEADERS = ("Content-Type", "Content-Length")
_CALLS = (
    ("GET", "/system_stats"),
    ("GET", "/wan_flf2v/instance"),
    ("GET", "/object_info/{type}"),
    ("POST", "/wan_flf2v/preflight"),
    ("POST", "/upload/image"),
    ("POST", "/prompt"),
    ("GET", "/queue"),
    ("POST", "/queue"),
    ("POST", "/interrupt"),
    ("POST", "/api/jobs/{id}/cancel"),
    ("GET", "/history/{id}"),
    ("GET", "/view"),  # and HEAD, as of each of these
    ("DELETE", "/wan_flf2v/inputs/{name}"),
)
_LOG = logging.getLogger("wan_flf2v.gateway")


class OutwardWorker:
    """A worker named ``name``, before the ComfyUI at ``address``."""

    def __init__(self, access: NatsAccess, name: str, address: Address) -> None:
        self._nats = NatsConnection(access, connected=self._subscribe, broken=lambda: self._pipes.close())
        self._prefix = prefix_of(self._nats.fleet)
        self._name, self._run, self._started = name, uuid.uuid4().hex[:16], time.time()
        self._address = address
        self._pipes = Pipes(self._send)
        self._called_at = -math.inf  # when a gateway sent something of a call
        self._stopping, self._done = asyncio.Event(), asyncio.Event()
        self._refusals: set[str] = set()
        self._responds = True  # ComfyUI, when it was asked last

    def stop(self) -> None:
        """Take no more jobs, and end when a gateway says that nothing is left to do; called again, end at once.

        If no gateway calls any more, end too: what ComfyUI runs goes on, and is found there later.
        """
        if self._stopping.is_set() or self._is_alone():
            self._done.set()
        else:
            _LOG.info("worker is stopping, after the request that it has; a second signal ends it at once")
        self._stopping.set()

    async def run(self) -> None:
        """Serve until stopped."""
        async with self._serving() as server:
            self._server = server
            self._nats.begin()
            try:
                while not self._done.is_set():
                    if self._stopping.is_set() and self._is_alone():
                        _LOG.warning("worker ends, as no gateway has called for %g s; ComfyUI goes on", _NOBODY_S)
                        break
                    await self._hello("stopping" if self._stopping.is_set() else None)
                    await self._wait()
                await self._hello("gone")
            finally:
                self._pipes.close()
                await self._nats.close()

    def _is_alone(self) -> bool:
        return time.monotonic() - self._called_at > _NOBODY_S

    async def _wait(self) -> None:
        """Wait until the next hello, or until there are news to tell."""
        news = [asyncio.create_task(self._done.wait())]
        if not self._stopping.is_set():
            news.append(asyncio.create_task(self._stopping.wait()))
        await asyncio.wait(news, timeout=_HELLO_S, return_when=asyncio.FIRST_COMPLETED)
        for task in news:
            task.cancel()

    # NATS

    async def _subscribe(self, client: Client) -> None:
        await client.subscribe(f"{self._prefix}.to.{self._name}.{self._run}.>", cb=self._take)

    async def _hello(self, state: str | None) -> None:
        hello = {"v": PROTOCOL, "started": self._started, "state": state}
        with contextlib.suppress(nats.errors.Error):
            client = self._nats.client()
            await client.publish(f"{self._prefix}.from.{self._name}.{self._run}.hello", json.dumps(hello).encode())
            if state == "gone":
                await client.flush(_FLUSH_S)

    async def _send(self, key: str, message: bytes) -> None:
        await self._nats.client().publish(f"{self._prefix}.from.{key}", message)

    async def _take(self, message: Msg) -> None:
        key = message.subject.split(".", 2)[2]
        if key.endswith(".note"):
            self._read(message.data)
            return
        self._called_at = time.monotonic()
        if message.data[:1] == OPEN:
            await asyncio.get_running_loop().connect_accepted_socket(self._server, self._pipes.open(key))
        else:
            with contextlib.suppress(nats.errors.Error):
                await self._pipes.take(key, message.data)

    def _read(self, note: bytes) -> None:
        content = json.loads(note)
        if content.get("done") and self._stopping.is_set():
            self._done.set()
        text = str(content.get("refused", ""))
        if text and text not in self._refusals:
            self._refusals.add(text)
            _LOG.error("a gateway refused this worker: %s", text)

    # Calls

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[web.Server]:
        """Yield what handles a gateway's calls on a connection."""
        app = web.Application()
        app.add_routes([web.route(method, path, self._pass_on) for method, path in _CALLS])
        app.add_routes([web.get("/ws", self._pass_messages_on)])
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        async with self._address.client() as self._comfyui:
            await runner.setup()
            assert runner.server is not None  # set by setup()  # noqa: S101
            try:
                yield runner.server
            finally:
                await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        """Make a gateway's request to ComfyUI, and give its response back."""
        headers = {name: request.headers[name] for name in _HEADERS if name in request.headers}
        headers["Accept-Encoding"] = "identity"
        body = request.content if request.body_exists else None
        response: web.StreamResponse | None = None
        try:
            async with self._comfyui.relay(request.method, request.raw_path, headers=headers, data=body) as theirs:
                self._tell(None)
                kept = {name: theirs.headers[name] for name in _HEADERS if name in theirs.headers}
                response = web.StreamResponse(status=theirs.status, headers=kept)
                await response.prepare(request)
                async for chunk in theirs.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
        except ServerUnreachableError as error:
            if response is not None:
                raise  # the gateway sees that the response broke off
            self._tell(error)
            return _no_response(error)
        return response

    def _tell(self, error: ServerUnreachableError | None) -> None:
        """Say once that ComfyUI does not respond, and once that it does again: gateways ask every few seconds."""
        if self._responds == (error is None):
            return
        self._responds = error is None
        if error is None:
            _LOG.info("ComfyUI responds again comfyui=%s", self._address.name)
        else:
            _LOG.warning(
                "ComfyUI does not respond, this worker gets no requests comfyui=%s: %s", self._address.name, error
            )

    async def _pass_messages_on(self, request: web.Request) -> web.StreamResponse:
        """Connect a gateway's websocket with one of ComfyUI's."""
        ours = web.WebSocketResponse(max_msg_size=0, heartbeat=_HEARTBEAT_S)
        try:
            async with self._comfyui.relay_socket(request.raw_path) as theirs:
                await ours.prepare(request)
                ways = [asyncio.create_task(_copy(*pair)) for pair in ((ours, theirs), (theirs, ours))]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)
        except ServerUnreachableError as error:
            if not ours.prepared:
                return _no_response(error)
        await ours.close()
        return ours


_Socket: TypeAlias = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


async def _copy(source: _Socket, target: _Socket) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
        elif message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)


def _no_response(error: ServerUnreachableError) -> web.Response:
    headers = {REFUSED: "connection refused"} if isinstance(error, ServerRefusedError) else None
    return web.json_response({"error": str(error)}, status=502, headers=headers)


async def run_worker(settings: Settings, name: str) -> None:
    """Run an outward worker until SIGINT or SIGTERM, or both twice. Raises ``ConfigError`` and ``StoreFileError``."""
    if settings.nats is None:
        raise ConfigError("A worker needs the address of NATS: --nats nats://HOST:PORT.")
    addresses = addresses_of(settings)
    if len(addresses) != 1:
        raise ConfigError(
            f"A worker has one ComfyUI, but comfyui_url names {len(addresses)}. Start one worker for each."
        )
    if not WORKER_NAME.fullmatch(name):
        raise ConfigError(f'"{name}" cannot be a worker\'s name. Give a --name of a-z, 0-9 and -, at most 63 of them.')
    worker = OutwardWorker(settings.nats, name, addresses[0])
    with contextlib.suppress(NotImplementedError):  # on Windows Ctrl-C ends the program
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    await worker.run()


def default_name() -> str:
    """Return this machine's name as a worker's name."""
    return re.sub(r"[^a-z0-9-]", "-", socket.gethostname().lower()).strip("-")[:63] or "worker"
