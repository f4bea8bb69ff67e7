"""A ComfyUI with the demo's models and a gateway in front of it, both of which can be killed and come back."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from ..bootstrap.paths import REPO
from ..bootstrap.server import ComfyServer, free_port, prepare_base_dir
from ..client.comfy import ComfyClient
from ..client.errors import NoOutputError
from ..client.run import run_graph as queue_and_wait
from ..contract.workflow import Graph
from ..demo.base import prepare_demo
from ..gateway.jobs.sqlite_store import SqliteStore
from ..gateway.jobs.tokens import create_token
from ._figures import Options

MEASURING_PACKS = {
    "wan-flf2v-measure": REPO / "benchmarks" / "pack",
    "wan-flf2v-encode-counter": REPO / "benchmarks" / "encode_counter",
}
_START_S = 60.0
_STOP_S = 30.0


class Gateway:
    """``wan-flf2v serve`` as a process on a port of its own, offering the demo's model to whoever has ``token``."""

    def __init__(self, comfyui_url: str, data: Path) -> None:
        self.data = data
        self._port = free_port()
        where = ["--comfyui", comfyui_url, "--port", str(self._port), "--data", str(data)]
        self._command = [sys.executable, "-I", "-m", "wan_flf2v", "serve", *where, "--demo"]
        data.mkdir(mode=0o700)
        self.token = asyncio.run(_new_token(data))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, with ``/v1``."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def pid(self) -> int:
        """The process id."""
        if self._process is None:
            raise RuntimeError("the gateway has not been started")
        return self._process.pid

    def start(self) -> None:
        """Start, and wait until it answers; ``RuntimeError`` with the log's end if it does not."""
        log = self.data.with_suffix(".log")
        with log.open("ab") as stream:
            self._process = subprocess.Popen(self._command, stdout=stream, stderr=stream)  # noqa: S603
        deadline = time.monotonic() + _START_S
        while not _answers(f"http://127.0.0.1:{self._port}/healthz"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the gateway did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """End it as an operator would; by force if that takes long."""
        if self._process is None:
            return
        if sys.platform != "win32":
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        self.kill()


@contextlib.contextmanager
def stage(options: Options) -> Iterator[tuple[ComfyServer, Gateway]]:
    """Start both in a folder that is removed at the end."""
    with comfyui_alone(options) as comfyui:
        gateway = Gateway(comfyui.url, comfyui.base_dir.parent / "gateway")
        try:
            gateway.start()
            yield comfyui, gateway
        finally:
            gateway.stop()


@contextlib.contextmanager
def comfyui_alone(options: Options) -> Iterator[ComfyServer]:
    """Start a ComfyUI with the demo's models and the measuring nodes, in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="wan-flf2v-bench-", ignore_cleanup_errors=True) as folder:
        base_dir = Path(folder) / "comfyui"
        prepare_demo(base_dir, options.comfyui)
        prepare_base_dir(base_dir, MEASURING_PACKS)
        arguments = ("--cpu", "--disable-api-nodes")
        port = free_port()
        with ComfyServer(options.comfyui, options.python, base_dir, port=port, extra_args=arguments) as comfyui:
            yield comfyui


def run_graph(comfyui: ComfyServer, graph: Graph) -> None:
    """Run a graph and wait for its end; raises what the client raises, but for a graph that saves no file."""

    async def go() -> None:
        async with ComfyClient(comfyui.url) as client:
            with contextlib.suppress(NoOutputError):
                await queue_and_wait(client, graph)

    asyncio.run(go())


async def _new_token(data: Path) -> str:
    store = SqliteStore(data / "store.sqlite3")
    text, _ = await create_token(store, "bench")
    await store.close()
    return text


def _answers(url: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False
