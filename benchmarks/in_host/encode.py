"""CPU seconds of the first/last-frame conditioning, the host's node and this pack's in turn."""

from __future__ import annotations

import time

import torch

from ._stage import PARAMETERS, new_vae, noise, report  # isort: skip -- first, it prepares the host
from ._conditioning import condition


def main(dim: int, side: int, frames: int, rounds: int) -> None:
    """Measure ``rounds`` pairs; the first run of each side is left out."""
    vae, images = new_vae(dim), {"start_image": noise(1, side, side, 3), "end_image": noise(1, side, side, 3, seed=1)}

    def timed(node: str, length: int) -> tuple[float, torch.Tensor]:
        started = time.process_time()
        positive, *_ = condition(node, vae, side, side, length, images)
        return time.process_time() - started, positive[0][1]["concat_latent_image"]

    for node in ("stock", "ours"):
        timed(node, 5)
    pairs = []
    for _ in range(rounds):
        (stock_s, theirs), (ours_s, mine) = timed("stock", frames), timed("ours", frames)
        if not torch.equal(theirs, mine):
            raise RuntimeError("the two latents differ")
        pairs.append((stock_s, ours_s))
    report({"pairs": pairs})


if __name__ == "__main__":
    with torch.inference_mode():
        main(**PARAMETERS)
