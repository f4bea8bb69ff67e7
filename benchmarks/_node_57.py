"""What benches of node 57 share: a small graph up to it, the host's samplers, the latents, what probes noted."""

from __future__ import annotations

import copy
import json
import urllib.request
from collections.abc import Iterable
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ..bootstrap.server import ComfyServer
from ..contract.parameters import DEMO, END_IMAGE, FRAME_RATE, START_IMAGE
from ..contract.workflow import Graph, graph_for
from ._graphs import add_node
from ._stage import run_graph


def small_graph(**inputs: Any) -> Graph:
    """Return the demo graph up to node 57, with inputs of node 57 set, for 9 frames of 64 x 64."""
    graph = copy.deepcopy(graph_for(DEMO))
    del graph[FRAME_RATE.inputs[0].node_id]  # the node that writes the video
    graph["71"]["inputs"].update(width=64, height=64)
    graph["67"]["inputs"]["length"] = 9
    for image in (START_IMAGE, END_IMAGE):  # where prepare_demo puts them
        graph[image.inputs[0].node_id]["inputs"][image.inputs[0].name] = image.default
    graph["57"]["inputs"].update(inputs)
    return graph


def samplers(server: ComfyServer) -> list[str]:
    """Return the names of the host's samplers."""
    with urllib.request.urlopen(f"{server.url}/object_info/KSampler", timeout=60) as response:  # noqa: S310 -- loopback
        kind, *rest = json.load(response)["KSampler"]["input"]["required"]["sampler_name"]
    names: list[str] = kind if isinstance(kind, list) else rest[0]["options"]
    return names


def latents_of(server: ComfyServer, graph: Graph, node_ids: Iterable[str]) -> dict[str, np.ndarray]:
    """Run a graph and return the samples of these nodes."""
    wanted = list(node_ids)
    for number, node_id in enumerate(wanted):
        add_node(graph, f"save_{number}", "SaveLatent", samples=[node_id, 0], filename_prefix=f"latents/{number}/x")
    run_graph(server, graph)
    found = {}
    for number, node_id in enumerate(wanted):
        (path,) = (server.base_dir / "output" / "latents" / str(number)).iterdir()
        found[node_id] = load_file(path)["latent_tensor"]
        path.unlink()
    return found


def notes(server: ComfyServer) -> list[dict[str, Any]]:
    """Return what the probes noted since the last time."""
    run_graph(server, {"1": {"class_type": "WanFLF2VMeasureWriteNotes", "inputs": {"name": "notes"}}})
    noted: list[dict[str, Any]] = json.loads((server.base_dir / "output" / "notes.json").read_text("utf-8"))
    return noted
