"""What is done to a clip's frames between its decode and its file: which are kept, and how often they are shown."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import torch

# How many frames a call of the interpolation makes at most, about: more would only take memory.
_MADE_AT_ONCE = 16

# Takes an IMAGE of n frames, float [n, height, width, 3], and returns one of (n - 1) * factor + 1.
Interpolate: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Edit:
    """The frames of a file, in the order of what is done.

    Attributes:
        skip_first: frames left out at the start.
        skip_last: frames left out at the end; 1 drops the closing frame of a loop.
        factor: how many frames the interpolation makes of each but the last; 1 is none.
        interpolate: what makes them; None where ``factor`` is 1.
        ping_pong: whether the clip runs back to its start, without showing its ends twice.
        repeats: how often all of this is in the file.
        held: the target frame rate divided by that of the frames, at which they are then shown longer or left out.
    """

    skip_first: int = 0
    skip_last: int = 0
    factor: int = 1
    interpolate: Interpolate | None = None
    ping_pong: bool = False
    repeats: int = 1
    held: Fraction = Fraction(1)

    def kept(self, frames: int) -> int:
        """Return how many of a clip's frames are kept, at least 1.

        Raises:
            ValueError: none would be.
        """
        kept = frames - self.skip_first - self.skip_last
        if kept < 1:
            raise ValueError(
                f"skip_first_frames is {self.skip_first} and skip_last_frames {self.skip_last}, but the video has "
                f"{frames} frame{'s' * (frames != 1)} and must keep one. Skip fewer."
            )
        return kept

    def forward(self, frames: int) -> int:
        """Return how many frames there are before they run back or are repeated."""
        return (self.kept(frames) - 1) * self.factor + 1

    def count(self, frames: int) -> int:
        """Return how many frames the file has."""
        forward = self.forward(frames)
        played = (2 * forward - 2 if self.ping_pong and forward > 1 else forward) * self.repeats
        return max(1, round(played * self.held))

    @property
    def plays_again(self) -> bool:
        """Whether frames are needed again after they were shown."""
        return self.ping_pong or self.repeats > 1

    def again(self, forward: int) -> Iterator[int]:
        """Yield the frames that are shown after the first way through them."""
        back = range(forward - 2, 0, -1) if self.ping_pong else range(0)
        yield from back
        for _ in range(1, self.repeats):
            yield from range(forward)
            yield from back

    def trimmed(self, frames: Iterable[torch.Tensor], count: int) -> Iterator[torch.Tensor]:
        """Yield the frames that are kept of ``count``; the last ones are not even asked for."""
        return itertools.islice(frames, self.skip_first, count - self.skip_last)

    def interpolated(self, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the frames, float [3 or 4, height, width], and those in between; alpha is mixed evenly."""
        if self.interpolate is None:
            yield from frames
            return
        at_once = max(1, _MADE_AT_ONCE // self.factor)
        previous = next(frames)
        yield previous
        while chunk := list(itertools.islice(frames, at_once)):
            source = torch.stack([previous, *chunk])
            made = self.interpolate(source[:, :3].movedim(1, -1).float()).movedim(-1, 1).cpu().float()
            if source.shape[1] > 3:
                steps = [k / self.factor for k in range(self.factor)]
                alpha = [torch.lerp(a, b, k) for a, b in itertools.pairwise(source[:, 3:]) for k in steps]
                made = torch.cat([made, torch.stack([*alpha, source[-1, 3:]])], 1)
            yield from made[1:]
            previous = chunk[-1]

    def timed(self, frames: Iterator[torch.Tensor], frames_count: int) -> Iterator[torch.Tensor]:
        """Yield each frame as often as the target frame rate shows it; ``frames_count`` is that of the whole clip."""
        shown = self.count(frames_count)
        if self.held == 1:
            yield from frames
            return
        done = 0
        for index, frame in enumerate(frames):
            while done < shown and int(done / self.held) == index:
                yield frame
                done += 1
        for _ in range(done, shown):  # rounded up
            yield frame
