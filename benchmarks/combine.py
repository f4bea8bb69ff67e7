"""A latent into an MP4 at 1280x720, 81 frames, same codec settings: core's decode and VideoHelperSuite's method or ours.

VideoHelperSuite's method is written afresh (raw RGB frames through a pipe to ffmpeg, that of the imageio-ffmpeg
package). The decoder is a stand-in that takes next to no time, as on a GPU, where the processor is free. Memory is that
of the process and its children. ``size_ratio_same_psnr`` compares sizes at the PSNR that both reach: the stock file's
size is taken between crf 19 and 18 or 20, where its PSNR would be ours.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

from ._figures import Figure, Figures, Options
from ._in_host import measure, ratio

_ROUNDS = 3
_CRF = 19


def run(options: Options) -> Figures:
    """Run the rounds, 3 pairs for each preset if not said otherwise."""
    rounds = options.rounds or _ROUNDS
    pairs = {preset: [_pair(options, preset) for _ in range(rounds)] for preset in ("veryfast", "medium")}
    peaks = {preset: ratio([(s["peak"], o["peak"]) for s, o in each], 8.0) for preset, each in pairs.items()}
    walls = {preset: [(s["seconds"], o["seconds"]) for s, o in each] for preset, each in pairs.items()}
    stock, ours = (_run(options, node, "medium", _CRF, judge=True) for node in ("stock", "ours"))
    return {
        "rss_ratio": min(peaks.values(), key=lambda figure: figure.value),
        "wall_ratio_veryfast": ratio(walls["veryfast"], 1.5),
        "wall_ratio_medium": ratio(walls["medium"], 1.25),
        "psnr_ours": _once(ours["psnr"], "dB", stock["psnr"]),
        "psnr_vhs": _once(stock["psnr"], "dB"),
        "size_ratio_same_psnr": _once(_stock_size_at(options, ours["psnr"], stock) / ours["bytes"], "x"),
        "peak_mb_ours": _once(statistics.median(o["peak"] for _, o in pairs["medium"]) / 1e6, "MB"),
    }


def _pair(options: Options, preset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return _run(options, "stock", preset, _CRF), _run(options, "ours", preset, _CRF)


def _run(options: Options, node: str, preset: str, crf: int, *, judge: bool = False) -> dict[str, Any]:
    video = {"width": 1280, "height": 720, "frames": 81}
    return measure(options, "combine", node=node, preset=preset, crf=crf, judge=judge, **video)


def _stock_size_at(options: Options, psnr: float, stock: dict[str, Any]) -> float:
    """Return how large the stock file would be at this PSNR, between two crf, on a logarithmic scale."""
    other = _run(options, "stock", "medium", _CRF - 1 if psnr > stock["psnr"] else _CRF + 1, judge=True)
    part = (psnr - stock["psnr"]) / (other["psnr"] - stock["psnr"])
    return math.exp(math.log(stock["bytes"]) + part * math.log(other["bytes"] / stock["bytes"]))


def _once(value: float, unit: str, at_least: float | None = None) -> Figure:
    return Figure(value, unit, 1, value, value, None if at_least is None else (">=", at_least))
