"""Frames into an H.264 MP4 with PyAV: BT.709, tagged, with the prompt and workflow inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation

# ITU-T H.273 code points: 1 is BT.709 in the tables for primaries, transfer characteristics and matrix.
_H273_BT709 = 1
# use_metadata_tags keeps tags that MP4 has no name for; faststart moves them to the front of the file, where the
# ComfyUI frontend looks for a dropped video's workflow (it reads the first 64 MiB).
_MOVFLAGS = "use_metadata_tags+faststart"
# libswscale/swscale.h: SWS_ACCURATE_RND. Without it chroma is truncated (0.06 to 0.1 code too low on a photograph).
_SWS_ACCURATE_RND = 1 << 18


class Mp4Writer:
    """Write frames to ``path`` as they come; the file appears under its name only when it is whole.

    Use as a context manager: leaving it normally renames the finished file into place, leaving it by an exception
    deletes what was written.

    Args:
        path: where the video shall be; its folder must exist.
        width: even number of pixels.
        height: even number of pixels.
        frame_rate: frames per second, above 0.
        crf: constant rate factor of x264, 0 (lossless) to 51.
        metadata: tags; values that are not strings are stored as JSON.
    """

    def __init__(
        self, path: Path, width: int, height: int, frame_rate: float, crf: int, metadata: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.frames_written = 0
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._container = av.open(str(self._unfinished), mode="w", format="mp4", options={"movflags": _MOVFLAGS})
        for key, value in metadata.items():
            self._container.metadata[key] = value if isinstance(value, str) else json.dumps(value)
        # Containers hold the rate as a fraction; 23.976 becomes 2997/125.
        self._stream = self._container.add_stream("libx264", rate=Fraction(frame_rate).limit_denominator(1001))
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": str(crf)}
        context = self._stream.codec_context
        context.color_range = ColorRange.MPEG
        context.colorspace = context.color_primaries = context.color_trc = _H273_BT709

    def write(self, frame: torch.Tensor) -> None:
        """Encode one frame, [height, width, 3], 0...1; values outside are clipped, others rounded to 8 bits."""
        rgb = frame.mul(255.0).round().clamp(0, 255).to("cpu", torch.uint8).numpy()
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
        picture = picture.reformat(
            format="yuv420p",
            src_color_range=ColorRange.JPEG,
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
            interpolation=int(Interpolation.BICUBIC) | _SWS_ACCURATE_RND,
        )
        self._container.mux(self._stream.encode(picture))
        self.frames_written += 1

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            try:
                if error_type is None:
                    self._container.mux(self._stream.encode(None))
            finally:  # an open file cannot be deleted on Windows
                self._container.close()
            if error_type is None:
                self._unfinished.replace(self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)
