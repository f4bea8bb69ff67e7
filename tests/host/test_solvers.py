"""Every sampler of the host on node 57: one run, one change of experts, the solver's history kept."""

import json
import urllib.request

import pytest
import torch
from support.demo_graphs import demo_graph, only, shorten_texts
from support.expert_graphs import add_plain, dump_latent, notes
from support.shown import Shown

SCHEDULERS = ("simple", "beta", "normal", "sgm_uniform")
STEPS, FIRST_LOW = 6, 3


@pytest.fixture(scope="module")
def samplers(comfy_server):
    """The names of all samplers that the host has."""
    with urllib.request.urlopen(f"{comfy_server.url}/object_info/KSampler", timeout=60) as answer:
        kind, *rest = json.load(answer)["KSampler"]["input"]["required"]["sampler_name"]
    names = kind if isinstance(kind, list) else rest[0]["options"]
    assert len(names) >= 40
    return names


def runs_graph(samplers, *, same, **inputs):
    """Return a graph that runs node 57 with every sampler; the schedulers take turns."""
    small = {"n57_steps": STEPS, "n57_handover": "step", "n57_handover_step": FIRST_LOW, "n67_length": 5}
    graph = shorten_texts(demo_graph(**{**small, **inputs}))
    template = graph.pop("57")["inputs"]
    del graph["73"]
    if same:
        template["model_low_noise"] = template["model_high_noise"]
    for number, name in enumerate(samplers):
        inputs = {**template, "sampler_name": name, "scheduler": SCHEDULERS[number % len(SCHEDULERS)]}
        graph[name] = {"class_type": "WanFLF2VSampler", "inputs": inputs}
        dump_latent(graph, name, f"ours_{name}")
    return graph


def schedules(host, samplers):
    """Return the sigmas of each sampler's run."""
    graph = only(demo_graph(), "37")
    shift = demo_graph()["54"]["inputs"]["shift"]
    cases = [(STEPS, shift, name, SCHEDULERS[number % 4]) for number, name in enumerate(samplers)]
    inputs = {"model": ["37", 0], "cases": json.dumps(cases), "name": "schedules"}
    host.run({**graph, "1": {"class_type": "WanFLF2VMeasureSchedules", "inputs": inputs}})
    return {name: found["sigmas"] for name, found in zip(samplers, host.state("schedules"), strict=True)}


def test_one_model_as_both_experts_is_a_plain_ksampler_bit_for_bit(comfy_server, samplers):
    graph = runs_graph(samplers, same=True)
    for name in samplers:
        add_plain(graph, node_id=name, name=f"stock_{name}")
    comfy_server.run(graph)
    different = []
    for name in samplers:
        ours, stock = (comfy_server.tensors(f"{kind}_{name}")["samples"] for kind in ("ours", "stock"))
        assert torch.isfinite(stock).all(), name
        if not torch.equal(ours, stock):
            different.append(name)
    assert different == []


def test_every_sampler_changes_experts_once_and_by_the_rule(comfy_server, samplers):
    """A call goes to the low-noise expert once its sigma is at most that of the first low step, and never back."""
    graph = runs_graph(samplers, same=False)
    for name in samplers:
        for expert in ("high", "low"):
            key = f"model_{expert}_noise"
            inputs = {"model": graph[name]["inputs"][key], "label": f"{name} {expert}"}
            graph[f"probe_{name}_{expert}"] = {"class_type": "WanFLF2VMeasureProbe", "inputs": inputs}
            graph[name]["inputs"][key] = [f"probe_{name}_{expert}", 0]
    notes(comfy_server)
    comfy_server.run(graph)
    noted, sigmas = notes(comfy_server), schedules(comfy_server, samplers)
    for name in samplers:
        calls = [note for note in noted if note["model"].rpartition(" ")[0] == name and "sigma" in note]
        experts = [call["model"].rpartition(" ")[2] for call in calls]
        limit = sigmas[name][FIRST_LOW] * (1 + 1e-6)
        switch = next(number for number, call in enumerate(calls) if call["sigma"] <= limit)
        assert 0 < switch < len(calls), name
        assert experts == ["high"] * switch + ["low"] * (len(experts) - switch), name


@pytest.mark.parametrize("cfg", [4.0, pytest.param(1.0, marks=pytest.mark.newest)])  # both are the same to a sampler
def test_several_seeds_are_their_single_runs_with_every_sampler(comfy_server, samplers, cfg):
    few = {"n57_steps": 4, "n57_handover_step": 2, "n57_resume": False}  # else one plays the other's record
    graph = runs_graph(samplers, same=False, n57_cfg=cfg, n57_noise_seed=7, n57_seed_count=2, **few)
    for name in samplers:
        single = {**graph[name]["inputs"], "noise_seed": 8, "seed_count": 1}
        graph[f"single_{name}"] = {"class_type": "WanFLF2VSampler", "inputs": single}
        dump_latent(graph, f"single_{name}", f"single_{name}")
    comfy_server.run(graph)
    different = []
    for name in samplers:
        second = comfy_server.tensors(f"ours_{name}")["samples"][1:]
        if not torch.equal(second, comfy_server.tensors(f"single_{name}")["samples"]):
            different.append(name)
    assert different == []


@pytest.mark.newest  # test_resume.py has samplers of each kind on every ComfyUI
def test_a_resumed_run_is_the_whole_run_with_every_sampler(comfy_server, samplers):
    """After an edit of the low-noise side, the high-noise model's calls are played from the record."""
    few = {"n57_steps": 4, "n57_handover_step": 2, "n57_noise_seed": 9}
    graph = runs_graph(samplers, same=False, **few)
    comfy_server.run(graph)
    first = {name: comfy_server.tensors(f"ours_{name}")["samples"] for name in samplers}
    for name in samplers:
        graph[name]["inputs"]["cfg_low_noise"] = 2.0
        whole = {**graph[name]["inputs"], "resume": False}
        graph[f"whole_{name}"] = {"class_type": "WanFLF2VSampler", "inputs": whole}
        dump_latent(graph, f"whole_{name}", f"whole_{name}")
    shown = Shown(comfy_server, graph)
    reused = {data["node"]: data["text"] for kind, data in shown.events if kind == "wan_flf2v.reused" and data["text"]}
    assert reused == dict.fromkeys(samplers, "2 steps reused from an earlier run")
    different = []
    for name in samplers:
        resumed, whole = (comfy_server.tensors(f"{kind}_{name}")["samples"] for kind in ("ours", "whole"))
        assert not torch.equal(first[name], whole), f"the edit changes nothing with {name}"
        if not torch.equal(resumed, whole):
            different.append(name)
    assert different == []
