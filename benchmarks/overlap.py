"""How much of a decode is hidden behind the encode of a 1280x720 video when both take as long: 2 would be all of it.

The decode is a stand-in that waits without using the processor, as for a GPU, for as long as the encode alone took.
"""

from __future__ import annotations

from ._figures import Figures, Options
from ._in_host import measure, ratio

_ROUNDS = 5


def run(options: Options) -> Figures:
    """Run the rounds, 5 pairs if not said otherwise."""
    rounds = options.rounds or _ROUNDS
    result = measure(options, "overlap", width=1280, height=720, frames=81, preset="medium", rounds=rounds)
    return {"ratio": ratio(result["pairs"], 1.5)}
