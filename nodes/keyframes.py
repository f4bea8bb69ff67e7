"""Images at frames between the ends, for node 67."""

from __future__ import annotations

import re

import torch
from comfy_api.latest import io

from ..video.known_video import Keyframe
from ..wan import FRAMES_PER_LATENT
from .notice import show_notice

KEYFRAMES = io.Custom("WAN_FLF2V_KEYFRAMES")
"""A tuple of ``Keyframe``, with images of any size."""

_MOST = 64  # numbers in one text
_NUMBER = re.compile(r"[0-9]{1,9}")


class WanFLF2VKeyframes(io.ComfyNode):
    """Say which image the video shows at which frame."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VKeyframes",
            display_name="Wan FLF2V Keyframes",
            category="video/wan flf2v",
            description=(
                "Images that the video passes through on its way from the start to the end image. Connect it to "
                "keyframes of Wan First Last Frame (FLF2V). A frame becomes the nearest multiple of 4, since Wan keeps "
                "every fourth frame apart, and the node says so."
            ),
            search_aliases=["wan keyframes", "middle frame", "in-between image", "FLF2V keyframe", "multi image"],
            inputs=[
                io.Image.Input("images", tooltip="One image, or a batch: one for each number in frames."),
                io.String.Input(
                    "frames",
                    default="40",
                    tooltip="Where each image stands: frame numbers, counted from 0, with commas between them. They "
                    "become multiples of 4.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How closely the video keeps to the images. 1: as to the start and the end image. Lower "
                    "values are outside of what Wan was trained for: a hint rather than a frame.",
                ),
                io.Float.Input(
                    "strength_low_noise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.001,
                    tooltip="The same for the low-noise expert, which makes the details. Only Wan FLF2V Sampler and "
                    "Guider tell the experts apart; other samplers use strength for both.",
                    advanced=True,
                ),
                KEYFRAMES.Input("keyframes", optional=True, tooltip="Further keyframes, of another node like this."),
            ],
            outputs=[KEYFRAMES.Output(display_name="keyframes", tooltip="For Wan First Last Frame (FLF2V).")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, frames: str | None) -> bool | str:
        """Refuse a text that holds no frame numbers; None is a value that comes from another node."""
        try:
            parse_frames("0" if frames is None else frames)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        frames: str,
        strength: float,
        strength_low_noise: float,
        keyframes: tuple[Keyframe, ...] = (),
    ) -> io.NodeOutput:
        for name, value in (("strength", strength), ("strength_low_noise", strength_low_noise)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}, but must be from 0 to 1. Connect another value.")
        asked = parse_frames(frames)
        if len(asked) != images.shape[0]:
            raise ValueError(
                f"frames has {len(asked)} numbers, but images has {images.shape[0]} images. Give one number for each "
                "image."
            )
        snapped = [snap_frame(frame) for frame in asked]
        moved = [f"frame {frame} becomes {now}" for frame, now in zip(asked, snapped, strict=True) if frame != now]
        if moved:
            show_notice(cls.hidden.unique_id, f"Keyframes stand at multiples of 4: {', '.join(moved)}.", warning=True)
        own = tuple(
            Keyframe(now, images[number : number + 1], strength, strength_low_noise, frame)
            for number, (frame, now) in enumerate(zip(asked, snapped, strict=True))
        )
        return io.NodeOutput((*keyframes, *own))


def parse_frames(text: str) -> list[int]:
    """Return the frame numbers in a text such as ``"24, 48"``.

    Raises:
        ValueError: it has something else in it, or nothing.
    """
    parts = [part for part in re.split(r"[\s,;]+", text) if part]
    wrong = next((part for part in parts if not _NUMBER.fullmatch(part)), None)
    if wrong is not None or not 0 < len(parts) <= _MOST:
        shown = f"has {wrong[:20]!r} in it" if wrong is not None else f"has {len(parts)} numbers"
        raise ValueError(
            f"frames {shown}, but must be 1 to {_MOST} frame numbers with commas between them, such as 24, 48."
        )
    return [int(part) for part in parts]


def snap_frame(frame: int) -> int:
    """Return the nearest multiple of 4, of two the lower."""
    return (frame + FRAMES_PER_LATENT // 2 - 1) // FRAMES_PER_LATENT * FRAMES_PER_LATENT
