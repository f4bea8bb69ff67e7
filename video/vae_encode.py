"""The first/last-frame latent: the encode with the Wan VAE, cached, memoised or ComfyUI's own, in tiles if need be."""

from __future__ import annotations

import logging
from typing import Any

import comfy.model_management
import comfy.utils
import torch

from . import vae_check
from .chunks import chunk_bounds, chunk_count
from .conditioning_cache import CACHE, cache_key, limit_bytes
from .ends_video import EndsVideo
from .memo import MemoisedEncoder

ENCODES = ("cached", "memoised", "host")

# What the memo adds to ComfyUI's estimate of 6000 values a pixel (comfy/sd.py): every layer's last output, 1010 values
# a pixel of the Wan VAE, and while a layer's old and new caches are compared, 384 more.
_MEMO_MEMORY = 1.25
# The tiles that comfy/sd.py takes when memory runs out, in pixels. Never tiled in time.
_TILE, _OVERLAP = 256, 64
_ALL_FRAMES = 9999

_LOG = logging.getLogger("wan_flf2v.video")


def encode_first_last(vae: Any, video: EndsVideo, how: str = "cached") -> torch.Tensor:
    """Encode a video that is known at its ends and grey between.

    Args:
        vae: ComfyUI's VAE object.
        video: the video.
        how: ``memoised`` does no work twice where it is provably the same, ``cached`` also keeps results by content,
            ``host`` does neither. All are bitwise equal, unless memory runs out and tiles are needed.

    Returns:
        [1, latent channels, latent frames, height / 8, width / 8], bit for bit that of ComfyUI's
        WanFirstLastFrameToVideo.
    """
    if how == "host":
        return vae.encode(video.whole())
    reason = vae_check.why_not_chunked(vae)
    if reason is None:
        key = cache_key(vae, video) if how == "cached" and limit_bytes() else None
        latent = None if key is None else CACHE.get(key)
        if latent is not None:
            _LOG.info("images, size and VAE are those of an earlier run: its latent is used, nothing is encoded")
            return latent.to(vae.output_device)
        with vae_check.loaded(vae, vae.memory_used_encode(video.shape, vae.vae_dtype) * _MEMO_MEMORY):
            if vae_check.encodes_alike(vae):
                latent = _untiled_encode(vae, video)
                if latent is None:
                    _LOG.warning("out of memory: encoding in tiles of %d pixels", _TILE)
                    comfy.model_management.soft_empty_cache()
                    return _tiled_encode(vae, video)  # not kept: tiles give another latent than the whole
                if key is not None:
                    CACHE.put(key, latent)
                return latent
        reason = "its self-check failed"
    _LOG.warning("ComfyUI's own encode is used for this VAE: %s", reason)
    return vae.encode(video.whole())


def _untiled_encode(vae: Any, video: EndsVideo) -> torch.Tensor | None:
    """Return the latent, or None after out-of-memory: a value, since the error would hold the tensors of its frames."""
    try:
        latent = _memoised(vae, video, comfy.utils.ProgressBar(chunk_count(video.length)))
    except Exception as error:
        if not comfy.model_management.is_oom(error):
            raise
        return None
    return latent.to(vae.output_device).contiguous()


def _memoised(
    vae: Any, video: EndsVideo, progress: Any, top: int = 0, left: int = 0, height: int = 0, width: int = 0
) -> torch.Tensor:
    """Encode an area of the video (all of it without a height and width); the latent stays on the VAE's device."""
    grey = None

    def chunk(i: int) -> torch.Tensor:
        nonlocal grey
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update(1)
        bounds = chunk_bounds(i)
        if i and grey is not None and video.is_grey(*bounds):
            return grey
        # The steps of vae.encode, so that even the memory format is the same.
        pixels = video.frames(*bounds, top, left, height, width).movedim(-1, 1).movedim(1, 0).unsqueeze(0)
        pixels = vae.process_input(pixels).to(vae.vae_dtype).to(vae.device)
        if i and video.is_grey(*bounds):
            grey = pixels
        return pixels

    latent = MemoisedEncoder(vae.first_stage_model).encode(chunk, chunk_count(video.length))
    return latent.to(vae.vae_output_dtype())


def _tiled_encode(vae: Any, video: EndsVideo) -> torch.Tensor:
    """Encode in tiles as ComfyUI does, each with its own memo."""
    _, _, frames, height, width = video.shape
    tiles = comfy.utils.get_tiled_scale_steps(width, height, _TILE, _TILE, _OVERLAP)
    progress = comfy.utils.ProgressBar(tiles * chunk_count(frames))
    # ComfyUI cuts the tiles out of a tensor: this one holds their coordinates.
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns]).unsqueeze(1).expand(2, frames, height, width).unsqueeze(0)

    def encode(tile: torch.Tensor) -> torch.Tensor:
        top, left = tile[0, :, 0, 0, 0].tolist()
        return _memoised(vae, video, progress, top, left, *tile.shape[3:])

    return comfy.utils.tiled_scale_multidim(
        places,
        encode,
        tile=(_ALL_FRAMES, _TILE, _TILE),
        overlap=(1, _OVERLAP, _OVERLAP),
        upscale_amount=vae.downscale_ratio,
        out_channels=vae.latent_channels,
        downscale=True,
        index_formulas=vae.downscale_index_formula,
        output_device=vae.output_device,
    )
