"""Colours planted to drift, corrected at both ends; clean clips, which must stay; the time of one frame.

The clips dissolve from one photograph to another, 5 frames of 128x128. Each end has its own drift, of ΔE2000 3, 6 or
10. The clean ones are only a little soft and noisy, as a decoder makes them. Needs no ComfyUI.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..video.color_match import ColorMatch, corrected, end_map
from ._drifts import DRIFTS, delta_e, eight_bits, lossy, photographs, planted
from ._figures import Figure, Figures, Options

_FRAMES, _SIDE = 5, 128
_SIZES = (3.0, 6.0, 10.0)
_ROUNDS = 5


def run(options: Options) -> Figures:
    """Correct every drift at every size, at one end each; the pictures take turns."""
    pictures = list(photographs(_SIDE).values())
    gains = []
    for i, (name, size) in enumerate(itertools.product(DRIFTS, _SIZES)):
        start, end = pictures[i % len(pictures)], pictures[(i + 1) % len(pictures)]
        other = list(DRIFTS)[(i + 2) % len(DRIFTS)]
        drifted = [planted(start, name, size)[0], planted(end, other, size)[0]]
        shown = _clip(start, end, drifted)
        for before, after, image in ((drifted[0], shown[0], start), (drifted[1], shown[-1], end)):
            gains.append(delta_e(before, image) / max(delta_e(after, image), 0.01))
        print(f"{name} and {other}, ΔE2000 {size:g}: {gains[-2]:.1f} and {gains[-1]:.1f} times less", flush=True)
    changes = []
    for i, (start, end) in enumerate(itertools.permutations(pictures, 2)):
        decoded = [lossy(start, i), lossy(end, i + 100)]
        clip, shown = _dissolve(*decoded), _clip(start, end, decoded)
        changes.append(statistics.mean(map(delta_e, clip, shown)))
    milliseconds = [1000 * seconds for seconds in _seconds(options.rounds or _ROUNDS)]
    return {
        "color_match_gain": _figure(gains, "x", (">=", 5.0)),
        "clean_change": _figure(changes, "ΔE2000", ("<", 0.3), statistics.mean),
        "frame_ms": _figure(milliseconds, "ms"),
    }


def _dissolve(start: torch.Tensor, end: torch.Tensor) -> list[torch.Tensor]:
    return [eight_bits(torch.lerp(start, end, i / (_FRAMES - 1))) for i in range(_FRAMES)]


def _clip(start: torch.Tensor, end: torch.Tensor, decoded: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the corrected dissolve between the decoded ends, whose images are ``start`` and ``end``."""
    frames = [(frame * 255).round().to(torch.uint8) for frame in _dissolve(*decoded)]
    with tempfile.TemporaryDirectory() as folder:
        match = ColorMatch(start, end, 1.0, Path(folder))
        return [frame / 255 for frame in match.clip(frames, _FRAMES, None, lambda: None)]


def _seconds(rounds: int) -> list[float]:
    """Return the processor's time for one 1280x720 frame, with one thread of PyTorch."""
    torch.set_num_threads(1)
    picture = next(iter(photographs(720).values()))
    frame = (torch.nn.functional.pad(picture, (280, 280, 0, 0), mode="reflect") * 255).to(torch.uint8)
    change = end_map(picture * 0.8, picture).change
    times = []
    for _ in range(rounds + 1):
        began = time.process_time()
        corrected(frame, change)
        times.append(time.process_time() - began)
    return times[1:]


def _figure(
    values: list[float],
    unit: str,
    limit: tuple[str, float] | None = None,
    middle: Callable[[list[float]], float] = statistics.median,
) -> Figure:
    return Figure(middle(values), unit, len(values), min(values), max(values), limit)
