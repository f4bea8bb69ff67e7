"""Where segments meet, and where a loop begins again: how far the picture jumps there, beside its usual steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .curves import Curves

_USUAL = 95  # percent of the steps of the segments that meet
_LEAST = 0.05 / 255  # below it nothing moves


class Joined(NamedTuple):
    """What a video was joined from: segments of one length, each but the first without its first ``shared_frames``.

    Those are the last ones of the segment before. A ``loop`` begins again after its last frame.
    """

    segments: int = 1
    loop: bool = False
    shared_frames: int = 1


ALONE = Joined()


@dataclass(frozen=True)
class Seam:
    """The last frame that two segments share; 0 is where a loop begins again.

    ``brightness`` and ``motion`` are the greater step to and from it, divided by what 95 % of the other steps of these
    two segments stay below: 1 is no jump. They are the change of the mean luma, and the mean change of luma.
    """

    frame: int
    brightness: float
    motion: float

    @property
    def jump(self) -> float:
        """The greater of the two."""
        return max(self.brightness, self.motion)


def find_seams(curves: Curves, joined: Joined, back: tuple[float, float]) -> tuple[Seam, ...]:
    """Return the seams between segments, and that of a loop.

    Args:
        curves: the whole video's.
        joined: what it was joined from.
        back: the change of the mean luma and the motion from the last frame to the first.

    Raises:
        ValueError: so many segments of one length cannot make this video.
    """
    segments, loop, shared_frames = joined
    frames = len(curves.luma)
    own, rest = divmod(frames + loop - shared_frames, max(1, segments))  # a loop ends before its first frame
    if segments < 1 or (segments > 1 and (shared_frames < 1 or own < 2 or rest)):
        raise ValueError(
            f"segments is {segments} and shared_frames is {shared_frames}, but {frames} frames are not that many "
            "segments of one length with 2 or more frames that no other has. Give what the video was joined from, or "
            "segments 1."
        )
    brightness, motion = np.abs(np.diff(curves.luma)), np.array(curves.motion[1:])
    meet = [own * number + shared_frames - 1 for number in range(1, segments)]
    beside = {frame: [frame - 1, frame] for frame in meet}  # the steps to the frame and from it
    inside = np.ones(len(motion), bool)
    inside[[step for of_one in beside.values() for step in of_one]] = False
    numbers = np.arange(len(motion))

    def seam(frame: int, distance: np.ndarray, brighter: float, moves: float) -> Seam:
        others = inside & (distance < own)  # of the two segments that meet here
        usual = [
            max(_LEAST, float(np.percentile(path[others], _USUAL))) if others.any() else _LEAST
            for path in (brightness, motion)
        ]
        return Seam(frame, brighter / usual[0], moves / usual[1])

    found = [
        seam(frame, np.abs(numbers - (frame - 0.5)), float(brightness[at].max()), float(motion[at].max()))
        for frame, at in beside.items()
    ]
    if loop:
        found.append(seam(0, np.minimum(numbers, len(motion) - 1 - numbers), *back))
    return tuple(found)
