"""A latent into an MP4, same codec settings: core's decode and VideoHelperSuite's method, or this pack's. 1280x720x81.

VideoHelperSuite's method is written afresh (raw RGB frames through a pipe to ffmpeg, that of the imageio-ffmpeg
package). The decoder is a stand-in that takes next to no time, as on a GPU, where the processor is free. Memory is that
of ComfyUI's process, in which this pack has its encoder too; the other's peak has passed when its ffmpeg starts.
``size_ratio_same_psnr`` compares sizes at the PSNR that both reach: the stock file's size is taken between crf 19 and
18 or 20, where its PSNR would be ours.
"""

from __future__ import annotations

import math
from typing import Any

from ..video.settings import DEFAULT_PRESET
from ._figures import Figure, Figures, Options
from ._in_host import ALL_THREADS, EXACT_MEMORY, measure, pairs, ratio

_ROUNDS = 3
_CRF = 19
_VIDEO = {"width": 1280, "height": 720, "frames": 81}


def run(options: Options) -> Figures:
    """Run the rounds, 3 pairs for each preset if not said otherwise."""
    rounds = options.rounds or _ROUNDS
    walls, peaks = (
        {
            preset: pairs(options, "combine", key, rounds, env, preset=preset, crf=_CRF, judge=False, **_VIDEO)
            for preset in ("veryfast", DEFAULT_PRESET)
        }
        for key, env in (("seconds", ALL_THREADS), ("peak", EXACT_MEMORY))
    )
    stock, ours = (_judged(options, node, _CRF) for node in ("stock", "ours"))
    return {
        "rss_ratio": ratio(peaks["veryfast"], 8.0),
        "rss_ratio_default": ratio(peaks[DEFAULT_PRESET], 7.0),
        "wall_ratio_veryfast": ratio(walls["veryfast"], 1.5),
        "wall_ratio_default": ratio(walls[DEFAULT_PRESET], 1.25),
        "psnr_ours": _once(ours["psnr"], "dB", stock["psnr"]),
        "psnr_vhs": _once(stock["psnr"], "dB"),
        "size_ratio_same_psnr": _once(_stock_size_at(options, ours["psnr"], stock) / ours["bytes"], "x"),
    }


def _judged(options: Options, node: str, crf: int) -> dict[str, Any]:
    """Return the size and the PSNR of the file that a node writes."""
    return measure(options, "combine", node=node, preset=DEFAULT_PRESET, crf=crf, judge=True, **_VIDEO)


def _stock_size_at(options: Options, psnr: float, stock: dict[str, Any]) -> float:
    """Return how large the stock file would be at this PSNR, between two crf, on a logarithmic scale."""
    other = _judged(options, "stock", _CRF - 1 if psnr > stock["psnr"] else _CRF + 1)
    part = (psnr - stock["psnr"]) / (other["psnr"] - stock["psnr"])
    return math.exp(math.log(stock["bytes"]) + part * math.log(other["bytes"] / stock["bytes"]))


def _once(value: float, unit: str, at_least: float | None = None) -> Figure:
    return Figure(value, unit, 1, value, value, None if at_least is None else (">=", at_least))
