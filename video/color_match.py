"""The colours of a video's first and last frame, corrected to those of the start and end image. Pure torch.

At each end a map of colour is fitted from the frame to the image; in between the map is interpolated. The colour space
is Oklab: Björn Ottosson, "A perceptual color space for image processing", 2020, https://bottosson.github.io/posts/oklab.
Pictures are [3, height, width]: float in 0...1, or uint8. They are sRGB.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from .spool import FrameSpool

# Ottosson 2020, as revised on 2021-01-25: from linear sRGB to the response of cones, and from its cube root to Lab.
_CONES = torch.tensor(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=torch.float64,
)
_LAB = torch.tensor(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=torch.float64,
)
_FROM_CONES, _FROM_LAB = torch.linalg.inv(_CONES), torch.linalg.inv(_LAB)
# ΔEOK2 of color.js (https://colorjs.io/docs/color-difference), times 100: a and b count twice, which comes closer to
# ΔE2000 than Oklab's plain distance.
_DELTA_E = torch.tensor([[100.0], [200.0], [200.0]], dtype=torch.float64)

# A frame that is nearer than this to the image is left alone. Just noticeable is 0.02 of Oklab's plain distance (CSS
# Color 4, its gamut mapping's JND): 2 here where lightness differs alone, 4 where hue or chroma does.
SAME = 1.0
# A frame that stays this far from the image even when it is corrected shows something else: drifts of up to 10 come
# nearer by 2.5 times at least (bench color_match), so to 4.
UNLIKE = 5.0

# The fit sees the mean colour of blocks, so that lost or invented detail does not count.
_BLOCK, _MIN_BLOCKS = 8, 256
_ROUNDS = 8
# Ridge, relative to the weight: what the blocks say little about stays as it is. Chosen from 1e-6...1e-4 by the
# error on other pictures with the same drift.
_RIDGE = 1e-5
# A frame is corrected in strips of so many rows: what is in between stays in the processor's cache.
_ROWS = 32
# 8-bit values at which a channel may have been clipped.
_CLIPPED = (1.5 / 255, 253.5 / 255)


class EndMap(NamedTuple):
    """What corrects one end.

    ``change``, [3, 9]: for each of L, a and b, how much of L, a, b, L², La, Lb and 1 is added to it (zeros change
    nothing), then its lowest and highest measured value. A colour beyond these gets what the nearest one within gets.
    ``before`` and ``after`` are how far frame and image are apart, the mean ΔE of blocks of pixels (``_DELTA_E``).
    """

    change: torch.Tensor
    before: float
    after: float

    def __str__(self) -> str:
        if changes(self.change):
            return f"ΔE {self.before:.1f} → {self.after:.1f}"
        if self.before < SAME:
            return f"ΔE {self.before:.1f}, left as it is"
        return f"ΔE {self.before:.1f}, left as it is because the frame does not show the image"


def end_map(frame: torch.Tensor, image: torch.Tensor, strength: float = 1.0) -> EndMap:
    """Fit the map from a frame to the image that it should show, both of one size.

    It is zero where they hardly differ (``SAME``) and where even the best map leaves them apart (``UNLIKE``).
    ``strength``, 0...1, scales the map.
    """
    frame, image = _float(frame), _float(image)
    low, high = _CLIPPED
    inside = ((frame > low) & (frame < high)).all(0, keepdim=True).float()
    x, y, inside = (_blocks(picture) for picture in (_to_lab(frame), _to_lab(image), inside))
    added = _fit(x, y - x, inside.square())
    before = _distance(x, y)
    if before < SAME or not _distance(x + added @ _terms(x), y) <= UNLIKE:  # `not`, for NaN
        added = torch.zeros_like(added)
    added = strength * added
    after = _distance(x + added @ _terms(x), y)
    measured = (x.amin(1, keepdim=True), x.amax(1, keepdim=True))
    return EndMap(torch.cat([added, *measured], dim=1).float(), before, after)


def changes(change: torch.Tensor) -> bool:
    """Return whether ``change`` (see ``EndMap``) changes anything."""
    return bool(change[:, :-2].any())


def corrected(picture: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Return the picture with ``change`` (see ``EndMap``) made; the same bits where it is zero."""
    if not changes(change):
        return picture
    change = change.to(picture.device, torch.float32)
    return torch.cat([_strip(rows, change) for rows in picture.split(_ROWS, dim=1)], dim=1)


