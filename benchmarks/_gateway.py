"""Starts, kills and stops processes of ``wan-flf2v``, gateways and outward workers, for benches and tests."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ..gateway.jobs.opening import open_store
from ..gateway.jobs.store import Store
from ..gateway.jobs.tokens import create_token
from ..gateway.settings import NatsAccess

_START_S = 120.0
_STOP_S = 30.0
_WORKERS_S = 600.0  # for hundreds of processes on a few cores
_SAYS = "Serving "  # and the address: the line that a gateway prints once it listens

_T = TypeVar("_T")


class Program:
    """A process of ``wan-flf2v`` that can be started again; what it prints goes into the file ``log``, in its folder.

    ``arguments`` are those of the command line, ``program`` Python's before them. Settings in this process's
    environment do not count.
    """

    def __init__(self, log: Path, arguments: Sequence[str], program: Sequence[str] = ("-m", "wan_flf2v")) -> None:
        self._log, self._arguments, self._program = log, list(arguments), program
        self._process: subprocess.Popen[bytes] | None = None
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        if self._process is None:
            raise RuntimeError("it has not been started")
        return self._process

    def log_text(self) -> str:
        """Return what all its processes have printed so far."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def start(self) -> None:
        """Start it, and do not wait."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WAN_FLF2V_")}
        command = [sys.executable, "-I", *self._program, *self._arguments]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdout=log, stderr=log, cwd=self._log.parent, env=environment
            )

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Let it stand still: its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it as an operator would; ``subprocess.TimeoutExpired`` if it has to be killed."""
        if self._process is None:
            return
        try:
            if self._process.poll() is None and sys.platform != "win32":
                self._process.send_signal(signal.SIGTERM)
                self._process.wait(_STOP_S)
        finally:
            self.kill()


class WorkerProcess(Program):
    """An outward worker named ``name`` beside a ComfyUI; a gateway notices it a moment after ``start``."""

    def __init__(self, folder: Path, name: str, nats_url: str, comfyui_url: str) -> None:
        arguments = ["worker", "--nats", nats_url, "--comfyui", comfyui_url, "--name", name]
        super().__init__(folder / f"{name}.log", arguments)


@contextlib.contextmanager
def worker_processes(folder: Path, nats_url: str | None, comfyui_urls: Sequence[str]) -> Iterator[list[WorkerProcess]]:
    """Run an outward worker beside each ComfyUI while the block runs; none without NATS."""
    urls = comfyui_urls if nats_url is not None else ()
    workers = [WorkerProcess(folder, f"worker-{number}", str(nats_url), url) for number, url in enumerate(urls)]
    try:
        for worker in workers:
            worker.start()
        yield workers
    finally:
        for worker in workers:
            worker.kill()


class GatewayProcess(Program):
    """A gateway on a free port, which it keeps when it is started again; ``token`` is an operator's.

    ``config`` are settings as ``api.json`` holds them. ``program`` are Python's arguments for the command line.
    """

    def __init__(
        self,
        data: Path,
        comfyui_url: str | Sequence[str],
        *arguments: str,
        config: Mapping[str, Any] | None = None,
        program: Sequence[str] = ("-m", "wan_flf2v"),
        nats_url: str | None = None,
    ) -> None:
        super().__init__(data / "gateway.log", (), program)
        self.data = data
        self._nats_url = nats_url
        urls = [comfyui_url] if isinstance(comfyui_url, str) else comfyui_url
        self._options = list(arguments)
        self._options += [word for url in urls for word in ("--comfyui", url)]
        if nats_url is not None:
            self._options += ["--nats", nats_url]
        if config is not None:
            (data / "api.json").write_text(json.dumps(config))
            self._options += ["--config", str(data / "api.json")]
        self.token = self.new_token("first", operator=True)
        self.url = ""

    def twin(self) -> GatewayProcess:
        """Return another gateway of the same fleet, with the same settings and token, and another data folder."""
        twin = copy.copy(self)
        twin.data = self.data.with_name(f"{self.data.name}-twin")
        twin.data.mkdir(mode=0o700)
        twin.url, twin._process = "", None
        twin._log = twin.data / self._log.name
        return twin

    @property
    def api(self) -> str:
        """The address of the API, with ``/v1``; ``url`` is the one without."""
        return f"{self.url}/v1"

    def new_token(self, name: str, **options: Any) -> str:
        """Make a token with these options of ``create_token`` in the gateway's store and return it."""

        async def create(store: Store) -> str:
            return (await create_token(store, name, **options))[0]

        return self.with_store(create)

    def wait_for_workers(self, count: int) -> None:
        """Wait until so many ComfyUIs are idle; ``RuntimeError`` if they are not after ten minutes."""

        async def wait(store: Store) -> None:
            deadline = time.monotonic() + _WORKERS_S
            while (idle := sum(worker.state == "idle" for worker in await store.workers())) < count:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{idle} of {count} ComfyUIs are idle:\n{self.log_text()[-3000:]}")
                await asyncio.sleep(0.2)

        self.with_store(wait)

    def with_store(self, work: Callable[[Store], Coroutine[Any, Any, _T]]) -> _T:
        """Open the gateway's store beside it for ``work`` and return what that returns."""

        async def go() -> _T:
            store = open_store(self.data, NatsAccess(self._nats_url) if self._nats_url else None)
            try:
                return await work(store)
            finally:
                await store.close()

        with ThreadPoolExecutor(1) as pool:  # the caller may be inside an event loop
            return pool.submit(asyncio.run, go()).result()

    def dispatches(self) -> bool:
        """Whether its log says that it is the one that dispatches."""
        said = self.log_text().rpartition("gateway dispatches now")[0]
        return said.endswith("this ")

    def start(self) -> None:
        """Start it and wait until it listens; ``RuntimeError`` with the end of its log if it does not."""
        before = len(self.log_text())
        port = self.url.rpartition(":")[2] or "0"
        self._arguments = ["serve", "--data", str(self.data), *self._options, "--port", port]
        super().start()
        deadline = time.monotonic() + _START_S
        while not (address := _address(self.log_text()[before:])):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the gateway did not start:\n{self.log_text()[before:][-3000:]}")
            time.sleep(0.05)
        self.url = address


def _address(log: str) -> str:
    """Return the address in the line that says where it serves, or nothing if there is no whole line yet."""
    lines = [line for line in log.splitlines(keepends=True) if line.startswith(_SAYS) and line.endswith("\n")]
    return lines[-1].split()[1].removesuffix("/v1") if lines else ""
