"""The frames of a video file, read one by one with PyAV."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from .metrics import Array

# libswscale/swscale.h: SWS_ACCURATE_RND, and SWS_FULL_CHR_H_INT, which gives each pixel its own colour.
_EXACT = (1 << 18) | (1 << 13)
_UNNAMED = 2  # ITU-T H.273's number for a matrix that the file does not name
_HD_HEIGHT = 720  # players take BT.709 for untagged video from here on, BT.601 below


class VideoError(Exception):
    """The video cannot be read; the text says why and what to do."""


@dataclass(frozen=True)
class Frames:
    """A video as it is read: its rate, how many frames it should have (0: the file does not say), and the frames.

    A frame is its time in seconds from the beginning and its picture, uint8 [height, width, 3].
    """

    frame_rate: float
    expected: int
    frames: Iterator[tuple[float, Array]]


@contextmanager
def open_video(source: str | Path | io.BytesIO, subject: str = "") -> Iterator[Frames]:
    """Give a file's frames; ``VideoError`` if it cannot be opened or has no pictures, also while it is read.

    Args:
        source: a path, or the content of a file.
        subject: what messages call the video; its path if empty.
    """
    subject = subject or str(source)
    try:
        with av.open(source if isinstance(source, io.BytesIO) else str(source)) as container:
            if not container.streams.video:
                raise VideoError(f"{subject} has no pictures in it. Give a video file, such as an MP4.")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or stream.guessed_rate or 0)
            if rate <= 0:
                raise VideoError(f"{subject} does not say its frames per second. Save it again as MP4.")
            seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            yield Frames(rate, stream.frames or round(seconds * rate), _frames(container, stream, rate))
    except av.error.FFmpegError as error:
        raise VideoError(f"{subject} cannot be read as a video: {error.strerror}. Give a whole video file.") from error


def _frames(
    container: av.container.InputContainer, stream: av.VideoStream, rate: float
) -> Iterator[tuple[float, Array]]:
    first: float | None = None
    for index, frame in enumerate(container.decode(stream)):
        time = index / rate if frame.time is None else frame.time
        first = time if first is None else first
        yield time - first, _picture(frame)


def _picture(frame: av.VideoFrame) -> Array:
    """Return a frame as sRGB values, by the matrix that its file names or that players take without one."""
    named = frame.colorspace
    if named == _UNNAMED:
        named = Colorspace.ITU709 if frame.height >= _HD_HEIGHT else Colorspace.ITU601
    rgb = frame.reformat(
        format="rgb24",
        src_colorspace=named,
        dst_color_range=ColorRange.JPEG,  # PyAV 14 keeps the range of the file, and black would be 16
        interpolation=int(Interpolation.BICUBIC) | _EXACT,
    )
    return np.asarray(rgb.to_ndarray())
