"""A ComfyUI with the demo's models and a gateway in front of it, both of which can be killed and come back."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from ..bootstrap.paths import REPO
from ..bootstrap.server import ComfyServer, free_port, prepare_base_dir
from ..client.comfy import ComfyClient
from ..client.errors import NoOutputError
from ..client.run import run_graph as queue_and_wait
from ..contract.workflow import Graph
from ..demo.base import prepare_demo
from ._figures import Options
from ._gateway import GatewayProcess
from ._graphs import add_node

MEASURING_PACKS = {
    "wan-flf2v-measure": REPO / "benchmarks" / "pack",
    "wan-flf2v-encode-counter": REPO / "benchmarks" / "encode_counter",
}

_LORA = "bench.safetensors"
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # tiny tensors: further threads only wait, on the processor
# For the frames of many videos: as many threads as PyTorch takes; and glibc keeps the memory that the VAE frees and
# takes again all the time, which saves a quarter of the processor's time. 32 MB is the most it takes as a threshold.
MANY_FRAMES = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
}


@contextlib.contextmanager
def stage(options: Options, nats_url: str | None = None, **config: Any) -> Iterator[tuple[ComfyServer, GatewayProcess]]:
    """Start both in a folder that is removed at the end; ``config`` are settings of the gateway."""
    with comfyui_alone(options) as comfyui:
        data = comfyui.base_dir.parent / "gateway"
        gateway = GatewayProcess(data, comfyui.url, "--demo", config=config, nats_url=nats_url)
        try:
            gateway.start()
            yield comfyui, gateway
        finally:
            gateway.stop()


@contextlib.contextmanager
def comfyui_alone(options: Options, env: Mapping[str, str] = ONE_THREAD) -> Iterator[ComfyServer]:
    """Start a ComfyUI with the demo's models and the measuring nodes, in a folder that is removed at the end."""
    with several_comfyuis(options, 1, env) as (comfyui,):
        yield comfyui


@contextlib.contextmanager
def several_comfyuis(
    options: Options, count: int, env: Mapping[str, str] = ONE_THREAD
) -> Iterator[Sequence[ComfyServer]]:
    """Start so many of them, each with other files."""
    with (
        tempfile.TemporaryDirectory(prefix="wan-flf2v-bench-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        base_dirs = [Path(folder) / f"comfyui{number or ''}" for number in range(count)]
        prepare_demo(base_dirs[0], options.comfyui)
        prepare_base_dir(base_dirs[0], MEASURING_PACKS)
        for base_dir in base_dirs[1:]:
            shutil.copytree(base_dirs[0], base_dir, symlinks=True)
        arguments = ("--cpu", "--disable-api-nodes")
        yield [
            stack.enter_context(
                ComfyServer(options.comfyui, options.python, each, port=free_port(), extra_args=arguments, env=env)
            )
            for each in base_dirs
        ]


def run_graph(comfyui: ComfyServer, graph: Graph) -> None:
    """Run a graph and wait for its end; raises what the client raises, but for a graph that saves no file."""

    async def go() -> None:
        async with ComfyClient(comfyui.url) as client:
            with contextlib.suppress(NoOutputError):
                await queue_and_wait(client, graph)

    asyncio.run(go())


def add_one_model_twice(comfyui: ComfyServer, graph: Graph) -> None:
    """Make both experts of node 57 one file with two LoRAs, and put a probe on each.

    So the host has to load at every change, as it does on a card that holds one expert only.
    """
    generator = torch.Generator().manual_seed(7)
    halves = {"lora_A": (4, 128), "lora_B": (128, 4)}
    lora = {
        f"diffusion_model.blocks.0.self_attn.q.{half}.weight": torch.randn(shape, generator=generator)
        for half, shape in halves.items()
    }
    folder = comfyui.base_dir / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    save_file(lora, folder / _LORA)
    for expert, strength in (("high", 1.0), ("low", -1.0)):
        source = ["54", 0] if expert == "high" else ["37", 0]
        inputs = {"model": source, "lora_name": _LORA, "strength_model": strength}
        patched = add_node(graph, f"lora_{expert}", "LoraLoaderModelOnly", **inputs)
        probe = add_node(graph, f"probe_{expert}", "WanFLF2VMeasureProbe", model=patched, label=expert)
        graph["57"]["inputs"][f"model_{expert}_noise"] = probe
