"""Node 71: width and height, from a preset or typed in."""

from __future__ import annotations

from comfy_api.latest import io

from ..contract.parameters import RESOLUTIONS
from ..video.geometry import size_errors
from .video_inputs import size_inputs

CUSTOM = "custom"


class WanFLF2VResolution(io.ComfyNode):
    """Give width and height to the conditioning node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VResolution",
            display_name="Wan FLF2V Resolution",
            category="video/wan flf2v",
            description=(
                "The size of the video. Choose a preset, or 'custom' and type any even width and height: sizes that "
                "Wan cannot generate (it needs multiples of 16) are generated a little larger and cropped back."
            ),
            search_aliases=["wan size", "video resolution", "aspect ratio", "first last frame size"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[CUSTOM, *RESOLUTIONS],
                    default=CUSTOM,
                    tooltip="'custom' uses width and height below; any other value wins over them.",
                ),
                *size_inputs(" Used when preset is 'custom'."),
            ],
            outputs=[
                io.Int.Output(display_name="width", tooltip="Width of the video in pixels."),
                io.Int.Output(display_name="height", tooltip="Height of the video in pixels."),
            ],
        )

    @classmethod
    def validate_inputs(cls, preset: str | None, width: int | None, height: int | None) -> bool | str:
        """Refuse sizes that cannot be generated; None is a value that comes from another node."""
        if preset is not None and preset != CUSTOM:
            return (
                preset in RESOLUTIONS
                or f"preset is {preset!r}, but must be one of: {', '.join([CUSTOM, *RESOLUTIONS])}."
            )
        return size_errors(width, height) or True

    @classmethod
    def execute(cls, preset: str, width: int, height: int) -> io.NodeOutput:
        if preset != CUSTOM:
            width, height = RESOLUTIONS[preset]
        return io.NodeOutput(width, height)
