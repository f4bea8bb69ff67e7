"""Several seeds with two loads, fewer rows, and what is seen and stopped meanwhile."""

import asyncio
import re
import uuid

import numpy as np
import pytest
import torch
from support.expert_graphs import (
    add_stock,
    calls,
    dump_latent,
    notes,
    patch,
    relative_difference,
    sampler_graph,
    write_lora,
)
from support.shown import Shown
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.errors import RunFailedError, RunInterruptedError
from wan_flf2v.client.run import run_graph

NAG = {"nag_scale": 5.0, "nag_alpha": 0.5, "nag_tau": 1.5}


@pytest.mark.parametrize(
    "solver", ["euler", "uni_pc", "dpmpp_2m", "dpmpp_3m_sde", "heunpp2", "dpmpp_2s_ancestral_cfg_pp"]
)
def test_seeds_are_their_single_runs(comfy_server, solver):
    first = 2**64 - 2 if solver == "euler" else 7  # the seeds after the last begin again at 0
    seeds = [(first + number) % 2**64 for number in range(4)]
    graph = sampler_graph(n57_sampler_name=solver, n57_steps=6, n57_noise_seed=first, n67_batch_size=2)
    for seed in seeds:
        graph[f"single_{seed}"] = {"class_type": "WanFLF2VSampler", "inputs": {**graph["57"]["inputs"]}}
        graph[f"single_{seed}"]["inputs"].update(noise_seed=seed, resume=False)
        dump_latent(graph, f"single_{seed}", f"single_{seed}")
    graph["57"]["inputs"]["seed_count"] = 4
    comfy_server.run(graph)
    singles = [comfy_server.tensors(f"single_{seed}")["samples"] for seed in seeds]
    assert not torch.equal(singles[0], singles[1])
    assert torch.equal(comfy_server.tensors("ours")["samples"], torch.cat(singles))


@pytest.mark.parametrize("step", [0, 4])
def test_seeds_on_one_expert_alone(comfy_server, step):
    graph = sampler_graph(n57_handover="step", n57_handover_step=step, n57_seed_count=2, n57_noise_seed=5)
    single = {**graph["57"]["inputs"], "seed_count": 1, "noise_seed": 6, "resume": False}
    graph["single"] = {"class_type": "WanFLF2VSampler", "inputs": single}
    dump_latent(graph, "single", "single")
    comfy_server.run(graph)
    assert torch.equal(comfy_server.tensors("ours")["samples"][1:], comfy_server.tensors("single")["samples"])


def test_masks_and_indices_are_those_of_each_seed(comfy_server):
    graph = sampler_graph(n67_batch_size=3, n57_seed_count=2)
    inputs = {"samples": ["67", 2], "batch_index": 1, "length": 2}
    graph["latent"] = {"class_type": "LatentFromBatch", "inputs": inputs}
    graph["57"]["inputs"]["latent_image"] = ["latent", 0]
    graph["second"] = {"class_type": "WanFLF2VSampler", "inputs": {**graph["57"]["inputs"]}}
    graph["second"]["inputs"].update(latent_image=["57", 0], seed_count=1)
    dump_latent(graph, "second", "second")
    comfy_server.run(graph)
    assert len(comfy_server.tensors("second")["samples"]) == 4


def test_four_seeds_load_each_expert_once(comfy_server):
    """On one base model with two LoRAs, so that the host has to load at every change; stock nodes load 8 times."""
    graph = sampler_graph(n57_handover="step", n57_handover_step=2, n57_noise_seed=30)
    graph["57"]["inputs"]["model_low_noise"] = ["37", 0]
    for expert, strength in (("high", 1.0), ("low", -1.0)):
        lora = {"lora_name": write_lora(comfy_server), "strength_model": strength}
        patch(graph, expert, "LoraLoaderModelOnly", **lora)
        patch(graph, expert, "WanFLF2VMeasureProbe", label=expert)
    stock = {node_id: node for node_id, node in graph.items() if node_id not in ("57", "dump_ours")}
    graph["57"]["inputs"]["seed_count"] = 4
    assert loads(comfy_server, graph) == 2
    add_stock(graph, 2)
    del graph["dump_stock"]
    pair = [graph[key] for key in ("58", "59")]
    stock["55"] = graph["55"]
    for number in range(4):
        high, low = ({**node, "inputs": {**node["inputs"], "noise_seed": 30 + number}} for node in pair)
        low["inputs"]["latent_image"] = [f"high_{number}", 0]
        stock |= {f"high_{number}": high, f"low_{number}": low}
        if number:  # one seed after the other, as several prompts would run
            stock[f"high_{number}"]["inputs"]["latent_image"] = [f"wait_{number}", 0]
            inputs = {"samples1": ["67", 2], "samples2": [f"low_{number - 1}", 0]}
            stock[f"wait_{number}"] = {"class_type": "LatentSubtract", "inputs": inputs}
        dump_latent(stock, f"low_{number}", f"low_{number}")
    assert loads(comfy_server, stock) == 8


