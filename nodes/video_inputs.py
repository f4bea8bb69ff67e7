"""The inputs of a video that several nodes have: its images and how they fit, size, length, frame rate, segments."""

from __future__ import annotations

from comfy_api.latest import io

from ..quality.fit import FITS, parse_hex_colour
from ..video import geometry
from ..wan import FRAMES_PER_LATENT, TRAINED_FRAME_RATE, TRAINED_FRAMES

FRAME_RATE_MIN, FRAME_RATE_MAX = 0.1, 240.0
CARRIED_MOST = 81  # frames that one segment hands to the next


def size_inputs(used: str = "") -> list[io.Input]:
    """Return width and height; ``used`` ends their tooltips."""
    side = {"default": 720, "min": geometry.SIZE_MIN, "max": geometry.SIZE_MAX, "step": 2}
    tooltip = "{} of the video in pixels, even. Wan makes multiples of 16; the excess is cropped." + used
    return [
        io.Int.Input("width", tooltip=tooltip.format("Width"), **side),
        io.Int.Input("height", tooltip=tooltip.format("Height"), **side),
    ]


def length_input() -> io.Input:
    """Return the number of frames."""
    return io.Int.Input(
        "length",
        default=TRAINED_FRAMES,
        min=1,
        max=geometry.LENGTH_MAX,
        step=FRAMES_PER_LATENT,
        tooltip="Number of frames, 4n+1: 81 is 5 s at 16 frames per second, 141 is 8.75 s. Wan was trained on 81; "
        "longer videos tend to loop or drift. Another number becomes the next lower 4n+1.",
    )


def frame_rate_input() -> io.Input:
    """Return the frames per second."""
    return io.Float.Input(
        "frame_rate",
        default=float(TRAINED_FRAME_RATE),
        min=FRAME_RATE_MIN,
        max=FRAME_RATE_MAX,
        step=0.001,  # the editor shows as many decimals as the step has: with 1.0, 23.976 was shown as 24
        tooltip="Frames per second. Wan 2.2 14B makes 16; 81 frames are then 5 seconds.",
    )


def image_inputs(start: str, end: str) -> list[io.Input]:
    """Return the sockets of the start and the end image, with these tooltips."""
    return [
        io.Image.Input("start_image", optional=True, tooltip=start),
        io.Image.Input("end_image", optional=True, tooltip=end),
    ]


def mask_inputs() -> list[io.Input]:
    """Return the sockets of both images' masks."""
    return [
        io.Mask.Input(f"{end}_mask", optional=True, tooltip=f"MASK of the {end} image's Load Image: its transparency.")
        for end in ("start", "end")
    ]


def fit_inputs(fit: str, background: str) -> list[io.Input]:
    """Return how images of another shape fit, and the colour behind them, with these tooltips."""
    return [
        io.Combo.Input("fit", options=list(FITS), default="crop", tooltip=fit),
        io.String.Input("background", default="#000000", tooltip=background),
    ]


def segments_input(tooltip: str) -> io.Input:
    """Return the number of segments, with this tooltip."""
    return io.Int.Input("segments", default=1, min=1, max=1000, optional=True, tooltip=tooltip)


def shared_frames_input() -> io.Input:
    """Return how many frames two segments share."""
    return io.Int.Input(
        "shared_frames",
        default=1,
        min=1,
        max=CARRIED_MOST,
        step=FRAMES_PER_LATENT,
        optional=True,
        tooltip="How many last frames of a segment are the first ones of the next: 1 between images, else frames of "
        "Wan FLF2V Last Frames.",
    )


def background_error(background: str | None) -> str:
    """Return why ``background`` is no colour, or nothing; None is a value that comes from another node."""
    try:
        parse_hex_colour("background", "#000000" if background is None else background)
    except ValueError as error:
        return str(error)
    return ""
