"""Where segments meet, and where a loop begins again: how far the picture jumps there, beside its usual steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .curves import Curves

_USUAL = 95  # percent of a video's own steps
_LEAST = 0.05 / 255  # below it nothing moves


@dataclass(frozen=True)
class Seam:
    """A frame that two segments share; 0 is where a loop begins again.

    ``brightness`` and ``motion`` are the greater step to and from it, divided by what 95 % of the video's other steps
    stay below: 1 is no jump. They are the change of the mean luma, and the mean change of luma.
    """

    frame: int
    brightness: float
    motion: float

    @property
    def jump(self) -> float:
        """The greater of the two."""
        return max(self.brightness, self.motion)


def find_seams(curves: Curves, segments: int, back: tuple[float, float] | None) -> tuple[Seam, ...]:
    """Return the seams between ``segments`` of one length, and that of a loop.

    Args:
        curves: the whole video's.
        segments: how many there are, at least 1.
        back: the change of the mean luma and the motion from the last frame to the first; None if it is no loop.

    Raises:
        ValueError: so many segments of one length cannot make this video.
    """
    frames = len(curves.luma)
    steps = frames - (back is None)  # a loop has one from its last frame to its first
    if not 1 <= segments <= max(1, steps // 2) or steps % segments:
        raise ValueError(
            f"segments is {segments}, but {frames} frames have {steps} steps, which are not that many equal parts of 2 "
            "or more. Give the number of segments that the video was joined from, or 1."
        )
    brightness, motion = np.abs(np.diff(curves.luma)), np.array(curves.motion[1:])
    shared = [steps // segments * number for number in range(1, segments)]
    beside = {frame: [frame - 1, frame] for frame in shared}  # the steps to the frame and from it
    own = np.ones(len(motion), bool)
    own[[step for of_one in beside.values() for step in of_one]] = False
    usual = [
        max(_LEAST, float(np.percentile(path[own], _USUAL))) if own.any() else _LEAST for path in (brightness, motion)
    ]

    def seam(frame: int, brighter: float, moves: float) -> Seam:
        return Seam(frame, brighter / usual[0], moves / usual[1])

    found = [seam(frame, float(brightness[at].max()), float(motion[at].max())) for frame, at in beside.items()]
    return (*found, *([] if back is None else [seam(0, *back)]))