def loads(host, graph):
    notes(host)
    host.run(graph)
    return sum(note.get("event") == "load" for note in notes(host))


def test_the_gate_leaves_out_a_quarter_of_the_rows(comfy_server):
    graph = sampler_graph(n57_steps=20, n57_handover="step", n57_handover_step=10, n57_noise_seed=40)
    for expert in ("high", "low"):
        patch(graph, expert, "WanFLF2VMeasureProbe", label=expert)
    rows = {}
    for gate in (1.0, 0.5):
        graph["57"]["inputs"]["cfg_gate"] = gate
        notes(comfy_server)
        comfy_server.run(graph)
        noted = notes(comfy_server)
        rows[gate] = [rows_of_steps(noted, expert) for expert in ("high", "low")]
    assert rows == {1.0: [[2] * 10] * 2, 0.5: [[2] * 5 + [1] * 5] * 2}, "each expert begins with full guidance"
    gated = comfy_server.tensors("ours")["samples"]
    graph["57"]["inputs"]["cfg_gate"] = 1.0
    comfy_server.run(add_stock(graph, 10))
    assert relative_difference(comfy_server) <= 1e-5
    exact = comfy_server.tensors("ours")["samples"]
    # How near it comes says nothing of real weights: these are random. Only a slip of the formula is far off.
    assert 0 < ((gated - exact).norm() / exact.norm()).item() < 0.4


def rows_of_steps(noted, expert):
    by_sigma = {}
    for call in calls(noted, expert):
        by_sigma[call["sigma"]] = by_sigma.get(call["sigma"], 0) + len(call["rows"])
    return list(by_sigma.values())


def test_the_gate_without_guidance_changes_nothing(comfy_server):
    graph = sampler_graph(n57_cfg=1.0, n57_cfg_gate=0.5, n57_handover="step", n57_handover_step=2)
    comfy_server.run(add_stock(graph, 2))
    assert relative_difference(comfy_server) <= 1e-5


def test_the_gate_with_several_seeds_and_with_two_calls_a_step(comfy_server):
    graph = sampler_graph(n57_cfg_gate=0.5, n57_sampler_name="heun", n57_steps=8, n57_seed_count=2)
    seed = graph["57"]["inputs"]["noise_seed"] + 1
    single = {**graph["57"]["inputs"], "seed_count": 1, "noise_seed": seed, "resume": False}
    graph["single"] = {"class_type": "WanFLF2VSampler", "inputs": single}
    dump_latent(graph, "single", "single")
    comfy_server.run(graph)
    assert torch.equal(comfy_server.tensors("ours")["samples"][1:], comfy_server.tensors("single")["samples"])


@pytest.mark.parametrize(("solver", "patched"), [("euler_cfg_pp", None), ("euler", "high"), ("euler", "low")])
def test_the_gate_is_refused_where_every_unconditional_prediction_is_needed(comfy_server, solver, patched):
    graph = sampler_graph(n57_cfg_gate=0.5, n57_sampler_name=solver)
    if patched:
        patch(graph, patched, "CFGNorm", strength=0.9, pre_cfg=False)
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert "cfg_gate is below 1" in str(error.value)
    assert ("a node such as CFGNorm" if patched else "the sampler euler_cfg_pp") in str(error.value)


@pytest.mark.parametrize("expert", ["high", "low"])
def test_the_gate_is_refused_for_a_patch_that_compares_both_predictions(comfy_server, expert):
    """NAG works inside the model on both rows: without the second it would silently do nothing."""
    graph = sampler_graph(n57_cfg_gate=0.5)
    patch(graph, expert, "NAGuidance", **NAG)
    with pytest.raises(RunFailedError, match=r"cfg_gate is below 1.* NAGuidance \(disable_cfg1_optimization\) needs"):
        comfy_server.run(graph)


