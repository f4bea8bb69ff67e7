"""Starts, kills and stops a gateway process (``wan-flf2v serve``), for benches and tests."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..gateway.jobs.opening import open_store
from ..gateway.jobs.tokens import create_token
from ..gateway.settings import NatsAccess

_START_S = 120.0
_STOP_S = 30.0
_SAYS = "Serving "  # and the address: the line that a gateway prints once it listens


class GatewayProcess:
    """A gateway on a free port, which it keeps when it is started again; ``token`` is one that it knows.

    ``config`` are settings as ``api.json`` holds them. Settings in this process's environment do not count.
    ``program`` are Python's arguments for the command line.
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
        self.data = data
        self._nats_url = nats_url
        self._program = program
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log = data / "gateway.log"
        urls = [comfyui_url] if isinstance(comfyui_url, str) else comfyui_url
        self._arguments = list(arguments)
        self._arguments += [word for url in urls for word in ("--comfyui", url)]
        if nats_url is not None:
            self._arguments += ["--nats", nats_url]
        if config is not None:
            (data / "api.json").write_text(json.dumps(config))
            self._arguments += ["--config", str(data / "api.json")]
        self.token = self.new_token("first")
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None

    def twin(self) -> GatewayProcess:
        """Return another gateway of the same fleet, with the same settings and token, and another data folder."""
        twin = copy.copy(self)
        twin.data = self.data.with_name(f"{self.data.name}-twin")
        twin.data.mkdir(mode=0o700)
        twin._log = twin.data / self._log.name
        return twin

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that was started last."""
        if self._process is None:
            raise RuntimeError("the gateway has not been started")
        return self._process

    @property
    def api(self) -> str:
        """The address of the API, with ``/v1``; ``url`` is the one without."""
        return f"{self.url}/v1"

    def new_token(self, name: str, **limits: Any) -> str:
        """Make a token with these limits in the gateway's store and return it."""

        async def create() -> str:
            store = open_store(self.data, NatsAccess(self._nats_url) if self._nats_url else None)
            try:
                return (await create_token(store, name, **limits))[0]
            finally:
                await store.close()

        with ThreadPoolExecutor(1) as pool:  # the caller may be inside an event loop
            return pool.submit(asyncio.run, create()).result()

    def log_text(self) -> str:
        """Return what all its processes have printed so far."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def dispatches(self) -> bool:
        """Whether its log says that it is the one that dispatches."""
        said = self.log_text().rpartition("gateway dispatches now")[0]
        return said.endswith("this ")

    def start(self) -> None:
        """Start it and wait until it listens; ``RuntimeError`` with the end of its log if it does not."""
        before = len(self.log_text())
        port = self.url.rpartition(":")[2] or "0"
        options = ["--data", str(self.data), *self._arguments, "--port", port]
        command = [sys.executable, "-I", *self._program, "serve", *options]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WAN_FLF2V_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command, stdout=log, stderr=log, cwd=self.data, env=environment
            )
        deadline = time.monotonic() + _START_S
        while not (address := _address(self.log_text()[before:])):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the gateway did not start:\n{self.log_text()[before:][-3000:]}")
            time.sleep(0.05)
        self.url = address

    def kill(self) -> None:
        """End it as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

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


def _address(log: str) -> str:
    """Return the address in the line that says where it serves, or nothing if there is no whole line yet."""
    lines = [line for line in log.splitlines(keepends=True) if line.startswith(_SAYS) and line.endswith("\n")]
    return lines[-1].split()[1].removesuffix("/v1") if lines else ""