def _strip(picture: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    lab = _to_lab(_float(picture))
    low, high = (bound.view(3, 1, 1) for bound in change[:, -2:].unbind(1))
    rgb = _to_rgb(lab + _mixed(change[:, :-2], _terms(lab.clamp(low, high))))
    return rgb.mul_(255.0).round_().to(torch.uint8) if picture.dtype == torch.uint8 else rgb.to(picture.dtype)


class ColorMatch:
    """Corrects the frames of one clip after another, all of one size.

    Without one of the images, the map of the other end is held all along.

    Args:
        start: what the first frame should show, or None.
        end: what the last frame should show, or None.
        strength: 0...1, how much of the difference is taken away.
        folder: where frames may lie that wait for the last one.
        device: what computes.
    """

    def __init__(
        self,
        start: torch.Tensor | None,
        end: torch.Tensor | None,
        strength: float,
        folder: Path,
        device: torch.device | str = "cpu",
    ) -> None:
        self._images = tuple(None if image is None else image.to(device) for image in (start, end))
        self._strength = strength
        self._folder = folder
        self._device = device
        self.maps: tuple[EndMap | None, EndMap | None] = (None, None)
        self.waiting = 0

    @property
    def needs_last(self) -> bool:
        """Whether the last frame must be known before the first is corrected."""
        return self._images[1] is not None

    @property
    def changes_nothing(self) -> bool:
        """Whether the measured clip stays as it is."""
        return not any(changes(known.change) for known in self.maps if known is not None)

    def measure(self, first: torch.Tensor, last: torch.Tensor | None) -> None:
        """Fit the maps of a clip from its first and its last frame; ``last`` may be None unless ``needs_last``."""
        self.maps = tuple(  # type: ignore[assignment]
            None if image is None else end_map(frame[:3].to(self._device), image, self._strength)
            for frame, image in zip((first, last), self._images, strict=True)
        )

    def corrected(self, frame: torch.Tensor, position: float) -> torch.Tensor:
        """Return a frame of the measured clip, on its own device; ``position`` is 0 for the first, 1 for the last.

        A fourth channel, alpha, stays as it is.
        """
        start, end = (known.change for known in (self.maps[0] or self.maps[1], self.maps[1] or self.maps[0]))
        colours = corrected(frame[:3].to(self._device), torch.lerp(start, end, position)).to(frame.device)
        return colours if len(frame) == 3 else torch.cat([colours, frame[3:]])

    def clip(
        self,
        frames: Iterable[torch.Tensor],
        count: int,
        last: torch.Tensor | None,
        tick: Callable[[], None],
        also: int = 0,
    ) -> Iterator[torch.Tensor]:
        """Yield the corrected frames of a clip.

        If the last frame is needed and not given, all frames are kept first (in memory, then in a file); ``waiting``
        counts them, and ``tick`` is called after each.

        Args:
            frames: on the CPU, in order; [3 or 4, height, width], uint8 or float 0...1.
            count: how many there are, at least 1.
            last: the last of them, or None if it is not known yet.
            tick: what it raises comes through.
            also: how many frames like these are kept elsewhere meanwhile, for the room on the disk.
        """
        frames, self.waiting = iter(frames), 0
        with contextlib.ExitStack() as stack:
            if self.needs_last and last is None:
                spool = stack.enter_context(
                    FrameSpool(self._folder, count, "color_match", "disconnect color_match", also=also)
                )
                for frame in frames:
                    spool.put(frame)
                    self.waiting += 1
                    tick()
                last, frames = frame, iter(spool)
            first = next(frames)
            self.measure(first, last)
            for i, frame in enumerate(itertools.chain([first], frames)):
                yield self.corrected(frame, i / max(count - 1, 1))

    def __str__(self) -> str:
        ends = (f"{name} {known}" for name, known in zip(("start", "end"), self.maps, strict=True) if known is not None)
        return "; ".join(ends)


def _fit(x: torch.Tensor, difference: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """Return what is added, [3, 7] (see ``EndMap``), by weighted least squares.

    Blocks that do not fit lose weight in each round. ``x`` and ``difference`` are [3, blocks]; ``inside``, [1, blocks],
    is how much of a block is surely not clipped.
    """
    terms = _terms(x)[:-1]
    inside = inside + 1e-6
    # The first weights come from the median of the differences: least squares would follow a part that does not fit.
    error = (difference - difference.median(1, keepdim=True).values).norm(dim=0, keepdim=True)
    for _ in range(_ROUNDS):
        # Cauchy's weights; 2.25 medians is 1.5 standard deviations of a normal distribution's absolute values.
        weight = inside / (1 + (error / (2.25 * error.median()).clamp_min(0.002)).square())
        share = weight / weight.sum()
        middle, mean = ((values * share).sum(1, keepdim=True) for values in (terms, difference))
        centred = terms - middle
        covariance = (centred * share) @ centred.T + _RIDGE * torch.eye(len(terms), dtype=x.dtype)
        slope = torch.linalg.solve(covariance, (centred * share) @ (difference - mean).T).T
        error = (difference - mean - slope @ centred).norm(dim=0, keepdim=True)
    return torch.cat([slope, mean - slope @ middle], dim=1)


def _terms(lab: torch.Tensor) -> torch.Tensor:
    """Return L, a, b, L times each of them, and 1: [7, ...] of [3, ...]."""
    return torch.cat([lab, lab[:1] * lab, torch.ones_like(lab[:1])])


def _distance(x: torch.Tensor, y: torch.Tensor) -> float:
    return float((_DELTA_E * (x - y)).norm(dim=0).mean())


def _blocks(picture: torch.Tensor) -> torch.Tensor:
    """Return the means of square blocks, [channels, blocks], float64 on the CPU."""
    height, width = picture.shape[1:]
    side = max(1, min(_BLOCK, int((height * width / _MIN_BLOCKS) ** 0.5), height, width))
    return torch.nn.functional.avg_pool2d(picture[None], side)[0].flatten(1).cpu().double()


def _float(picture: torch.Tensor) -> torch.Tensor:
    return picture / 255.0 if picture.dtype == torch.uint8 else picture.float().clamp(0.0, 1.0)


def _to_lab(rgb: torch.Tensor) -> torch.Tensor:
    # IEC 61966-2-1, the sRGB transfer function.
    light = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055).pow(2.4))
    return _mixed(_LAB, _mixed(_CONES, light).clamp_min_(0.0).pow_(1 / 3))


def _to_rgb(lab: torch.Tensor) -> torch.Tensor:
    cones = _mixed(_FROM_LAB, lab)
    light = _mixed(_FROM_CONES, cones.pow(3)).clamp_(0.0, 1.0)
    return torch.where(light <= 0.0031308, light * 12.92, light.pow(1 / 2.4).mul_(1.055).sub_(0.055))


def _mixed(matrix: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
    """Multiply the channels of [channels, height, width] by a matrix."""
    return (matrix.to(picture) @ picture.flatten(1)).unflatten(1, picture.shape[1:])
