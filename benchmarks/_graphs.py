"""Nodes that benches add to a graph."""

from __future__ import annotations

from typing import Any

from ..contract.workflow import Graph


def add_node(graph: Graph, node_id: str, class_type: str, **inputs: Any) -> list[Any]:
    """Add a node and return the link to its first output."""
    graph[node_id] = {"class_type": class_type, "inputs": inputs}
    return [node_id, 0]


def add_chained(graph: Graph, label: str, ours: dict[str, Any], first_low: int) -> str:
    """Add two KSamplerAdvanced that share a run at ``first_low``; returns the second's id.

    ``ours`` are the inputs of node 57 that they stand for; node 54 has the shift.
    """
    shared = {key: ours[key] for key in ("noise_seed", "steps", "cfg", "sampler_name", "scheduler")}
    shared |= {key: ours[key] for key in ("positive", "negative")}
    shift = graph["54"]["inputs"]["shift"]
    low = add_node(graph, f"{label}_shift", "ModelSamplingSD3", model=ours["model_low_noise"], shift=shift)
    high_phase = {"add_noise": "enable", "start_at_step": 0, "end_at_step": first_low}
    high_phase |= {"return_with_leftover_noise": "enable", "latent_image": ours["latent_image"]}
    first = add_node(graph, f"{label}_high", "KSamplerAdvanced", **shared, **high_phase, model=ours["model_high_noise"])
    low_phase = {"add_noise": "disable", "start_at_step": first_low, "end_at_step": 10_000}
    low_phase |= {"return_with_leftover_noise": "disable", "latent_image": first}
    return str(add_node(graph, f"{label}_low", "KSamplerAdvanced", **shared, **low_phase, model=low)[0])
