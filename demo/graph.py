"""The bundled workflow on the demo's models."""

from __future__ import annotations

import copy

from ..contract.workflow import Graph

# Node id -> what loads the demo's file in its place. Everything else in the graph stays.
DEMO_LOADERS = {
    "37": {"unet_name": "tiny_wan_high_noise.safetensors"},
    "56": {"unet_name": "tiny_wan_low_noise.safetensors"},
    "39": {"vae_name": "tiny_wan_vae.safetensors"},
}


def to_demo_graph(graph: Graph) -> Graph:
    """Return a copy of the bundled graph that loads the demo's models instead of the 14B ones."""
    demo = copy.deepcopy(graph)
    for node_id, inputs in DEMO_LOADERS.items():
        demo[node_id]["inputs"].update(inputs)
    demo["38"].update(class_type="WanFLF2VDemoCLIPLoader", inputs={"clip_name": "tiny_umt5.safetensors"})
    return demo
