"""The README's commands from one GPU to a fleet, each run as it stands there, but for addresses and folders."""

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.nats_server import free_ports
from wan_flf2v.benchmarks._gateway import Program
from wan_flf2v.benchmarks._stand_in import stand_ins
from wan_flf2v.bootstrap.environment import nats_server
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.gateway.serve import default_data

pytestmark = pytest.mark.slow
SECTIONS = ("From one GPU to several", "Several gateways", "Workers that no gateway reaches")
NOT_HERE = ("python main.py", "mkdir ", "pip install")  # ComfyUI, for which stand-ins stand in; set-up
LONG_S = 60.0


def section(title):
    """Return the text under a heading of the README, up to the next one."""
    text = (REPO / "README.md").read_text("utf-8").split(f"### {title}\n")[1]
    return re.split(r"^##+ ", text, maxsplit=1, flags=re.MULTILINE)[0]


def block(title):
    """Return the commands of the section's block, without remarks, and what is not run here."""
    (text,) = re.findall(r"```sh\n(.*?)```", section(title), re.DOTALL)
    lines = [re.split(r"\s+#", line)[0] for line in text.splitlines()]
    return [line for line in lines if not line.startswith(NOT_HERE)]


class Machine:
    """Where the commands run: an empty folder with ``docs`` in it, other ports, and what has been started."""

    def __init__(self, folder, comfyui_ports):
        nats_port, *gateways = free_ports(3)
        self.folder, self.nats = folder, f"nats://127.0.0.1:{nats_port}"
        self._ports = dict(zip(("8188", "8190"), comfyui_ports, strict=True))
        self._ports |= dict(zip(("4222", "8219", "8220"), (nats_port, *gateways), strict=True))
        self._running = []
        shutil.copytree(REPO / "docs", folder / "docs", ignore=shutil.ignore_patterns("*.jpg", "*.webp", "*.png"))

    def run(self, line):
        """Run a command of the README; wait until a server listens, or any other command has ended. Return its text."""
        for known, port in self._ports.items():
            line = re.sub(rf"(?<=[: ]){known}\b", str(port), line)
        program, *arguments = shlex.split(line)
        if program == "nats-server":
            return self._start_nats(arguments)
        assert program == "wan-flf2v", line
        if arguments[0] in ("serve", "worker"):
            return self._start(arguments)
        command = [sys.executable, "-I", "-m", "wan_flf2v", *arguments]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=LONG_S)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout + done.stderr

    def _start_nats(self, arguments):
        command = [nats_server(Path(sys.executable)), *arguments, "-a", "127.0.0.1", "-p", self.nats.rpartition(":")[2]]
        with (self.folder / "nats.log").open("wb") as log:
            self.server = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        until(lambda: listens(self.nats))

    def _start(self, arguments):
        if arguments[0] == "serve" and "--port" not in arguments:
            arguments = [*arguments, "--port", str(self._ports["8219"])]
        process = Program(self.folder / f"{len(self._running)}.log", arguments)
        self._running.append(process)
        process.start()
        until(
            lambda: process.process.poll() is not None or arguments[0] == "worker" or "Serving " in process.log_text()
        )
        assert process.process.poll() is None, (arguments, process.log_text())

    def stop(self):
        """Stop gateways and workers as an operator does."""
        while self._running:
            self._running.pop().stop()

    def lose_nats(self):
        """End nats-server, and remove what it has kept."""
        self.server.kill()
        self.server.wait()
        shutil.rmtree(self.folder / "nats-data")

    def close(self):
        for process in self._running:
            process.kill()
        if hasattr(self, "server"):
            self.server.kill()
            self.server.wait()


def listens(url):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=1):
        return True
    return False


def until(condition):
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def store_commands(**names):
    """Return the ``store`` commands that stand in the text, with files and addresses in place of the capitals."""
    found = re.findall(r"`wan-flf2v (store [^`]+)`", section("Several gateways"))
    commands = {line.split()[1]: f"wan-flf2v {line}" for line in found}
    assert list(commands) == ["copy", "backup", "restore"]
    commands["restore"] += " --data FOLDER --nats URL"  # "with the same options"
    for command, values in names.items():
        for name, value in values.items():
            commands[command] = commands[command].replace(name, value)
    return commands


def test_they_run(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")  # no name is cut short
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    for name in [name for name in os.environ if name.startswith("WAN_FLF2V_")]:
        monkeypatch.delenv(name)

    def use(hosts):
        machine = Machine(tmp_path, [host.port for host in hosts])
        with contextlib.closing(machine):
            run_all(machine, [host.url for host in hosts])

    async def test():
        async with stand_ins(2) as hosts:
            await asyncio.to_thread(use, hosts)

    asyncio.run(asyncio.wait_for(test(), 400))


def run_all(machine, comfyui_urls):
    serve, listing, draining = block("From one GPU to several")
    machine.run(serve)
    until(lambda: all(f"{url} " in machine.run(listing) for url in comfyui_urls))
    machine.run(draining)
    assert "drained" in machine.run(listing)
    machine.stop()

    server, token, one, other = block("Several gateways")
    machine.run(server)
    assert machine.run(token).strip()
    for gateway in (one, other):
        machine.run(gateway)
    machine.stop()

    places = {"FOLDER": "wan-a", "URL": machine.nats, "FILE": "all.tar"}
    copied = {"FOLDER": str(default_data()), "URL": f"{machine.nats}/copied"}
    commands = store_commands(copy=copied, backup=places, restore={**places, "FOLDER": "wan-r"})
    machine.run(commands["copy"])
    machine.run(commands["backup"])
    machine.lose_nats()
    machine.run(server)
    machine.run(commands["restore"])
    assert "me" in machine.run(f"wan-flf2v token list --nats {machine.nats}").split()

    serve, worker, listing = block("Workers that no gateway reaches")
    machine.run(serve)
    machine.run(worker)
    until(lambda: "gpu-1" in machine.run(listing))
