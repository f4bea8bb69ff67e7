"""Node 57 against two KSamplerAdvanced, and what it refuses."""

import asyncio

import pytest
import torch
from support.expert_graphs import (
    add_guided,
    add_mask,
    add_plain,
    add_stock,
    dump_latent,
    dump_model,
    relative_difference,
    sampler_graph,
)
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.errors import RunFailedError
from wan_flf2v.client.run import run_graph


@pytest.mark.parametrize(
    ("rule", "steps", "shift", "step", "first_low_step"),
    [
        # The official rule: 20/8 -> 10, 20/5 -> 8, 4/5 -> 2; the ties 20/9 -> 11 and 10/1 -> 2 round up in timesteps.
        ("boundary", 20, 8.0, 0, 10),
        ("boundary", 20, 5.0, 0, 8),
        ("boundary", 4, 5.0, 0, 2),
        ("boundary", 20, 9.0, 0, 11),
        ("boundary", 10, 1.0, 0, 2),
        ("step", 6, 8.0, 2, 2),
        ("step", 4, 8.0, 4, 4),
        ("half", 20, 5.0, 0, 10),  # the stock template's split
    ],
)
def test_equals_two_ksamplers(comfy_server, rule, steps, shift, step, first_low_step):
    inputs = {"n57_steps": steps, "n57_handover": rule, "n57_handover_step": step, "n54_shift": shift}
    graph = add_stock(sampler_graph(**inputs), first_low_step)
    comfy_server.run(graph)
    assert relative_difference(comfy_server) <= 1e-5


def test_a_latent_with_a_batch_index_is_treated_as_the_host_does(comfy_server):
    graph = sampler_graph(n57_handover="step", n57_handover_step=2, n67_batch_size=3, n57_noise_seed=9)
    inputs = {"samples": ["67", 2], "batch_index": 2, "length": 1}
    graph["latent"] = {"class_type": "LatentFromBatch", "inputs": inputs}
    graph["57"]["inputs"]["latent_image"] = ["latent", 0]
    comfy_server.run(add_stock(graph, 2))
    assert relative_difference(comfy_server) <= 1e-5
    assert_latent_matters(comfy_server, graph)


@pytest.mark.parametrize("solver", ["euler", "ddim", "dpmpp_3m_sde"])
def test_a_latent_with_a_mask_is_treated_as_the_host_does(comfy_server, solver):
    """As in one run: two chained samplers take the first one's noisy result for the picture under the mask."""
    graph = sampler_graph(n57_handover="step", n57_handover_step=2, n67_batch_size=2, n57_sampler_name=solver)
    graph["57"]["inputs"]["model_low_noise"] = graph["57"]["inputs"]["model_high_noise"]
    add_mask(graph)
    comfy_server.run(add_plain(graph))
    assert relative_difference(comfy_server) == 0
    assert_latent_matters(comfy_server, graph)


def assert_latent_matters(host, graph):
    with_it = host.tensors("ours")["samples"]
    graph["57"]["inputs"]["latent_image"] = ["67", 2]
    host.run(graph)
    assert not torch.equal(with_it, host.tensors("ours")["samples"][: len(with_it)])


def test_cfg_of_its_own_for_the_low_noise_expert(comfy_server):
    graph = sampler_graph(n57_handover="step", n57_handover_step=2, n57_cfg=4.0, n57_cfg_low_noise=1.0)
    comfy_server.run(add_stock(graph, 2, cfg_low=1.0))
    assert relative_difference(comfy_server) <= 1e-5
    graph["57"]["inputs"]["cfg_low_noise"] = 0.0
    comfy_server.run(add_stock(graph, 2, cfg_low=4.0))
    assert relative_difference(comfy_server) <= 1e-5


def test_another_boundary(comfy_server):
    """20 steps at shift 8: 10 timesteps from 900 on, 11 from 875 on."""
    graph = sampler_graph(n57_steps=20, n54_shift=8.0, n57_boundary=0.875)
    comfy_server.run(add_stock(graph, 11))
    assert relative_difference(comfy_server) <= 1e-5


