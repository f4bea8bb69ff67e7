"""A ComfyUI without a server: its options, a Wan VAE of any width with random weights, and a watch on memory."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

PARAMETERS: dict[str, Any] = json.loads(sys.argv[1])
# PyTorch's attention, as on a GPU; the one that ComfyUI takes on a CPU would hold all pairs of pixels at once.
sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]

import comfy.options  # noqa: E402 -- after the arguments that it is to see

comfy.options.enable_args_parsing()

import comfy.ldm.wan.vae  # noqa: E402
import comfy.sd  # noqa: E402
import psutil  # noqa: E402
import torch  # noqa: E402

from ...demo.make_models import TINY_VAE, random_weights  # noqa: E402

_SAMPLE_S = 0.002

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def new_vae(dim: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> comfy.sd.VAE:
    """Return a Wan VAE of the host's architecture, ``dim`` 96 in the real one, with random weights and biases."""
    weights = random_weights(comfy.ldm.wan.vae.WanVAE(**{**TINY_VAE, "dim": dim}).state_dict(), seed)
    generator = torch.Generator().manual_seed(seed)
    for key, weight in weights.items():
        if key.endswith("bias"):  # without biases grey would stay exactly zero in every layer
            weight.copy_(torch.rand(weight.shape, generator=generator) * 0.2)
    return comfy.sd.VAE(sd=weights, dtype=dtype)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return seeded values in 0...1."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def report(result: dict[str, Any]) -> None:
    """Print the result as the bench expects it."""
    print(json.dumps(result), flush=True)


class PeakMemory:
    """By how many bytes the resident memory of this process rose at most."""

    def __init__(self) -> None:
        self.bytes = 0


@contextlib.contextmanager
def peak_memory() -> Iterator[PeakMemory]:
    """Watch the memory while the block runs, every 2 ms, from where it stands now."""
    gc.collect()
    peak, process, done = PeakMemory(), psutil.Process(), threading.Event()

    baseline = process.memory_info().rss

    def watch() -> None:
        while not done.is_set():
            peak.bytes = max(peak.bytes, process.memory_info().rss - baseline)
            time.sleep(_SAMPLE_S)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
