"""How often the images are encoded when only the prompt, the negative prompt, the seed or the steps change.

Counted in the VAE of a real ComfyUI across queue runs; with the stock node in the same edits for comparison.
"""

from __future__ import annotations

import itertools
from typing import Any

from ..bootstrap.server import ComfyServer
from ..contract.parameters import DEMO, END_IMAGE, START_IMAGE
from ..contract.workflow import graph_for
from ._figures import Figures, Options, summed
from ._stage import comfyui_alone, run_graph

_EDITS: tuple[dict[str, Any], ...] = (
    {"6": {"text": "a cup of coffee"}},
    {"7": {"text": "blurry"}},
    {"57": {"noise_seed": 1}},
    {"57": {"steps": 3}},
    {"6": {"text": "a cat"}, "7": {"text": "dark"}, "57": {"noise_seed": 2}},
    {},  # all of it taken back
)
_STOCK_INPUTS = (
    "positive", "negative", "vae", "width", "height", "length", "batch_size", "start_image", "end_image",
)  # fmt: skip


def run(options: Options) -> Figures:
    """Run every edit once with either node, in one ComfyUI."""
    with comfyui_alone(options) as comfyui:
        ours, stock = (_edits(comfyui, stock=stock) for stock in (False, True))
    return {"encodes": summed(ours, "encodes", ("==", 0)), "encodes_stock": summed(stock, "encodes")}


def _edits(comfyui: ComfyServer, *, stock: bool) -> list[int]:
    """Return how many videos each edit encoded, after a first run that is not counted."""
    counts = []
    for edit in ({}, *_EDITS):
        run_graph(comfyui, _graph(edit, stock=stock))
        counts.append(int((comfyui.base_dir / "output" / "encodes.txt").read_text(encoding="utf-8")))
    return [after - before for before, after in itertools.pairwise(counts)]


def _graph(edit: dict[str, Any], *, stock: bool) -> dict[str, Any]:
    graph: dict[str, Any] = graph_for(DEMO)
    changes = {
        START_IMAGE.inputs[0].node_id: {"image": START_IMAGE.default},
        END_IMAGE.inputs[0].node_id: {"image": END_IMAGE.default},
        "71": {"width": 64, "height": 64},
        "67": {"length": 9},
    }
    for node_id, inputs in (*changes.items(), ("57", {"steps": 2}), *edit.items()):
        graph[node_id]["inputs"].update(inputs)
    if stock:
        inputs = {name: graph["67"]["inputs"][name] for name in _STOCK_INPUTS}
        graph["67"] = {"class_type": "WanFirstLastFrameToVideo", "inputs": inputs}
    return graph
