"""CPU seconds of the first/last-frame conditioning, the host's node and this pack's in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from ._stage import PARAMETERS, new_vae, noise, report  # isort: skip -- first, it prepares the host
from comfy_extras.nodes_wan import WanFirstLastFrameToVideo

from ...nodes.conditioning import WanFLF2VConditioning


def _timed(run: Callable[[], Any]) -> tuple[float, torch.Tensor]:
    started = time.process_time()
    result = run().result
    return time.process_time() - started, result[0][0][1]["concat_latent_image"]


def main(dim: int, side: int, frames: int, rounds: int) -> None:
    """Measure ``rounds`` pairs; the first run of each side is left out."""
    vae, images = new_vae(dim), {"start_image": noise(1, side, side, 3), "end_image": noise(1, side, side, 3, seed=1)}
    conditioning = [[torch.zeros(1, 1, 1), {}]]

    def stock(length: int) -> Any:
        return WanFirstLastFrameToVideo.execute(conditioning, conditioning, vae, side, side, length, 1, **images)

    def ours(length: int) -> Any:
        settings = {"fit": "crop", "background": "#000000", "encode": "memoised"}
        return WanFLF2VConditioning.execute(
            conditioning, conditioning, vae, side, side, length, 1, **settings, **images
        )

    for side_of in (stock, ours):
        side_of(5)
    pairs = []
    for _ in range(rounds):
        (stock_s, theirs), (ours_s, mine) = _timed(lambda: stock(frames)), _timed(lambda: ours(frames))
        if not torch.equal(theirs, mine):
            raise RuntimeError("the two latents differ")
        pairs.append((stock_s, ours_s))
    report({"pairs": pairs})


if __name__ == "__main__":
    with torch.inference_mode():
        main(**PARAMETERS)
