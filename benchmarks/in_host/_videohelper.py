"""How VideoHelperSuite's Video Combine writes an H.264 MP4, as its format file and messages describe it.

Every frame of an IMAGE is rounded to 8 bits and its RGB bytes go through a pipe to an ffmpeg process, which is told
that they are sRGB and converts them to BT.709.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch


def write(images: torch.Tensor, path: Path, rate: int, crf: int, preset: str) -> None:
    """Write an IMAGE, float [frames, height, width, 3], with the ffmpeg of the imageio-ffmpeg package."""
    _, height, width, _ = images.shape
    tags = ["-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"]
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb24", "-color_range", "pc", "-colorspace", "rgb"),
        *("-color_primaries", "bt709", "-color_trc", "iec61966-2-1"),
        *("-s", f"{width}x{height}", "-r", str(rate), "-i", "-"),
        *("-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", str(crf), "-preset", preset),
        *("-vf", "scale=out_color_matrix=bt709", "-color_range", "tv", *tags, str(path)),
    ]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:  # noqa: S603
        for image in images:
            codes = np.clip(image.cpu().numpy() * 255 + 0.5, 0, 255).astype(np.uint8)
            ffmpeg.stdin.write(codes.tobytes())
        ffmpeg.stdin.close()
    if ffmpeg.returncode != 0:
        raise RuntimeError(f"ffmpeg ended with {ffmpeg.returncode}")
