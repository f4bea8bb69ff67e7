"""The prelude: its sigmas, the run beside a chain of the host's own nodes, and what the nodes show of it."""

import json
import re
import subprocess
import sys
import urllib.request

import pytest
import torch
from PIL import Image
from support.expert_graphs import (
    add_guided,
    add_mask,
    calls,
    dump_latent,
    notes,
    patch,
    relative_difference,
    sampler_graph,
    write_lora,
)
from support.plan_runs import NO_FILES, plan
from support.preflight_runs import LORA, LOW, T2V_HIGH, T2V_LOW, model_files, other
from support.shown import Shown
from support.wan_files import write_wan
from wan_flf2v.client.errors import RunFailedError

SEED = 5
# The rest of a run draws by this seed, so that it does not add the prelude's noise once more.
NEXT_SEED = SEED + 2**31


def flow(shift, *timesteps):
    """Return the sigmas of a flow at timesteps from 0 to 1 (Esser et al. 2024, eq. 23)."""
    return [shift * t / (1 + (shift - 1) * t) for t in timesteps]


def first(shift, count, whole=20):
    """Return the first sigmas of the scheduler "simple" in ``whole`` steps."""
    return flow(shift, *(1 - step / whole for step in range(count)))


EIGHT, FIVE = flow(8, 1, 0.75, 0.5, 0.25, 0), flow(5, 1, 0.75, 0.5, 0.25, 0)
# "sgm_uniform" spaces the sigmas evenly, and the host's model sampling shifts them once more.
UNIFORM = [1 - step / 20 * (1 - flow(8, 0.001)[0]) for step in range(3)]
UNIFORM_4 = [1 - step / 4 * (1 - flow(8, 0.001)[0]) for step in range(4)]
EXACT = {"prelude_end": "exact"}
# The shifts of the rest and of the prelude, settings; the prelude's sigmas, the rest's, and its high-noise steps.
CASES = [
    (8, 8, {}, first(8, 3), EIGHT[1:], 1),
    (8, 8, EXACT, first(8, 3), [*flow(8, 0.85), *EIGHT[1:]], 2),
    (8, 8, {"prelude_steps": 1}, [1], EIGHT[1:], 1),
    (8, 8, {"prelude_steps": 5}, first(8, 5), EIGHT[1:], 1),
    (8, 8, {"prelude_steps": 5, **EXACT}, first(8, 5), EIGHT[1:], 1),  # ends at a sigma of the rest by itself
    (5, 8, {"prelude_steps": 4}, first(8, 4), FIVE[1:], 1),
    (8, 5, {"prelude_steps": 2}, first(5, 2), EIGHT[1:], 1),
    (8, 5, {"prelude_steps": 6, **EXACT}, first(5, 6), [*flow(5, 0.7), *EIGHT[2:]], 1),
    (5, 5, {"prelude": "sigma"}, first(5, 3), FIVE[1:], 1),
    (8, 8, {"prelude": "sigma", "prelude_sigma": 0.98, **EXACT}, first(8, 3), [*flow(8, 0.85), *EIGHT[1:]], 2),
    (8, 8, {"prelude_schedule": 40, "prelude_steps": 6}, first(8, 6, 40), EIGHT[1:], 1),
    (8, 8, {"prelude_steps": 2, "steps": 8}, first(8, 2), flow(8, *(t / 8 for t in range(7, -1, -1))), 3),
    (8, 8, {"handover": "step", "handover_step": 1}, first(8, 3), EIGHT[1:], 0),
    (8, 8, {"handover": "half"}, first(8, 3), EIGHT[1:], 1),
    (8, 8, {"scheduler": "sgm_uniform"}, flow(8, *UNIFORM), [*flow(8, *UNIFORM_4[1:]), 0], 1),
    (8, 8, {"denoise": 0.8}, flow(8, 0.8, 0.76, 0.72), flow(8, 0.6, 0.4, 0.2, 0), 1),
]  # fmt: skip


