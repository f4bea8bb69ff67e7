"""What node 57 does with two experts, beside what the stock nodes do: on a real ComfyUI, with the demo's tiny models.

Solvers: with one model as both experts, a run over two experts must be the run of one model. So must two chained
KSamplerAdvanced, if chaining kept a solver's history.
"""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import psutil

from ..bootstrap.server import ComfyServer
from ..contract.parameters import DEMO
from ..contract.workflow import Graph, graph_for
from ..demo.base import make_models
from ._figures import Figure, Figures, Options, median
from ._graphs import add_chained, add_node
from ._node_57 import latents_of, notes, samplers, small_graph
from ._rule import CASES, STATED, high_noise_steps
from ._stage import add_one_model_twice, comfyui_alone, run_graph

_SCHEDULERS = ("simple", "beta", "normal", "sgm_uniform")
_STEPS, _FIRST_LOW = 8, 4
_EQUAL = 1e-4  # relative: float rounding, and room for it
_SEEDS = 4
_PAIRS = 31
_FORWARD_MS = 50.0  # a forward pass of the model takes at least this long, so that a step is not all overhead
_CPU_SIZE = {"width": 192, "height": 192, "length": 33, "batch_size": 1}
_PLAYED = 100  # steps of a run that are played from its record
_PLAYED_SIZES = {  # ending of a figure's name -> the size of a latent
    "": {"width": 832, "height": 480, "length": 33, "batch_size": 1},  # 16x9x60x104
    "_720p": {"width": 1280, "height": 720, "length": 81, "batch_size": 1},  # 16x21x90x160
}
_REPLAYED_MS = 5.0


def run(options: Options) -> Figures:
    """Run everything once, and what counts processor time in pairs, 31 if not said otherwise."""
    with comfyui_alone(options) as server:
        make_models(options.comfyui, options.python, server.base_dir / "models")
        names = samplers(server)
        ours, chained = _solvers(server, names)
        wrong = _rule(server)
        loads, stock_loads = _loads(server)
        return {
            "euler_max_rel_diff": _count(_euler(server), "", ("<", 1e-5)),
            "half_rel_diff": _count(_half(server), ""),
            "solvers_equal": _count(ours, "samplers", ("==", len(names))),
            "solvers_total": _count(len(names), "samplers"),
            "solvers_equal_chained": _count(chained, "samplers"),
            "rule_cases": _count(len(CASES), "cases", (">=", 200)),
            "rule_wrong": _count(wrong, "cases", ("==", 0)),
            "loads_4_seeds": _count(loads, "loads", ("==", 2)),
            "loads_4_seeds_stock": _count(stock_loads, "loads"),
            **_gate(server),
            **_cpu(server, options.rounds or _PAIRS),
            **_replayed(server),
        }


def _count(value: float, unit: str, limit: tuple[str, float] | None = None) -> Figure:
    return Figure(value, unit, 1, value, value, limit)


def _graph(**sampler: Any) -> Graph:
    """Return the small demo graph, with inputs of node 57 set."""
    return small_graph(**{"steps": _STEPS, "handover": "step", "handover_step": _FIRST_LOW, **sampler})


def _difference(ours: np.ndarray, other: np.ndarray) -> float:
    return float(np.linalg.norm(ours - other) / np.linalg.norm(other))


