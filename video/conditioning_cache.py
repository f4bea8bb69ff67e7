"""The cache of encoded images by content (``WAN_FLF2V_CACHE_MB``), so that a new prompt encodes nothing. Pure torch.

ComfyUI keeps a node's result while none of its inputs changed. The conditioning node also takes the prompt, so a new
prompt runs it again. So does an equal image from another node or under another name, and a return to an earlier image.
Here the key is what the encoder would see.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from ..limits import read_limit
from .known_video import KnownVideo

LIMIT_VARIABLE = "WAN_FLF2V_CACHE_MB"
_DEFAULT_LIMIT_MB = 256
_ENCODER = ("encoder.", "conv1.")  # the weights that an encode uses


def limit_bytes() -> int:
    """Return how many bytes may be kept; raises what ``read_limit`` raises."""
    return read_limit(LIMIT_VARIABLE, _DEFAULT_LIMIT_MB)


def cache_key(vae: Any, video: KnownVideo) -> str:
    """Return SHA-256 digests of the video and of the VAE: the encoder's layers and weights, dtypes, device."""
    facts = (repr(vae.first_stage_model), vae.vae_dtype, vae.vae_output_dtype(), str(vae.device))
    # While patches are in the weights, ComfyUI keeps the weights without them here.
    plain = vae.patcher.backup
    weights = {
        name: plain[name].weight if name in plain else weight
        for name, weight in vae.first_stage_model.state_dict().items()
        if name.startswith(_ENCODER)
    }
    with ThreadPoolExecutor() as pool:  # hashlib lets other threads run
        digests = list(pool.map(_digest, weights.values()))
    return f"{video.digest()} {hashlib.sha256(repr((facts, list(weights), digests)).encode()).hexdigest()}"


def _digest(weight: torch.Tensor) -> tuple[str, torch.dtype, tuple[int, ...]]:
    content = weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(content).hexdigest(), weight.dtype, tuple(weight.shape)


class LatentCache:
    """Latents by key, at most ``limit_bytes()`` in all; the least recently used go first."""

    def __init__(self) -> None:
        self._latents: OrderedDict[str, torch.Tensor] = OrderedDict()

    def get(self, key: str) -> torch.Tensor | None:
        """Return a copy, which the caller may change, or None."""
        latent = self._latents.get(key)
        if latent is None:
            return None
        self._latents.move_to_end(key)
        return latent.clone()

    def put(self, key: str, latent: torch.Tensor) -> None:
        """Keep a copy, and drop old ones until all fit; a latent above the limit is not kept."""
        limit = limit_bytes()
        if latent.nbytes > limit:
            return
        self._latents[key] = latent.to("cpu", copy=True)  # ComfyUI's memory manager does not know of it
        self._latents.move_to_end(key)
        while self.size_bytes() > limit:
            self._latents.popitem(last=False)

    def size_bytes(self) -> int:
        """Return how many bytes are kept."""
        return sum(latent.nbytes for latent in self._latents.values())


CACHE = LatentCache()
