"""Seconds, peak memory and likeness from a latent to a file, by core's decode and VideoHelperSuite's method or ours."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from PIL import Image, ImageSequence

from ._stage import PARAMETERS, new_vae, peak_memory, report  # isort: skip -- first, it prepares the host
import comfy.utils

from ...video import formats
from ...video.clips import Recipe, Segment, write_segments
from ...video.settings import Settings, exact_rate
from ...video.vae_decode import decode
from ...video.writer import new_writer
from . import _videohelper
from ._photograph import PannedPhotograph

_RATE = 16
# libswscale/swscale.h: SWS_ACCURATE_RND, SWS_FULL_CHR_H_INT and SWS_FULL_CHR_H_INP. Its quick way from more than 8 bits
# to 8 is half a code too low, which flatters a file that is half a code too bright.
_ACCURATE = int(Interpolation.BICUBIC) | 1 << 18 | 1 << 13 | 1 << 14


def main(
    node: str,
    width: int,
    height: int,
    frames: int,
    crf: int,
    preset: str,
    judge: bool,
    format: str = formats.DEFAULT.name,
) -> None:
    """Measure one run, after one of a small video."""
    chosen = formats.BY_NAME[format]
    vae = new_vae(4, torch.bfloat16)
    vae.first_stage_model.decoder = PannedPhotograph(torch.bfloat16)

    def run(width: int, height: int, frames: int, path: Path) -> dict[str, float]:
        latent = _latent(width, height, frames)
        with peak_memory() as peak:
            started = time.perf_counter()
            if node == "stock":
                _videohelper.write(vae.decode(latent)[0], path, _RATE, crf, preset, chosen)
            else:
                settings = Settings(exact_rate(_RATE), chosen, crf, preset=preset, frames=frames)
                clip = decode(vae, latent, floats=settings.takes_floats)[0]
                recipe = Recipe(looks_twice=settings.looks_twice, folder=path.parent)
                preview = None if chosen.plays else path.with_name("preview.mp4")
                writer = partial(new_writer, path, width, height, settings, preview)
                progress = comfy.utils.ProgressBar(frames)
                write_segments(writer, progress, [Segment(clip)], recipe)
            seconds = time.perf_counter() - started
        return {"peak": peak.bytes, "seconds": seconds, "bytes": _weight(path)}

    with tempfile.TemporaryDirectory() as folder:
        run(64, 64, 5, Path(folder) / f"small{chosen.suffix}")
        path = Path(folder) / f"video{chosen.suffix}"
        result = run(width, height, frames, path)
        if judge:
            result["psnr"] = _psnr(path, vae.decode(_latent(width, height, frames))[0])
    report(result)


def _latent(width: int, height: int, frames: int) -> torch.Tensor:
    """Return noise: of zeros, a layer gives the same bits however it is cut, which a real latent does not."""
    shape = 1, 16, (frames - 1) // 4 + 1, height // 8, width // 8
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _weight(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir()) if path.is_dir() else path.stat().st_size


def _psnr(path: Path, images: torch.Tensor) -> float:
    """Return the PSNR in dB of a file read as players do, in 8 bits, against the images; 100 where they are equal."""
    squares = [
        np.mean((rgb.astype(float) - image.numpy() * 255) ** 2)
        for rgb, image in zip(_pictures(path), images, strict=True)
    ]
    return float(10 * np.log10(255**2 / max(float(np.mean(squares)), 255**2 / 1e10)))


def _pictures(path: Path) -> Iterator[np.ndarray]:
    if path.is_dir() or path.suffix in (".gif", ".webp"):  # FFmpeg reads no animated WebP
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            with Image.open(file) as image:
                for picture in ImageSequence.Iterator(image):
                    yield np.asarray(picture.convert("RGB"))
        return
    with av.open(str(path)) as container:
        for picture in container.decode(video=0):
            options: dict[str, Any] = {"dst_color_range": ColorRange.JPEG}
            if picture.format.name.startswith("yuv"):
                options |= {"src_colorspace": Colorspace.ITU709, "src_color_range": ColorRange.MPEG}
            if picture.format.components[0].bits > 8:
                options["interpolation"] = _ACCURATE
            yield picture.reformat(format="rgb24", **options).to_ndarray()


if __name__ == "__main__":
    with torch.inference_mode():
        main(**PARAMETERS)
