"""What node 57 does beyond one run: a part for each feature, on a real ComfyUI with the demo's tiny models."""

from __future__ import annotations

from ._figures import Figures, Options
from ._prelude import prelude_figures
from ._resume import resume_figures
from ._stage import comfyui_alone


def run(options: Options) -> Figures:
    """Run every part once."""
    with comfyui_alone(options) as server:
        return {**resume_figures(server), **prelude_figures(server)}
