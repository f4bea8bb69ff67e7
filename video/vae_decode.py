"""A latent into clips: the streamed decode with the Wan VAE, and ComfyUI's own decode."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.model_management
import torch

from .. import compat
from . import vae_check
from .chunks import decode_chunks
from .clips import Clip, Coder, clip_of_images

DECODES = ("streamed", "whole")
_RGB, _RGBA = 3, 4

_LOG = logging.getLogger("wan_flf2v.video")


def decode(
    vae: Any,
    samples: torch.Tensor,
    how: str = "streamed",
    floats: bool = False,
    alpha: bool = False,
    beside: Sequence[Any] = (),
) -> list[Clip]:
    """Return the clips of a latent [clips, channels, latent frames, h, w]; each is decoded while its parts are read.

    Args:
        vae: ComfyUI's VAE.
        samples: the latent's.
        how: ``streamed``, where only a few frames exist at a time, or ``whole``, ComfyUI's own decode, which gets one
            clip at a time: several at once have other last bits. Both give the same bytes.
        floats: frames are float 0...1 and not bytes.
        alpha: a fourth channel is kept.
        beside: model patchers that run between the parts; they and the VAE are loaded again before each part, since
            loading one may have taken the memory of the other.

    Raises:
        ValueError: the VAE makes no pictures, such as one whose 12 channels its own pack makes pixels of.
    """
    if how == "streamed":
        reason = vae_check.why_not_chunked(vae)
        if reason is None and samples.ndim != 5:
            reason = f"its latent has {samples.ndim} dimensions"
        if reason is None:
            with vae_check.loaded(vae, vae.memory_used_decode((1, *samples.shape[1:]), vae.vae_dtype)):
                if vae_check.decodes_alike(vae):
                    return [_streamed(vae, samples[i : i + 1], floats, beside) for i in range(samples.shape[0])]
            reason = "its self-check failed"
        _LOG.warning("ComfyUI's own decode is used for this VAE: %s", reason)
    one_by_one = samples.ndim == 5 and getattr(vae, "latent_dim", None) == 3
    return [
        clip for part in samples.split(1 if one_by_one else len(samples)) for clip in _whole(vae, part, floats, alpha)
    ]


def _whole(vae: Any, samples: torch.Tensor, floats: bool, alpha: bool) -> list[Clip]:
    """Return what ComfyUI's own decode makes: one clip of pictures, or one for each of a batch of videos."""
    images = vae.decode(samples)
    if images.shape[-1] not in (_RGB, _RGBA):
        raise ValueError(
            f"vae makes {images.shape[-1]} channels of each pixel, but a video needs red, green and blue. Decode with "
            "the node of the pack that this VAE is for, and connect its images instead of latent and vae."
        )
    return [clip_of_images(clip, floats, alpha) for clip in (images if images.ndim == 5 else images.unsqueeze(0))]


def _streamed(vae: Any, samples: torch.Tensor, floats: bool, beside: Sequence[Any]) -> Clip:
    """Return one clip, decoded chunk by chunk."""
    frames, height, width = (
        ratio(n) if callable(ratio) else n * ratio
        for ratio, n in zip(vae.upscale_ratio, samples.shape[2:], strict=True)
    )

    def parts() -> Iterator[torch.Tensor]:
        coded = Coder(floats)
        with compat.device_context(vae.device):
            chunks = decode_chunks(vae.first_stage_model, samples, vae.device, vae.vae_dtype)
            while True:
                if beside:
                    memory = vae.memory_used_decode((1, *samples.shape[1:]), vae.vae_dtype)
                    comfy.model_management.load_models_gpu([vae.patcher, *beside], memory_required=memory)
                if (pixels := next(chunks, None)) is None:
                    return
                # Elementwise, so on the device the values are those of ComfyUI's own conversion.
                pixels = vae.process_output(pixels.to(dtype=vae.vae_output_dtype(), copy=True))
                yield coded(pixels)[0].movedim(0, 1)

    def by_comfyui() -> Clip:
        _LOG.warning("out of memory: ComfyUI's own decode is used, in tiles if it must")
        comfy.model_management.soft_empty_cache()
        return clip_of_images(vae.decode(samples)[0], floats)

    return Clip(frames, height, width, parts(), by_comfyui)
