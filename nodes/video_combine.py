"""Node 73: latent or images into a video file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy.cli_args import args
from comfy_api.latest import InputImpl, io, ui

from ..video import frames, geometry, wan_vae
from ..video.encoder import Mp4Writer
from .latent_size import exact_size
from .notice import show_notice


class WanFLF2VVideoCombine(io.ComfyNode):
    """Write the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="WanFLF2VVideoCombine",
            display_name="Wan FLF2V Video Combine",
            category="video/wan flf2v",
            description=(
                "Decodes the latent and writes an H.264 MP4 (or writes images you connect instead). Colours are "
                "converted and tagged as BT.709; the prompt and workflow are stored in the file, so dropping it on "
                "ComfyUI restores the graph. Every clip of a batch becomes a file of its own."
            ),
            search_aliases=["save video", "VHS video combine", "mp4", "h264", "export video"],
            inputs=[*_sockets(), *_settings()],
            outputs=[
                io.Video.Output(
                    display_name="video", is_output_list=True, tooltip="The files written, one for each clip."
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

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
    ) -> io.NodeOutput:
        """Get frames, crop them, write one file for each clip."""
        clips = cls._cropped(_clips(latent, vae, images), latent, width, height)
        metadata = cls._metadata()
        progress = comfy.utils.ProgressBar(clips.shape[0] * clips.shape[1])
        saved, videos = [], []
        for clip in clips:
            folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
                filename_prefix, folder_paths.get_output_directory(), clip.shape[2], clip.shape[1]
            )
            path = Path(folder) / f"{name}_{counter:05}_.mp4"
            with Mp4Writer(path, clip.shape[2], clip.shape[1], frame_rate, crf, metadata) as writer:
                for frame in clip:
                    comfy.model_management.throw_exception_if_processing_interrupted()
                    writer.write(frame)
                    progress.update(1)
            saved.append(ui.SavedResult(path.name, subfolder, io.FolderType.output))
            videos.append(InputImpl.VideoFromFile(str(path)))
        return io.NodeOutput(videos, ui=ui.PreviewVideo(saved))

    @classmethod
    def _cropped(cls, clips: torch.Tensor, latent: dict | None, width: int, height: int) -> torch.Tensor:
        """Crop to the exact size the latent carries, or to the one given for images, and always to even sides."""
        have_height, have_width = clips.shape[2:4]
        if latent is not None:
            want_width, want_height = exact_size(latent, clips) or (have_width, have_height)
        else:
            want_width, want_height = width or have_width, height or have_height
        if want_width > have_width or want_height > have_height:
            raise ValueError(
                f"width x height is {want_width}x{want_height}, but the images have {have_width}x{have_height} pixels "
                "and can only be cropped. Use a smaller size, or 0 to keep theirs."
            )
        even_width, even_height = want_width - want_width % 2, want_height - want_height % 2
        if (even_width, even_height) != (want_width, want_height):
            text = f"{want_width}x{want_height} cropped to {even_width}x{even_height}: H.264 needs even sizes."
            show_notice(cls.hidden.unique_id, text, warning=True)
        return frames.crop_to_exact(clips, even_width, even_height)

    @classmethod
    def _metadata(cls) -> dict[str, Any]:
        """Return the tags that let ComfyUI restore the graph from the file; none if the host was told so."""
        if args.disable_metadata:
            return {}
        prompt = {} if cls.hidden.prompt is None else {"prompt": cls.hidden.prompt}
        return {**(cls.hidden.extra_pnginfo or {}), **prompt}


def _clips(latent: dict | None, vae: Any, images: torch.Tensor | None) -> torch.Tensor:
    """Return [clips, frames, height, width, 3] from whichever input is connected."""
    if (latent is None) == (images is None):
        given = "neither is" if latent is None else "both are"
        raise ValueError(f"latent and images: {given} connected. Connect one: a latent with its vae, or images.")
    if images is not None:
        if images.shape[-1] not in (3, 4):
            raise ValueError(f"images has {images.shape[-1]} channel(s), but must be RGB or RGBA. Convert it first.")
        return images.unsqueeze(0)[..., :3]
    if vae is None:
        raise ValueError("vae is not connected, but a latent needs it to become frames. Connect the Load VAE node.")
    return wan_vae.decode_clips(vae, latent["samples"])


def _sockets() -> list[io.Input]:
    """Return the inputs that come from other nodes."""
    return [
        io.Latent.Input("latent", optional=True, tooltip="From the sampler; needs vae. Or connect images."),
        io.Vae.Input("vae", optional=True, tooltip="The Wan 2.1 VAE; decodes the latent."),
        io.Image.Input("images", optional=True, tooltip="Frames to write, instead of a latent."),
    ]


def _settings() -> list[io.Input]:
    """Return the inputs that have a widget."""
    return [
        io.Float.Input(
            "frame_rate",
            default=16.0,
            min=0.1,
            max=240.0,
            step=1.0,
            tooltip="Frames per second. Wan 2.2 14B generates 16; 81 frames are then 5 seconds.",
        ),
        io.String.Input(
            "filename_prefix",
            default="video/wan_flf2v",
            tooltip="Folder and name in the output folder; %date:yyyy-MM-dd% and the like are filled in.",
        ),
        io.Int.Input(
            "crf",
            default=19,
            min=0,
            max=51,
            tooltip="Quality of x264: lower is better and larger. 17 to 23 is usual.",
        ),
        io.Int.Input(
            "width",
            default=0,
            min=0,
            max=geometry.SIZE_MAX,
            step=2,
            optional=True,
            advanced=True,
            tooltip="For images only: crop to this width around the centre. 0 keeps it.",
        ),
        io.Int.Input(
            "height",
            default=0,
            min=0,
            max=geometry.SIZE_MAX,
            step=2,
            optional=True,
            advanced=True,
            tooltip="For images only: crop to this height around the centre. 0 keeps it.",
        ),
    ]
