"""Each format that this machine writes, from a latent: seconds, likeness, size beside VideoHelperSuite's, and memory.

The method is that of ``combine``: the same encoder with the same settings, by VideoHelperSuite's method in the ffmpeg
of the imageio-ffmpeg package. Of what browsers do not play, this pack's side writes the preview too, which
VideoHelperSuite does not make. ``NAME_size_ratio`` is ours to theirs. Memory is how much more a clip takes that is five
times, and ten times, as long: nothing but what the encoder keeps may grow; it is asked of the videos alone. What is
measured so far is written after each format.
"""

from __future__ import annotations

import re
from typing import Any

from ..video import formats
from ..video.settings import DEFAULT_PRESET
from ._figures import Figure, Figures, Options, add_row
from ._in_host import ALL_THREADS, EXACT_MEMORY, measure, pairs, ratio

_ROUNDS = 3
_CRF, _PRESET = 19, DEFAULT_PRESET
_SIZE = {"width": 1280, "height": 720}
_LENGTHS = 81, 405, 810
_LIMIT, _LIMIT_AV1 = 1.1, 1.3  # AV1 has its own look-ahead


def run(options: Options) -> Figures:
    """Run the rounds, 3 pairs for each format if not said otherwise."""
    figures: Figures = {}
    names, rows = formats.listed(), list(TABLE_HEAD)
    for name in names:
        made = _of(options, formats.BY_NAME[name])
        add_row(options, rows, table_line(name, made))
        key = re.sub(r"\W+", "_", name).lower()
        figures |= {f"{key}_{end}": figure for end, figure in made.items()}
    figures["formats"] = _once(len(names), "")
    return figures


TABLE_HEAD = (
    "| format | wall, stock : ours | PSNR, dB | stock's, dB | size, ours : stock | memory, 405 : 81 | 810 : 405 |",
    "|---|---|---|---|---|---|---|",
)


def table_line(name: str, made: Figures) -> str:
    """Return one row of the table in Markdown; a figure that misses its limit is marked so."""
    cells = [f"{figure.value:.2f}{'' if figure.holds() else ': missed'}" for figure in made.values()]
    cells += ["not asked"] * (TABLE_HEAD[0].count("|") - 2 - len(cells))
    return f"| {name} | {' | '.join(cells)} |"


def _of(options: Options, chosen: formats.Format) -> Figures:
    common: dict[str, Any] = {"format": chosen.name, "preset": _PRESET, "crf": _CRF, **_SIZE}
    rounds = options.rounds or _ROUNDS
    walls = pairs(options, "combine", "seconds", rounds, ALL_THREADS, frames=_LENGTHS[0], judge=False, **common)
    stock, ours = (
        measure(options, "combine", node=node, frames=_LENGTHS[0], judge=True, **common) for node in ("stock", "ours")
    )
    figures = {
        "wall_ratio": ratio(walls, 1.25 if chosen is formats.DEFAULT else 0.97),
        "psnr_ours": _once(ours["psnr"], "dB", (">=", stock["psnr"] - 0.005)),
        "psnr_vhs": _once(stock["psnr"], "dB"),
        "size_ratio": _once(ours["bytes"] / stock["bytes"], "x", ("<=", 1.01)),
    }
    if not chosen.is_picture:
        short, middle, long = (
            measure(options, "combine", EXACT_MEMORY, node="ours", frames=frames, judge=False, **common)["peak"]
            for frames in _LENGTHS
        )
        limit = ("<=", _LIMIT_AV1 if "av1" in chosen.encoder else _LIMIT)
        figures["rss_405_over_81"] = _once(middle / short, "x", limit)
        figures["rss_810_over_405"] = _once(long / middle, "x", limit)
    return figures


def _once(value: float, unit: str, limit: tuple[str, float] | None = None) -> Figure:
    return Figure(value, unit, 1, value, value, limit)
