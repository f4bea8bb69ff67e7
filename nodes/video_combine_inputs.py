"""The inputs of node 73, and the errors for values that come through a link, where ComfyUI looks at no range."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .. import compat
from ..video import formats, vae_decode
from ..video.geometry import SIZE_MAX
from ..video.settings import DEFAULT_PRESET, DITHERS
from .color_match import COLOR_MATCH
from .video_inputs import FRAME_RATE_MAX, FRAME_RATE_MIN, frame_rate_input

# x264 writes 0 without loss, in the profile High 4:4:4 Predictive, which browsers and hardware cannot play.
CRF_PLAYABLE = 1
OWN_QUALITY = -1
_RANGES = {
    "frame_rate": (FRAME_RATE_MIN, FRAME_RATE_MAX),
    "crf": (0, 51),
    "skip_first_frames": (0, 10_000),
    "skip_last_frames": (0, 10_000),
    "loop_count": (0, 1000),
    "hold_fps": (FRAME_RATE_MIN, FRAME_RATE_MAX),
    "multiplier": (2, 16),  # as of ComfyUI's own node
}
_CHOICES = {
    "preset": ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"),
    "dither": DITHERS,
}
_INTERP_MODEL = io.Custom("INTERP_MODEL")


def check_values(**given: Any) -> None:
    """Raise ``ValueError`` for the first value outside what its input takes."""
    for name, value in given.items():
        if name in _CHOICES and value not in _CHOICES[name]:
            choices = ", ".join(_CHOICES[name])
            raise ValueError(f"{name} is {value!r}, but must be one of: {choices}. Give another value.")
        if name in _RANGES and not _RANGES[name][0] <= value <= _RANGES[name][1]:  # `not`, for NaN
            least, most = _RANGES[name]
            raise ValueError(f"{name} is {value}, but must be from {least} to {most}. Give another value.")


def combine_inputs() -> list[io.Input]:
    """Return all inputs. Saved workflows hold widgets by their place: new ones come last."""
    return [
        *_sockets(),
        *_settings(),
        COLOR_MATCH.Input(
            "color_match",
            optional=True,
            tooltip="From Wan FLF2V Color Match: the video's colours follow the start and end image.",
        ),
        *_file_settings(),
        *_frame_settings(),
        *_more_sockets(),
        io.Boolean.Input(
            "join_segments",
            default=False,
            optional=True,
            tooltip="A list of latents (or images) becomes one file, in which the frames that neighbours share "
            "are there once: the last image of a segment is the start image of the next. Off: a file for each.",
        ),
    ]


def _sockets() -> list[io.Input]:
    return [
        io.Latent.Input("latent", optional=True, tooltip="From the sampler; needs vae. Or connect images."),
        io.Vae.Input("vae", optional=True, tooltip="The Wan 2.1 VAE; decodes the latent."),
        io.Image.Input("images", optional=True, tooltip="Frames to write, instead of a latent."),
    ]


def _settings() -> list[io.Input]:
    crop = {"default": 0, "min": 0, "max": SIZE_MAX, "step": 2, "optional": True, "advanced": True}
    return [
        frame_rate_input(),
        io.String.Input(
            "filename_prefix",
            default="video/wan_flf2v",
            tooltip="Folder and name in the output folder; %date:yyyy-MM-dd% and the like are filled in.",
        ),
        io.Int.Input(
            "crf",
            default=19,
            min=_RANGES["crf"][0],
            max=_RANGES["crf"][1],
            tooltip="Quality of x264: lower is better and larger. 17 to 23 is usual; 0 is written as 1, since browsers "
            "cannot play what is lossless.",
        ),
        io.Int.Input("width", tooltip="For images only: crop to this width around the centre. 0 keeps it.", **crop),
        io.Int.Input("height", tooltip="For images only: crop to this height around the centre. 0 keeps it.", **crop),
        io.Combo.Input(
            "decode",
            options=list(vae_decode.DECODES),
            default="streamed",
            optional=True,
            advanced=True,
            tooltip="For a latent: streamed decodes a few frames at a time while earlier ones are encoded, whole "
            "decodes all of a clip first, as VAE Decode does. The file is the same.",
        ),
    ]


def _file_settings() -> list[io.Input]:
    """Return what is said about the file."""
    terms = "; ".join(
        f"{one.name}: {one.quality.option} {one.quality.least} to {one.quality.most} (default {one.quality.default})"
        for one in formats.FORMATS
        if one.quality is not None
    )
    return [
        io.Combo.Input(
            "format",
            options=formats.listed(),
            default=formats.DEFAULT.name,
            optional=True,
            tooltip="The file's format; the list has what this machine can write. mp4 H.264 plays everywhere; 10-bit, "
            "ProRes and FFV1 are for editing; webm VP9, ProRes 4444, FFV1, webp and png keep transparency.",
        ),
        io.Int.Input(
            "quality",
            default=OWN_QUALITY,
            min=OWN_QUALITY,
            max=100,
            optional=True,
            advanced=True,
            tooltip="Quality of formats that do not use the crf input, in the encoder's own terms; -1 is its default. "
            f"For crf and cq lower is better, for webp higher. {terms}.",
        ),
        io.Combo.Input(
            "preset",
            options=list(_CHOICES["preset"]),
            default=DEFAULT_PRESET,
            optional=True,
            advanced=True,
            tooltip="H.264 and H.265: how much time the encoder takes for a smaller file of the same quality.",
        ),
        io.Combo.Input(
            "dither",
            options=list(DITHERS),
            default="auto",
            optional=True,
            advanced=True,
            tooltip="For formats of 8 bits: ordered hides bands in smooth gradients by a fine pattern. auto uses error "
            "diffusion for a gif and dithers nothing else.",
        ),
        io.Boolean.Input(
            "save_output",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Off: into ComfyUI's temp folder, which it empties when it starts.",
        ),
        io.Boolean.Input(
            "save_metadata",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Store prompt, workflow and settings in the file. Off: nobody can see how it was made, and "
            "dropping it on ComfyUI restores nothing.",
        ),
    ]


def _frame_settings() -> list[io.Input]:
    """Return what is done to the frames, in its order."""
    common = {"optional": True, "advanced": True}
    skip = {"default": 0, "min": 0, "max": _RANGES["skip_first_frames"][1], **common}
    return [
        io.Int.Input("skip_first_frames", tooltip="Frames left out at the start.", **skip),
        io.Int.Input(
            "skip_last_frames",
            tooltip="Frames left out at the end. 1 for a loop, whose last frame is its first.",
            **skip,
        ),
        io.Boolean.Input(
            "ping_pong", default=False, tooltip="Run back to the start; neither end is shown twice.", **common
        ),
        io.Int.Input(
            "loop_count",
            default=0,
            min=0,
            max=_RANGES["loop_count"][1],
            tooltip="How often it plays. gif and webp store the number, and 0 is for ever. In other files the frames "
            "are written that many times (0: once).",
            **common,
        ),
        io.Float.Input(
            "hold_fps",
            default=0.0,
            min=0.0,
            max=FRAME_RATE_MAX,
            step=0.001,
            tooltip="The file's frames per second, at the same speed of motion: frames are shown longer or left out. 0 "
            "keeps those of frame_rate (times multiplier).",
            **common,
        ),
        io.Int.Input(
            "multiplier",
            default=2,
            min=2,
            max=_RANGES["multiplier"][1],
            tooltip="With interp_model: multiplies the frames per second, at the same speed of motion. N frames "
            "become (N - 1) x multiplier + 1.",
            **common,
        ),
    ]


def _more_sockets() -> list[io.Input]:
    sockets = [
        io.Audio.Input(
            "audio",
            optional=True,
            tooltip="Sound, cut or filled with silence to the video's length. AAC in mp4, Opus in webm, PCM in mov, "
            "FLAC in mkv. Of a batch of sounds each clip gets its own.",
        )
    ]
    if compat.frame_interpolation() is not None:
        sockets.append(
            _INTERP_MODEL.Input(
                "interp_model",
                optional=True,
                tooltip="From Load Frame Interpolation Model: frames in between, made while the video is written.",
            )
        )
    return sockets
