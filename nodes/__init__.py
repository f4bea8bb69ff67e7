"""The nodes as users see them: schemas, and a few lines each that call the other rooms."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .color_match import WanFLF2VColorMatch
from .conditioning import WanFLF2VConditioning
from .guider import WanFLF2VGuider
from .keyframes import WanFLF2VKeyframes
from .last_frames import WanFLF2VLastFrames
from .mount import mount
from .output_files import remove_leftovers
from .plan import WanFLF2VPlan
from .report import WanFLF2VReport
from .resolution import WanFLF2VResolution
from .sampler import WanFLF2VSampler
from .segments import WanFLF2VSegments
from .video_combine import WanFLF2VVideoCombine


class WanFLF2VExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def on_load(self) -> None:
        remove_leftovers()
        await mount()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the pack's nodes in the order of a graph from left to right."""
        return [
            WanFLF2VResolution,
            WanFLF2VSegments,
            WanFLF2VKeyframes,
            WanFLF2VConditioning,
            WanFLF2VSampler,
            WanFLF2VGuider,
            WanFLF2VLastFrames,
            WanFLF2VColorMatch,
            WanFLF2VVideoCombine,
            WanFLF2VPlan,
            WanFLF2VReport,
        ]
