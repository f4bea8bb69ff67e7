"""Seconds of an encode alone, and of the same encode fed by a decode that takes as long without the processor."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import torch

from ._stage import PARAMETERS, new_vae, report  # isort: skip -- first, it prepares the host
import comfy.utils

from ...nodes.video_combine import write_clip
from ...video.encoder import Mp4Writer
from ...video.wan_vae import clips
from ._photograph import with_photograph


def main(width: int, height: int, frames: int, preset: str, rounds: int) -> None:
    """Measure ``rounds`` pairs."""
    vae = with_photograph(new_vae(4, torch.bfloat16))
    latent = torch.zeros(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8)

    def timed(folder: str) -> float:
        new_writer = partial(Mp4Writer, Path(folder) / "video.mp4", width, height, 16, 19, {}, preset)
        clip = clips(vae, latent)[0]
        started = time.perf_counter()
        write_clip(new_writer, comfy.utils.ProgressBar(frames), 0, clip)
        return time.perf_counter() - started

    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        timed(folder)
        for _ in range(rounds):
            vae.first_stage_model.decoder.seconds = 0.0
            encode = timed(folder)
            vae.first_stage_model.decoder.seconds = encode / frames
            pairs.append((2 * encode, timed(folder)))
    report({"pairs": pairs})


if __name__ == "__main__":
    with torch.inference_mode():
        main(**PARAMETERS)
