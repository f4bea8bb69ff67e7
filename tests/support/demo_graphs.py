"""Graphs for tests, made from the bundled API workflow."""

import copy

from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.contract.workflow import graph_for


def demo_graph(**inputs):
    """Return the demo's graph on the random models, small and quick; keywords such as ``n67_length=17`` set inputs."""
    graph = graph_for(DEMO)
    set_inputs(graph, n37_unet_name="tiny_wan_high_noise.safetensors", n56_unet_name="tiny_wan_low_noise.safetensors")
    set_inputs(graph, n39_vae_name="tiny_wan_vae.safetensors")
    set_inputs(graph, n68_image="start.jpg", n62_image="end.jpg", n71_width=64, n71_height=64, n67_length=9)
    set_inputs(graph, n57_steps=4)
    return set_inputs(graph, **inputs)


def set_inputs(graph, **inputs):
    """Set ``n<id>_<input>=value`` in place and return the graph."""
    for key, value in inputs.items():
        node_id, name = key[1:].split("_", 1)
        graph[node_id]["inputs"][name] = value
    return graph


def shorten_texts(graph):
    """Let node 67 have only the first tokens of both texts, in place: a run's forward passes take a third then."""
    for number, name in (("6", "positive"), ("7", "negative")):
        inputs = {"conditioning": [number, 0]}
        graph[f"short_{name}"] = {"class_type": "WanFLF2VTestShortText", "inputs": inputs}
        graph["67"]["inputs"][name] = [f"short_{name}", 0]
    return graph


def only(graph, *node_ids):
    """Return a copy with just these nodes (their links must stay inside)."""
    return {node_id: copy.deepcopy(graph[node_id]) for node_id in node_ids}
