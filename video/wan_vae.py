"""What the Wan VAE is asked for: the first/last-frame latent, and frames from a latent.

Both run the host's own modules chunk by chunk under its memory manager. A VAE that is not exactly the one this was
written for goes to the host's ``vae.encode`` and ``vae.decode``, and the log says why.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import comfy.model_management
import comfy.utils
import torch

from . import wan_vae_layout as layout
from .chunks import chunk_bounds, chunk_count, decode_chunks
from .conditioning_cache import CACHE, limit_bytes
from .encoder import to_planar_bytes
from .ends_video import EndsVideo
from .memo import MemoisedEncoder

ENCODES = ("cached", "memoised", "host")
DECODES = ("streamed", "whole")

# What the memo adds to the host's estimate of 6000 values a pixel (comfy/sd.py): every layer's last output, 1010 values
# a pixel of the Wan VAE, and while a layer's old and new caches are compared, 384 more.
_MEMO_MEMORY = 1.25
# The tiles that comfy/sd.py takes when memory runs out, in pixels and in latent pixels. Never tiled in time.
_ENCODE_TILE, _ENCODE_OVERLAP = 256, 64
_DECODE_TILE, _DECODE_OVERLAP = 32, 8
_ALL_FRAMES = 9999

_log = logging.getLogger("wan_flf2v")


class Clip(NamedTuple):
    """One clip of a batch: its size, and its frames as they come, as uint8 [frames, 3, height, width].

    ``tiled`` decodes it anew where the frames end in an out-of-memory error; None where the host has seen to that.
    """

    frames: int
    height: int
    width: int
    parts: Iterator[torch.Tensor]
    tiled: Callable[[], Clip] | None = None


def encode_first_last(vae: Any, video: EndsVideo, how: str = "cached") -> torch.Tensor:
    """Encode a video that is known at its ends and grey between.

    Args:
        vae: the host's VAE object.
        video: the video.
        how: ``memoised`` reuses work that is provably the same, ``cached`` also keeps results by content, ``host`` does
            neither. All are bitwise equal, but where memory runs out and tiles are needed.

    Returns:
        ``concat_latent_image`` [1, latent channels, latent frames, height / 8, width / 8], bit for bit that of the
        host's WanFirstLastFrameToVideo.
    """
    if how == "host":
        return vae.encode(video.whole())
    key = None
    if how == "cached" and limit_bytes() and layout.why_not_chunked(vae) is None:
        key = f"{video.digest()} {layout.identity(vae)}"
        latent = CACHE.get(key)
        if latent is not None:
            _log.info("images, size and VAE are those of an earlier run: its latent is used, nothing is encoded")
            return latent.to(vae.output_device)
    latent, whole = _encode(vae, video)
    if key is not None and whole:
        CACHE.put(key, latent)
    return latent


def clips(vae: Any, samples: torch.Tensor, how: str = "streamed") -> list[Clip]:
    """Return the clips of a latent [clips, channels, latent frames, h, w], decoded as their parts are asked for.

    ``how`` is ``streamed``, where only a few frames exist at a time, or ``whole``, the host's own decode. Their bytes
    are equal.
    """
    reason = layout.why_not_chunked(vae)
    if how == "streamed" and reason is None and samples.ndim == 5:
        with _on_device(vae):
            _load(vae, vae.memory_used_decode((1, *samples.shape[1:]), vae.vae_dtype))
            if layout.decodes_alike(vae):
                return [_streamed(vae, samples[i : i + 1]) for i in range(samples.shape[0])]
        reason = "its self-check failed"
    if how == "streamed":
        _log.warning(
            "ComfyUI's own decode is used for this VAE: %s", reason or f"its latent has {samples.ndim} dimensions"
        )
    images = vae.decode(samples)
    return [clip_of_images(clip) for clip in (images if images.ndim == 5 else images.unsqueeze(0))]


def clip_of_images(images: torch.Tensor) -> Clip:
    """Return an IMAGE, float [frames, height, width, 3 or 4], as a clip."""
    parts = (to_planar_bytes(image[..., :3].movedim(-1, 0).unsqueeze(0)) for image in images)
    return Clip(*images.shape[:3], parts)


def fits_in_memory(write: Callable[[Clip], None], clip: Clip) -> bool:
    """Call ``write(clip)``; False if the device ran out of memory where ``clip.tiled`` can help.

    A value, not an exception, so that the error lets go of the tensors it holds before the clip is decoded anew.
    """
    try:
        write(clip)
    except Exception as error:
        if clip.tiled is None:
            raise
        if not comfy.model_management.is_oom(error):
            raise
        return False
    return True


def _encode(vae: Any, video: EndsVideo) -> tuple[torch.Tensor, bool]:
    """Return the latent, and whether it is known to be encoded whole: where memory is short, tiles are put together."""
    reason = layout.why_not_chunked(vae)
    if reason is None:
        with _on_device(vae):
            _load(vae, vae.memory_used_encode(video.shape, vae.vae_dtype) * _MEMO_MEMORY)
            if layout.encodes_alike(vae):
                latent = _untiled_encode(vae, video)
                if latent is not None:
                    return latent, True
                _log.warning("out of memory: encoding in tiles of %d pixels", _ENCODE_TILE)
                comfy.model_management.soft_empty_cache()
                return _tiled_encode(vae, video), False
        reason = "its self-check failed"
    _log.warning("ComfyUI's own encode is used for this VAE: %s", reason)
    return vae.encode(video.whole()), False


def _untiled_encode(vae: Any, video: EndsVideo) -> torch.Tensor | None:
    """Return the latent, or None when memory ran out (returned, so that the error lets go of the tensors it holds)."""
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
        # The same steps as vae.encode, so that even the memory format is the same.
        pixels = video.frames(*bounds, top, left, height, width).movedim(-1, 1).movedim(1, 0).unsqueeze(0)
        pixels = vae.process_input(pixels).to(vae.vae_dtype).to(vae.device)
        if i and video.is_grey(*bounds):
            grey = pixels
        return pixels

    latent = MemoisedEncoder(vae.first_stage_model).encode(chunk, chunk_count(video.length))
    return latent.to(vae.vae_output_dtype())


def _tiled_encode(vae: Any, video: EndsVideo) -> torch.Tensor:
    """Encode in tiles as the host does, each with a memo of its own."""
    _, _, frames, height, width = video.shape
    tiles = comfy.utils.get_tiled_scale_steps(width, height, _ENCODE_TILE, _ENCODE_TILE, _ENCODE_OVERLAP)
    progress = comfy.utils.ProgressBar(tiles * chunk_count(frames))
    # The host cuts tiles out of a tensor; out of this one it cuts their coordinates.
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    places = torch.stack([rows, columns]).unsqueeze(1).expand(2, frames, height, width).unsqueeze(0)

    def encode(tile: torch.Tensor) -> torch.Tensor:
        top, left = tile[0, :, 0, 0, 0].tolist()
        return _memoised(vae, video, progress, top, left, *tile.shape[3:])

    return comfy.utils.tiled_scale_multidim(
        places,
        encode,
        tile=(_ALL_FRAMES, _ENCODE_TILE, _ENCODE_TILE),
        overlap=(1, _ENCODE_OVERLAP, _ENCODE_OVERLAP),
        upscale_amount=vae.downscale_ratio,
        out_channels=vae.latent_channels,
        downscale=True,
        index_formulas=vae.downscale_index_formula,
        output_device=vae.output_device,
    )


def _streamed(vae: Any, samples: torch.Tensor) -> Clip:
    """Return one clip of a known VAE, decoded chunk by chunk."""
    frames, height, width = (
        ratio(n) if callable(ratio) else n * ratio
        for ratio, n in zip(vae.upscale_ratio, samples.shape[2:], strict=True)
    )

    def parts() -> Iterator[torch.Tensor]:
        with _on_device(vae):
            latent = samples.to(device=vae.device, dtype=vae.vae_dtype)
            for pixels in decode_chunks(vae.first_stage_model, latent):
                # Elementwise, so on the device the values are those of the host's own conversion; its process_output
                # has clipped them, so only the rounding of to_planar_bytes is left.
                pixels = vae.process_output(pixels.to(dtype=vae.vae_output_dtype(), copy=True))
                yield pixels.mul_(255.0).round_().to(torch.uint8)[0].movedim(0, 1)

    def tiled() -> Clip:
        _log.warning("out of memory: decoding in tiles of %d pixels", _DECODE_TILE * 8)
        comfy.model_management.soft_empty_cache()
        return clip_of_images(
            vae.decode_tiled(samples, tile_x=_DECODE_TILE, tile_y=_DECODE_TILE, overlap=_DECODE_OVERLAP)[0]
        )

    return Clip(frames, height, width, parts(), tiled)


def _load(vae: Any, memory: float) -> None:
    """Bring the VAE to its device with that many bytes free beside it, as the host's encode and decode do."""
    comfy.model_management.load_models_gpu([vae.patcher], memory_required=memory, force_full_load=vae.disable_offload)


def _on_device(vae: Any) -> contextlib.AbstractContextManager:
    """Make the VAE's device the current one where the host does so (0.30.0 does, 0.18.2 does not)."""
    context = getattr(comfy.model_management, "cuda_device_context", None)
    return contextlib.nullcontext() if context is None else context(vae.device)
