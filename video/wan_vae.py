"""What the Wan VAE is asked for: the first/last-frame latent, and frames from a latent."""

from __future__ import annotations

from typing import Any

import torch

from .geometry import FRAMES_PER_LATENT, VideoSize, latent_frames

# Mid-grey stands for "unknown" in the conditioning video, as in Wan's official image2video code and the host's nodes.
UNKNOWN_GREY = 0.5


def encode_first_last(
    vae: Any, start: torch.Tensor | None, end: torch.Tensor | None, size: VideoSize, length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Encode the video that is known at its ends and grey between, and the mask that says which frames are known.

    Args:
        vae: the host's VAE object.
        start: first frames, [frames, generated height, generated width, 3], 0...1; None when there are none.
        end: last frames, likewise.
        size: the video's size.
        length: number of frames, 4n+1.

    Returns:
        ``concat_latent_image`` [1, latent channels, latent frames, height / 8, width / 8] and ``concat_mask``
        [1, 4, latent frames, height / 8, width / 8], 0 where a frame is known and 1 elsewhere. Both are bit for bit
        those of the host's WanFirstLastFrameToVideo.
    """
    video = torch.full((length, size.generated_height, size.generated_width, 3), UNKNOWN_GREY)
    scale = vae.spacial_compression_encode()
    known = torch.ones((1, 1, latent_frames(length) * FRAMES_PER_LATENT))
    if start is not None:
        video[: start.shape[0]] = start
        # The first latent frame holds one video frame in the place of four, so known frames count three more.
        known[:, :, : start.shape[0] + FRAMES_PER_LATENT - 1] = 0.0
    if end is not None:
        video[-end.shape[0] :] = end
        known[:, :, -end.shape[0] :] = 0.0
    latent = vae.encode(video)
    height, width = size.generated_height // scale, size.generated_width // scale
    mask = known.view(1, latent_frames(length), FRAMES_PER_LATENT).transpose(1, 2)
    return latent, mask[..., None, None].repeat(1, 1, 1, height, width)


def decode_clips(vae: Any, samples: torch.Tensor) -> torch.Tensor:
    """Decode latents [clips, channels, latent frames, h, w] to [clips, frames, height, width, 3], 0...1."""
    frames = vae.decode(samples)
    return frames if frames.ndim == 5 else frames.unsqueeze(0)
