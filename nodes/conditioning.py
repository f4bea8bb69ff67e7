"""Node 67: the start and the end image into conditioning and an empty latent."""

from __future__ import annotations

from typing import Any

import comfy.clip_vision
import comfy.model_management
import node_helpers
import torch
from comfy_api.latest import io

from ..quality.fit import parse_hex_colour
from ..video import frames, geometry
from ..video.known_video import Keyframe, KnownVideo
from ..video.vae_encode import ENCODES, encode_first_last
from .keyframes import KEYFRAMES
from .notice import show_notice
from .video_inputs import background_error, fit_inputs, image_inputs, length_input, mask_inputs, size_inputs

LOW_NOISE_MASK = "wan_flf2v_concat_mask_low_noise"
"""The key of the conditioning's mask for the low-noise expert, where keyframes have another strength there."""


class WanFLF2VConditioning(io.ComfyNode):
    """Turn a start and an end image into conditioning for an image-to-video model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VConditioning",
            display_name="Wan First Last Frame (FLF2V)",
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
        """Refuse impossible sizes and colours; None is a value that comes from another node."""
        errors = (geometry.size_errors(width, height), background_error(background))
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
        keyframes: tuple[Keyframe, ...] = (),
    ) -> io.NodeOutput:
        size = geometry.video_size(width, height)
        snapped = geometry.snap_length(length)
        if snapped != length:
            text = f"length {length} is not 4n+1: the video has {snapped} frames, the last of them the end image."
            show_notice(cls.hidden.unique_id, text, warning=True)
            length = snapped
        colour = parse_hex_colour("background", background)

        def prepare(image: torch.Tensor | None, mask: torch.Tensor | None, part: slice) -> torch.Tensor | None:
            if image is None:
                return None
            return frames.fit_to_video(frames.composite(image, mask, colour)[part], size, fit, colour)

        start = prepare(start_image, start_mask, slice(length))
        end = prepare(end_image, end_mask, slice(-length, None))
        fitted = (key._replace(image=prepare(key.image, None, slice(1))) for key in keyframes)
        video = KnownVideo(start, end, size, length, tuple(fitted))
        video.check_keyframes()
        image_latent = encode_first_last(vae, video, encode)
        scale = vae.spacial_compression_encode()
        values = {"concat_latent_image": image_latent, "concat_mask": video.mask(scale)}
        if any(key.strength != key.strength_low_noise for key in keyframes):
            values[LOW_NOISE_MASK] = video.mask(scale, low_noise=True)
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
            {
                "samples": samples,
                geometry.SIZE_KEY: size,
                geometry.START_KEY: (video.begins_with, samples.shape[2]),
            },
        )


def _join_clip_vision(start: Any, end: Any) -> Any:
    """Join two CLIP vision outputs along the token axis, as ComfyUI does for Wan 2.1 FLF2V."""
    if start is None or end is None:
        return end if start is None else start
    joined = comfy.clip_vision.Output()
    joined.penultimate_hidden_states = torch.cat(
        [start.penultimate_hidden_states, end.penultimate_hidden_states], dim=-2
    )
    return joined


def _sockets() -> list[io.Input]:
    return [
        io.Conditioning.Input("positive", tooltip="From the CLIP Text Encode of the prompt."),
        io.Conditioning.Input("negative", tooltip="From the CLIP Text Encode of the negative prompt."),
        io.Vae.Input("vae", tooltip="The Wan 2.1 VAE (Wan 2.2 14B uses it too)."),
    ]


def _settings() -> list[io.Input]:
    return [
        *size_inputs(),
        length_input(),
        io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="How many videos, each from different noise."),
        *fit_inputs(
            "Images of another shape: crop fills the frame and cuts the rest, pad shows all of the image on the "
            "background colour, stretch ignores the aspect ratio. Both images are treated alike.",
            "Colour behind transparent images and around padded ones, as #rrggbb.",
        ),
        io.Combo.Input(
            "encode",
            options=list(ENCODES),
            default="cached",
            optional=True,
            advanced=True,
            tooltip="How the images are encoded; the result is the same, bit for bit. cached: nothing is encoded while "
            "images, size, length and VAE stay the same. memoised: work that repeats inside the video is skipped. "
            "host: everything is encoded, as the stock node does.",
        ),
    ]


def _image_sockets() -> list[io.Input]:
    return [
        *image_inputs("First frame (or several first frames).", "Last frame (or several last frames)."),
        *mask_inputs(),
        io.ClipVisionOutput.Input(
            "clip_vision_start_image", optional=True, tooltip="Wan 2.1 FLF2V only: CLIP vision of the start."
        ),
        io.ClipVisionOutput.Input(
            "clip_vision_end_image", optional=True, tooltip="Wan 2.1 FLF2V only: CLIP vision of the end."
        ),
        KEYFRAMES.Input("keyframes", optional=True, tooltip="Images between the two, from Wan FLF2V Keyframes."),
    ]