@pytest.mark.parametrize(("shift", "own_shift", "settings", "own", "rest", "high"), CASES)
def test_the_sigmas(comfy_server, shift, own_shift, settings, own, rest, high):
    inputs = {"steps": 4, "shift": float(shift), "prelude": "steps", "prelude_shift": float(own_shift), **settings}
    _, made = plan(comfy_server, **NO_FILES, **inputs)
    sigmas = [*(step["sigma"] for step in made["steps"]), made["final_sigma"]]
    assert sigmas == pytest.approx([*own, *rest], abs=1e-6)
    low = len(rest) - 1 - high
    assert [step["expert"] for step in made["steps"]] == ["prelude"] * len(own) + ["high"] * high + ["low"] * low


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"steps": 4, "prelude_steps": 6},
            "The prelude would end at sigma 0.8889, below the boundary 0.9, but the steps",
        ),
        ({"steps": 4, "prelude_steps": 11, **EXACT}, "The prelude would end at sigma 0.8675, below the boundary 0.9"),
        (
            {"handover": "step", "handover_step": 0, "steps": 4},
            "end at sigma 0.9600, below the hand-over at sigma 1.0000",
        ),
        ({"prelude_steps": 21}, "prelude_steps is 21, which gives the prelude 21 steps, but it must have from 1 to 20"),
        ({"prelude": "sigma", "prelude_sigma": 1.0}, "prelude_sigma is 1, which gives the prelude 0 steps"),
        ({"prelude_steps": 20, "boundary": 0.0}, "so no step is left to them. Set a lower prelude_steps"),
    ],
)
def test_a_prelude_that_does_not_fit_is_refused(comfy_server, settings, message):
    with pytest.raises(RunFailedError) as error:
        plan(comfy_server, **NO_FILES, **{"prelude": "steps", **settings})
    assert message in str(error.value)


def prelude_graph(**inputs):
    """Return 3 prelude steps on the demo's high-noise model as it is loaded, then 1 and 2 on node 57's experts."""
    settings = {"cfg": 1.0, "noise_seed": SEED, **inputs}
    graph = sampler_graph(n54_shift=8.0, **{f"n57_{name}": value for name, value in settings.items()})
    graph["57"]["inputs"]["model_prelude"] = ["37", 0]
    return graph


def add_run(graph, name, model, sigmas, cfg, latent=None):
    """Add a SamplerCustom over ``sigmas``; without ``latent`` it is a run's first, else it goes on from that node."""
    ours = graph["57"]["inputs"]
    graph[f"{name}_sigmas"] = {"class_type": "ManualSigmas", "inputs": {"sigmas": ", ".join(map(str, sigmas))}}
    graph[f"{name}_solver"] = {"class_type": "KSamplerSelect", "inputs": {"sampler_name": ours["sampler_name"]}}
    inputs = {
        **{"model": model, "cfg": cfg, "positive": ours["positive"], "negative": ours["negative"]},
        **{"sampler": [f"{name}_solver", 0], "sigmas": [f"{name}_sigmas", 0]},
        **{"add_noise": latent is None, "noise_seed": SEED if latent is None else NEXT_SEED},
        "latent_image": ours["latent_image"] if latent is None else [latent, 0],
    }
    graph[name] = {"class_type": "SamplerCustom", "inputs": inputs}


def add_chain(graph, own, rest):
    """Add the host's way: a run over the prelude's sigmas, then one of each expert, dumped as ``stock``."""
    ours = graph["57"]["inputs"]
    graph["55"] = {"class_type": "ModelSamplingSD3", "inputs": {"shift": 8.0, "model": ours["model_low_noise"]}}
    low = next(index for index, sigma in enumerate(rest) if sigma < 0.9)
    add_run(graph, "prelude", ours["model_prelude"], [*own, rest[0]], 3.5)
    add_run(graph, "high", ours["model_high_noise"], rest[: low + 1], ours["cfg"], "prelude")
    add_run(graph, "low", ["55", 0], rest[low:], ours["cfg"], "high")
    dump_latent(graph, "low", "stock")
    return graph


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_equals_a_chain_of_the_hosts_nodes(comfy_server, cfg):
    """With a LoRA on the high-noise expert, whose base model makes the prelude."""
    graph = prelude_graph(cfg=cfg)
    patch(graph, "high", "LoraLoaderModelOnly", lora_name=write_lora(comfy_server), strength_model=1.0)
    comfy_server.run(add_chain(graph, first(8, 3), EIGHT[1:]))
    assert relative_difference(comfy_server) <= 1e-5


