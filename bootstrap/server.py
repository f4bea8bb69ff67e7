"""ComfyUI as a child process on the loopback address, and the base directory for its files."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

from .paths import REPO

PORT_TRIES = 3
STOP_GRACE_S = 10.0
LOG_TAIL_LINES = 25

# Runs main.py as `python main.py` would, and ends when standard input closes: every operating system closes it when the
# parent ends, even by a crash. It is text, not a file: a file's folder would come first on sys.path, and this one has
# a server.py that would hide ComfyUI's. os.read, since a buffered read in a daemon thread can abort the exit; on a
# copy, since on Windows a pending read on standard input blocks the start of grandchildren. A shell starts background
# jobs with Ctrl-C ignored, and children inherit that: here it counts again.
_WATCHED_MAIN = """
import os, runpy, signal, sys, threading
signal.signal(signal.SIGINT, signal.default_int_handler)
parent = os.dup(0)
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
threading.Thread(target=lambda: (os.read(parent, 1), os._exit(1)), daemon=True).start()
sys.argv = sys.argv[1:]
sys.path[:] = [os.path.dirname(sys.argv[0])] + [entry for entry in sys.path if entry]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class ServerError(RuntimeError):
    """ComfyUI could not be started; the message ends with its last log lines."""


def prepare_base_dir(base_dir: Path, packs: Mapping[str, Path]) -> None:
    """Create ComfyUI's folders in ``base_dir`` and link each pack (name in ``custom_nodes/`` → its folder).

    A link to another folder is replaced. Raises FileExistsError if something else has the name of a link.
    """
    for name in ("custom_nodes", "input", "output", "models", "user", "temp"):
        (base_dir / name).mkdir(parents=True, exist_ok=True)
    for name, target in packs.items():
        link_folder(base_dir / "custom_nodes" / name, target)


def link_folder(link: Path, target: Path) -> None:
    """Make ``link`` lead to the folder ``target``: a symbolic link, on Windows a junction (needs no privilege)."""
    if os.path.lexists(link):
        if link.exists() and link.samefile(target):
            return
        try:
            os.readlink(link)  # noqa: PTH115 -- Path.readlink does not know junctions on every supported Python
        except OSError:
            raise FileExistsError(f"{link} is in the way: a link to {target} belongs there. Move it away.") from None
        link.unlink()
    if sys.platform == "win32":
        import _winapi

        _winapi.CreateJunction(str(target), str(link))
    else:
        link.symlink_to(target, target_is_directory=True)


