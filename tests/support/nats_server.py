"""nats-server processes for tests: one that all tests of a process share, and clusters whose nodes can be killed."""

import atexit
import contextlib
import functools
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from wan_flf2v.bootstrap.paths import REPO

CONFIG = REPO / "docs" / "nats-server.conf"  # the one that users are given


def program():
    """Return nats-server's path: the one on the PATH, else that of the extra [cluster]."""
    own = Path(sys.executable).with_name("nats-server" + (".exe" if sys.platform == "win32" else ""))
    return shutil.which("nats-server") or str(own)


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [each.getsockname()[1] for each in sockets]


class NatsServer:
    """One nats-server; ``arguments`` are added to those for its port and its folder."""

    def __init__(self, folder, port, *arguments, config=CONFIG):
        self.folder, self.url = Path(folder), f"nats://127.0.0.1:{port}"
        self._port, self._arguments, self._config = port, arguments, config
        self.folder.mkdir(parents=True, exist_ok=True)

    def start(self):
        command = [program(), "-c", self._config, "-a", "127.0.0.1", "-p", str(self._port), "-sd", self.folder]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([*command, *self._arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return self
            assert self.process.poll() is None and time.monotonic() < deadline, (self.folder / "log").read_text()
            time.sleep(0.05)

    def kill(self):
        self.process.kill()
        self.process.wait()


class Cluster:
    """Three nodes on the loopback address; ``url`` names all."""

    def __init__(self, folder):
        ports, routes = free_ports(3), free_ports(3)
        route = ",".join(f"nats://127.0.0.1:{port}" for port in routes)
        options = ("--cluster_name", "test", "--routes", route)
        self.nodes = {
            f"n{number}": NatsServer(
                folder / f"n{number}", ports[number], "--name", f"n{number}",
                "--cluster", f"nats://127.0.0.1:{routes[number]}", *options,
            )
            for number in range(3)
        }  # fmt: skip
        self.url = ",".join(node.url for node in self.nodes.values())

    def __enter__(self):
        for node in self.nodes.values():
            node.start()
        return self

    def __exit__(self, *_):
        for node in self.nodes.values():
            node.kill()


@functools.cache
def shared_server():
    """Return the address of one server, which runs until this process ends."""
    folder = tempfile.mkdtemp(prefix="wan-flf2v-nats-")
    server = NatsServer(folder, free_ports(1)[0]).start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server.url
