"""nats-server processes for benches and tests: one alone, or a cluster of three whose nodes can be killed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nats
import nats.errors

from ..bootstrap.environment import nats_server
from ..bootstrap.paths import REPO

CONFIG = REPO / "docs" / "nats-server.conf"  # the one that users are given
_START_S = 30.0
_NODES = 3
_PAUSE_S = 0.1


def free_ports(count: int) -> list[int]:
    """Return ports that nothing listens at now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class NatsServer:
    """One nats-server; ``arguments`` are added to those for its port, its folder and its ``monitor`` port."""

    def __init__(
        self, folder: Path, port: int, *arguments: str, config: Path = CONFIG, monitor: int | None = None
    ) -> None:
        self.folder, self.url = Path(folder), f"nats://127.0.0.1:{port}"
        self.monitor = f"http://127.0.0.1:{monitor}"
        self._port, self._config = port, config
        self._arguments = [*arguments, *(("-m", str(monitor)) if monitor is not None else ())]
        self.folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen[bytes]

    def start(self) -> NatsServer:
        """Start it and wait until it listens; ``RuntimeError`` with its log if it does not."""
        command = [nats_server(Path(sys.executable)), "-c", str(self._config), "-a", "127.0.0.1", "-p", str(self._port)]
        command += ["-sd", str(self.folder), *self._arguments]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)  # noqa: S603
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"nats-server did not start:\n{(self.folder / 'log').read_text('utf-8')}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def nodes_for(store: str, folder: Path) -> Iterator[Cluster | None]:
    """Run a cluster while the block runs if the store is on JetStream; ``None`` if not."""
    if store != "jetstream":
        yield None
        return
    with Cluster(folder / "nats") as cluster:
        yield cluster


class Cluster:
    """Three nodes on the loopback address inside the ``with`` block, by name; ``url`` names all."""

    def __init__(self, folder: Path, *, monitored: bool = False) -> None:
        ports, routes, monitors = free_ports(_NODES), free_ports(_NODES), free_ports(_NODES)
        options = ("--cluster_name", "test", "--routes", ",".join(f"nats://127.0.0.1:{port}" for port in routes))
        self.nodes: dict[str, NatsServer] = {}
        for number in range(_NODES):
            name, cluster = f"n{number}", f"nats://127.0.0.1:{routes[number]}"
            monitor = monitors[number] if monitored else None
            arguments = ("--name", name, "--cluster", cluster, *options)
            self.nodes[name] = NatsServer(folder / name, ports[number], *arguments, monitor=monitor)
        self.url = ",".join(node.url for node in self.nodes.values())

    def __enter__(self) -> Cluster:
        for node in self.nodes.values():
            node.start()
        return self

    def ready(self) -> str:
        """Wait until a stream can be made, and return ``url``."""

        async def wait() -> None:
            client = await nats.connect(self.url.split(","))
            try:
                while True:
                    with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                        reply = await client.request("$JS.API.INFO", b"", 2)
                        if "error" not in json.loads(reply.data):
                            return
                    await asyncio.sleep(0.2)
            finally:
                await client.close()

        with ThreadPoolExecutor(1) as pool:  # the caller may be inside an event loop
            pool.submit(asyncio.run, wait()).result(_START_S)
        return self.url

    async def info(self, stream: str) -> dict[str, Any] | None:
        """Return what the nodes say of a stream's replicas; ``None`` if it has no leader now."""
        reply = await self._ask(f"STREAM.INFO.{stream}")
        return reply.get("cluster") if reply is not None else None

    async def leader(self, stream: str) -> NatsServer:
        """Return the node that leads a stream; wait until there is one."""
        while not (info := await self.info(stream)) or not info.get("leader"):
            await asyncio.sleep(_PAUSE_S)
        return self.nodes[info["leader"]]

    async def leader_of_one(self, stream: str, other: str) -> NatsServer:
        """Return the node that leads a stream; another one then leads the ``other`` stream."""
        while (leader := await self.leader(stream)) is await self.leader(other):
            await self._ask(f"STREAM.LEADER.STEPDOWN.{other}")
            await asyncio.sleep(1.0)
        return leader

    async def _ask(self, call: str) -> dict[str, Any] | None:
        client = await nats.connect(self.url.split(","))
        try:
            with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                reply: dict[str, Any] = json.loads((await client.request(f"$JS.API.{call}", b"", timeout=2)).data)
                return reply
            return None
        finally:
            await client.close()

    def __exit__(self, *_: object) -> None:
        for node in self.nodes.values():
            node.kill()