@pytest.mark.parametrize("solver", ["euler", "uni_pc", "dpmpp_2m_sde"])
def test_denoise_changes_a_video_as_the_host_does(comfy_server, solver):
    graph = sampler_graph(n57_sampler_name=solver, n57_steps=6, n57_denoise=0.6, n57_noise_seed=3)
    graph["57"]["inputs"]["model_low_noise"] = graph["57"]["inputs"]["model_high_noise"]
    first = {**graph["57"]["inputs"], "denoise": 1.0, "sampler_name": "euler"}
    graph["video"] = {"class_type": "WanFLF2VSampler", "inputs": first}
    graph["57"]["inputs"]["latent_image"] = ["video", 0]
    comfy_server.run(add_plain(graph, denoise=0.6))
    assert relative_difference(comfy_server) == 0


def test_sigmas_of_ones_own(comfy_server):
    graph = sampler_graph(n57_sampler_name="dpmpp_2m", n57_handover="half")
    ours = graph["57"]["inputs"]
    ours["model_low_noise"] = ours["model_high_noise"]
    graph["sigmas"] = {"class_type": "ManualSigmas", "inputs": {"sigmas": "1, 0.97, 0.9, 0.8, 0.5, 0"}}
    ours["sigmas"] = ["sigmas", 0]
    graph["sampler"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": "dpmpp_2m"}}
    inputs = {key: ours[key] for key in ("noise_seed", "cfg", "positive", "negative", "latent_image", "sigmas")}
    inputs.update(model=ours["model_high_noise"], add_noise=True, sampler=["sampler", 0])
    graph["58"] = {"class_type": "SamplerCustom", "inputs": inputs}
    dump_latent(graph, "58", "stock")
    comfy_server.run(graph)
    assert relative_difference(comfy_server) == 0
    assert "notice node=57: 5 steps: 2 high noise, 3 low noise; hand-over at sigma 0.900" in comfy_server.log_text()


def test_sigmas_that_are_no_schedule_are_refused(comfy_server):
    graph = sampler_graph()
    graph["sigmas"] = {"class_type": "ManualSigmas", "inputs": {"sigmas": "0.5, 0.9, 0"}}
    graph["57"]["inputs"]["sigmas"] = ["sigmas", 0]
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert "must be a list of at least 2 falling values" in str(error.value)


@pytest.mark.parametrize("solver", ["euler", "uni_pc", "dpmpp_3m_sde", "euler_cfg_pp"])
def test_the_guider_gives_what_the_sampler_gives(comfy_server, solver):
    graph = sampler_graph(n57_sampler_name=solver, n57_steps=6, n57_handover="step", n57_handover_step=3)
    comfy_server.run(add_guided(graph))
    assert relative_difference(comfy_server) == 0


def test_latent_of_another_length_is_refused(comfy_server):
    graph = sampler_graph()
    inputs = {"width": 64, "height": 64, "length": 17, "batch_size": 1}
    graph["other"] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": inputs}
    graph["57"]["inputs"]["latent_image"] = ["other", 0]
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert (
        "latent_image has 5 latent frames, but the first/last-frame conditioning has 3. Connect the latent of the same "
        "Wan First Last Frame (FLF2V) node."
    ) in str(error.value)


def test_latent_of_an_image_is_refused(comfy_server):
    graph = sampler_graph()
    graph["image"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    graph["57"]["inputs"]["latent_image"] = ["image", 0]
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert "latent_image has the shape [1, 4, 8, 8], which is not a video." in str(error.value)


def test_handover_at_step_0_is_the_low_noise_expert_alone(comfy_server):
    graph = add_stock(sampler_graph(n57_handover="step", n57_handover_step=0), 0)
    del graph["58"]
    graph["59"]["inputs"].update(add_noise="enable", latent_image=graph["57"]["inputs"]["latent_image"])
    comfy_server.run(graph)
    assert relative_difference(comfy_server) <= 1e-5


def test_the_two_experts_differ(comfy_server):
    """If both experts gave the same video, the test above could not tell a wrong hand-over."""
    graph = add_stock(sampler_graph(n57_steps=6, n57_handover="step", n57_handover_step=2), first_low_step=3)
    comfy_server.run(graph)
    assert relative_difference(comfy_server) > 1e-3


def test_low_noise_model_follows_the_shift_of_the_high_noise_model(comfy_server):
    """54 alone sets the shift; in the stock graph 55 must be set as well, or the result differs."""
    inputs = {"n54_shift": 3.0, "n57_handover": "step", "n57_handover_step": 2}
    comfy_server.run(add_stock(sampler_graph(**inputs), 2))
    assert relative_difference(comfy_server) <= 1e-5
    comfy_server.run(add_stock(sampler_graph(**inputs), 2, shift=8.0))
    assert relative_difference(comfy_server) > 1e-3


def test_other_solvers_and_schedulers_run(comfy_server):
    graph = sampler_graph(n57_sampler_name="dpm_2", n57_scheduler="beta")
    comfy_server.run(graph)
    assert torch.isfinite(comfy_server.tensors("ours")["samples"]).all()


def test_low_noise_model_with_the_same_shift_of_its_own_is_accepted(comfy_server):
    graph = add_stock(sampler_graph(n57_handover="step", n57_handover_step=2), 2)
    graph["57"]["inputs"]["model_low_noise"] = ["55", 0]
    comfy_server.run(graph)
    assert relative_difference(comfy_server) <= 1e-5


def test_low_noise_model_with_another_shift_is_refused(comfy_server):
    graph = add_stock(sampler_graph(n54_shift=8.0), 2, shift=5.0)
    graph["57"]["inputs"]["model_low_noise"] = ["55", 0]
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert (
        "model_low_noise has shift 5, but model_high_noise has shift 8. Both experts must share one schedule: remove "
        "the model sampling node before model_low_noise (it follows model_high_noise by itself), or give both the "
        "same shift."
    ) in str(error.value)


@pytest.mark.parametrize(("loader", "name"), [("37", "high"), ("56", "low")])
def test_text_to_video_checkpoint_is_refused_by_name(comfy_server, loader, name):
    graph = sampler_graph(**{f"n{loader}_unet_name": "tiny_wan_t2v.safetensors"})
    loads = comfy_server.log_text().count("Requested to load WAN21")
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert comfy_server.log_text().count("Requested to load WAN21") == loads
    message = f"model_{name}_noise (tiny_wan_t2v.safetensors) is a text-to-video checkpoint: "
    assert message in str(error.value)


def test_text_to_video_experts_are_fine_without_images(comfy_server):
    graph = sampler_graph()
    t2v = {"unet_name": "tiny_wan_t2v.safetensors"}
    graph["37"]["inputs"].update(t2v)
    graph["56"]["inputs"].update(t2v)
    graph["57"]["inputs"].update(positive=["6", 0], negative=["7", 0])
    comfy_server.run(graph)
    assert torch.isfinite(comfy_server.tensors("ours")["samples"]).all()


def test_handover_step_outside_the_schedule_is_refused(comfy_server):
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(sampler_graph(n57_handover="step", n57_handover_step=5))
    assert (
        "handover_step is 5, but must be from 0 (low-noise expert only) to 4, the number of steps (high-noise expert "
        "only). Change handover_step or steps, or set handover to boundary."
    ) in str(error.value)


def test_models_are_left_as_they_were(comfy_server):
    """The loaders' outputs stay in the host's cache, so a change would reach every later run."""
    graph = sampler_graph(n54_shift=6.0)
    loaders = {node_id: graph[node_id] for node_id in ("37", "54", "56")}
    dump_model(loaders, ["54", 0], "high_before")
    dump_model(loaders, ["56", 0], "low_before")
    comfy_server.run(loaders)
    dump_model(graph, ["54", 0], "high_after", after=["57", 0])
    dump_model(graph, ["56", 0], "low_after", after=["57", 0])
    comfy_server.run(graph)
    for name in ("high", "low"):
        assert comfy_server.state(f"{name}_after") == comfy_server.state(f"{name}_before")
    assert comfy_server.state("low_after")["object_patches"] == {}


def test_one_progress_bar_over_both_halves(comfy_server):
    """The steps of node 57 count from 1 to the total, once."""
    steps = []

    def on_progress(progress):
        if progress.node_id == "57" and progress.step is not None:
            steps.append((progress.step, progress.steps))

    async def go():
        async with ComfyClient(comfy_server.url) as client:
            sizes = {"n71_width": 128, "n71_height": 128, "n67_length": 33}
            graph = sampler_graph(slow=True, n57_steps=6, n57_noise_seed=77, **sizes)
            await run_graph(client, graph, on_progress=on_progress)

    asyncio.run(go())
    counts = [step for step, total in steps if total == 6]
    assert counts == sorted(counts)
    assert counts, "a busy machine may miss some steps, not all"
    assert {total for step, total in steps if step} == {6}


def test_the_summary_is_in_the_log(comfy_server):
    comfy_server.run(sampler_graph(n57_steps=4, n54_shift=5.0, n57_noise_seed=78))
    assert "notice node=57: 4 steps: 2 high noise, 2 low noise" in comfy_server.log_text()
