"""A decoder that takes almost no time, so that the figures show the work around it.

On a GPU the decoder needs neither the processor nor its memory; on a CPU it would hide everything else. This one
replaces a Wan VAE's decoder, is called chunk by chunk with caches like it, and pans over a photograph.
"""

from __future__ import annotations

import numpy as np
import torch
from comfy.ldm.wan.vae import CausalConv3d
from PIL import Image

from ...bootstrap.paths import REPO

_SIZE = (1640, 900)
_PAN = 4  # pixels a frame
_TURN = 80  # the frame at which it turns back


def photograph() -> torch.Tensor:
    """Return the photograph, uint8 [3, height, width]."""
    picture = Image.open(REPO / "demo" / "images" / "start.jpg").convert("RGB").resize(_SIZE, Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(picture).copy()).movedim(-1, 0).contiguous()


def panned(picture: torch.Tensor, frame: int, height: int, width: int) -> torch.Tensor:
    """Return what one frame shows, [3, height, width] (a view): further right up to frame 80, then back, and again."""
    left = _PAN * min(frame % (2 * _TURN), -frame % (2 * _TURN))
    return picture[:, :height, left : left + width]


class PannedPhotograph(torch.nn.Module):
    """Frames of one photograph, each a few pixels further right."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.has_cache = CausalConv3d(1, 1, 1)  # never run: for each of these the host provides a cache
        # A little off the photograph's own 8-bit codes, as a decoder's values are.
        self._picture = (photograph() / 127.5 - 1).mul(0.97).to(dtype)

    def forward(self, x: torch.Tensor, feat_cache: list | None, feat_idx: list[int]) -> list[torch.Tensor]:
        """Return the chunk's frames as the Wan decoder does: the first alone, then two at a time."""
        first = 0 if feat_cache is None or feat_cache[0] is None else feat_cache[0]
        end = first + (1 if first == 0 else 4 * x.shape[2])
        if feat_cache is not None:
            feat_cache[0] = end
        frames = [panned(self._picture, i, 8 * x.shape[3], 8 * x.shape[4]) for i in range(first, end)]
        return [torch.stack(frames[i : i + 2], 1)[None] for i in range(0, len(frames), 2)]