def test_the_gate_at_cfg_1_leaves_such_a_patch_alone(comfy_server):
    graph = sampler_graph(n57_cfg=1.0, n57_cfg_gate=0.5, n57_handover="step", n57_handover_step=2)
    for expert in ("high", "low"):
        patch(graph, expert, "NAGuidance", **NAG)
        patch(graph, expert, "WanFLF2VMeasureProbe", label=expert)
    notes(comfy_server)
    comfy_server.run(add_stock(graph, 2))
    assert relative_difference(comfy_server) <= 1e-5
    assert {len(call["rows"]) for call in calls(notes(comfy_server), "low")} == {2}


@pytest.fixture(scope="module")
def previewing(new_comfy_server):
    with new_comfy_server("--preview-method", "latent2rgb") as host:
        yield host


def test_the_node_says_how_far_it_is_and_shows_the_whole_clip(previewing):
    sizes = {"n71_width": 128, "n71_height": 96, "n67_length": 33}
    graph = sampler_graph(n57_steps=6, n57_handover="step", n57_handover_step=4, n57_seed_count=2, **sizes)
    shown = Shown(previewing, graph)
    told = [text.splitlines() for node, text in shown.texts if node == "57"]
    summary = {lines[0 if index == 0 else 1] for index, lines in enumerate(told)}
    assert summary == {"6 steps: 4 high noise, 2 low noise; hand-over at sigma 0.800"}
    assert all("no file's name says that it is made for few steps" in lines[-1] for lines in told), "warnings stay"
    texts = [lines[0] for lines in told]  # the step is the first line as soon as there is one
    assert texts[1] == "seed 1 of 2, step 1 of 6, high noise"
    assert texts[2].startswith("seed 1 of 2, step 2 of 6, high noise, 0:")
    assert texts[2].endswith(" of sampling left"), "and then comes the decode"
    assert texts[-2] == "seed 2 of 2, step 6 of 6, low noise"
    expected = [(seed, step) for steps in ((1, 2, 3, 4), (5, 6)) for seed in (1, 2) for step in steps]
    assert [tuple(map(int, re.findall(r"(?:seed|step) (\d+) of", text))) for text in texts[1:-1]] == expected
    assert re.fullmatch(r"high noise 8 model calls, low noise 4 model calls, 0:\d\d in all", texts[-1])
    # Four latent frames of 16 x 12, stacked since they are wide, in the size that the host shows.
    assert {preview.size for preview in shown.previews} == {(round(512 * 16 / (4 * 12)), 512)}
    frames = np.array_split(np.asarray(shown.previews[-1].convert("L"), float), 4)
    assert np.abs(frames[0] - frames[3]).mean() > 1, "other frames, not one four times"


def test_the_node_counts_the_calls_that_were_made(comfy_server):
    """heun asks twice in each step but the last, and for the second time of step 2 the low-noise expert."""
    graph = sampler_graph(n57_sampler_name="heun", n57_handover="step", n57_handover_step=2, n57_noise_seed=41)
    last = [text for node, text in Shown(comfy_server, graph).texts if node == "57"][-1]
    assert last.startswith("high noise 3 model calls, low noise 4 model calls, ")


@pytest.mark.parametrize(
    ("solver", "seeds", "begin"), [("euler", 1, 3), ("dpm_adaptive", 1, 2), ("dpm_fast", 2, 2), ("euler", 2, 43)]
)
def test_an_interrupt_takes_effect_within_one_step(comfy_server, solver, seeds, begin):
    """In either half, of one seed or several, and with samplers that count their steps differently."""
    sizes = {"n71_width": 128, "n71_height": 128, "n67_length": 17}
    settings = {"n57_steps": 40, "n57_sampler_name": solver, "n57_seed_count": seeds, "n57_noise_seed": 50}
    graph = sampler_graph(slow=True, **settings, **sizes)
    for expert in ("high", "low"):
        patch(graph, expert, "WanFLF2VMeasureProbe", label=expert)
    notes(comfy_server)
    prompt_id = str(uuid.uuid4())

    async def go():
        async with ComfyClient(comfy_server.url) as client:
            tasks = []

            def on_progress(progress):
                if progress.node_id == "57" and progress.step >= begin and not tasks:
                    tasks.append(asyncio.ensure_future(client.cancel(prompt_id)))

            with pytest.raises(RunInterruptedError):
                await run_graph(client, graph, prompt_id=prompt_id, on_progress=on_progress)
            assert await asyncio.gather(*tasks) == [True]

    asyncio.run(go())
    noted = notes(comfy_server)
    assert noted[-1]["event"] == "cleanup"
    if solver == "euler":
        made = len([note for note in noted if "sigma" in note])
        assert begin <= made < begin + 20, "far from the end of its steps"
