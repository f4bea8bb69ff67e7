"""nats-server processes for tests: one that all tests of a process share, and those of the benches."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

from wan_flf2v.benchmarks._nats import CONFIG, Cluster, NatsServer, free_ports

__all__ = ["CONFIG", "Cluster", "NatsServer", "extended_config", "free_ports", "shared_server"]


def extended_config(folder, text):
    """Write a configuration that has ``text`` besides what users are given; return its path."""
    shutil.copy(CONFIG, folder)
    config = folder / "extended.conf"
    config.write_text(f'include "{CONFIG.name}"\n{text}')
    return config


@functools.cache
def shared_server():
    """Return the address of one server, which runs until this process ends."""
    folder = tempfile.mkdtemp(prefix="wan-flf2v-nats-")
    server = NatsServer(Path(folder), free_ports(1)[0]).start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server.url
