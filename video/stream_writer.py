"""Writes a video file of FFmpeg's containers: one stream of frames, and one of sound if there is a sound."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import av
import torch
from av.video.reformatter import ColorRange

from .audio import SoundStream
from .pictures import to_picture
from .settings import encoder_options
from .tags import as_text
from .whole_file import Writer

# ITU-T H.273 code points: 1 is BT.709 in the tables for primaries, transfer characteristics and matrix; 13 is sRGB's
# transfer characteristics, 0 the matrix of RGB itself.
_H273_BT709, _H273_SRGB, _H273_RGB = 1, 13, 0
_THREADS = "/proc/self/task"


class StreamWriter(Writer):
    """A file of one video stream, and one of sound if there is a sound."""

    _sound: SoundStream | None = None

    def _open(self) -> None:
        settings, chosen = self.settings, self.settings.format
        options = dict(chosen.container_options)
        self._container = av.open(str(self._unfinished), mode="w", format=chosen.container, options=options)
        for key, value in settings.tags.items():
            self._container.metadata[key] = as_text(value)
        self._stream = self._container.add_stream(chosen.encoder, rate=settings.frame_rate)
        self._stream.width, self._stream.height = self.width, self.height
        self._stream.pix_fmt = settings.pixels
        self._stream.options = encoder_options(settings)
        # PyAV asks for threads by slice, which x264 pays for with size and speed; AUTO lets it take threads by frame.
        self._stream.thread_type = "AUTO"
        context = self._stream.codec_context
        if chosen.is_yuv:
            context.color_range = ColorRange.MPEG
            context.colorspace = context.color_primaries = context.color_trc = _H273_BT709
        else:
            context.color_range = ColorRange.JPEG
            context.colorspace, context.color_primaries, context.color_trc = _H273_RGB, _H273_BT709, _H273_SRGB
        if chosen.tag:
            context.codec_tag = chosen.tag
        if settings.has_alpha and chosen.container == "webm":  # VP9's transparency is a second stream beside the first
            self._stream.metadata["alpha_mode"] = "1"
        if settings.sound is not None and chosen.audio:
            self._sound = SoundStream(self._container, chosen.audio, settings.sound)

    def _write(self, frame: torch.Tensor) -> None:
        picture = to_picture(frame, self.settings, self.width, self.height)
        with _ordinary_threads() if self.frames_written == 0 else contextlib.nullcontext():
            self._container.mux(self._stream.encode(picture))  # the first one opens the encoder
        self.frames_written += 1
        if self._sound is not None:
            self._sound.write_until(self.frames_written / self.settings.frame_rate)

    def _flush(self) -> None:
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.flush()


@contextlib.contextmanager
def _ordinary_threads() -> Iterator[None]:
    """Give this thread, and those that the block starts, the scheduler that this one had before.

    For root, SVT-AV1 makes all of them real-time threads (SCHED_FIFO): then the machine has no time for others.
    """
    if sys.platform != "linux":
        yield
        return
    policy, priority, before = os.sched_getscheduler(0), os.sched_getparam(0), set(os.listdir(_THREADS))  # noqa: PTH208
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in {"0", *os.listdir(_THREADS)} - before:  # noqa: PTH208 -- 0 is this one
                with contextlib.suppress(OSError):  # it has ended, or a container forbids it
                    os.sched_setscheduler(int(thread), policy, priority)
