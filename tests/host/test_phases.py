"""A run of two phases is one run: samplers of other packs, random states, callbacks, what the model is told."""

import json
import urllib.request

import pytest
import torch
from support.expert_graphs import (
    add_guided,
    add_mask,
    add_plain,
    add_stock,
    dump_latent,
    patch,
    relative_difference,
    sampler_graph,
)
from wan_flf2v.client.errors import RunFailedError

STEPS, FIRST_LOW = 6, 3
LATENT_BYTES = 4 * 16 * 3 * 8 * 8  # float32, 16 channels, 3 latent frames of 8 x 8: 9 frames of 64 x 64


def guided_graph(sampler, *, masked=False):
    """Return a graph with one model as both experts under the guider, and with it under core's CFGGuider."""
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW)
    graph["57"]["inputs"]["model_low_noise"] = graph["57"]["inputs"]["model_high_noise"]
    if masked:
        add_mask(graph)
    add_guided(graph)
    ours = graph.pop("57")["inputs"]
    del graph["dump_ours"]
    graph["noise"] = {"class_type": "WanFLF2VTestNoise", "inputs": {}}
    graph["sampler"] = {"class_type": "WanFLF2VTestSampler", "inputs": {"kind": sampler}}
    inputs = {"model": ours["model_high_noise"], **{key: ours[key] for key in ("positive", "negative", "cfg")}}
    graph["cfg_guider"] = {"class_type": "CFGGuider", "inputs": inputs}
    plain = {**graph["58"]["inputs"], "guider": ["cfg_guider", 0]}
    graph["plain"] = {"class_type": "SamplerCustomAdvanced", "inputs": plain}
    dump_latent(graph, "plain", "ours")
    for name, node in (("ours_denoised", "58"), ("plain_denoised", "plain")):
        graph[f"dump_{name}"] = {"class_type": "WanFLF2VTestDumpLatent", "inputs": {"latent": [node, 1], "name": name}}
    return graph


def assert_one_run(host, graph):
    host.run(graph)
    assert torch.isfinite(host.tensors("stock")["samples"]).all()
    assert relative_difference(host) == 0
    assert relative_difference(host, ("ours_denoised", "plain_denoised")) == 0


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sampler", ["plain", "own sample"])
def test_a_sampler_that_is_no_ksampler_runs_as_in_one_phase(comfy_server, sampler, masked):
    assert_one_run(comfy_server, guided_graph(sampler, masked=masked))


@pytest.mark.parametrize("masked", [False, True])
def test_the_hosts_own_sampler_that_is_no_ksampler_runs_as_in_one_phase(comfy_server, masked):
    """VOID_DDIM, which came after 0.18.2."""
    graph = guided_graph("plain", masked=masked)
    if "VOIDSampler" in node_types(comfy_server):
        graph["sampler"] = {"class_type": "VOIDSampler", "inputs": {}}
    assert_one_run(comfy_server, graph)


def node_types(host):
    with urllib.request.urlopen(f"{host.url}/object_info", timeout=60) as answer:
        return json.load(answer)


@pytest.mark.parametrize("draw", ["torch", "numpy", "python"])
def test_a_sampler_may_draw_from_the_global_generators(comfy_server, draw):
    assert_one_run(comfy_server, guided_graph(f"noise {draw}"))


def test_a_model_may_draw_from_the_generator_that_the_sampler_draws_from(comfy_server):
    graph = guided_graph("noise torch")
    graph["draw"] = {"class_type": "WanFLF2VTestDrawInModel", "inputs": {"model": ["54", 0]}}
    graph["guider"]["inputs"].update(model_high_noise=["draw", 0], model_low_noise=["draw", 0])
    graph["cfg_guider"]["inputs"]["model"] = ["draw", 0]
    assert_one_run(comfy_server, graph)


def test_a_sampler_with_a_generator_of_its_own_is_refused_by_name(comfy_server):
    graph = guided_graph("noise own")
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert (
        "The sampler sample_euler_with_noise does not repeat itself: run again for the next expert, at sigma "
    ) in str(error.value)
    assert "Choose a sampler of KSamplerSelect" in str(error.value)


def test_several_seeds_are_their_single_runs_where_the_model_draws(comfy_server):
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW, n57_noise_seed=20)
    for expert in ("high", "low"):
        patch(graph, expert, "WanFLF2VTestDrawInModel")
    single = {**graph["57"]["inputs"], "noise_seed": 21, "resume": False}
    graph["single"] = {"class_type": "WanFLF2VSampler", "inputs": single}
    dump_latent(graph, "single", "single")
    graph["57"]["inputs"].update(seed_count=2, handover_step=STEPS)
    single["handover_step"] = STEPS
    comfy_server.run(graph)
    assert torch.equal(comfy_server.tensors("ours")["samples"][1:], comfy_server.tensors("single")["samples"])


def test_a_sampler_may_read_the_cfg_and_each_phase_has_its_own(comfy_server):
    graph = guided_graph("reads cfg")
    assert_one_run(comfy_server, graph)
    same = comfy_server.tensors("stock")["samples"]
    graph["guider"]["inputs"]["cfg_low_noise"] = 2.0
    comfy_server.run(graph)
    assert not torch.equal(same, comfy_server.tensors("stock")["samples"])


def test_a_sampler_that_asks_past_the_guider_is_refused(comfy_server):
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(guided_graph("past the guider"))
    assert "The sampler PastTheGuider asks the model past the guider" in str(error.value)


