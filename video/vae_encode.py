"""The first/last-frame latent: the encode with the Wan VAE, cached, memoised or ComfyUI's own."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from . import vae_check
from .chunks import chunk_bounds, chunk_count
from .conditioning_cache import CACHE, cache_key, limit_bytes
from .known_video import KnownVideo
from .memo import MemoisedEncoder

ENCODES = ("cached", "memoised", "host")

# What the memo adds to ComfyUI's own peak (run.py bench encode measures it).
_MEMO_MEMORY = 1.15

_LOG = logging.getLogger("wan_flf2v.video")


def encode_first_last(vae: Any, video: KnownVideo, how: str = "cached") -> torch.Tensor:
    """Encode a video that is known at its ends and grey between.

    Args:
        vae: ComfyUI's VAE object.
        video: the video.
        how: ``memoised`` does no work twice where it is provably the same, ``cached`` also keeps results by content,
            ``host`` does neither. All are bitwise equal, unless memory runs out and ComfyUI encodes in tiles.

    Returns:
        [1, latent channels, latent frames, height / 8, width / 8], bit for bit that of ComfyUI's
        WanFirstLastFrameToVideo.
    """
    if how == "host":
        return vae.encode(video.whole())
    reason = vae_check.why_not_chunked(vae)
    if reason is None:
        key = _key(vae, video) if how == "cached" and limit_bytes() else None
        latent = None if key is None else CACHE.get(key)
        if latent is not None:
            _LOG.info("images, size and VAE are those of an earlier run: its latent is used, nothing is encoded")
            return latent.to(vae.output_device)
        with vae_check.loaded(vae, vae.memory_used_encode(video.shape, vae.vae_dtype) * _MEMO_MEMORY):
            if not vae_check.encodes_alike(vae):
                reason = "its self-check failed"
            elif (latent := _memoised(vae, video)) is not None:
                if key is not None:
                    CACHE.put(key, latent)
                return latent
            else:  # ComfyUI's may still fit: the same bits. What it makes is not kept, since it may be made in tiles.
                reason = "memory ran out"
                comfy.model_management.soft_empty_cache()
    _LOG.warning("ComfyUI's own encode is used for this VAE: %s", reason)
    return vae.encode(video.whole())


def _key(vae: Any, video: KnownVideo) -> str | None:
    """Return the cache's key, or None where the weights are of a type whose bytes cannot be read."""
    try:
        return cache_key(vae, video)
    except Exception as error:  # noqa: BLE001 -- each kind of tensor has its own
        _LOG.warning("the latent is not kept, its VAE cannot be told from others: %s: %s", type(error).__name__, error)
        return None


def _memoised(vae: Any, video: KnownVideo) -> torch.Tensor | None:
    """Return the latent, or None after out-of-memory: a value, since the error would hold the tensors of its frames."""
    try:
        return _encode(vae, video)
    except Exception as error:
        if not comfy.model_management.is_oom(error):
            raise
        return None


def _encode(vae: Any, video: KnownVideo) -> torch.Tensor:
    progress, grey = comfy.utils.ProgressBar(chunk_count(video.length)), None

    def chunk(i: int) -> torch.Tensor:
        nonlocal grey
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update(1)
        bounds = chunk_bounds(i)
        if i and grey is not None and video.is_grey(*bounds):
            return grey
        # The steps of vae.encode, so that even the memory format is the same.
        pixels = video.frames(*bounds).movedim(-1, 1).movedim(1, 0).unsqueeze(0)
        pixels = vae.process_input(pixels).to(vae.vae_dtype).to(vae.device)
        if i and video.is_grey(*bounds):
            grey = pixels
        return pixels

    latent = MemoisedEncoder(vae.first_stage_model).encode(chunk, chunk_count(video.length))
    return latent.to(vae.vae_output_dtype()).to(vae.output_device).contiguous()
