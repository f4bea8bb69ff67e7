"""Which device and dtype train fastest here; decided once for each work folder, so that a resumed run stays exact."""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from .trainer import Machine


def choose_machine(file: Path) -> Machine:
    """Return what ``file`` says, or find out and write it there."""
    try:
        chosen = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        # Some processors have instructions for bfloat16 and are twice as fast in it; others are slower.
        half = device == "cuda" or _seconds(torch.bfloat16) < 0.8 * _seconds(torch.float32)
        chosen = {"device": device, "dtype": "bfloat16" if half else "float32"}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(chosen), "utf-8")
    return Machine(chosen["device"], getattr(torch, chosen["dtype"]))


def _seconds(dtype: torch.dtype) -> float:
    """Return the shortest time that a convolution of the VAE's size takes, forwards and backwards."""
    x = torch.randn(8, 16, 64, 64).to(dtype).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(16, 16, 3, 3).to(dtype).requires_grad_()
    times = []
    for _ in range(8):
        began = time.perf_counter()
        F.conv2d(x, weight, padding=1).sum().backward()
        times.append(time.perf_counter() - began)
    return min(times)