def _euler(server: ComfyServer) -> float:
    """Return the largest relative difference to two KSamplerAdvanced, with two different experts."""
    worst = 0.0
    for (rule, step), shift in product((("step", 2), ("step", 6), ("half", 0), ("boundary", 0)), (3, 5, 8)):
        graph = _graph(handover=rule, handover_step=step)
        graph["54"]["inputs"]["shift"] = shift
        first_low = {"step": step, "half": _STEPS // 2, "boundary": high_noise_steps(_STEPS, shift, "simple")}[rule]
        chained = add_chained(graph, "stock", graph["57"]["inputs"], first_low)
        found = latents_of(server, graph, ["57", chained])
        worst = max(worst, _difference(found["57"], found[chained]))
    return worst


def _half(server: ComfyServer) -> float:
    """Return the relative difference between the hand-over by Wan's rule and after half of 20 steps, at shift 5."""
    latents = []
    for rule in ("boundary", "half"):
        graph = _graph(steps=20, handover=rule)
        graph["54"]["inputs"]["shift"] = 5
        latents.append(latents_of(server, graph, ["57"])["57"])
    return _difference(*latents)


def _solvers(server: ComfyServer, names: list[str]) -> tuple[int, int]:
    """Return how many samplers give one model's run with every scheduler: on node 57, and chained."""
    equal: dict[str, set[str]] = {"ours": set(names), "chained": set(names)}
    for scheduler in _SCHEDULERS:
        for name, found in _solver_runs(server, names, scheduler):
            for kind, good in equal.items():
                if not _difference(found[kind], found["plain"]) <= _EQUAL:
                    good.discard(name)
        print(
            f"sampler: {scheduler}: {len(equal['ours'])} of {len(names)}, chained {len(equal['chained'])}", flush=True
        )
    return len(equal["ours"]), len(equal["chained"])


def _solver_runs(server: ComfyServer, names: list[str], scheduler: str) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    graph = _graph(scheduler=scheduler)
    template = graph.pop("57")["inputs"]
    nodes = {}
    for name in names:
        ours = {**template, "sampler_name": name, "model_low_noise": template["model_high_noise"]}
        add_node(graph, f"{name}_ours", "WanFLF2VSampler", **ours)
        plain = {key: ours[key] for key in ("steps", "cfg", "scheduler", "positive", "negative", "latent_image")}
        plain |= {"model": ours["model_high_noise"], "seed": ours["noise_seed"], "sampler_name": name, "denoise": 1.0}
        add_node(graph, f"{name}_plain", "KSampler", **plain)
        chained = add_chained(graph, name, ours, _FIRST_LOW)
        nodes[name] = {"ours": f"{name}_ours", "plain": f"{name}_plain", "chained": chained}
    results = latents_of(server, graph, [node for three in nodes.values() for node in three.values()])
    for name, three in nodes.items():
        yield name, {kind: results[node] for kind, node in three.items()}


def _rule(server: ComfyServer) -> int:
    """Return in how many cases node 57 hands over at another step than the rule says."""
    if any(high_noise_steps(*case, "simple") != stated for case, stated in STATED.items()):
        raise RuntimeError("the reference does not agree with the stated cases")
    cases = json.dumps([(steps, shift, "euler", scheduler) for steps, shift, scheduler in CASES])
    graph: Graph = {"37": graph_for(DEMO)["37"]}
    add_node(graph, "1", "WanFLF2VMeasureSchedules", model=["37", 0], cases=cases, name="rule")
    run_graph(server, graph)
    found = json.loads((server.base_dir / "output" / "rule.json").read_text("utf-8"))
    return sum(high_noise_steps(*case) != made["step"] for case, made in zip(CASES, found, strict=True))


def _loads(server: ComfyServer) -> tuple[int, int]:
    """Return how often experts are loaded for 4 seeds, by node 57 and by the stock nodes."""
    graph = _graph()
    add_one_model_twice(server, graph)
    template = graph.pop("57")["inputs"]
    counts = []
    for stock in (False, True):
        notes(server)
        if stock:
            for number in range(_SEEDS):
                one = copy.deepcopy(graph)
                latents_of(server, one, [add_chained(one, "stock", {**template, "noise_seed": number}, _FIRST_LOW)])
        else:
            one = copy.deepcopy(graph)
            add_node(one, "57", "WanFLF2VSampler", **{**template, "noise_seed": 0, "seed_count": _SEEDS})
            latents_of(server, one, ["57"])
        counts.append(sum(note.get("event") == "load" for note in notes(server)))
    return counts[0], counts[1]


def _gate(server: ComfyServer) -> Figures:
    """Return the rows (one conditional or unconditional prediction each) at 10 + 10 steps, gate on and off."""
    figures = {}
    for key, gate, limit in (("rows_gate_on", 0.5, ("<=", 30.0)), ("rows_gate_off", 1.0, ("==", 40.0))):
        graph = _graph(cfg_gate=gate)
        graph["57"]["inputs"].update(steps=20, handover_step=10)
        for expert in ("high", "low"):
            inputs = graph["57"]["inputs"]
            source = inputs[f"model_{expert}_noise"]
            inputs[f"model_{expert}_noise"] = add_node(
                graph, f"probe_{expert}", "WanFLF2VMeasureProbe", model=source, label=expert
            )
        notes(server)
        latents_of(server, graph, ["57"])
        figures[key] = _count(sum(len(note.get("rows", [])) for note in notes(server)), "rows", limit)
    return figures


def _cpu(server: ComfyServer, count: int) -> Figures:
    """Compare the processor time of node 57 with that of two KSamplerAdvanced on the same steps, in pairs."""
    figures, forwards = {}, []
    for solver in ("euler", "dpmpp_2m"):
        _cpu_seconds(server, solver, _STEPS, _FIRST_LOW, chained=True)  # loads the models
        ratios = []
        for number in range(count):
            order = (True, False) if number % 2 else (False, True)
            seconds = {chained: _cpu_seconds(server, solver, _STEPS, _FIRST_LOW, chained=chained) for chained in order}
            ratios.append(seconds[False] / seconds[True])
            forwards.append(seconds[True] / _STEPS * 1000)
        figures[f"cpu_ratio_chained_{solver}"] = median(ratios, "x", ("<=", 1.03))
    figures["forward_ms"] = median(forwards, "ms", (">=", _FORWARD_MS))
    return figures


def _cpu_seconds(server: ComfyServer, solver: str, steps: int, first_low: int, *, chained: bool) -> float:
    """Return the processor time that ComfyUI takes for one run with a new seed; only the sampling is not cached."""
    graph = _text_graph(_CPU_SIZE, sampler_name=solver, steps=steps, handover_step=first_low)
    result = "57"
    if chained:
        result = add_chained(graph, "stock", graph["57"]["inputs"], first_low)
        del graph["57"]
    add_node(graph, "end", "PreviewAny", source=[result, 0])
    process = psutil.Process(server.pid)
    before = process.cpu_times()
    run_graph(server, graph)
    after = process.cpu_times()
    return (after.user - before.user) + (after.system - before.system)


def _text_graph(size: dict[str, int], **sampler: Any) -> Graph:
    """Return the graph of a text to video run: no images to encode, and another seed each time."""
    graph = _graph(noise_seed=uuid.uuid4().int % 2**32, **sampler)
    for loader in ("37", "56"):
        graph[loader]["inputs"]["unet_name"] = "tiny_wan_t2v.safetensors"
    add_node(graph, "empty", "EmptyHunyuanLatentVideo", **size)
    graph["57"]["inputs"].update(positive=["6", 0], negative=["7", 0], latent_image=["empty", 0])
    for unused in ("62", "67", "68", "71"):
        del graph[unused]
    return graph


def _replayed(server: ComfyServer) -> Figures:
    """Measure in ComfyUI's process how long each played call takes, with a model that costs nothing."""
    figures = {}
    for ending, size in _PLAYED_SIZES.items():
        graph = _text_graph(size, steps=_PLAYED + 1, handover_step=_PLAYED, cfg=1.0)
        for expert in ("high", "low"):
            inputs = graph["57"]["inputs"]
            source = inputs[f"model_{expert}_noise"]
            inputs[f"model_{expert}_noise"] = add_node(
                graph, f"stand_in_{expert}", "WanFLF2VMeasureStandIn", model=source
            )
        add_node(graph, "end", "PreviewAny", source=["57", 0])
        notes(server)
        run_graph(server, graph)
        played = [note for note in notes(server) if note.get("event") == "played"]
        if len(played) != _PLAYED:
            raise RuntimeError(f"{len(played)} calls were played, not {_PLAYED}")
        times = [note["wall_ms"] for note in played]
        figures[f"replayed_step_ms{ending}"] = median(times, "ms", ("<=", _REPLAYED_MS))
        figures[f"replayed_step_cpu_ms{ending}"] = median([note["cpu_ms"] for note in played], "ms", None)
    return figures