def test_with_an_exact_end_the_chain_begins_with_a_ksampler_advanced(comfy_server):
    graph = add_chain(prelude_graph(**EXACT), first(8, 3), [*flow(8, 0.85), *EIGHT[1:]])
    ours = graph["57"]["inputs"]
    same = ("noise_seed", "sampler_name", "scheduler", "positive", "negative", "latent_image")
    whole = {"steps": 20, "start_at_step": 0, "end_at_step": 3, "cfg": 3.5, "model": ["37", 0]}
    noise = {"add_noise": "enable", "return_with_leftover_noise": "enable"}
    graph["prelude"] = {
        "class_type": "KSamplerAdvanced",
        "inputs": {**{key: ours[key] for key in same}, **whole, **noise},
    }
    comfy_server.run(graph)
    assert relative_difference(comfy_server) <= 1e-5


@pytest.mark.parametrize("solver", ["dpmpp_2m", "res_multistep", "uni_pc", "euler_ancestral", "dpmpp_3m_sde", "lcm"])
def test_the_solver_begins_again_after_the_prelude(comfy_server, solver):
    """With one model as both experts, the rest is one run of the host's; what is drawn in it is not the prelude's."""
    graph = prelude_graph(sampler_name=solver, steps=3 if solver == "uni_pc" else 4)  # KSampler has one more for it
    ours = graph["57"]["inputs"]
    ours["model_low_noise"] = ours["model_high_noise"]
    own = flow(8, 1, 0.953, 0.905) if solver == "uni_pc" else first(8, 3)
    add_run(graph, "prelude", ["37", 0], [*own, EIGHT[1]], 3.5)
    rest = [*EIGHT[1:3], 0] if solver == "uni_pc" else EIGHT[1:]
    add_run(graph, "rest", ours["model_high_noise"], rest, 1.0, "prelude")
    dump_latent(graph, "rest", "stock")
    comfy_server.run(graph)
    assert relative_difference(comfy_server) <= 1e-5


def test_a_mask_keeps_the_picture_over_the_prelude_too(comfy_server):
    """As in one run of the host's over all sigmas; in a chain, noise would be left of what the mask keeps."""
    graph = prelude_graph(cfg=3.5)
    ours = graph["57"]["inputs"]
    ours["model_prelude"] = ours["model_low_noise"] = ours["model_high_noise"]
    add_mask(graph)
    add_run(graph, "whole", ours["model_high_noise"], [*first(8, 3), *EIGHT[1:]], 3.5)
    dump_latent(graph, "whole", "stock")
    comfy_server.run(graph)
    assert relative_difference(comfy_server) <= 1e-5


@pytest.mark.parametrize("solver", ["euler", "dpmpp_3m_sde", "uni_pc_bh2"])
def test_seeds_are_their_single_runs(comfy_server, solver):
    graph = prelude_graph(sampler_name=solver, noise_seed=8, n67_batch_size=1)
    for expert in ("high", "low"):
        patch(graph, expert, "WanFLF2VTestDrawInModel")
    single = {**graph["57"]["inputs"], "noise_seed": 9, "resume": False}
    graph["single"] = {"class_type": "WanFLF2VSampler", "inputs": single}
    graph["57"]["inputs"]["seed_count"] = 2
    graph["57"]["inputs"]["handover"] = graph["single"]["inputs"]["handover"] = "half"
    dump_latent(graph, "single", "single")
    comfy_server.run(graph)
    assert torch.equal(comfy_server.tensors("ours")["samples"][1:], comfy_server.tensors("single")["samples"])


def test_without_its_model_or_with_none_there_is_no_prelude(comfy_server):
    graph = prelude_graph()
    plain = {name: value for name, value in graph["57"]["inputs"].items() if "prelude" not in name}
    odd = {"prelude_steps": 7, "prelude_cfg": 9.0, "prelude_end": "exact", "prelude_schedule": 2}
    runs = {"plain": plain, "unconnected": {**plain, **odd, "prelude": "sigma"}}
    runs["none"] = {**plain, **odd, "prelude": "none", "model_prelude": ["37", 0]}
    for name, inputs in runs.items():
        graph[name] = {"class_type": "WanFLF2VSampler", "inputs": inputs}
        dump_latent(graph, name, name)
    comfy_server.run(graph)
    results = {name: comfy_server.tensors(name)["samples"] for name in (*runs, "ours")}
    assert torch.equal(results["plain"], results["unconnected"])
    assert torch.equal(results["plain"], results["none"])
    assert not torch.equal(results["plain"], results["ours"])


