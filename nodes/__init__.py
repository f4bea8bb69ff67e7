"""The nodes as users see them: schemas, and a few lines each that call ``sampling`` and ``video``."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .conditioning import WanFLF2VConditioning
from .resolution import WanFLF2VResolution
from .sampler import WanFLF2VSampler
from .video_combine import WanFLF2VVideoCombine


class WanFLF2VExtension(ComfyExtension):
    """What the host loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the pack's nodes in the order of a graph from left to right."""
        return [WanFLF2VResolution, WanFLF2VConditioning, WanFLF2VSampler, WanFLF2VVideoCombine]
