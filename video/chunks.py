"""The chunks of frames in which the Wan VAE works, and its decode one chunk at a time. Pure torch.

comfy/ldm/wan/vae.py (from Wan2.1's wan/modules/vae.py) encodes one frame, then two at a time, and decodes one latent
frame, then two at a time, each layer keeping caches of the frames before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch

_CHUNK = 2
# Of a block of latent frames: 8 MiB of 16 channels in two bytes.
_BLOCK_PIXELS = 1 << 18
_FEWEST_BLOCKS = 3


def chunk_count(frames: int) -> int:
    """Return how many chunks hold ``frames`` frames (4n+1 video frames, or any number of latent frames)."""
    return 1 + frames // _CHUNK


def chunk_bounds(i: int) -> tuple[int, int]:
    """Return the first frame of chunk ``i`` and the one after its last."""
    return (0, 1) if i == 0 else (1 + _CHUNK * (i - 1), 1 + _CHUNK * i)


def decode_chunks(
    model: Any, latent: torch.Tensor, device: torch.device | str, dtype: torch.dtype
) -> Iterator[torch.Tensor]:
    """Yield the frames of ``model.decode(latent.to(device, dtype))``, bit for bit, each as soon as it is decoded.

    Args:
        model: ComfyUI's Wan VAE, in eval mode and on its device.
        latent: [1, latent channels, latent frames, h, w], on any device; of a long one no copy is kept.
        device: the model's device.
        dtype: the model's dtype.

    Yields:
        [1, 3, frames, 8 h, 8 w], -1...1: one frame, then two at a time.
    """
    frames = latent.shape[2]
    # Every cache belongs to a module, so there are no more caches than modules.
    caches = None if frames == 1 else [None] * sum(1 for _ in model.decoder.modules())
    chunk = _first_layer(model, latent, device, dtype)
    for i in range(chunk_count(frames)):
        parts = model.decoder(chunk(*chunk_bounds(i)), feat_cache=caches, feat_idx=[0])
        while parts:
            yield parts.pop(0)  # popped, so that its memory is free once the reader is done with it


def _first_layer(
    model: Any, latent: torch.Tensor, device: torch.device | str, dtype: torch.dtype
) -> Callable[[int, int], torch.Tensor]:
    """Return what makes the decoder's input of the latent frames from the first to the one before the last.

    ComfyUI runs the first layer, a convolution of single pixels, over the whole clip at once. Of a long clip it is run
    over blocks of frames, one block at a time, so that the rest needs no memory, if that gives the same bits. PyTorch
    takes other kernels for few pixels, which round differently: float32 on a CPU with two threads gave other bits for
    131,040 pixels than for 1.5 million, and the same bits for 249,600.
    """

    def made(first: int, end: int) -> torch.Tensor:
        layer: torch.Tensor = model.conv2(latent[:, :, first:end].to(device, dtype))
        return layer

    frames, height, width = latent.shape[2:]
    whole = made(0, frames)
    size = _CHUNK * -(-_BLOCK_PIXELS // (_CHUNK * height * width))
    starts = [0 if i == 0 else 1 + size * i for i in range(-(-(frames - 1) // size))]
    if len(starts) < _FEWEST_BLOCKS:
        return lambda first, end: whole[:, :, first:end]

    @lru_cache(maxsize=1)
    def block(number: int) -> tuple[int, torch.Tensor]:
        """Return its first frame and its layer; the last block begins earlier, so that none is small."""
        end = min(1 + size * (number + 1), frames)
        first = min(starts[number], end - size)
        return first, made(first, end)

    def chunk(first: int, end: int) -> torch.Tensor:
        begin, layer = block(max(first - 1, 0) // size)
        return layer[:, :, first - begin : end - begin]

    bounds = [chunk_bounds(i) for i in range(chunk_count(frames))]
    if all(torch.equal(chunk(first, end), whole[:, :, first:end]) for first, end in bounds):
        return chunk
    return lambda first, end: whole[:, :, first:end]
