"""CPU time of the first/last-frame encode, the stock node against this pack's, bit-equal: 81 frames at 64², 141 at 48².

A Wan VAE of the real width (96) with random weights, one thread, stock and ours in turn in one process.
"""

from __future__ import annotations

from ._figures import Figures, Options
from ._in_host import measure, ratio

_ROUNDS = 3


def run(options: Options) -> Figures:
    """Run the rounds, 3 pairs each if not said otherwise."""
    rounds = options.rounds or _ROUNDS
    short = measure(options, "encode", dim=96, side=64, frames=81, rounds=rounds)
    long = measure(options, "encode", dim=96, side=48, frames=141, rounds=rounds)
    return {"cpu_ratio_81": ratio(short["pairs"], 2.7), "cpu_ratio_141": ratio(long["pairs"], 5.0)}
