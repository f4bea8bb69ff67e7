"""Peak memory of the first/last-frame conditioning at 1280x720, 81 frames: the stock node against this pack's.

A Wan VAE of width 1, so that what is measured is the video that is built and not the encoder's own work, which is on
the GPU where there is one. Each run has its own process.
"""

from __future__ import annotations

from ._figures import Figures, Options
from ._in_host import EXACT_MEMORY, pairs, ratio

_ROUNDS = 3
_VIDEO = {"dim": 1, "width": 1280, "height": 720, "frames": 81}


def run(options: Options) -> Figures:
    """Run the rounds, 3 pairs if not said otherwise."""
    peaks = pairs(options, "conditioning", "peak", options.rounds or _ROUNDS, EXACT_MEMORY, **_VIDEO)
    return {"peak_ratio": ratio(peaks, 10.0)}
