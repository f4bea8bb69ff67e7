"""How much of a decode is hidden behind the encode of a 1280x720 video when both take as long: 2 would be all of it.

x264 begins a frame only when it has seen those after it (rc-lookahead), and what it still holds at the end nothing can
hide: 10 frames with preset veryfast, and with medium, node 73's default, what ``formats`` says instead of x264's 40.
The decode is a stand-in that waits without using the processor, as for a GPU, for as long as the encode alone took.
"""

from __future__ import annotations

from ..video.settings import DEFAULT_PRESET
from ._figures import Figures, Options
from ._in_host import ALL_THREADS, measure, ratio

_ROUNDS = 5


def run(options: Options) -> Figures:
    """Run the rounds, 5 pairs for each preset if not said otherwise."""
    rounds = options.rounds or _ROUNDS
    pairs = {
        preset: measure(
            options, "overlap", ALL_THREADS, width=1280, height=720, frames=81, preset=preset, rounds=rounds
        )["pairs"]
        for preset in ("veryfast", DEFAULT_PRESET)
    }
    return {"ratio": ratio(pairs["veryfast"], 1.5), "ratio_default": ratio(pairs[DEFAULT_PRESET], 1.65)}
