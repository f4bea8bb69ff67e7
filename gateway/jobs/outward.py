"""The gateway's side of outward workers: which are connected to NATS, and connections to their ComfyUIs through it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ...client.comfy import ComfyClient
from ..settings import NatsAccess
from .addresses import Address, Outward
from .nats_connection import NatsConnection
from .pipes import OPEN, PROTOCOL, WORKER_NAME, Pipes, prefix_of

_SILENT_S = 10.0  # after so long without a hello its connections break; a worker says hello every two seconds
_FORGOTTEN_S = 600.0  # after so long it is no longer listed
_LOOK_S = 1.0
_LOG = logging.getLogger("wan_flf2v.gateway")


@dataclass
class _Connected:
    """What was heard of a worker: its process, when that started by its own clock, and when it was heard last."""

    run: str = ""
    started: float = 0.0
    stopping: bool = False
    heard: float = field(default_factory=time.monotonic)

    @property
    def silent(self) -> bool:
        return time.monotonic() - self.heard > _SILENT_S


class OutwardWorkers(Outward):
    """The outward workers of a fleet, as one gateway hears them."""

    def __init__(self, access: NatsAccess) -> None:
        self._nats = NatsConnection(access, connected=self._subscribe, broken=self._break)
        self._prefix = prefix_of(self._nats.fleet)
        self._gateway = uuid.uuid4().hex[:16]
        self._pipes = Pipes(self._send)
        self._workers: dict[str, _Connected] = {}
        self._refused: set[tuple[str, str]] = set()
        self.since = time.monotonic()  # since when this gateway hears workers

    def addresses(self) -> list[Address]:
        return [_Outward(name, self) for name in self._workers]

    def expect(self, names: Iterable[str]) -> None:
        for name in names:
            if WORKER_NAME.fullmatch(name):
                self._workers.setdefault(name, _Connected())

    def is_stopping(self, name: str) -> bool:
        """Return whether a worker takes no more jobs, since it is about to end."""
        return name in self._workers and self._workers[name].stopping

    async def dismiss(self, name: str) -> None:
        """Tell a worker that is stopping that it may end."""
        if name in self._workers:
            await self._note(name, self._workers[name].run, done=True)

    def connect(self, name: str) -> socket.socket:
        """Return a socket that leads to the worker; ``ConnectionError`` if it is silent."""
        worker = self._workers.get(name)
        if worker is None or not worker.run or worker.silent or worker.heard < self.since:
            raise ConnectionError(f"its worker {name} is not connected to NATS")
        return self._pipes.open(f"{name}.{worker.run}.{self._gateway}.{uuid.uuid4().hex[:16]}", OPEN)

    async def run(self) -> None:
        self._nats.begin()
        try:
            while True:
                await asyncio.sleep(_LOOK_S)
                try:
                    self._nats.client()
                except nats.errors.Error:
                    self.since = time.monotonic()
                for name, worker in list(self._workers.items()):
                    if worker.silent:
                        self._pipes.close(f"{name}.")
                    if time.monotonic() - max(worker.heard, self.since) > _FORGOTTEN_S:
                        self._forget(name, worker.run)
        finally:
            self._pipes.close()
            await self._nats.close()

    def _break(self) -> None:
        """Break all pipes; a worker that connects again later than this gateway is not called before it is heard."""
        self.since = time.monotonic()
        self._pipes.close()

    async def _subscribe(self, client: Client) -> None:
        await client.subscribe(f"{self._prefix}.from.*.*.hello", cb=self._hear)
        await client.subscribe(f"{self._prefix}.from.*.*.{self._gateway}.*", cb=self._take)

    async def _send(self, key: str, message: bytes) -> None:
        await self._nats.client().publish(f"{self._prefix}.to.{key}", message)

    async def _take(self, message: Msg) -> None:
        key = message.subject.split(".", 2)[2]
        name, run, *_ = key.split(".")
        if name in self._workers and self._workers[name].run == run:
            self._workers[name].heard = time.monotonic()
        with contextlib.suppress(nats.errors.Error):
            await self._pipes.take(key, message.data)

    async def _hear(self, message: Msg) -> None:
        _, _, name, run, _ = message.subject.split(".")
        try:
            hello: dict[str, Any] = json.loads(message.data)
            version, started, state = hello["v"], float(hello.get("started", 0)), hello.get("state")
        except (ValueError, TypeError, KeyError):
            return
        if not WORKER_NAME.fullmatch(name):
            return
        if version != PROTOCOL:
            await self._refuse(
                name, run,
                f"This gateway speaks version {PROTOCOL} of the protocol between gateways and workers, the worker "
                f"{name} version {version}. Install the same version of wan-flf2v at both.",
            )  # fmt: skip
        elif state == "gone":
            self._forget(name, run)
        elif self._is_older(name, run, started):
            text = f"Another worker named {name} started later: this one gets no requests. Give it another --name."
            await self._refuse(name, run, text)
        else:
            if name not in self._workers or self._workers[name].run != run:
                _LOG.info("worker connected worker=%s", name)
                self._pipes.close(f"{name}.")
            self._workers[name] = _Connected(run, started, state == "stopping")

    def _is_older(self, name: str, run: str, started: float) -> bool:
        """Return whether a process of this name that started later is there."""
        known = self._workers.get(name)
        return known is not None and known.run != run and not known.silent and started < known.started

    def _forget(self, name: str, run: str) -> None:
        if name in self._workers and self._workers[name].run == run:
            _LOG.info("worker left worker=%s", name)
            self._pipes.close(f"{name}.")
            del self._workers[name]

    async def _refuse(self, name: str, run: str, text: str) -> None:
        if (name, run) not in self._refused:
            self._refused.add((name, run))
            _LOG.warning("worker refused worker=%s: %s", name, text)
        await self._note(name, run, refused=text)

    async def _note(self, name: str, run: str, **content: Any) -> None:
        with contextlib.suppress(nats.errors.Error):
            note = json.dumps({"v": PROTOCOL, **content}).encode()
            await self._nats.client().publish(f"{self._prefix}.to.{name}.{run}.note", note)


class _Outward(Address):
    """Where the ComfyUI of an outward worker is; such addresses are equal if their names are."""

    workers: OutwardWorkers

    def __init__(self, name: str, workers: OutwardWorkers) -> None:
        super().__init__(f"http://{name}", None, verify_tls=True)
        object.__setattr__(self, "workers", workers)  # the base class is frozen

    @property
    def name(self) -> str:
        return self.url.removeprefix("http://")

    @property
    def since(self) -> float:
        return self.workers.since

    @property
    def stopping(self) -> bool:
        return self.workers.is_stopping(self.name)

    async def dismiss(self) -> None:
        await self.workers.dismiss(self.name)

    def client(self) -> ComfyClient:
        return ComfyClient(self.url, dial=lambda: self.workers.connect(self.name))
