"""How long ``run.py demo`` takes once everything is set up: the whole command, and its run on a ready ComfyUI."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time

from ..bootstrap.paths import REPO
from ._figures import Figures, Options, median

_ROUNDS = 3
_MADE = re.compile(r"made in (\d+\.\d) s")


def run(options: Options) -> Figures:
    """Make the demo's video in each round, as a user does."""
    whole, ready = zip(*(_make_video() for _ in range(options.rounds or _ROUNDS)), strict=True)
    return {
        "demo_s": median(list(whole), "s", ("<=", 90.0)),
        "demo_from_ready_s": median(list(ready), "s", ("<=", 25.0)),
    }


def _make_video() -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        command = [sys.executable, str(REPO / "run.py"), "demo", "--out", folder]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603
        seconds = time.perf_counter() - began
    return seconds, float(_MADE.findall(printed)[-1])
