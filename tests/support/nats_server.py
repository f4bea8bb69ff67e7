"""nats-server processes for tests: one that all tests of a process share, and those of the benches."""

import asyncio
import atexit
import functools
import json
import shutil
import tempfile
from pathlib import Path

import nats
from wan_flf2v.benchmarks._nats import CONFIG, Cluster, NatsServer, free_ports

__all__ = ["CONFIG", "Cluster", "NatsServer", "admin", "edit_stream", "extended_config", "free_ports", "shared_server"]


def extended_config(folder, text):
    """Write a configuration that has ``text`` besides what users are given; return its path."""
    shutil.copy(CONFIG, folder)
    config = folder / "extended.conf"
    config.write_text(f'include "{CONFIG.name}"\n{text}')
    return config


def admin(call, payload=None, url=None):
    """Ask JetStream's API as an operator would."""

    async def ask():
        client = await nats.connect(url or shared_server())
        try:
            answer = await client.request(f"$JS.API.{call}", json.dumps(payload).encode() if payload else b"", 5)
        finally:
            await client.close()
        return json.loads(answer.data)

    return asyncio.run(ask())


def edit_stream(name, url=None, **changes):
    """Change options of a stream."""
    config = admin(f"STREAM.INFO.{name}", url=url)["config"]
    answer = admin(f"STREAM.UPDATE.{name}", {**config, **changes}, url=url)
    assert "error" not in answer, answer


@functools.cache
def shared_server():
    """Return the address of one server, which runs until this process ends."""
    folder = tempfile.mkdtemp(prefix="wan-flf2v-nats-")
    server = NatsServer(Path(folder), free_ports(1)[0]).start()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(server.kill)
    return server.url
