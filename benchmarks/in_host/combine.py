"""Seconds, peak memory and likeness from a latent to an MP4, by core's decode and VideoHelperSuite's method or ours."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace

from ._stage import PARAMETERS, new_vae, peak_memory, report  # isort: skip -- first, it prepares the host
import comfy.utils

from ...video.clips import write_clip
from ...video.vae_decode import decode
from ...video.writer import Settings, StreamWriter, exact_rate
from . import _videohelper
from ._photograph import PannedPhotograph

_RATE = 16


def main(node: str, width: int, height: int, frames: int, crf: int, preset: str, judge: bool) -> None:
    """Measure one run, after one of a small video."""
    vae = new_vae(4, torch.bfloat16)
    vae.first_stage_model.decoder = PannedPhotograph(torch.bfloat16)

    def run(width: int, height: int, frames: int, path: Path) -> dict[str, float]:
        latent = torch.zeros(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
        with peak_memory() as peak:
            started = time.perf_counter()
            if node == "stock":
                _videohelper.write(vae.decode(latent)[0], path, _RATE, crf, preset)
            else:
                settings = Settings(exact_rate(_RATE), crf=crf, preset=preset)
                new_writer = partial(StreamWriter, path, width, height, settings)
                write_clip(new_writer, comfy.utils.ProgressBar(frames), decode(vae, latent)[0])
            seconds = time.perf_counter() - started
        return {"peak": peak.bytes, "seconds": seconds, "bytes": path.stat().st_size}

    with tempfile.TemporaryDirectory() as folder:
        run(64, 64, 5, Path(folder) / "small.mp4")
        path = Path(folder) / "video.mp4"
        result = run(width, height, frames, path)
        if judge:
            latent = torch.zeros(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)
            result["psnr"] = _psnr(path, vae.decode(latent)[0])
    report(result)


def _psnr(path: Path, images: torch.Tensor) -> float:
    """Return the PSNR in dB of a file read as BT.709, as players do, against the images in 8 bits."""
    squares = []
    with av.open(str(path)) as container:
        for picture, image in zip(container.decode(video=0), images, strict=True):
            rgb = picture.reformat(
                format="rgb24", src_colorspace=Colorspace.ITU709, src_color_range=ColorRange.MPEG,
                dst_color_range=ColorRange.JPEG,
            ).to_ndarray()  # fmt: skip
            squares.append(np.mean((rgb.astype(float) - image.numpy() * 255) ** 2))
    return float(10 * np.log10(255**2 / np.mean(squares)))


if __name__ == "__main__":
    with torch.inference_mode():
        main(**PARAMETERS)
