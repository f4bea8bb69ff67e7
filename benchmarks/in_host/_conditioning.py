"""The first/last-frame conditioning, of the host's node or of this pack's, for benches that compare the two."""

from __future__ import annotations

from typing import Any

import torch
from comfy_extras.nodes_wan import WanFirstLastFrameToVideo

from ...nodes.conditioning import WanFLF2VConditioning


def condition(node: str, vae: Any, width: int, height: int, frames: int, images: dict[str, torch.Tensor]) -> Any:
    """Return the outputs of the node that ``node`` names, ``stock`` or ``ours``; ``images`` are its image inputs."""
    nothing = [[torch.zeros(1, 1, 1), {}]]
    inputs = (nothing, nothing, vae, width, height, frames, 1)
    if node == "stock":
        return WanFirstLastFrameToVideo.execute(*inputs, **images).result
    settings = {"fit": "crop", "background": "#000000", "encode": "memoised"}
    return WanFLF2VConditioning.execute(*inputs, **settings, **images).result
