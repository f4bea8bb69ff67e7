"""A decoder that takes next to no time, so that the figures are about what is around it.

On a GPU the decoder leaves the processor and its memory alone; on a CPU it would drown everything else. This one stands
in the place of a real Wan VAE's decoder, is called chunk by chunk with caches as that is, and pans over a photograph.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from comfy.ldm.wan.vae import CausalConv3d
from PIL import Image

from ...bootstrap.paths import REPO

_SIZE = (1640, 900)
_STEP = 4  # pixels a frame


class PannedPhotograph(torch.nn.Module):
    """Frames of one photograph, each a few pixels further right; ``seconds`` is what every frame takes besides."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds
        self.has_cache = CausalConv3d(1, 1, 1)  # never run: for each of these the host provides a cache
        picture = (
            Image.open(REPO / "demo" / "images" / "start.jpg").convert("RGB").resize(_SIZE, Image.Resampling.BICUBIC)
        )
        self._picture = torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0) / 127.5 - 1

    def forward(self, x: torch.Tensor, feat_cache: list | None, feat_idx: list[int]) -> list[torch.Tensor]:
        """Return the chunk's frames as the Wan decoder does: the first alone, then two at a time."""
        first = 0 if feat_cache is None or feat_cache[0] is None else feat_cache[0]
        end = first + (1 if first == 0 else 4 * x.shape[2])
        if feat_cache is not None:
            feat_cache[0] = end
        time.sleep(self.seconds * (end - first))
        height, width = 8 * x.shape[3], 8 * x.shape[4]
        frames = [self._picture[None, :, None, :height, _STEP * i : _STEP * i + width] for i in range(first, end)]
        # A little off the photograph's own 8-bit codes, as a decoder's values are.
        return [torch.cat(frames[i : i + 2], 2).mul(0.97).to(x.dtype) for i in range(0, len(frames), 2)]


def with_photograph(vae: Any, seconds: float = 0.0) -> Any:
    """Put the photograph in the place of the VAE's decoder."""
    vae.first_stage_model.decoder = PannedPhotograph(seconds)
    return vae