@pytest.mark.parametrize("solver", ["euler", "dpmpp_3m_sde"])
def test_the_guider_gives_what_the_sampler_gives(comfy_server, solver):
    graph = prelude_graph(sampler_name=solver)
    graph["57"]["inputs"]["prelude_steps"] = 2
    add_guided(graph)
    graph["guider"]["inputs"].update(model_prelude=["37", 0], prelude_steps=2)
    comfy_server.run(graph)
    assert relative_difference(comfy_server) == 0


def test_given_sigmas_that_begin_lower_begin_there(comfy_server):
    graph = prelude_graph(prelude_steps=2)
    graph["sigmas"] = {"class_type": "ManualSigmas", "inputs": {"sigmas": "0.98, 0.95, 0.92, 0.8, 0.5, 0"}}
    graph["57"]["inputs"]["sigmas"] = ["sigmas", 0]
    comfy_server.run(add_chain(graph, [0.98, *flow(8, 0.85)], [0.95, 0.92, 0.8, 0.5, 0]))
    assert relative_difference(comfy_server) <= 1e-5


def test_every_sampler_changes_models_by_the_sigmas(comfy_server):
    with urllib.request.urlopen(f"{comfy_server.url}/object_info/KSampler", timeout=60) as answer:
        kind, *rest = json.load(answer)["KSampler"]["input"]["required"]["sampler_name"]
    samplers = kind if isinstance(kind, list) else rest[0]["options"]
    graph = prelude_graph(n67_length=5)
    template = graph.pop("57")["inputs"]
    del graph["dump_ours"]
    for name in samplers:
        ours = {**template, "sampler_name": name, "prelude_steps": 2}
        for expert in ("model_prelude", "model_high_noise", "model_low_noise"):
            inputs = {"model": ours[expert], "label": f"{name} {expert.split('_')[1]}"}
            graph[f"{name} {expert}"] = {"class_type": "WanFLF2VMeasureProbe", "inputs": inputs}
            ours[expert] = [f"{name} {expert}", 0]
        graph[name] = {"class_type": "WanFLF2VSampler", "inputs": ours}
        dump_latent(graph, name, name)
    notes(comfy_server)
    comfy_server.run(graph)
    noted = notes(comfy_server)
    for name in samplers:
        assert torch.isfinite(comfy_server.tensors(name)["samples"]).all(), name
        made = [note for note in noted if note["model"].rpartition(" ")[0] == name and "sigma" in note]
        models = [call["model"].rpartition(" ")[2] for call in made]
        assert list(dict.fromkeys(models)) == ["prelude", "high", "low"], name
        assert models == sorted(models, key=["prelude", "high", "low"].index), name
        sigmas = {model: [call["sigma"] for call in calls(noted, f"{name} {model}")] for model in set(models)}
        # For these, KSampler makes one step more and leaves out the last but one sigma.
        longer = name in ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")
        second, low = flow(8, 0.8, 0.4) if longer else EIGHT[1:3]
        assert sigmas["prelude"][0] == pytest.approx(1.0, abs=1e-4), name  # uni_pc computes it back
        assert min(sigmas["prelude"]) >= second * (1 - 1e-6), name
        assert sigmas["high"][0] == pytest.approx(second), name
        assert min(sigmas["high"]) > low * (1 + 1e-6) and sigmas["low"][0] <= low * (1 + 1e-6), name


def test_node_57_says_where_it_is_and_what_it_did(comfy_server):
    graph = prelude_graph(seed_count=2, noise_seed=60)
    texts = [text.splitlines()[0] for node, text in Shown(comfy_server, graph).texts if node == "57"]
    assert texts[0] == "6 steps: 3 prelude to sigma 0.960, 1 high noise, 2 low noise; hand-over at sigma 0.889"
    steps = [re.match(r"seed (\d) of 2, step (\d) of 6, (prelude|high|low)", text).groups() for text in texts[1:-1]]
    parts = (("prelude", "123"), ("high", "4"), ("low", "56"))
    assert steps == [(seed, step, part) for part, numbers in parts for seed in "12" for step in numbers]
    counted = "prelude 6 model calls, high noise 2 model calls, low noise 4 model calls, "
    assert re.fullmatch(rf"{counted}0:\d\d in all", texts[-1])


