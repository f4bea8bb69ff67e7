"""Seconds of an encode alone, and of the same encode fed by a decode that takes as long without the processor."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path

import torch

from ._stage import PARAMETERS, report  # isort: skip -- first, it prepares the host
import comfy.utils

from ...video.clips import Clip, Segment, write_segments
from ...video.settings import Settings
from ...video.stream_writer import StreamWriter
from ._photograph import panned, photograph

_CHUNK = 8  # frames that one call of the Wan decoder gives


def main(width: int, height: int, frames: int, preset: str, rounds: int) -> None:
    """Measure ``rounds`` pairs: decode plus encode one after the other, and overlapped."""
    picture = photograph()

    def decoded(seconds: float) -> Iterator[torch.Tensor]:
        """Yield the frames as they come from a GPU that takes ``seconds`` for each."""
        for first in range(0, frames, _CHUNK):
            chunk = range(first, min(first + _CHUNK, frames))
            time.sleep(seconds * len(chunk))
            yield torch.stack([panned(picture, i, height, width) for i in chunk])

    def timed(folder: str, seconds: float) -> float:
        settings = Settings(Fraction(16), preset=preset)
        new_writer = partial(StreamWriter, Path(folder) / "video.mp4", width, height, settings)
        started = time.perf_counter()
        write_segments(
            new_writer, comfy.utils.ProgressBar(frames), [Segment(Clip(frames, height, width, decoded(seconds)))]
        )
        return time.perf_counter() - started

    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        timed(folder, 0.0)
        for _ in range(rounds):
            encode = timed(folder, 0.0)
            pairs.append((2 * encode, timed(folder, encode / frames)))
    report({"pairs": pairs})


if __name__ == "__main__":
    main(**PARAMETERS)
