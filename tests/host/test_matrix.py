"""Prelude, seeds, gate, resume and keyframes together: each result is that of its parts, wherever it must be."""

import itertools

import pytest
import torch
from support.expert_graphs import dump_latent, sampler_graph
from support.shown import Shown

STEPS, FIRST_LOW, SEED = 4, 2, 7
GATES, KEYFRAMES = (1.0, 0.5), (False, True)


def matrix_graph():
    """Return the graph before node 57, with a second conditioning that has a keyframe; and node 57's inputs."""
    settings = {"steps": STEPS, "handover": "step", "handover_step": FIRST_LOW, "noise_seed": SEED}
    graph = sampler_graph(**{f"n57_{name}": value for name, value in settings.items()})
    images = {"seed": 5, "frames": 1, "width": 80, "height": 48, "channels": 3}
    graph["image"] = {"class_type": "WanFLF2VTestRandomImages", "inputs": images}
    keyframe = {"images": ["image", 0], "frames": "5", "strength": 1.0, "strength_low_noise": 0.5}
    graph["keyframe"] = {"class_type": "WanFLF2VKeyframes", "inputs": keyframe}
    graph["67_keyframe"] = {"class_type": "WanFLF2VConditioning", "inputs": dict(graph["67"]["inputs"])}
    graph["67_keyframe"]["inputs"]["keyframes"] = ["keyframe", 0]
    del graph["dump_ours"]
    return graph, graph.pop("57")["inputs"]


def add_runs(graph, inputs, name, **runs):
    """Add node 57 once for each of ``runs``, and dump its latent."""
    for run, changes in runs.items():
        graph[f"{name} {run}"] = {"class_type": "WanFLF2VSampler", "inputs": {**inputs, **changes}}
        dump_latent(graph, f"{name} {run}", f"{name} {run}")


@pytest.mark.parametrize("prelude", ["none", "steps"])
def test_together_they_are_what_they_are_alone(comfy_server, prelude):
    graph, inputs = matrix_graph()
    inputs |= {"model_prelude": ["37", 0], "prelude": prelude}
    combinations = {}
    for gate, keyframe in itertools.product(GATES, KEYFRAMES):
        own = {**inputs, "cfg_gate": gate}
        if keyframe:
            own |= {name: ["67_keyframe", index] for index, name in enumerate(("positive", "negative", "latent_image"))}
        combinations[f"{prelude} gate {gate} {'keyframe' if keyframe else 'ends'}"] = own
    for name, own in combinations.items():
        add_runs(graph, own, name, other={"seed_count": 2, "cfg_low_noise": 2.0})
    comfy_server.run(graph)  # leaves what its preludes and its high-noise phases give
    for name, own in combinations.items():
        alone = {"first": {"resume": False}, "second": {"resume": False, "noise_seed": SEED + 1}}
        add_runs(graph, own, name, both={"seed_count": 2}, whole={"seed_count": 2, "resume": False}, **alone)
    shown = Shown(comfy_server, graph)
    found = []
    for name in combinations:
        both, whole, first, second = (
            comfy_server.tensors(f"{name} {run}")["samples"] for run in ("both", "whole", "first", "second")
        )
        assert torch.equal(both, whole), f"{name}: resumed or not"
        assert torch.equal(both, torch.cat([first, second])), f"{name}: together or alone"
        (*_, calls) = (text for node_id, text in shown.texts if node_id == f"{name} both")
        first_line = f"{'' if prelude == 'none' else 'prelude 0 model calls, '}high noise 0 model calls, low noise "
        assert calls.startswith(first_line), "the steps before the hand-over are reused"
        found.append(both)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(found, 2))
