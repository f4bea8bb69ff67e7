"""Runs a module of ``in_host`` with ComfyUI's own modules around it, and makes figures of pairs."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from typing import Any

from ..bootstrap.server import comfy_env
from ._figures import Figure, Options

_ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # for PyTorch; seconds of the processor are compared
ALL_THREADS = {"OMP_NUM_THREADS": str(os.cpu_count())}
# glibc: memory is given back as soon as it is free, so that a peak is of what is in use. Costs time.
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "1048576"}


def measure(options: Options, module: str, env: dict[str, str] | None = None, **parameters: Any) -> dict[str, Any]:
    """Run ``in_host.module`` in its own process and return the last thing it reported.

    Raises:
        RuntimeError: it failed; the message has the end of what it printed.
    """
    command = [str(options.python), "-m", f"wan_flf2v.benchmarks.in_host.{module}", json.dumps(parameters)]
    # The working directory comes first on sys.path, so comfy is found there.
    done = subprocess.run(  # noqa: S603
        command,
        cwd=options.comfyui,
        env=comfy_env({**_ONE_THREAD, **(env or {})}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{module} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{module} {parameters}: {result}", flush=True)
    return result


def pairs(
    options: Options, module: str, key: str, rounds: int, env: dict[str, str] | None = None, **parameters: Any
) -> list[tuple[float, float]]:
    """Measure ``key`` of the stock node and of ours in turn, ``rounds`` times, each in its own process."""
    both = ("stock", "ours")
    measured = [[measure(options, module, env, node=node, **parameters)[key] for node in both] for _ in range(rounds)]
    return [(stock, ours) for stock, ours in measured]


def ratio(measured: list[tuple[float, float]], limit: float | None) -> Figure:
    """Return the median of first/second over the pairs, which must be at least ``limit``."""
    values = [first / second for first, second in measured]
    bar = None if limit is None else (">=", limit)
    return Figure(statistics.median(values), "x", len(values), min(values), max(values), bar)
