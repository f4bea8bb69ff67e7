"""Each format that this machine writes, from a latent: seconds, likeness, size beside VideoHelperSuite's, and memory.

The method is that of ``combine``: the same encoder with the same settings, by VideoHelperSuite's method in the ffmpeg
of the imageio-ffmpeg package. ``NAME_size_ratio`` is ours to theirs. Memory is how much more a clip takes that is five
times, and ten times, as long: nothing but what the encoder keeps may grow.
"""

from __future__ import annotations

import re
from typing import Any

from ..video import formats
from ..video.settings import DEFAULT_PRESET
from ._figures import Figure, Figures, Options
from ._in_host import ALL_THREADS, EXACT_MEMORY, measure, pairs, ratio

_ROUNDS = 3
_CRF, _PRESET = 19, DEFAULT_PRESET
_SIZE = {"width": 1280, "height": 720}
_LENGTHS = 81, 405, 810
_LIMIT, _LIMIT_AV1 = 1.1, 1.3  # AV1 has its own look-ahead


def run(options: Options) -> Figures:
    """Run the rounds, 3 pairs for each format if not said otherwise."""
    figures: Figures = {}
    names = formats.listed()
    for name in names:
        key = re.sub(r"\W+", "_", name).lower()
        figures |= {f"{key}_{end}": figure for end, figure in _of(options, name).items()}
    figures["formats"] = _once(len(names), "")
    return figures


def _of(options: Options, name: str) -> Figures:
    common: dict[str, Any] = {"format": name, "preset": _PRESET, "crf": _CRF, **_SIZE}
    rounds = options.rounds or _ROUNDS
    walls = pairs(options, "combine", "seconds", rounds, ALL_THREADS, frames=_LENGTHS[0], judge=False, **common)
    stock, ours = (
        measure(options, "combine", node=node, frames=_LENGTHS[0], judge=True, **common) for node in ("stock", "ours")
    )
    short, middle, long = (
        measure(options, "combine", EXACT_MEMORY, node="ours", frames=frames, judge=False, **common)["peak"]
        for frames in _LENGTHS
    )
    limit = ("<=", _LIMIT_AV1 if "av1" in formats.BY_NAME[name].encoder else _LIMIT)
    is_video = formats.BY_NAME[name].audio != ""
    return {
        "wall_ratio": ratio(walls, 1.25 if name == formats.DEFAULT.name else 0.97),
        "psnr_ours": _once(ours["psnr"], "dB", (">=", stock["psnr"] - 0.005)),
        "psnr_vhs": _once(stock["psnr"], "dB"),
        "size_ratio": _once(ours["bytes"] / stock["bytes"], "x", ("<=", 1.01)),
        "rss_405_over_81": _once(middle / short, "x", limit if is_video else None),
        "rss_810_over_405": _once(long / middle, "x", limit if is_video else None),
    }


def _once(value: float, unit: str, limit: tuple[str, float] | None = None) -> Figure:
    return Figure(value, unit, 1, value, value, limit)