@pytest.mark.parametrize("cfg", [4.0, 1.0])
def test_post_cfg_functions_get_what_they_got(comfy_server, cfg):
    """At cfg 1 the host gives them no unconditional conditioning, which samplers look at."""
    graph = guided_graph("post cfg")
    graph["guider"]["inputs"]["cfg"] = graph["cfg_guider"]["inputs"]["cfg"] = cfg
    assert_one_run(comfy_server, graph)


@pytest.mark.parametrize("sampler", ["plain", "euler", "heun", "dpm_2", "dpmpp_2m"])
def test_each_step_is_told_once_out_of_all(comfy_server, sampler):
    """heun and dpm_2 cross the hand-over inside a step."""
    graph = guided_graph("plain")
    if sampler != "plain":
        graph["sampler"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": sampler}}
    for key in ("58", "dump_stock", "plain", "dump_ours", "dump_ours_denoised", "dump_plain_denoised"):
        del graph[key]
    inputs = {key: [key, 0] for key in ("guider", "sampler", "sigmas")}
    inputs.update(latent=["67", 2], name="steps")
    graph["steps"] = {"class_type": "WanFLF2VTestSteps", "inputs": inputs}
    comfy_server.run(graph)
    assert comfy_server.state("steps") == [[step, STEPS] for step in range(STEPS)]


def seen(host, graph):
    graph["seen"] = {"class_type": "WanFLF2VTestWriteSeen", "inputs": {"name": "seen", "after": ["57", 0]}}
    host.run(graph)
    return host.state("seen")


def seeing_graph(**inputs):
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW, **inputs)
    for expert in ("high", "low"):
        patch(graph, expert, "WanFLF2VTestSee", label=expert)
    return graph


def test_the_model_is_told_the_sigmas_of_its_own_phase(comfy_server):
    """As with two chained samplers: a cache that resets at the first of them is reset in each expert."""
    by_expert = {}
    for call in seen(comfy_server, seeing_graph(n57_noise_seed=11)):
        by_expert.setdefault(call["label"], []).append(call)
    assert {len(calls[0]["sample_sigmas"]) for calls in by_expert.values()} == {FIRST_LOW + 1}
    for calls in by_expert.values():
        sigmas = list(dict.fromkeys(call["sigma"] for call in calls))
        assert sigmas == calls[0]["sample_sigmas"][:-1]
    assert by_expert["low"][-1]["sample_sigmas"][-1] == 0


@pytest.mark.parametrize(("sampler", "latents"), [("euler", 1.0), ("dpmpp_2m", 1.0), ("euler_cfg_pp", 2.0)])
def test_a_recorded_call_is_held_once_and_no_longer_than_needed(comfy_server, sampler, latents):
    """A cfg_pp sampler needs the unconditional prediction of each call too, and at cfg above 1 its conditional one."""
    noted = seen(
        comfy_server, seeing_graph(n57_sampler_name=sampler, n57_noise_seed=12, n57_seed_count=2, n57_resume=False)
    )
    first_low = next(call for call in noted if call["label"] == "low")["records"]
    assert first_low["calls"] == FIRST_LOW, "the second seed's; those of the first are dropped"
    high = max(call["records"]["bytes"] for call in noted)
    assert high <= 1.05 * (2 * FIRST_LOW) * (latents + (sampler == "euler_cfg_pp")) * LATENT_BYTES
    assert noted[-1]["records"]["calls"] == 0
    assert noted[-1]["records"]["bytes"] < LATENT_BYTES / 10, "no more than the sigmas"


def test_context_windows_mean_what_they_mean_in_two_chained_samplers(comfy_server):
    graph = sampler_graph(
        n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW, n67_length=33, n57_noise_seed=13
    )
    windows = {
        "context_length": 17,
        "context_overlap": 4,
        "context_schedule": "standard_uniform",
        "context_stride": 2,
        "closed_loop": False,
        "fuse_method": "pyramid",
        "freenoise": False,
        "cond_retain_index_list": "",
        "split_conds_to_windows": False,
        "retain_first_frame": False,
    }
    inputs = node_types(comfy_server)["WanContextWindowsManual"]["input"]
    known = {name for kind in inputs.values() for name in kind}
    windows = {name: value for name, value in windows.items() if name in known}
    for expert in ("high", "low"):
        patch(graph, expert, "WanContextWindowsManual", **windows)
    comfy_server.run(add_stock(graph, FIRST_LOW))
    assert relative_difference(comfy_server) <= 1e-5


def test_a_mask_function_of_the_low_noise_expert_acts_on_its_phase_alone(comfy_server):
    """The same as one model whose mask function acts from the hand-over on."""
    graph = sampler_graph(n57_steps=STEPS, n57_handover="step", n57_handover_step=FIRST_LOW)
    high = graph["57"]["inputs"]["model_low_noise"] = graph["57"]["inputs"]["model_high_noise"]
    add_mask(graph)
    add_plain(graph)
    patch(graph, "low", "WanFLF2VTestMaskFunction", from_step=0)
    inputs = {"model": high, "from_step": FIRST_LOW}
    graph["masked"] = {"class_type": "WanFLF2VTestMaskFunction", "inputs": inputs}
    comfy_server.run(graph)
    assert relative_difference(comfy_server) > 1e-3
    graph["plain_stock"]["inputs"]["model"] = ["masked", 0]
    comfy_server.run(graph)
    assert relative_difference(comfy_server) == 0
