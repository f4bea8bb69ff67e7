"""The nodes as users see them: schemas, and a few lines each that call ``sampling`` and ``video``."""

from __future__ import annotations

import logging

from comfy_api.latest import ComfyExtension, io
from server import PromptServer

from .conditioning import WanFLF2VConditioning
from .guider import WanFLF2VGuider
from .plan import WanFLF2VPlan
from .preflight_route import add_preflight_route
from .resolution import WanFLF2VResolution
from .sampler import WanFLF2VSampler
from .video_combine import WanFLF2VVideoCombine


class WanFLF2VExtension(ComfyExtension):
    """What the host loads."""

    async def on_load(self) -> None:
        """Add the preflight route and the hosted API to the host's own server; the nodes work without them."""
        server = getattr(PromptServer, "instance", None)  # there is none where ComfyUI is used as a library
        if server is not None:
            add_preflight_route(server.routes)
        try:
            from .mount import mount  # needs pydantic, one of the host's optional requirements

            await mount()
        except Exception as error:  # whatever it is, the nodes must load
            logging.getLogger("wan_flf2v").exception("wan-flf2v: the hosted API at /v1 is off: %s", error)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the pack's nodes in the order of a graph from left to right."""
        return [
            WanFLF2VResolution,
            WanFLF2VConditioning,
            WanFLF2VSampler,
            WanFLF2VGuider,
            WanFLF2VVideoCombine,
            WanFLF2VPlan,
        ]
