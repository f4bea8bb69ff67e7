"""The prelude: does every sampler change models where it must, and is a run of euler that of a chain of stock nodes?"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from ..bootstrap.server import ComfyServer
from ..contract.workflow import Graph
from ._figures import Figure, Figures
from ._graphs import add_node
from ._node_57 import latents_of, notes, samplers, small_graph
from ._stage import run_graph

_SHIFT, _BOUNDARY = 8.0, 0.9
_STEPS, _OWN_STEPS, _OWN_SCHEDULE, _OWN_CFG = 4, 3, 20, 3.5
_EQUAL = 1e-5  # relative


def prelude_figures(server: ComfyServer) -> Figures:
    """Return how many samplers change models where they must, and how far euler's run is from the chain's."""
    names = samplers(server)
    switches = sum(_switches(server, name) for name in names)
    difference = _difference(server)
    return {
        "prelude_switches": Figure(switches, "samplers", 1, switches, switches, ("==", len(names))),
        "prelude_max_rel_diff": Figure(difference, "", 1, difference, difference, ("<=", _EQUAL)),
    }


def _graph(**inputs: Any) -> Graph:
    """Return a graph whose prelude is the high-noise expert's file."""
    prelude = {"prelude_steps": _OWN_STEPS, "prelude_schedule": _OWN_SCHEDULE, "prelude_cfg": _OWN_CFG}
    graph = small_graph(steps=_STEPS, model_prelude=["37", 0], resume=False, **prelude, **inputs)
    graph["54"]["inputs"]["shift"] = _SHIFT
    return graph


def _switches(server: ComfyServer, sampler: str) -> bool:
    """Whether prelude, high- and low-noise model follow each other, and the last takes over at the boundary."""
    graph = _graph(sampler_name=sampler)
    inputs = graph["57"]["inputs"]
    for model in ("prelude", "high_noise", "low_noise"):
        probed = add_node(graph, model, "WanFLF2VMeasureProbe", model=inputs[f"model_{model}"], label=model)
        inputs[f"model_{model}"] = probed
    add_node(graph, "end", "PreviewAny", source=["57", 0])
    notes(server)
    run_graph(server, graph)
    calls = [(note["model"], note["sigma"]) for note in notes(server) if "sigma" in note]
    begins = [(model, next(of_model)[1]) for model, of_model in groupby(calls, key=lambda call: call[0])]
    if [model for model, _ in begins] != ["prelude", "high_noise", "low_noise"]:
        return False
    (_, first), (_, high), (_, low) = begins
    return first > high >= _BOUNDARY > low


def _difference(server: ComfyServer) -> float:
    """Return euler's relative difference to three SamplerCustom over the same sigmas."""
    graph = _graph()
    ours = graph["57"]["inputs"]
    shifted = add_node(graph, "55", "ModelSamplingSD3", model=ours["model_low_noise"], shift=_SHIFT)
    rest = [_sigma(1 - step / _STEPS) for step in range(1, _STEPS + 1)]
    own = [_sigma(1 - step / _OWN_SCHEDULE) for step in range(_OWN_STEPS)]
    low = next(step for step, sigma in enumerate(rest) if sigma < _BOUNDARY)
    latent = ours["latent_image"]
    euler = add_node(graph, "euler", "KSamplerSelect", sampler_name="euler")
    for name, model, sigmas, cfg in (
        ("prelude", ours["model_prelude"], [*own, rest[0]], _OWN_CFG),
        ("high", ours["model_high_noise"], rest[: low + 1], ours["cfg"]),
        ("low", shifted, rest[low:], ours["cfg"]),
    ):
        written = add_node(graph, f"{name}_sigmas", "ManualSigmas", sigmas=", ".join(map(str, sigmas)))
        conditioning = {key: ours[key] for key in ("positive", "negative")}
        noise = {"add_noise": name == "prelude", "noise_seed": ours["noise_seed"]}
        run = {"model": model, "cfg": cfg, "sampler": euler, "sigmas": written, "latent_image": latent}
        latent = add_node(graph, name, "SamplerCustom", **conditioning, **noise, **run)
    found = latents_of(server, graph, ["57", "low"])
    return float(np.linalg.norm(found["57"] - found["low"]) / np.linalg.norm(found["low"]))


def _sigma(t: float) -> float:
    """Return the sigma of a flow at timestep ``t``, 0 to 1 (Esser et al. 2024, eq. 23)."""
    return _SHIFT * t / (1 + (_SHIFT - 1) * t)