@pytest.mark.parametrize("solver", ["euler", "dpm_adaptive"])
def test_the_guiders_steps_rise_over_the_whole_run(comfy_server, solver):
    graph = prelude_graph(sampler_name=solver)
    add_guided(graph)
    graph["guider"]["inputs"]["model_prelude"] = ["37", 0]
    inputs = {**{key: [key, 0] for key in ("guider", "sampler", "sigmas")}, "latent": ["67", 2], "name": "steps"}
    graph["steps"] = {"class_type": "WanFLF2VTestSteps", "inputs": inputs}
    for name in ("57", "58", "dump_ours", "dump_stock"):
        del graph[name]
    comfy_server.run(graph)
    steps = comfy_server.state("steps")
    if solver == "euler":
        assert steps == [[step, 6] for step in range(6)]
    assert [step for step, _ in steps] == sorted(step for step, _ in steps) and {total for _, total in steps} == {6}


def test_a_sampler_that_is_no_ksampler_is_refused(comfy_server):
    graph = prelude_graph()
    add_guided(graph)
    graph["guider"]["inputs"]["model_prelude"] = ["37", 0]
    graph["sampler"] = {"class_type": "WanFLF2VTestSampler", "inputs": {"kind": "plain"}}
    with pytest.raises(RunFailedError, match="The sampler PlainSampler cannot go on from a prelude"):
        comfy_server.run(graph)


def test_keyframes_act_on_the_prelude_with_the_high_noise_strength(comfy_server):
    graph = prelude_graph(handover="step", handover_step=4)
    graph["image"] = {"class_type": "LoadImage", "inputs": {"image": "start.jpg"}}
    keyframe = {"images": ["image", 0], "frames": "4", "strength": 1.0, "strength_low_noise": 0.0}
    graph["keyframes"] = {"class_type": "WanFLF2VKeyframes", "inputs": keyframe}
    graph["67"]["inputs"]["keyframes"] = ["keyframes", 0]
    add_run(graph, "prelude", ["37", 0], [*first(8, 3), EIGHT[1]], 3.5)
    add_run(graph, "rest", ["54", 0], EIGHT[1:], 1.0, "prelude")
    dump_latent(graph, "rest", "stock")
    comfy_server.run(graph)
    assert relative_difference(comfy_server) <= 1e-5


def test_the_gate_leaves_the_prelude_alone(comfy_server):
    """Full guidance is what it is for."""
    graph = prelude_graph(cfg=4.0, cfg_gate=0.5, steps=8)
    ours = graph["57"]["inputs"]
    for expert in ("model_prelude", "model_high_noise", "model_low_noise"):
        inputs = {"model": ours[expert], "label": expert.split("_")[1]}
        graph[expert] = {"class_type": "WanFLF2VMeasureProbe", "inputs": inputs}
        ours[expert] = [expert, 0]
    notes(comfy_server)
    comfy_server.run(graph)
    noted = notes(comfy_server)
    rows = {model: sum(len(call["rows"]) for call in calls(noted, model)) for model in ("prelude", "high", "low")}
    assert rows == {"prelude": 2 * 3, "high": 2 + 1, "low": 2 * 2 + 2}


def shown_in_the_editor(server, graph):
    request = urllib.request.Request(f"{server.url}/wan_flf2v/samplers", json.dumps({"prompt": graph}).encode())
    request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)["57"]


