"""Node 67: first and last image into conditioning."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
import comfy.model_management
import node_helpers
import torch
from comfy_api.latest import io

from ..video import frames, geometry, wan_vae
from ..video.ends_video import EndsVideo
from .latent_size import SIZE_KEY
from .notice import show_notice


class WanFLF2VConditioning(io.ComfyNode):
    """Turn a start and an end image into conditioning for an image-to-video model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="WanFLF2VConditioning",
            display_name="Wan FLF2V First/Last Frame",
            category="video/wan flf2v",
            description=(
                "The start and end image of the video, as conditioning for Wan 2.2 image-to-video (and Wan 2.1 "
                "FLF2V, with CLIP vision). Any even size works and no end image is ever lost: lengths that are not "
                "4n+1 become the next lower one, and the node says so."
            ),
            search_aliases=["first last frame", "FLF2V", "start end image", "keyframe", "WanFirstLastFrameToVideo"],
            inputs=[*_sockets(), *_settings(), *_image_sockets()],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with both images."),
                io.Conditioning.Output(display_name="negative", tooltip="The negative prompt with both images."),
                io.Latent.Output(display_name="latent", tooltip="An empty latent of the right size and length."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, width: int | None, height: int | None, background: str | None) -> bool | str:
        """Refuse impossible sizes and colours when the prompt is queued; None is a value linked from elsewhere."""
        errors = [
            geometry.size_error(name, side) for name, side in (("width", width), ("height", height)) if side is not None
        ]
        if background is not None:
            try:
                geometry.parse_hex_colour("background", background)
            except ValueError as error:
                errors.append(str(error))
        return " ".join(filter(None, errors)) or True

    @classmethod
    def execute(
        cls,
        positive: list,
        negative: list,
        vae: Any,
        width: int,
        height: int,
        length: int,
        batch_size: int,
        fit: str,
        background: str,
        encode: str = "cached",
        start_image: torch.Tensor | None = None,
        end_image: torch.Tensor | None = None,
        start_mask: torch.Tensor | None = None,
        end_mask: torch.Tensor | None = None,
        clip_vision_start_image: Any = None,
        clip_vision_end_image: Any = None,
    ) -> io.NodeOutput:
        """Fit, encode, and put the result into both conditionings."""
        size = geometry.video_size(width, height)
        length = cls._snap(length)
        colour = geometry.parse_hex_colour("background", background)

        def prepare(image: torch.Tensor | None, mask: torch.Tensor | None, part: slice) -> torch.Tensor | None:
            if image is None:
                return None
            return frames.fit_to_video(frames.composite(image, mask, colour)[part], size, fit, colour)

        start = prepare(start_image, start_mask, slice(length))
        end = prepare(end_image, end_mask, slice(-length, None))
        video = EndsVideo(start, end, size, length)
        image_latent = wan_vae.encode_first_last(vae, video, encode)
        values = {"concat_latent_image": image_latent, "concat_mask": video.mask(vae.spacial_compression_encode())}
        clip_vision = _join_clip_vision(clip_vision_start_image, clip_vision_end_image)
        if clip_vision is not None:
            values["clip_vision_output"] = clip_vision
        samples = torch.zeros(
            [batch_size, vae.latent_channels, *image_latent.shape[2:]],
            device=comfy.model_management.intermediate_device(),
        )
        return io.NodeOutput(
            node_helpers.conditioning_set_values(positive, values),
            node_helpers.conditioning_set_values(negative, values),
            {"samples": samples, SIZE_KEY: size},
        )

    @classmethod
    def _snap(cls, length: int) -> int:
        snapped = geometry.snap_length(length)
        if snapped != length:
            text = f"length {length} is not 4n+1: the video has {snapped} frames, the last of them the end image."
            show_notice(cls.hidden.unique_id, text, warning=True)
        return snapped


def _join_clip_vision(start: Any, end: Any) -> Any:
    """Join two CLIP vision outputs along the token axis, as the host does for Wan 2.1 FLF2V."""
    if start is None or end is None:
        return end if start is None else start
    joined = comfy.clip_vision.Output()
    joined.penultimate_hidden_states = torch.cat(
        [start.penultimate_hidden_states, end.penultimate_hidden_states], dim=-2
    )
    return joined


def _sockets() -> list[io.Input]:
    """Return the inputs that come from other nodes."""
    return [
        io.Conditioning.Input("positive", tooltip="From the CLIP Text Encode of the prompt."),
        io.Conditioning.Input("negative", tooltip="From the CLIP Text Encode of the negative prompt."),
        io.Vae.Input("vae", tooltip="The Wan 2.1 VAE (Wan 2.2 14B uses it too)."),
    ]


def _settings() -> list[io.Input]:
    """Return the inputs that have a widget."""
    side = {"min": geometry.SIZE_MIN, "max": geometry.SIZE_MAX, "step": 2}
    return [
        io.Int.Input("width", default=720, tooltip="Width of the video in pixels, even.", **side),
        io.Int.Input("height", default=720, tooltip="Height of the video in pixels, even.", **side),
        io.Int.Input(
            "length",
            default=81,
            min=1,
            max=4097,
            step=4,
            tooltip="Number of frames, 4n+1: 81 is 5 s at 16 frames per second, 141 is 8.75 s. Wan was "
            "trained on 81; longer clips tend to loop or drift.",
        ),
        io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many videos, each of its own noise."),
        io.Combo.Input(
            "fit",
            options=list(frames.FITS),
            default="crop",
            tooltip="Images of another shape: crop fills the frame and cuts the rest, pad shows all of the "
            "image on the background colour, stretch ignores the aspect ratio. Both images are treated alike.",
        ),
        io.String.Input(
            "background",
            default="#000000",
            tooltip="Colour behind transparent images and around padded ones, as #rrggbb.",
        ),
        io.Combo.Input(
            "encode",
            options=list(wan_vae.ENCODES),
            default="cached",
            optional=True,
            advanced=True,
            tooltip="How the images are encoded; the result is the same, bit for bit. cached encodes nothing while "
            "images, size, length and VAE stay the same, memoised only skips the work that repeats inside the video, "
            "host does all of it, as the stock node does.",
        ),
    ]


def _image_sockets() -> list[io.Input]:
    """Return the optional image inputs."""
    return [
        io.Image.Input("start_image", optional=True, tooltip="First frame (or several first frames)."),
        io.Image.Input("end_image", optional=True, tooltip="Last frame (or several last frames)."),
        io.Mask.Input("start_mask", optional=True, tooltip="MASK of the start image's Load Image: its transparency."),
        io.Mask.Input("end_mask", optional=True, tooltip="MASK of the end image's Load Image: its transparency."),
        io.ClipVisionOutput.Input(
            "clip_vision_start_image", optional=True, tooltip="Wan 2.1 FLF2V only: CLIP vision of the start."
        ),
        io.ClipVisionOutput.Input(
            "clip_vision_end_image", optional=True, tooltip="Wan 2.1 FLF2V only: CLIP vision of the end."
        ),
    ]
