"""A running ComfyUI as tests see it."""

import asyncio
import json

from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.run import run_graph


class Host:
    """A ComfyServer with its version, and shorthands to run graphs and read what they wrote."""

    def __init__(self, server, version):
        self.server = server
        self.host_version = version

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.server.stop()

    def __getattr__(self, name):
        return getattr(self.server, name)

    def run(self, graph, **options):
        """Queue the graph, wait, and return the client's result; its exceptions come through."""

        async def go():
            async with ComfyClient(self.url) as client:
                return await run_graph(client, graph, **options)

        return asyncio.run(go())

    def path(self, file):
        """Return where an output file of a result lies."""
        return self.base_dir / "output" / file.subfolder / file.filename

    def tensors(self, name):
        """Return the tensors that a dump node wrote under ``name``."""
        import safetensors.torch  # not above: most tests need no torch, which takes seconds to import

        return safetensors.torch.load_file(self.base_dir / "output" / f"{name}.safetensors")

    def state(self, name):
        """Return the model state that DumpModel wrote under ``name``."""
        return json.loads((self.base_dir / "output" / f"{name}.json").read_text())