def test_the_editor_shows_the_prelude_and_what_is_wrong_with_it(comfy_server):
    graph = prelude_graph()
    shown = shown_in_the_editor(comfy_server, graph)
    assert [step["expert"] for step in shown["steps"]] == ["prelude"] * 3 + ["high"] + ["low"] * 2
    assert [step["sigma"] for step in shown["steps"]] == pytest.approx([*first(8, 3), *EIGHT[1:4]], abs=1e-6)
    lora = {"model": ["37", 0], "lora_name": "x_lightx2v_4steps.safetensors", "strength_model": 1.0}
    graph["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    graph["57"]["inputs"].update(model_prelude=["lora", 0], prelude_steps=6)
    shown = shown_in_the_editor(comfy_server, graph)
    texts = [finding["text"] for finding in shown["findings"]]
    assert shown["steps"] == []
    assert any(text.startswith("The prelude would end at sigma 0.8889") for text in texts)
    assert any(text.startswith("model_prelude has x_lightx2v_4steps.safetensors, which looks made") for text in texts)
    graph["57"]["inputs"]["prelude"] = "none"
    shown = shown_in_the_editor(comfy_server, graph)
    assert [step["expert"] for step in shown["steps"]] == ["high"] * 2 + ["low"] * 2
    assert not any("prelude" in finding["text"] for finding in shown["findings"])


@pytest.fixture(scope="module")
def models(comfy_server):
    with model_files(comfy_server) as folder:
        yield folder


def with_prelude_file(name):
    graph = prelude_graph(prelude_cfg=3.25)  # other than other tests', so that it is run
    loader = {"unet_name": name, "weight_dtype": "default"}
    graph["loader"] = {"class_type": "UNETLoader", "inputs": loader}
    graph["57"]["inputs"]["model_prelude"] = ["loader", 0]
    return graph


DISTILLED_FILE = "preflight/wan2.2_i2v_high_noise_lightx2v_4steps.safetensors"
DISTILLED = "model_prelude has {}, which looks made for few steps without guidance, but the prelude is there for"


def test_node_57_tells_of_a_file_that_is_no_prelude(comfy_server, models):
    graph = with_prelude_file(LOW)
    texts = [text for node, text in Shown(comfy_server, graph).texts if node == "57"]
    assert other("model_prelude", LOW, "low", "high") in texts[0].splitlines()
    lora = {"model": ["loader", 0], "lora_name": LORA, "strength_model": 1.0}
    graph["lora"] = {"class_type": "LoraLoaderModelOnly", "inputs": lora}
    graph["57"]["inputs"]["model_prelude"] = ["lora", 0]
    texts = [text for node, text in Shown(comfy_server, graph).texts if node == "57"]
    assert any(line.startswith(DISTILLED.format(LORA)) for line in texts[0].splitlines())
    with pytest.raises(RunFailedError, match=f"model_prelude.*{T2V_LOW}.* is a text-to-video checkpoint"):
        comfy_server.run(with_prelude_file(T2V_LOW))


def test_the_plan_tells_of_a_file_that_is_no_prelude(comfy_server, models):
    settings = {"steps": 4, "cfg": 1.0, "prelude": "steps"}
    _, made = plan(comfy_server, **settings, model_prelude=LOW)
    assert other("model_prelude", LOW, "low", "high") in made["warnings"]
    write_wan(models / "diffusion_models" / DISTILLED_FILE)
    _, made = plan(comfy_server, **settings, model_prelude=DISTILLED_FILE)
    assert any(text.startswith(DISTILLED.format(DISTILLED_FILE)) for text in made["warnings"])
    _, made = plan(comfy_server, **settings, model_prelude=T2V_HIGH)
    assert any(text.startswith(f"model_prelude ({T2V_HIGH}) is a text-to-video") for text in made["errors"])


def test_the_plan_shows_the_prelude_in_words_and_in_colour(comfy_server, tmp_path):
    settings = {**NO_FILES, "steps": 4, "cfg": 1.0, "prelude": "steps"}
    text, made = plan(comfy_server, **settings)
    assert "Prelude     the first 3 of 20 steps at shift 8; its last one ends at the next sigma of the rest" in text
    assert "6 steps: 3 prelude to sigma 0.9600, 1 high noise, 2 low noise from sigma 0.8889" in text
    assert [(expert["expert"], expert["forwards"]) for expert in made["experts"]] == [
        ("prelude", 6),
        ("high", 1),
        ("low", 2),
    ]
    assert made["handover_step"] == 4
    arguments = [f"--set={name}={value}" for name, value in settings.items()]
    command = [sys.executable, "-m", "wan_flf2v", "plan", "--server", comfy_server.url, *arguments, "-o", "plot.png"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=True)
    assert "   2  0.9863     986.3  prelude\n   3  0.9600     960.0  high\n" in done.stdout
    with Image.open(tmp_path / "plot.png") as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20)}
    assert {(0, 158, 115), (0, 114, 178), (230, 159, 0)} <= colours
