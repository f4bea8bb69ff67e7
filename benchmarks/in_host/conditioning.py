"""Peak memory of the first/last-frame conditioning, of the host's node or of this pack's."""

from __future__ import annotations

import torch

from ._stage import PARAMETERS, new_vae, noise, peak_memory, report  # isort: skip -- first, it prepares the host
from ._conditioning import condition


def main(node: str, dim: int, width: int, height: int, frames: int) -> None:
    """Measure one run, after one of a small video."""
    # bfloat16 as on a GPU; in float32 PyTorch unfolds a convolution of few channels into 27 times its memory.
    vae = new_vae(dim, torch.bfloat16)

    def run(width: int, height: int, length: int) -> None:
        images = {f"{end}_image": noise(1, height, width, 3) for end in ("start", "end")}
        with peak_memory() as peak:
            condition(node, vae, width, height, length, images)
        report({"peak": peak.bytes})

    run(64, 64, 5)
    run(width, height, frames)


if __name__ == "__main__":
    with torch.inference_mode():
        main(**PARAMETERS)