def comfy_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a process that imports comfy: this repository is not on its ``PYTHONPATH``.

    The repository's ``nodes/`` would hide ComfyUI's ``nodes.py``.
    """
    env = {**os.environ, **(extra or {})}
    entries = env.pop("PYTHONPATH", "").split(os.pathsep)
    if kept := [entry for entry in entries if entry and Path(entry).resolve() != REPO]:
        env["PYTHONPATH"] = os.pathsep.join(kept)
    return env


def server_args(base_dir: Path, port: int) -> list[str]:
    """Return ComfyUI's arguments: loopback only, no browser, all files in ``base_dir``."""
    database = (base_dir / "user" / "comfyui.db").as_posix()
    where = ["--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base_dir)]
    return [*where, "--disable-auto-launch", "--database-url", f"sqlite:///{database}"]


def port_is_taken(port: int) -> bool:
    """Return whether something accepts connections on 127.0.0.1:``port``."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


class ComfyServer:
    """A ComfyUI that runs as long as the ``with`` block, and ends with the process that started it.

    ``comfyui_dir`` holds ``main.py``, ``python`` has its requirements, ``base_dir`` was made by ``prepare_base_dir``.
    ``port`` 0 takes a free one. ``extra_args`` go to ComfyUI as they are (``--cpu``); ``env`` adds to the environment.
    """

    def __init__(
        self,
        comfyui_dir: Path,
        python: Path,
        base_dir: Path,
        *,
        port: int = 0,
        extra_args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.comfyui_dir = comfyui_dir.absolute()
        self.python = python.absolute()  # not resolved: that would leave the virtual environment
        self.base_dir = base_dir.absolute()
        self.log_path = self.base_dir / "server.log"
        self._wanted_port = port
        self._port = port
        self._extra_args = tuple(extra_args)
        self._env = comfy_env(env)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """``http://127.0.0.1:PORT``, known once started."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of the server; RuntimeError before the first start."""
        if self._process is None:
            raise RuntimeError("the server has not been started")
        return self._process.pid

    def log_text(self) -> str:
        """Everything that this server has printed since its last start."""
        return self.log_path.read_text("utf-8", "replace") if self.log_path.exists() else ""

    def alive(self) -> bool:
        """Return whether the process runs (it may still be starting)."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 180.0) -> None:
        """Start and wait until ``/system_stats`` responds; ServerError with the end of the log if it does not."""
        if self.alive():
            raise RuntimeError(f"the server at {self.url} is already running")
        if self._wanted_port and port_is_taken(self._wanted_port):
            raise ServerError(f"port {self._wanted_port} is taken by another program: stop it or choose another port")
        for attempt in range(1, PORT_TRIES + 1):
            self._port = self._wanted_port or free_port()
            self._spawn()
            try:
                if self._wait_until_ready(timeout_s):
                    return
            except BaseException:
                self.kill()
                raise
            self.kill()  # what is left of its process group
            lost_the_port = not self._wanted_port and port_is_taken(self._port)
            if not lost_the_port or attempt == PORT_TRIES:
                code = self._process.returncode if self._process else None
                raise ServerError(self._with_log(f"ComfyUI ended (exit code {code}) before it responded"))

    def stop(self) -> None:
        """End the server and everything it started; do nothing if it is not running."""
        if self._process is None:
            return
        if self.alive():
            self._signal_all(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_GRACE_S)
        self.kill()

    def kill(self) -> None:
        """End the server at once, as a crash would (SIGKILL), and wait until it is gone."""
        if self._process is None:
            return
        self._signal_all(signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()

    def __enter__(self) -> "ComfyServer":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _spawn(self) -> None:
        args = [*server_args(self.base_dir, self._port), *self._extra_args]
        command = [str(self.python), "-c", _WATCHED_MAIN, str(self.comfyui_dir / "main.py"), *args]
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = _popen(command, self._env, self.base_dir, log)

    def _wait_until_ready(self, timeout_s: float) -> bool:
        """Return True once this server responds, False if it ended; ServerError on a time-out."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            if self._responds():
                return True
            if time.monotonic() > deadline:
                raise ServerError(self._with_log(f"ComfyUI did not respond at {self.url} within {timeout_s:.0f} s"))
            time.sleep(0.1)
        return False

    def _responds(self) -> bool:
        # Another server may have taken the port meanwhile; only this one was started with this base directory.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/system_stats", timeout=5) as response:
                argv = json.load(response)["system"]["argv"]
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return str(self.base_dir) in argv

    def _signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the server's whole process group; on Windows end its process tree."""
        if sys.platform == "win32":
            command = ["taskkill", "/F", "/T", "/PID", str(self.pid)]
            subprocess.run(command, check=False, capture_output=True)
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):  # gone; macOS: EPERM for a group of zombies
            os.killpg(self.pid, number)

    def _with_log(self, message: str) -> str:
        tail = "\n".join(self.log_text().splitlines()[-LOG_TAIL_LINES:])
        return f"{message}. The end of its log ({self.log_path}):\n{tail}"


def _popen(command: list[str], env: Mapping[str, str], cwd: Path, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**env, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8:replace"},
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        # a new process group: the terminal's Ctrl-C reaches the owner first, and stop() reaches grandchildren
        start_new_session=sys.platform != "win32",
    )


def free_port() -> int:
    """Return a port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
