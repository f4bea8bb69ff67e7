"""What is measured of each frame while a video is read: brightness, motion, colour balance. A few numbers a frame.

Frames are sampled at about 57,600 points, single pixels and not means of several: grain then stays what it is, and
a frame of any size costs the same.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from .metrics import LUMA, Array, to_linear

Pair = tuple[float, float]

_POINTS = 320 * 180
_BLOCK = 8  # points a side
_TOP_BLOCKS = 0.02
# In linear light: a block with a channel outside says nothing of the balance, since a code there is too coarse or full.
_DARKEST, _BRIGHTEST = 0.02, 0.9
_FEW_BLOCKS = 0.05
_LINEAR = to_linear(np.arange(256, dtype=np.uint8)).astype(np.float32)
LAGS = 6  # how many frames back a frame's likeness is taken


class Curves:
    """Numbers of the frames so far, in lists with one entry a frame. ``add`` each frame in order.

    Of the pictures, only the last frame's samples and the blocks of the last few are kept.
    """

    def __init__(self) -> None:
        self.times: list[float] = []  # seconds
        self.luma: list[float] = []  # mean, 0...1
        self.motion: list[float] = []  # mean absolute change of luma since the frame before, 0...1
        self.moved: list[float] = []  # the same in the 2 % of the blocks that change most
        self.likeness: list[list[float]] = []  # correlation of the blocks' luma with 1, 2, ... frames before, -1...1
        self.tint: list[Pair] = []  # median over the blocks of log(red/green) and log(blue/green)
        self.tint_step: list[Pair] = []  # median over the blocks of their change since the frame before
        self._luma: Array | None = None
        self._ratios: Array = np.empty(0)
        self._blocks: deque[Array] = deque(maxlen=LAGS)

    def add(self, time: float, picture: Array) -> None:
        """Take the next frame, uint8 [height, width, 3]."""
        points = sampled(picture)
        luma = points.astype(np.float32) @ np.array(LUMA, np.float32) / 255
        blocks, ratios = block_means(luma), _log_ratios(block_means(_LINEAR[points]))
        change = np.zeros_like(luma) if self._luma is None else np.abs(luma - self._luma)
        self.times.append(time)
        self.luma.append(float(luma.mean()))
        self.motion.append(float(change.mean()))
        self.moved.append(_top(block_means(change)))
        self.likeness.append([_correlation(blocks, before) for before in self._blocks])
        self.tint.append(_median(ratios))
        self.tint_step.append((0.0, 0.0) if self._luma is None else _median(ratios - self._ratios))
        self._luma, self._ratios = luma, ratios
        self._blocks.appendleft(blocks)


def sampled(picture: Array) -> Array:
    """Return about 57,600 pixels of a picture, [rows, columns, 3]; all of them if it has less."""
    step = max(1, round(math.sqrt(picture.shape[0] * picture.shape[1] / _POINTS)))
    return picture[step // 2 :: step, step // 2 :: step]


def block_means(plane: Array) -> Array:
    """Return the means of blocks of 8x8 points; what is left at the right and the bottom is not looked at."""
    height, width = (max(1, side // _BLOCK) for side in plane.shape[:2])
    tall, wide = min(_BLOCK, plane.shape[0]), min(_BLOCK, plane.shape[1])
    cut = plane[: height * tall, : width * wide]
    means: Array = cut.reshape(height, tall, width, wide, *plane.shape[2:]).mean(axis=(1, 3))
    return means


def _log_ratios(light: Array) -> Array:
    """Return log(red/green) and log(blue/green) of blocks of linear light, [blocks, 2]; NaN where they mean nothing."""
    light = light.reshape(-1, 3)
    usable: Array = np.asarray((light > _DARKEST).all(axis=1) & (light < _BRIGHTEST).all(axis=1))
    logs = np.log(np.where(usable[:, None], light, np.nan))
    ratios: Array = logs[:, ::2] - logs[:, 1:2]
    return ratios


def _median(ratios: Array) -> Pair:
    """Return the medians over the blocks that are usable; zeros if hardly any is."""
    usable = ratios[~np.isnan(ratios[:, 0])]
    if len(usable) < max(1, _FEW_BLOCKS * len(ratios)):
        return 0.0, 0.0
    red, blue = np.median(usable, axis=0)
    return float(red), float(blue)


def _top(blocks: Array) -> float:
    values = np.sort(blocks, axis=None)
    return float(values[-max(1, round(_TOP_BLOCKS * values.size)) :].mean())


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    size = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / size if size > 1e-9 else 1.0
