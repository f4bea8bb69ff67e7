"""The Report node: whether a video begins and ends on its images, and what is wrong in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import comfy.utils
import numpy as np
import torch
from comfy_api.latest import InputImpl, io, ui

from .. import compat
from ..quality import report_plot, report_text
from ..quality.fit import Colour, parse_hex_colour
from ..quality.report import Fitted, Report, make_report
from ..quality.seams import Joined
from ..quality.thresholds import Thresholds, numbers
from ..quality.video_file import Frames, open_video
from ..video import frames, geometry
from .notice import show_text
from .video_inputs import (
    background_error,
    fit_inputs,
    frame_rate_input,
    image_inputs,
    mask_inputs,
    segments_input,
    shared_frames_input,
)


class WanFLF2VReport(io.ComfyNode):
    """Judge a finished video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VReport",
            display_name="Wan FLF2V Report",
            category="video/wan flf2v",
            description=(
                "Judges a finished video: PSNR, SSIM and colour difference of its first and last frame against the "
                "start and end image; flashes, duplicate and frozen frames, colour drift in between; the seams of "
                "segments and loops. In words, as JSON and as a plot."
            ),
            search_aliases=["video quality", "PSNR SSIM", "flicker", "duplicate frames", "freeze", "colour drift"],
            inputs=[*_sockets(), *_settings()],
            outputs=[
                io.String.Output(display_name="text", tooltip="The report in words."),
                io.String.Output(
                    display_name="json", tooltip="The report as a JSON object; verdict is pass or findings."
                ),
                io.Image.Output(display_name="plot", tooltip="The ends, brightness and motion over time, the faults."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, background: str | None) -> bool | str:
        """Refuse what is no colour; None is a value that comes from another node."""
        return background_error(background) or True

    @classmethod
    def execute(
        cls,
        frame_rate: float,
        fit: str,
        background: str,
        video: Any = None,
        images: torch.Tensor | None = None,
        start_image: torch.Tensor | None = None,
        end_image: torch.Tensor | None = None,
        start_mask: torch.Tensor | None = None,
        end_mask: torch.Tensor | None = None,
        segments: int = 1,
        loop: bool = False,
        shared_frames: int = 1,
        **thresholds: float,
    ) -> io.NodeOutput:
        colour = parse_hex_colour("background", background)
        if start_image is not None:  # of several start frames the video begins with the first
            start_image = frames.composite(start_image, start_mask, colour)[:1]
        if end_image is not None:
            end_image = frames.composite(end_image, end_mask, colour)[-1:]
        with _frames(video, images, frame_rate) as source:
            made = make_report(
                source.frames,
                source.frame_rate,
                _fitted(start_image, fit, colour),
                _fitted(end_image, fit, colour),
                Thresholds(**thresholds),  # type: ignore[arg-type]  # ComfyUI gives whole numbers for io.Int
                _ticker(source.expected),
                Joined(segments, loop, shared_frames),
            )
        return cls._output(made)

    @classmethod
    def _output(cls, made: Report) -> io.NodeOutput:
        text, json = report_text.to_text(made), made.to_json()
        plot = torch.from_numpy(np.asarray(report_plot.draw(made)).astype(np.float32) / 255).unsqueeze(0)
        show_text(cls.hidden.unique_id, text)
        shown = {"text": (text,), "json": (json,), **ui.PreviewImage(plot, cls=cls).as_dict()}
        return io.NodeOutput(text, json, plot, ui=shown)


def _fitted(image: torch.Tensor | None, fit: str, colour: Colour) -> Fitted | None:
    """Return what fits the image to a size, by the same code as the conditioning node."""
    if image is None:
        return None

    def fitted(width: int, height: int) -> Any:
        size = geometry.VideoSize(width, height, width, height)
        return frames.fit_to_video(image, size, fit, colour)[0].float().cpu().numpy()

    return fitted


@contextmanager
def _frames(video: Any, images: torch.Tensor | None, frame_rate: float) -> Iterator[Frames]:
    """Give the frames of the video or of the images, one by one."""
    if (video is None) == (images is None):
        given = "neither is" if video is None else "both are"
        raise ValueError(f"video and images: {given} connected. Connect one: the video of Video Combine, or images.")
    if isinstance(video, InputImpl.VideoFromComponents):  # its frames are there; a file would be made of them
        components = video.get_components()
        images, frame_rate = components.images, float(components.frame_rate)
    if images is not None:
        if images.shape[-1] not in (3, 4):
            raise ValueError(f"images has {images.shape[-1]} channel(s), but must be RGB or RGBA. Convert it first.")
        yield Frames(frame_rate, len(images), _of_images(images, frame_rate))
        return
    window = compat.trim_window(video)
    with open_video(video.get_stream_source(), "video") as source:
        yield source if window is None else _trimmed(source, *window)


def _of_images(images: torch.Tensor, frame_rate: float) -> Iterator[tuple[float, Any]]:
    for index, image in enumerate(images):
        coded = image[..., :3].float().mul(255).round().clamp(0, 255).to(torch.uint8)
        yield index / frame_rate, coded.cpu().numpy()


def _trimmed(source: Frames, start: float, duration: float) -> Frames:
    end = start + duration if duration else float("inf")
    # Half a frame of tolerance: times in files are rounded.
    early = 0.5 / source.frame_rate
    kept = ((time - start, picture) for time, picture in source.frames if start - early <= time < end - early)
    return Frames(source.frame_rate, 0, kept)


def _ticker(expected: int) -> Callable[[int], None]:
    """Return what moves the progress bar and stops when the user cancels."""
    progress = comfy.utils.ProgressBar(max(1, expected))

    def tick(done: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update_absolute(min(done, progress.total))

    return tick


def _sockets() -> list[io.Input]:
    return [
        io.Video.Input("video", optional=True, tooltip="The file that Video Combine wrote. Or connect images."),
        io.Image.Input("images", optional=True, tooltip="The video's frames, instead of a file."),
        *image_inputs("What the first frame should be, in any size.", "What the last frame should be, in any size."),
        *mask_inputs(),
    ]


def _settings() -> list[io.Input]:
    rate = frame_rate_input()
    rate.tooltip = "Frames per second of images. A video knows its own."
    return [
        rate,
        *fit_inputs(
            "How images of another shape fit, as in Wan First Last Frame (FLF2V).",
            "As in Wan First Last Frame (FLF2V), #rrggbb.",
        ),
        *(_threshold(one.name, one.default, one.metadata) for one in numbers()),
        segments_input("How many segments of one length the video was joined from: each seam is measured."),
        io.Boolean.Input(
            "loop",
            default=False,
            optional=True,
            tooltip="The video begins again after its last frame: that seam is measured.",
        ),
        shared_frames_input(),
    ]


def _threshold(name: str, default: Any, facts: Any) -> io.Input:
    kind, number = (io.Int, int) if isinstance(default, int) else (io.Float, float)
    limits = {key: number(facts[fact]) for key, fact in (("min", "least"), ("max", "most"), ("step", "step"))}
    return kind.Input(name, default=default, tooltip=facts["meaning"], optional=True, **limits)
