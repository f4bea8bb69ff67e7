"""The MP4 file: H.264 in BT.709 with metadata, under a temporary name until it is whole; and the encoder thread."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
import time
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from .names import temporary

# ITU-T H.273 code points: 1 is BT.709 in the tables for primaries, transfer characteristics and matrix.
_H273_BT709 = 1
# use_metadata_tags keeps tags that MP4 has no name for; faststart moves them to the front of the file, where the
# ComfyUI frontend looks for a dropped video's workflow (it reads the first 64 MiB).
_MOVFLAGS = "use_metadata_tags+faststart"
# libswscale/swscale.h: SWS_ACCURATE_RND. Without it chroma is truncated (0.06 to 0.1 code too low on a photograph).
_SWS_ACCURATE_RND = 1 << 18
# As many frames as one call of the decoder gives, two latent frames of four frames each: with fewer the decoder would
# wait for the encoder, more would only take memory.
_WAITING_FRAMES = 8
_POLL_S = 0.1
_REPLACE_TRIES, _REPLACE_WAIT_S = 20, 0.25


class Mp4Writer:
    """Write frames to a temporary file as they come; at ``path`` is nothing, or what was there, until it is whole.

    Use as a context manager, and ``flush`` after the last frame: leaving it normally renames the finished file into
    place, leaving it by an exception deletes what was written.

    Args:
        path: the finished file; its folder must exist.
        width: even number of pixels.
        height: even number of pixels.
        frame_rate: frames per second, above 0.
        crf: constant rate factor of x264, 1 to 51; 0 is lossless, in a profile that only some players know.
        metadata: tags; values that are not strings are stored as JSON.
        preset: how much time x264 takes for a smaller file, ``ultrafast`` to ``placebo``; medium is its own default.
    """

    def __init__(
        self,
        path: Path,
        width: int,
        height: int,
        frame_rate: float,
        crf: int,
        metadata: Mapping[str, Any],
        preset: str = "medium",
    ) -> None:
        self.path, self.width, self.height = path, width, height
        self.frames_written = 0
        self._unfinished = temporary(path)
        self._container = av.open(str(self._unfinished), mode="w", format="mp4", options={"movflags": _MOVFLAGS})
        for key, value in metadata.items():
            self._container.metadata[key] = value if isinstance(value, str) else json.dumps(value)
        # Containers hold the rate as a fraction; 23.976 becomes 2997/125.
        self._stream = self._container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001))
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": str(crf), "preset": preset}
        # PyAV asks for threads by slice, which x264 pays for with size and speed; AUTO lets it take threads by frame.
        self._stream.thread_type = "AUTO"
        context = self._stream.codec_context
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = _H273_BT709

    def write(self, frame: torch.Tensor) -> None:
        """Encode one frame, uint8 [3, height, width] on the CPU."""
        picture = av.VideoFrame(self.width, self.height, "gbrp")
        for plane, channel in zip(picture.planes, (1, 2, 0), strict=True):
            rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
            rows[:, : plane.width] = frame[channel].numpy()
        picture = picture.reformat(
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=int(Interpolation.BICUBIC) | _SWS_ACCURATE_RND,
        )
        self._container.mux(self._stream.encode(picture))
        self.frames_written += 1

    def flush(self) -> None:
        """Encode the frames that the codec still holds back; none can be written after this."""
        self._container.mux(self._stream.encode(None))

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            try:  # an open file cannot be deleted on Windows
                self._container.close()
            except (av.error.FFmpegError, OSError):
                if error_type is None:  # else the first error is raised
                    raise
            if error_type is None:
                _replace(self._unfinished, self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)


def _replace(source: Path, target: Path) -> None:
    """Move a file over another. On Windows that fails while a virus scanner or a viewer has the other open: wait."""
    for _ in range(_REPLACE_TRIES):
        with contextlib.suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(_REPLACE_WAIT_S)
    source.replace(target)


class EncoderThread:
    """Write frames in order in a separate thread; at most eight of them wait.

    Use as a context manager: leaving it normally waits until all frames are written and the codec is flushed, leaving
    it by an exception stops at once. An error of the encoder is raised by ``put`` or on leaving, as it is.

    Args:
        writer: gets the frames; nothing else may write to it meanwhile.
        tick: called from the thread that calls ``put``, at least every tenth of a second while it waits; what it raises
            (the host's interrupt) comes through.
    """

    def __init__(self, writer: Mp4Writer, tick: Callable[[], None]) -> None:
        self._writer = writer
        self._tick = tick
        self._frames: queue.Queue[torch.Tensor | None] = queue.Queue(_WAITING_FRAMES)
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="wan-flf2v encoder", daemon=True)

    def put(self, frame: torch.Tensor | None) -> None:
        """Queue a frame, uint8 [3, height, width] on the CPU, and wait for room; None is the end."""
        while True:
            self._raise_error()
            self._tick()
            try:
                return self._frames.put(frame, timeout=_POLL_S)
            except queue.Full:
                continue

    def __enter__(self) -> EncoderThread:
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            if error_type is None:
                self.put(None)
                while self._thread.is_alive():
                    self._tick()
                    self._thread.join(_POLL_S)
                self._raise_error()
        finally:
            self._stop()

    def _raise_error(self) -> None:
        error, self._error = self._error, None  # forgotten here: its traceback holds the tensors of its frames
        try:
            if error is not None:
                raise error
        finally:
            del error

    def _stop(self) -> None:
        """End the thread before the file is closed; it finishes the frame that it has begun."""
        self._stopped = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._frames.get_nowait()
        self._frames.put_nowait(None)  # there is room: only this thread puts frames in
        self._thread.join()

    def _run(self) -> None:
        try:
            while (frame := self._frames.get()) is not None and not self._stopped:
                self._writer.write(frame)
            if not self._stopped:
                self._writer.flush()
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread that waits
            self._error = error


def to_planar_bytes(frames: torch.Tensor) -> torch.Tensor:
    """Turn 0...1 into 0...255, rounded and clipped: [frames, 3, height, width] to uint8 of that shape, same device."""
    return frames.mul(255.0).round_().clamp_(0, 255).to(torch.uint8)
