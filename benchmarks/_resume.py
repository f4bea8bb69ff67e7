"""Resume: after an edit of the low-noise phase alone, is the run from the hand-over the whole run, bit for bit?"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from ..bootstrap.server import ComfyServer
from ..contract.workflow import Graph
from ._figures import Figure, Figures
from ._graphs import add_node
from ._node_57 import latents_of, samplers, small_graph

_STEPS, _FIRST_LOW = 6, 3
_EDIT = {"cfg_low_noise": 2.0}


def resume_figures(server: ComfyServer) -> Figures:
    """Return how many samplers there are, how many are bit-equal, and how often the high-noise model ran again."""
    names = samplers(server)
    first, _ = _run(server, names)
    resumed, calls = _run(server, names, **_EDIT)
    whole, whole_calls = _run(server, names, **_EDIT, resume=False)
    if whole_calls < len(names) * _FIRST_LOW:
        raise RuntimeError(f"{whole_calls} forward passes were counted in {len(names)} whole runs")
    without_effect = [name for name in names if np.array_equal(first[name], whole[name])]
    if without_effect:
        raise RuntimeError(f"the edit changes nothing with {', '.join(without_effect)}")
    equal = sum(np.array_equal(resumed[name], whole[name]) for name in names)
    return {
        "resume_samplers": Figure(len(names), "samplers", 1, len(names), len(names)),
        "resume_equal": Figure(equal, "samplers", 1, equal, equal, ("==", len(names))),
        "resume_high_calls": Figure(calls, "calls", 1, calls, calls, ("==", 0)),
    }


def _run(server: ComfyServer, names: list[str], **inputs: Any) -> tuple[dict[str, np.ndarray], int]:
    """Run node 57 with every sampler; returns each one's latent, and the high-noise model's forward passes."""
    graph = small_graph(steps=_STEPS, handover="step", handover_step=_FIRST_LOW)
    template = graph.pop("57")["inputs"]
    add_node(graph, "watch", "WanFLF2VMeasureWatch", model=["37", 0], label="high")
    for name in names:
        add_node(graph, name, "WanFLF2VSampler", **{**template, "sampler_name": name, **inputs})
    # In the same prompt: ComfyUI keeps a MODEL between two prompts that both have its node.
    after = _last(graph, names)
    add_node(graph, "notes", "WanFLF2VMeasureWriteNotes", name="notes", after=after)
    latents = latents_of(server, graph, names)
    noted = json.loads((server.base_dir / "output" / "notes.json").read_text("utf-8"))
    return latents, sum(note.get("event") == "forward" for note in noted)


def _last(graph: Graph, names: list[str]) -> list[Any]:
    """Return a latent that is there once all of the samplers' are."""
    latent: list[Any] = [names[0], 0]
    for name in names[1:]:
        latent = add_node(graph, f"after_{name}", "LatentAdd", samples1=latent, samples2=[name, 0])
    return latent
