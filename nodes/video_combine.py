"""Node 73: a latent or images into an MP4 in ComfyUI's output folder."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui

from ..video import names, vae_decode
from ..video.clips import Clip, clip_of_images, write_clip
from ..video.geometry import SIZE_MAX, exact_size
from ..video.mp4 import Mp4Writer
from .color_match import COLOR_MATCH, ColorMatchSettings
from .notice import show_notice
from .video_inputs import FRAME_RATE_MAX, FRAME_RATE_MIN, frame_rate_input

_SUFFIX = ".mp4"
_CRF_MIN, _CRF_MAX = 0, 51
# x264 writes 0 without loss, in the profile High 4:4:4 Predictive, which browsers and hardware cannot play.
_CRF_PLAYABLE = 1


class WanFLF2VVideoCombine(io.ComfyNode):
    """Write the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VVideoCombine",
            display_name="Wan FLF2V Video Combine",
            category="video/wan flf2v",
            description=(
                "Decodes the latent and writes an H.264 MP4 (or writes images you connect instead). Colours are "
                "converted and tagged as BT.709; the prompt and workflow are stored in the file, so dropping it on "
                "ComfyUI restores the graph. Every clip of a batch becomes a separate file."
            ),
            search_aliases=["save video", "VHS video combine", "mp4", "h264", "export video"],
            inputs=[
                *_sockets(),
                *_settings(),
                COLOR_MATCH.Input(
                    "color_match",
                    optional=True,
                    tooltip="From Wan FLF2V Color Match: the video's colours follow the start and end image.",
                ),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video", is_output_list=True, tooltip="The files written, one for each clip."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None) -> bool | str:
        """Refuse a name that no file can have, before anything is sampled; None is a value from another node."""
        return _name_error(filename_prefix) or True

    @classmethod
    def execute(
        cls,
        frame_rate: float,
        filename_prefix: str,
        crf: int,
        latent: dict | None = None,
        vae: Any = None,
        images: torch.Tensor | None = None,
        width: int = 0,
        height: int = 0,
        decode: str = "streamed",
        color_match: ColorMatchSettings | None = None,
    ) -> io.NodeOutput:
        _check_range("frame_rate", frame_rate, FRAME_RATE_MIN, FRAME_RATE_MAX)
        _check_range("crf", crf, _CRF_MIN, _CRF_MAX)
        notices: list[str] = []  # a node shows its last text alone
        if crf < _CRF_PLAYABLE:
            text = f"crf {crf} is lossless, which browsers cannot play: the video is written with crf {_CRF_PLAYABLE}."
            notices.append(text)
            show_notice(cls.hidden.unique_id, text, warning=True)
            crf = _CRF_PLAYABLE
        clips = _clips(latent, vae, images, decode)
        size = cls._size(clips[0], latent, width, height)
        match = None if color_match is None or color_match.strength == 0 else color_match.for_size(*size)
        progress = comfy.utils.ProgressBar(sum(clip.steps(match) for clip in clips))
        saved, videos = [], []
        for clip in clips:
            folder, name, counter, subfolder = _place(filename_prefix, *size)
            with names.reserved(folder, name, counter, _SUFFIX) as path:
                write_clip(partial(Mp4Writer, path, *size, frame_rate, crf, cls._metadata()), progress, clip, match)
            if match is not None:
                notices.append(f"{path.name}: colour: {match}")
                show_notice(cls.hidden.unique_id, "\n".join(notices))
            saved.append(ui.SavedResult(path.name, subfolder, io.FolderType.output))
            videos.append(InputImpl.VideoFromFile(str(path)))
        return io.NodeOutput(videos, ui=ui.PreviewVideo(saved))

    @classmethod
    def _size(cls, clip: Clip, latent: dict | None, width: int, height: int) -> tuple[int, int]:
        """Return the exact width and height, from the latent or as given for images, made even."""
        if latent is not None:
            width, height = exact_size(latent, clip.width, clip.height) or (clip.width, clip.height)
        else:
            width, height = width or clip.width, height or clip.height
        if width > clip.width or height > clip.height:
            raise ValueError(
                f"width x height is {width}x{height}, but the images have {clip.width}x{clip.height} pixels "
                "and can only be cropped. Use a smaller size, or 0 to keep theirs."
            )
        even_width, even_height = width - width % 2, height - height % 2
        if 0 in (even_width, even_height):
            raise ValueError(
                f"width x height is {width}x{height}, but a video has at least 2x2 pixels (H.264 stores colour for "
                "blocks of 2x2). Use larger images, or a larger size."
            )
        if (even_width, even_height) != (width, height):
            text = f"{width}x{height} cropped to {even_width}x{even_height}: H.264 needs even sizes."
            show_notice(cls.hidden.unique_id, text, warning=True)
        return even_width, even_height

    @classmethod
    def _metadata(cls) -> dict[str, Any]:
        """Return the tags from which ComfyUI restores the graph; none with --disable-metadata."""
        if args.disable_metadata:
            return {}
        prompt = {} if cls.hidden.prompt is None else {"prompt": cls.hidden.prompt}
        return {**(cls.hidden.extra_pnginfo or {}), **prompt}


def _clips(latent: dict | None, vae: Any, images: torch.Tensor | None, decode: str) -> list[Clip]:
    """Return the clips of the latent or of the images."""
    if (latent is None) == (images is None):
        given = "neither is" if latent is None else "both are"
        raise ValueError(f"latent and images: {given} connected. Connect one: a latent with its vae, or images.")
    if images is not None:
        if 0 in images.shape:
            frames, height, width, _ = images.shape
            raise ValueError(f"images has {frames} frames of {width}x{height} pixels. Connect at least one frame.")
        if images.shape[-1] not in (3, 4):
            raise ValueError(f"images has {images.shape[-1]} channel(s), but must be RGB or RGBA. Convert it first.")
        return [clip_of_images(images)]
    if vae is None:
        raise ValueError("vae is not connected, but a latent needs it to become frames. Connect the Load VAE node.")
    samples = latent["samples"]
    if 0 in samples.shape:
        raise ValueError(f"latent has the shape {list(samples.shape)}, so no frame. Connect one with frames in it.")
    return vae_decode.decode(vae, samples, decode)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    """Refuse a value that came through a link, where ComfyUI does not look at the range."""
    if not least <= value <= most:  # `not`, for NaN
        raise ValueError(f"{name} is {value}, but must be from {least} to {most}. Connect another value.")


def _place(prefix: str, width: int, height: int) -> tuple[Path, str, int, str]:
    """Return the folder (made if it is not there), the name in it, the first free counter, and the subfolder."""
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    return Path(folder), name, counter, subfolder


def _find_places(prefix: str) -> list[Path]:
    """Return what a file of this prefix and its folders are called, and the file in them, without making a folder.

    Raises as ComfyUI does for a place outside its output folder. A name is looked at directly in that folder, which is
    there: in a folder that is not, no system says that a name is too long.
    """
    parts = Path(os.path.normpath(prefix)).parts
    if not parts or parts[0] == os.pardir or Path(prefix).anchor:
        _place(prefix, SIZE_MAX, SIZE_MAX)
    output = Path(folder_paths.get_output_directory())
    *folders, name = (_place(part, SIZE_MAX, SIZE_MAX)[1] for part in parts or (prefix,))  # ComfyUI fills in %date%
    names_alone = [*(output / folder for folder in folders), names.numbered(output, name, 1, _SUFFIX)]
    return [*names_alone, names.numbered(output.joinpath(*folders), name, 1, _SUFFIX)]


def _name_error(prefix: str | None) -> str:
    """Say why no file can be called after ``prefix``; empty if one can, or if ``prefix`` is None."""
    if prefix is None:
        return ""
    try:
        for path in _find_places(prefix):
            with contextlib.suppress(FileNotFoundError):
                path.lstat()
    except Exception as error:  # noqa: BLE001 -- ComfyUI's own, for a path outside the output folder, has no class
        reason = getattr(error, "strerror", None) or error
        return (
            f"filename_prefix is {prefix!r}, but there can be no such file in the output folder: {reason}. Use another "
            "name; most systems allow 255 bytes, of which the counter and .mp4 take 11."
        )
    return ""


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
            min=_CRF_MIN,
            max=_CRF_MAX,
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
