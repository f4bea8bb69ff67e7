"""How VideoHelperSuite's Video Combine writes a file, as its format files and messages describe it.

Every frame of an IMAGE is rounded to 8 bits, or 16 where the format has more, and its RGB samples go through a pipe to
an ffmpeg process, which is told that they are sRGB and converts them to BT.709. WebP is written by Pillow.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from PIL import Image

from ...video.formats import Format

_PALETTE = "split [a][b]; [a] palettegen [p]; [b][p] paletteuse=dither=sierra2_4a"


def write(images: torch.Tensor, path: Path, rate: int, crf: int, preset: str, chosen: Format) -> None:
    """Write an IMAGE, float [frames, height, width, 3], with the ffmpeg of the imageio-ffmpeg package.

    The encoder and its settings are those of our format.
    """
    _, height, width, _ = images.shape
    if chosen.container == "webp":
        first, *others = (Image.fromarray(_codes(image, np.uint8)) for image in images)
        quality = 80 if chosen.quality is None else chosen.quality.default
        first.save(path, save_all=True, append_images=others, duration=round(1000 / rate), quality=quality, method=4)
        return
    kind = np.uint16 if chosen.bits > 8 else np.uint8
    command = [
        *(imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y"),
        *("-f", "rawvideo", "-pix_fmt", "rgb48le" if chosen.bits > 8 else "rgb24"),
        *("-color_range", "pc", "-colorspace", "rgb", "-color_primaries", "bt709", "-color_trc", "iec61966-2-1"),
        *("-s", f"{width}x{height}", "-r", str(rate), "-i", "-"),
        *_output(chosen, crf, preset),
        str(path if path.suffix else path / "%05d.png"),
    ]
    if not path.suffix:
        path.mkdir()
    with subprocess.Popen(command, stdin=subprocess.PIPE) as ffmpeg:  # noqa: S603
        for image in images:
            ffmpeg.stdin.write(_codes(image, kind).tobytes())
        ffmpeg.stdin.close()
    if ffmpeg.returncode != 0:
        raise RuntimeError(f"ffmpeg ended with {ffmpeg.returncode}")


def _codes(image: torch.Tensor, kind: type) -> np.ndarray:
    most = np.iinfo(kind).max
    return np.clip(image.cpu().numpy() * most + 0.5, 0, most).astype(kind)


def _output(chosen: Format, crf: int, preset: str) -> list[str]:
    if chosen.container == "gif":
        return ["-filter_complex", _PALETTE]
    options = dict(chosen.options)
    if chosen.crf:
        options["crf"] = str(crf)
    if chosen.quality is not None:
        options[chosen.quality.option] = str(chosen.quality.default)
    if chosen.presets:
        options["preset"] = preset
    bitrate = options.pop("b", None)
    colours = []
    if chosen.is_yuv:
        tags = ("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709")
        colours = ["-vf", "scale=out_color_matrix=bt709", "-color_range", "tv", *tags]
    return [
        *("-c:v", chosen.encoder, "-pix_fmt", chosen.pixels),
        *(text for key, value in options.items() for text in (f"-{key}", value)),
        *(("-b:v", bitrate) if bitrate else ()),
        *(("-tag:v", chosen.tag) if chosen.tag else ()),
        *colours,
    ]
