"""Finished conditioning latents by content, so that an edit of the prompt encodes nothing. Pure torch.

ComfyUI keeps a node's result while none of its inputs changed. The conditioning node takes the prompt too, so every
edit of it runs the node again; so does an equal picture from another node or under another name, and an edit taken
back. What is kept here is found by what the encoder would see.
"""

from __future__ import annotations

import os
from collections import OrderedDict

import torch

LIMIT_VARIABLE = "WAN_FLF2V_CACHE_MB"
_DEFAULT_LIMIT_MB = 256


def limit_bytes() -> int:
    """Return how many bytes may be kept: ``WAN_FLF2V_CACHE_MB`` megabytes, 256 if it is not set.

    Raises:
        ValueError: the variable is not a whole number of 0 or more.
    """
    text = os.environ.get(LIMIT_VARIABLE, str(_DEFAULT_LIMIT_MB))
    if not text.strip().isdecimal():
        raise ValueError(
            f"the environment variable {LIMIT_VARIABLE} is {text!r}, but must be a whole number of megabytes, 0 or "
            f"more (0 keeps nothing). Correct it, or unset it for {_DEFAULT_LIMIT_MB}."
        )
    return int(text) * 10**6


class LatentCache:
    """Latents by key, at most ``limit_bytes()`` in all; those not used for longest go first."""

    def __init__(self) -> None:
        self._latents: OrderedDict[str, torch.Tensor] = OrderedDict()

    def get(self, key: str) -> torch.Tensor | None:
        """Return a copy (whoever gets it may change it), or None."""
        latent = self._latents.get(key)
        if latent is None:
            return None
        self._latents.move_to_end(key)
        return latent.clone()

    def put(self, key: str, latent: torch.Tensor) -> None:
        """Keep a copy, and let go of old ones until all fits; a latent above the limit is not kept."""
        limit = limit_bytes()
        if latent.nbytes > limit:
            return
        self._latents[key] = latent.to("cpu", copy=True)  # the host's memory manager knows nothing of it
        self._latents.move_to_end(key)
        while self.size_bytes() > limit:
            self._latents.popitem(last=False)

    def size_bytes(self) -> int:
        """Return how many bytes are kept."""
        return sum(latent.nbytes for latent in self._latents.values())


CACHE = LatentCache()
