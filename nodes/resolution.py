"""Node 71: width and height, from a list of presets or by hand."""

from __future__ import annotations

from comfy_api.latest import io

from ..contract.parameters import RESOLUTIONS
from ..video.geometry import SIZE_MAX, SIZE_MIN, size_error

CUSTOM = "custom"


class WanFLF2VResolution(io.ComfyNode):
    """Give width and height to the conditioning node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        side = {"default": 720, "min": SIZE_MIN, "max": SIZE_MAX, "step": 2}
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
                io.Int.Input("width", tooltip="Pixels, even, used when preset is 'custom'.", **side),
                io.Int.Input("height", tooltip="Pixels, even, used when preset is 'custom'.", **side),
            ],
            outputs=[
                io.Int.Output(display_name="width", tooltip="Width of the video in pixels."),
                io.Int.Output(display_name="height", tooltip="Height of the video in pixels."),
            ],
        )

    @classmethod
    def validate_inputs(cls, preset: str | None, width: int | None, height: int | None) -> bool | str:
        """Refuse sizes that cannot be generated when the prompt is queued; None is a value linked from elsewhere."""
        if preset is not None and preset != CUSTOM:
            return (
                preset in RESOLUTIONS
                or f"preset is {preset!r}, but must be one of: {', '.join([CUSTOM, *RESOLUTIONS])}."
            )
        errors = [size_error(name, side) for name, side in (("width", width), ("height", height)) if side is not None]
        return " ".join(filter(None, errors)) or True

    @classmethod
    def execute(cls, preset: str, width: int, height: int) -> io.NodeOutput:
        """Return the preset's size, or the one typed in."""
        if preset != CUSTOM:
            width, height = RESOLUTIONS[preset]
        return io.NodeOutput(width, height)
