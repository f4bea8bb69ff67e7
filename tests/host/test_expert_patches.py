"""What other packs put on one expert acts on its half only, and stays off the caller's models."""

import pytest
from support.expert_graphs import (
    add_guided,
    add_plain,
    add_stock,
    calls,
    dump_model,
    notes,
    patch,
    relative_difference,
    sampler_graph,
    write_lora,
)
from wan_flf2v.client.errors import RunFailedError

STEPS, FIRST_LOW = 6, 3
CACHE = {"reuse_threshold": 3.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
PATCHES = {
    "lora": ("LoraLoaderModelOnly", {"strength_model": 1.0}),
    "easycache": ("EasyCache", CACHE),
    "lazycache": ("LazyCache", CACHE),
    "post cfg": ("CFGNorm", {"strength": 0.9, "pre_cfg": False}),
    "pre cfg": ("CFGNorm", {"strength": 0.9, "pre_cfg": True}),
    "transformer options": ("WanFLF2VTestScaleBlock", {"factor": 0.5}),
    "predict_noise": ("WanFLF2VTestWrap", {"kind": "predict_noise", "factor": 0.9}),
    "outer_sample": ("WanFLF2VTestWrap", {"kind": "outer_sample", "factor": 0.9}),
    "calc_cond_batch": ("WanFLF2VTestWrap", {"kind": "calc_cond_batch", "factor": 0.9}),
    "apply_model": ("WanFLF2VTestWrap", {"kind": "apply_model", "factor": 0.9}),
}


def graph_with(host, name, experts, **inputs):
    """Return a graph whose node 57 has a patch on the given experts, and a probe on both."""
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW, **inputs)
    class_type, values = PATCHES[name]
    for expert in experts:
        patch(graph, expert, class_type, **values, **({"lora_name": write_lora(host)} if name == "lora" else {}))
    for expert in ("high", "low"):
        patch(graph, expert, "WanFLF2VMeasureProbe", label=expert)
    return graph


@pytest.fixture(scope="module")
def unpatched(comfy_server):
    comfy_server.run(sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW))
    return comfy_server.tensors("ours")["samples"]


@pytest.mark.parametrize(
    "experts",
    [("high",), ("low",), pytest.param(("high", "low"), marks=pytest.mark.newest)],  # each alone says more
    ids="+".join,
)
@pytest.mark.parametrize("name", PATCHES)
def test_a_patch_acts_on_the_half_that_it_is_on(comfy_server, unpatched, name, experts):
    graph = graph_with(comfy_server, name, experts)
    notes(comfy_server)
    comfy_server.run(graph)
    noted = notes(comfy_server)
    add_stock(graph, FIRST_LOW)
    comfy_server.run(graph)
    assert relative_difference(comfy_server) <= 1e-5
    if name in ("easycache", "lazycache"):
        made = {expert: len(calls(noted, expert)) for expert in ("high", "low")}
        for expert, count in made.items():
            assert (count < FIRST_LOW) == (expert in experts), made
    changed = ((comfy_server.tensors("ours")["samples"] - unpatched).norm() / unpatched.norm()).item()
    assert (changed > 1e-4) == (name != "outer_sample"), "a patch that does nothing proves nothing"


@pytest.mark.parametrize("name", ["post cfg", "lora"])
def test_a_cfg_pp_sampler_reaches_the_low_noise_expert_over_its_own_options(comfy_server, name):
    """Its function comes with the options it was given, the high-noise expert's: the low one's stay under it."""
    graph = graph_with(comfy_server, name, ("low",), n57_sampler_name="euler_cfg_pp")
    comfy_server.run(add_stock(graph, FIRST_LOW))
    assert relative_difference(comfy_server) <= 1e-5


def test_two_loras_on_one_base_model(comfy_server):
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW)
    graph["57"]["inputs"]["model_low_noise"] = ["37", 0]
    for expert, strength in (("high", 1.0), ("low", -1.0)):
        lora = {"lora_name": write_lora(comfy_server), "strength_model": strength}
        patch(graph, expert, "LoraLoaderModelOnly", **lora)
        patch(graph, expert, "WanFLF2VMeasureProbe", label=expert)
    notes(comfy_server)
    comfy_server.run(graph)
    order = [(note["model"], note.get("event", "call")) for note in notes(comfy_server)]
    cleaned = order.index(("high", "cleanup"))
    assert order.index(("high", "load")) < order.index(("high", "pre_run")) < order.index(("high", "call")) < cleaned
    assert cleaned < order.index(("low", "load")) < order.index(("low", "pre_run")) < order.index(("low", "call"))
    assert order.count(("low", "pre_run")) == 1
    assert order.count(("low", "cleanup")) == 1
    comfy_server.run(add_stock(graph, FIRST_LOW))
    assert relative_difference(comfy_server) <= 1e-5


@pytest.mark.parametrize("name", ["lora", "easycache", "outer_sample"])
def test_nothing_is_left_on_the_callers_models(comfy_server, name):
    graph = graph_with(comfy_server, name, ("high", "low"), n57_sampler_name="euler_cfg_pp")
    sources = {expert: graph["57"]["inputs"][f"model_{expert}_noise"] for expert in ("high", "low")}
    models = {node_id: node for node_id, node in graph.items() if "model" in node["inputs"] or node_id in ("37", "56")}
    models = {node_id: node for node_id, node in models.items() if node_id != "57"}
    for expert, source in sources.items():
        dump_model(models, source, f"{expert}_before")
        dump_model(graph, source, f"{expert}_after", after=["57", 0])
    comfy_server.run(models)
    comfy_server.run(graph)
    for expert in sources:
        assert comfy_server.state(f"{expert}_after") == comfy_server.state(f"{expert}_before")


@pytest.mark.parametrize("sampler", ["euler", "uni_pc", "dpmpp_3m_sde", "res_multistep_ancestral_cfg_pp", "heun"])
def test_a_wrapper_around_one_phase_leaves_the_trajectory_one(comfy_server, sampler):
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW, n57_sampler_name=sampler)
    graph["57"]["inputs"]["model_low_noise"] = graph["57"]["inputs"]["model_high_noise"]
    patch(graph, "low", "WanFLF2VTestWrap", kind="sampler_sample", factor=1.0)
    comfy_server.run(add_plain(graph))
    assert relative_difference(comfy_server) == 0


def test_a_wrapper_around_the_sampler_call_stays_on_its_expert(comfy_server):
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW)
    patch(graph, "high", "WanFLF2VTestWrap", kind="sampler_sample", factor=0.9)
    comfy_server.run(add_stock(graph, FIRST_LOW))
    assert relative_difference(comfy_server) <= 1e-5


def test_a_guider_is_used_again_after_a_failure_at_the_change(comfy_server):
    """The host keeps it between prompts: nothing of a run may stay on it, however that ended."""
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW)
    patch(graph, "low", "WanFLF2VTestFailOnce")
    add_guided(graph)
    state = {"guider": ["guider", 0], "after": ["58", 0], "name": "guider"}
    graph["state"] = {"class_type": "WanFLF2VTestDumpGuider", "inputs": state}
    both = {node_id: graph.pop(node_id) for node_id in ("57", "dump_ours")}
    with pytest.raises(RunFailedError, match="failed once"):
        comfy_server.run(graph)
    comfy_server.run({**graph, **both})
    assert relative_difference(comfy_server) == 0
    assert not {"conds", "inner_model", "loaded_models"} & set(comfy_server.state("guider"))
