"""A photograph on the way: how near a video comes to it, and what becomes of the ends; each beside one without it."""

from __future__ import annotations

from ..training.transitions import TRANSITIONS
from ._cases import Case, held_out_photographs, triples_of
from ._figures import Figures, Options, median
from ._metrics import psnr
from ._stage import MANY_FRAMES, comfyui_alone
from ._videos import KEY_FRAME, Videos

_TRIPLES = 20


def run(options: Options) -> Figures:
    """Make videos of 20 triples of photographs if not said otherwise, each with and without the one on the way."""
    photographs, words = held_out_photographs(), list(TRANSITIONS)
    at_key, gains, changes = [], [], []
    with comfyui_alone(options, MANY_FRAMES) as server:
        videos = Videos(server, photographs)
        fitted = {name: picture for name, (picture, _) in videos.through_vae().items()}
        for number, (start, end, key) in enumerate(triples_of(list(photographs), options.rounds or _TRIPLES)):
            case = Case(start, end, words[number % len(words)], number, key)
            (with_key, without), _ = videos.make([case, case._replace(key=None)])
            near, far = (psnr(clip[:, [KEY_FRAME]], fitted[key]) for clip in (with_key, without))
            ends = [
                psnr(with_key[:, [frame]], fitted[name]) - psnr(without[:, [frame]], fitted[name])
                for frame, name in ((0, start), (-1, end))
            ]
            print(
                f"longer_keyframes: {start} to {end} by {key}, {case.word}: {near:.1f} dB, {far:.1f} without it; "
                f"ends {ends[0]:+.2f} and {ends[1]:+.2f} dB",
                flush=True,
            )
            at_key.append(near)
            gains.append(near - far)
            changes += [abs(change) for change in ends]
    return {
        "key_psnr": median(at_key, "dB", (">=", 24.0)),
        "key_gain": median(gains, "dB", (">=", 8.0)),
        "key_ends_change": median(changes, "dB", ("<=", 0.5)),
    }
