"""The chunks of frames in which the Wan VAE works, and its decode one chunk at a time. Pure torch.

comfy/ldm/wan/vae.py (from Wan2.1's wan/modules/vae.py) encodes one frame, then two at a time, and decodes one latent
frame, then two at a time, each layer keeping caches of the frames before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

_CHUNK = 2


def chunk_count(frames: int) -> int:
    """Return how many chunks hold ``frames`` frames (4n+1 video frames, or any number of latent frames)."""
    return 1 + frames // _CHUNK


def chunk_bounds(i: int) -> tuple[int, int]:
    """Return the first frame of chunk ``i`` and the one after its last."""
    return (0, 1) if i == 0 else (1 + _CHUNK * (i - 1), 1 + _CHUNK * i)


def decode_chunks(model: Any, latent: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield the frames of ``model.decode(latent)``, bit for bit, each as soon as it is decoded.

    Args:
        model: ComfyUI's Wan VAE, in eval mode and on its device.
        latent: [1, latent channels, latent frames, h, w], of the model's dtype and on its device.

    Yields:
        [1, 3, frames, 8 h, 8 w], -1...1: one frame, then two at a time.
    """
    frames = latent.shape[2]
    # Every cache belongs to a module, so there are no more caches than modules.
    caches = None if frames == 1 else [None] * sum(1 for _ in model.decoder.modules())
    x = model.conv2(latent)
    for i in range(chunk_count(frames)):
        first, end = chunk_bounds(i)
        parts = model.decoder(x[:, :, first:end], feat_cache=caches, feat_idx=[0])
        while parts:
            yield parts.pop(0)  # popped, so that its memory is free once the reader is done with it
