"""The last frames of a latent as images, so that the next segment can begin with them."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io

from ..video import vae_decode
from ..video.clips import Clip, with_retry
from ..video.frames import crop_to_exact
from ..video.geometry import exact_size
from .video_inputs import CARRIED_MOST


class WanFLF2VLastFrames(io.ComfyNode):
    """Decode how a segment ends."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VLastFrames",
            display_name="Wan FLF2V Last Frames",
            category="video/wan flf2v",
            description=(
                "The last frames of a segment, as the video shows them, for the start_image of the next one: a long "
                "video, one segment after another. Only these frames are kept in memory. Collect the latents with "
                "Create List; Wan FLF2V Video Combine with join_segments writes the frames carried over once."
            ),
            search_aliases=["continue video", "extend video", "long video", "carry over", "last frame"],
            inputs=[
                io.Latent.Input("latent", tooltip="From Wan FLF2V Sampler: one video."),
                io.Vae.Input("vae", tooltip="The Wan 2.1 VAE; decodes the latent."),
                io.Int.Input(
                    "frames",
                    default=1,
                    min=1,
                    max=CARRIED_MOST,
                    step=4,
                    tooltip="How many. 1 carries the picture over, 5 or 9 also how it moves.",
                ),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="For start_image of the next segment.")],
        )

    @classmethod
    def execute(cls, latent: dict, vae: Any, frames: int) -> io.NodeOutput:
        clips = vae_decode.decode(vae, latent["samples"], floats=True)
        if len(clips) != 1:
            raise ValueError(
                f"latent has {len(clips)} videos, but a segment goes on from one. Set seed_count and batch_size to 1."
            )
        (clip,) = clips
        if not 1 <= frames < clip.frames:
            raise ValueError(
                f"frames is {frames}, but must be from 1 to {clip.frames - 1}: the video has {clip.frames} frames, and "
                "the next segment needs one more. Set fewer."
            )
        size = exact_size(latent, clip.width, clip.height)
        last = with_retry(lambda clips: _last(*clips, frames), [clip])
        return io.NodeOutput(crop_to_exact(last.movedim(1, -1), *size).cpu().contiguous())


def _last(clip: Clip, count: int) -> torch.Tensor:
    """Return the last frames, [count, 3, height, width]."""
    kept: deque[torch.Tensor] = deque(maxlen=count)
    progress = comfy.utils.ProgressBar(clip.frames)
    with contextlib.closing(clip.parts):
        for part in clip.parts:
            comfy.model_management.throw_exception_if_processing_interrupted()
            kept.extend(part)
            progress.update(len(part))
    return torch.stack(list(kept))
