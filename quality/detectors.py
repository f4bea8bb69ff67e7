"""What is wrong between a video's ends, told from its curves: flashes, repeated frames, colour drift.

Frames are counted from 0, ranges are half-open. What each detector means by its word:

A **cut** is where the picture changes at once and stays changed. It is no fault; it divides the clip into scenes.

A **flash** is one to ``flash_frames`` frames whose mean luma leaves the line between the frames around them by
``flash`` or more, up or down, and comes back. A cut does not come back, a fade does not jump, and a light that pulses
smoothly goes on falling beyond the frames around its peak.

A **repeated frame** shows the picture of the frame before it again: nothing changes beyond what an encoder changes,
neither on the whole nor in the blocks that change most, while the picture moves several times as much just before and
just after. ``freeze_frames`` or more repeated frames in a row are a **freeze**, fewer are **duplicates**. A picture
that stands perfectly still for that long is a freeze too, even if it slowed down first. Grain keeps a still scene from
being one, as long as the encoder left the grain in.

A **drift** at an end is decidable: the frame and its image show the same, so each channel can be compared in linear
RGB. Light that goes with lost detail is none: the channel's mean in sRGB must have changed too. In between, content and
light may change as they like, so only the balance of the colours is judged: red against green and blue against green,
of the same things from frame to frame. It drifts where it leaves the span between its values at the two ends. A fade or
a lamp that is turned down changes all channels alike, a dissolve stays inside the span. A clip with two cuts or more,
or with one image, has no such span: only its ends are judged.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .curves import LAGS, Curves, block_means, sampled
from .metrics import Array, as_unit, to_linear

Range = tuple[int, int]  # first, end

_CUT_LIKENESS, _CUT_MOTION = 0.5, 0.02
# Of the change just before and after: what a repeated frame changes at most. x264 at crf 23 leaves up to 0.3.
_REPEAT_MOTION, _REPEAT_MOVED = 0.3, 0.6
# In codes of 255: above these something moves, whatever is around.
_MOST_MOTION, _MOST_MOVED = 0.4 / 255, 3.0 / 255
# What is around moves by more than one of these, or nothing can be told from it.
_LEAST_MOTION, _LEAST_MOVED = 0.25 / 255, 1.5 / 255
# Below these nothing moves, whatever is around.
_STILL_MOTION, _STILL_MOVED = 0.05 / 255, 0.3 / 255
# Parts of a flash's height.
_FLASH_LEAST, _FLASH_BESIDE, _FLASH_SLOPE = 0.25, 0.5, 0.35
_DRIFT_FRAMES = 5  # a colour that is off for fewer frames belongs to a flash
_MATCH = 0.8  # correlation of a frame and an image that show the same
_DARK_LIGHT = 0.02  # of linear light: a channel below it is too dark to have a relative error


@dataclass(frozen=True)
class ColourShift:
    """How a frame's colours differ from an image that shows the same: red, green, blue in linear RGB.

    frame = gain x image + offset; ``change`` is by how much the channel's mean is off, 0.1 for 10 % more light;
    0 for light that was lost with detail (``colour_shift``).
    """

    gain: tuple[float, float, float]
    offset: tuple[float, float, float]
    change: tuple[float, float, float]


@dataclass(frozen=True)
class BalanceDrift:
    """Where the colour balance leaves the span of its ends: the frames, and by how much there (0.1 is 10 %).

    ``red`` and ``blue`` are against green, at their greatest, by the smaller of the two readings.
    """

    first: int
    end: int
    red: float
    blue: float


def find_cuts(curves: Curves, flash_frames: int) -> list[int]:
    """Return the first frames of new scenes; what comes back within ``flash_frames`` frames is no scene."""
    cuts: list[int] = []
    for i in range(1, len(curves.times)):
        around = [curves.motion[j] for j in (i - 2, i - 1, i + 1, i + 2) if 1 <= j < len(curves.times)]
        jumps = curves.motion[i] > max(_CUT_MOTION, 2 * float(np.median(around)) if around else 0.0)
        # The next frames, each against the last one of the scene before: a flash comes back, however white it was.
        after = [later[lag] for lag, later in enumerate(curves.likeness[i : i + LAGS])]
        if jumps and max(after) < _CUT_LIKENESS:
            if cuts and i - cuts[-1] <= flash_frames and _comes_back(curves.luma, cuts[-1], i):
                cuts.pop()
            else:
                cuts.append(i)
    return cuts


def _comes_back(luma: Sequence[float], first: int, end: int) -> bool:
    """Return whether the brightness is that of before again: fast motion lets no later frame look like one before."""
    before = luma[first - 1]
    return abs(luma[end] - before) <= _FLASH_BESIDE * abs(float(np.mean(luma[first:end])) - before)


def scenes(curves: Curves, cuts: list[int]) -> list[Range]:
    """Return the ranges of frames between the cuts."""
    bounds = [0, *cuts, len(curves.times)]
    return list(itertools.pairwise(bounds))


def find_flashes(curves: Curves, cuts: list[int], size: float, most_frames: int) -> list[Range]:
    """Return the flashes of ``size`` or more that last at most ``most_frames`` frames."""
    found: list[tuple[float, Range]] = []
    for begin, end in scenes(curves, cuts):
        luma = np.array(curves.luma[begin:end])
        for length in range(1, most_frames + 1):
            for first in range(1, len(luma) - length):
                height = _flash_height(luma, first, first + length)
                if height >= size:
                    # Between two flashes up lies what looks like one down: the reading that comes back best is right.
                    rank = height - abs(luma[first - 1] - luma[first + length])
                    found.append((rank, (begin + first, begin + first + length)))
    chosen: list[Range] = []
    for _, (first, end) in sorted(found, reverse=True):
        if all(end < other_first or other_end < first for other_first, other_end in chosen):
            chosen.append((first, end))
    return sorted(chosen)


def _flash_height(luma: Array, first: int, end: int) -> float:
    """Return how far these frames stand out from those beside them; 0 if they are no flash."""
    left, right = luma[first - 1], luma[end]
    slope = (right - left) / (end - first + 1)
    off = luma[first:end] - (left + slope * np.arange(1, end - first + 1))
    sign = np.sign(off.sum())
    height = float(np.max(sign * off))
    over = np.max(sign * luma[first:end]) - max(sign * left, sign * right)  # than the side that is nearer
    if height <= 0 or np.min(sign * off) < _FLASH_LEAST * height or over < _FLASH_BESIDE * height:
        return 0.0
    # A light that pulses smoothly goes on falling at both sides; so does a pan over something bright.
    outside = []
    if first >= 2:
        outside.append(sign * (left - luma[first - 2] - slope))
    if end + 1 < len(luma):
        outside.append(sign * (right - luma[end + 1] + slope))
    return 0.0 if outside and max(outside) > _FLASH_SLOPE * height else height


def find_repeats(curves: Curves, cuts: list[int], flashes: list[Range], still_frames: int) -> list[Range]:
    """Return the runs of frames that show the picture before them again.

    ``still_frames`` is from how many frames on a picture that stands still counts whatever is around it.
    """
    hidden = {i for first, end in flashes for i in (*range(first, end), end)}
    runs: list[Range] = []
    for begin, end in scenes(curves, cuts):
        # A scene's first frame is no change to judge: it changed all of the picture.
        changes = [i for i in range(begin + 1, end) if i not in hidden]
        runs += _runs_of_scene(curves, changes, still_frames)
    return runs


def _runs_of_scene(curves: Curves, changes: list[int], still_frames: int) -> list[Range]:
    """Return the runs among these frames; between two of them a flash may be left out."""
    values = np.array([(curves.motion[i], curves.moved[i]) for i in changes]).reshape(-1, 2)
    low: Array = np.asarray((values <= (_MOST_MOTION, _MOST_MOVED)).all(axis=1))
    still: Array = np.asarray((values <= (_STILL_MOTION, _STILL_MOVED)).all(axis=1))
    runs: list[Range] = []
    place = 0
    while place < len(changes):
        end = place
        if low[place]:
            end = _run_end(values, low, place)
        if end == place and still[place]:
            end = place + 1
            while end < len(changes) and still[end]:
                end += 1
            end = end if end - place >= still_frames else place
        if end > place:
            runs += _joined(changes[place:end])
        place = max(end, place + 1)
    return runs


def _run_end(values: Array, low: Array, place: int) -> int:
    """Return the end of the run that begins at ``place``; ``place`` if there is none."""
    ratio = np.array((_REPEAT_MOTION, _REPEAT_MOVED))

    def moves(edge: Array) -> bool:
        return bool((edge > (_LEAST_MOTION, _LEAST_MOVED)).any())

    end = place
    if place == 0:  # a scene that begins with a freeze has only what follows to be compared with
        while end < len(values) and low[end]:
            end += 1
        if end == len(values):
            return place
    else:
        if not moves(values[place - 1]):
            return place
        while end < len(values) and low[end] and (values[end] <= ratio * values[place - 1]).all():
            end += 1
    if end == place or end == len(values):
        return end
    after = values[end]
    return end if moves(after) and (values[place:end].max(axis=0) <= ratio * after).all() else place


def _joined(frames: list[int]) -> list[Range]:
    """Return the ranges of a rising list of frames."""
    ranges: list[Range] = []
    for frame in frames:
        if ranges and ranges[-1][1] == frame:
            ranges[-1] = (ranges[-1][0], frame + 1)
        else:
            ranges.append((frame, frame + 1))
    return ranges


def colour_shift(frame: Array, image: Array) -> ColourShift | None:
    """Compare a frame's colours with the fitted image's; None if they do not show the same.

    ``change`` is what two readings agree on. A frame that lost detail has lost light with it, but not the blocks' mean
    of sRGB: its colours have not drifted.

    Args:
        frame: [height, width, 3], uint8.
        image: the same size, float in 0...1.
    """
    pictures = [sampled(picture) for picture in (image, frame)]
    a, b = (block_means(to_linear(picture)).reshape(-1, 3) for picture in pictures)
    grey_a, grey_b = (blocks.mean(axis=1) - blocks.mean() for blocks in (a, b))
    size = float(np.sqrt((grey_a**2).sum() * (grey_b**2).sum()))
    if size > 1e-9 and float((grey_a * grey_b).sum()) / size < _MATCH:
        return None
    mean_a, mean_b, spread_a, spread_b = a.mean(axis=0), b.mean(axis=0), a.std(axis=0), b.std(axis=0)
    # Spread against spread: a least-squares line would be too flat where the frame itself is noisy.
    gain = np.where(spread_a > _DARK_LIGHT, spread_b / np.maximum(spread_a, 1e-9), mean_b / np.maximum(mean_a, 1e-9))
    offset = mean_b - gain * mean_a
    in_srgb = [to_linear(block_means(as_unit(picture))).mean(axis=(0, 1)) for picture in pictures]
    change = _agreed(*((now - was) / np.maximum(was, _DARK_LIGHT) for was, now in ((mean_a, mean_b), in_srgb)))
    return ColourShift(*((float(x[0]), float(x[1]), float(x[2])) for x in (gain, offset, change)))


def find_balance_drift(curves: Curves, cuts: list[int], flashes: list[Range], size: float) -> BalanceDrift | None:
    """Return where the colours leave the span between the ends by ``size`` or more, or None.

    Two readings must agree. The median of the blocks' colours knows no past, but takes what enters the picture for a
    change of colour. The sum of the blocks' steps from frame to frame leaves that out, but gathers errors.
    """
    if len(cuts) > 1 or len(curves.times) < 2 * _DRIFT_FRAMES:
        return None
    off = [_beyond_ends(np.array(path)) for path in (curves.tint, np.cumsum(curves.tint_step, axis=0))]
    agreed = _agreed(*off)
    for first, end in flashes:
        agreed[first:end] = 0
    beyond = np.flatnonzero((np.abs(agreed) >= np.log1p(size)).any(axis=1))
    first, end = max(_joined(beyond.tolist()), key=lambda run: run[1] - run[0], default=(0, 0))
    if end - first < _DRIFT_FRAMES:
        return None
    inside = agreed[first:end]
    red, blue = np.expm1(inside[np.abs(inside).argmax(axis=0), [0, 1]])
    return BalanceDrift(first, end, float(red), float(blue))


def _agreed(one: Array, other: Array) -> Array:
    """Return the smaller of two readings of the same, 0 where their signs differ."""
    agreed: Array = np.where(one * other > 0, np.sign(one) * np.minimum(np.abs(one), np.abs(other)), 0)
    return agreed


def _beyond_ends(path: Array) -> Array:
    """Return how far each frame's values lie outside the span of the first and the last frame's, [frames, 2]."""
    low, high = np.minimum(path[0], path[-1]), np.maximum(path[0], path[-1])
    beyond: Array = path - np.clip(path, low, high)
    return beyond
