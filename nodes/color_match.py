"""Colour match: a video's first and last frame get the colours of the start and end image."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import comfy.model_management
import comfy.utils
import folder_paths
import torch
from comfy_api.latest import io
from comfy_execution.graph_utils import ExecutionBlocker

from ..quality.fit import Colour, parse_hex_colour
from ..video import frames
from ..video.color_match import ColorMatch
from ..video.geometry import VideoSize
from .notice import show_notice
from .video_inputs import background_error, fit_inputs, image_inputs

COLOR_MATCH = io.Custom("COLOR_MATCH")


class ColorMatchSettings(NamedTuple):
    """What the node hands to Video Combine: an IMAGE of one frame for each end, or None, and how to fit it."""

    start_image: torch.Tensor | None
    end_image: torch.Tensor | None
    fit: str
    background: Colour
    strength: float

    def for_size(self, width: int, height: int) -> ColorMatch:
        """Return what corrects clips of this size."""
        size = VideoSize(width, height, width, height)

        def fitted(image: torch.Tensor | None) -> torch.Tensor | None:
            if image is None:
                return None
            opaque = frames.composite(image, None, self.background)
            return frames.fit_to_video(opaque, size, self.fit, self.background)[0].movedim(-1, 0)

        return ColorMatch(
            fitted(self.start_image),
            fitted(self.end_image),
            self.strength,
            Path(folder_paths.get_temp_directory()),
            comfy.model_management.get_torch_device(),
        )


class WanFLF2VColorMatch(io.ComfyNode):
    """Take away the drift of colour between the images and the video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VColorMatch",
            display_name="Wan FLF2V Color Match",
            category="video/wan flf2v",
            description=(
                "Image-to-video models change colours a little. This compares the first and the last frame of the "
                "video with the start and the end image and takes the difference away; in between the correction "
                "changes evenly. Connect color_match to Wan FLF2V Video Combine, or give it images."
            ),
            search_aliases=["color match", "colour correction", "color drift", "color transfer", "fix saturation"],
            inputs=[*_settings(), *_sockets()],
            outputs=[
                COLOR_MATCH.Output(
                    display_name="color_match", tooltip="For Wan FLF2V Video Combine: corrects while it writes."
                ),
                io.Image.Output(display_name="images", tooltip="The corrected images, if images are connected."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, background: str | None) -> bool | str:
        """Refuse what is no colour; None is a value that comes from another node."""
        return background_error(background) or True

    @classmethod
    def execute(
        cls,
        strength: float,
        fit: str,
        background: str,
        start_image: torch.Tensor | None = None,
        end_image: torch.Tensor | None = None,
        images: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        if start_image is None and end_image is None:
            raise ValueError(
                "start_image and end_image: neither is connected. Connect at least one: the images that the video "
                "was made from."
            )
        if not 0 <= strength <= 1:
            raise ValueError(f"strength is {strength:g}, but must be from 0 (off) to 1 (all of the difference).")
        _check(start_image=start_image, end_image=end_image, images=images)
        settings = ColorMatchSettings(
            None if start_image is None else start_image[:1],
            None if end_image is None else end_image[-1:],
            fit,
            parse_hex_colour("background", background),
            strength,
        )
        if images is not None:
            return io.NodeOutput(settings, cls._corrected(images, settings))
        return io.NodeOutput(
            settings,
            ExecutionBlocker('The output "images" of Wan FLF2V Color Match needs its input "images": connect frames.'),
        )

    @classmethod
    def _corrected(cls, images: torch.Tensor, settings: ColorMatchSettings) -> torch.Tensor:
        """Return the images with corrected colours, or the same tensor where there is nothing to correct."""
        if settings.strength == 0:
            return images
        match = settings.for_size(images.shape[2], images.shape[1])
        shown = images[..., :3].movedim(-1, 1)
        match.measure(shown[0], shown[-1])
        show_notice(cls.hidden.unique_id, f"colour: {match}")
        if match.changes_nothing:
            return images
        result, progress = images.clone(), comfy.utils.ProgressBar(len(images))
        for i, frame in enumerate(shown):
            comfy.model_management.throw_exception_if_processing_interrupted()
            result[i, ..., :3] = match.corrected(frame, i / max(len(images) - 1, 1)).movedim(0, -1)
            progress.update(1)
        return result


def _check(**images: torch.Tensor | None) -> None:
    """Refuse what is no RGB or RGBA picture."""
    for name, image in images.items():
        if image is None:
            continue
        if image.shape[-1] not in (3, 4):
            raise ValueError(f"{name} has {image.shape[-1]} channel(s), but must be RGB or RGBA. Convert it first.")
        if len(image) == 0:
            raise ValueError(f"{name} has no frames, but needs at least one. Connect another image.")


def _settings() -> list[io.Input]:
    return [
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.05,
            tooltip="How much of the difference is taken away: 1 all of it, 0 nothing (exactly off).",
        ),
        *fit_inputs(
            "As in Wan First Last Frame (FLF2V), so that the images are compared as the model saw them.",
            "As in Wan First Last Frame (FLF2V): the colour behind transparent images and around padded ones.",
        ),
    ]


def _sockets() -> list[io.Input]:
    return [
        *image_inputs(
            "What the first frame should look like. Of several frames the first counts. Without it the end's "
            "correction is held over the whole video.",
            "What the last frame should look like. Of several frames the last counts. Without it the start's "
            "correction is held over the whole video.",
        ),
        io.Image.Input(
            "images", optional=True, tooltip="Frames of one video to correct here, instead of in Video Combine."
        ),
    ]
