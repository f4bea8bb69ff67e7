"""CPU time and live peak of the first/last-frame encode, the stock node against this pack's, bit-equal.

A Wan VAE of the real width (96) with random weights, one thread, stock and ours in turn in one process: 81 frames at
64², 141 at 48². ``live_peak_ratio_lean`` is ours / stock: bytes of the tensors that live at one time in the VAE, at
most, but for the weights and the pixels; it does not depend on the size. There is one memo, and it is the lean one, so
``cpu_ratio_81_lean`` is ``cpu_ratio_81`` with the limit that belongs to this memory.
"""

from __future__ import annotations

from ._figures import Figure, Figures, Options
from ._in_host import measure, ratio

_ROUNDS = 3


def run(options: Options) -> Figures:
    """Run the rounds, 3 pairs each if not said otherwise."""
    rounds = options.rounds or _ROUNDS
    short = measure(options, "encode", dim=96, side=64, frames=81, rounds=rounds)
    long = measure(options, "encode", dim=96, side=48, frames=141, rounds=rounds)
    stock, ours = measure(options, "live", dim=96, side=32, frames=33)["peaks"]
    return {
        "cpu_ratio_81": ratio(short["pairs"], 2.7),
        "cpu_ratio_81_lean": ratio(short["pairs"], 2.5),
        "cpu_ratio_141": ratio(long["pairs"], 5.0),
        "live_peak_ratio_lean": Figure(ours / stock, "x", 1, ours / stock, ours / stock, ("<=", 1.25)),
    }
