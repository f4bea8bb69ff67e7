"""The Plan node: the schedule, the work and the memory of a run, before it loads anything."""

import json
import re

import pytest
from safetensors.numpy import save_file
from support.demo_graphs import demo_graph, only
from support.plan_runs import DEFAULTS, NO_FILES, plan
from support.preflight_runs import BIG, FRAMES, GGUF, HIGH, LOW, SWAPPED, model_files
from support.shown import Shown
from support.wan_files import wan_tensors, write_sparse, write_wan
from wan_flf2v.client.errors import PromptRejectedError, RunFailedError

FEW = "preflight/x_lightning_high_noise.safetensors"


@pytest.fixture(scope="module")
def models(comfy_server):
    with model_files(comfy_server) as models:
        write_wan(models / "diffusion_models" / FEW)
        yield models


def experts(made):
    return [step["expert"] for step in made["steps"]]


@pytest.mark.parametrize(
    ("inputs", "high", "low"),
    [
        ({}, 10, 10),
        ({"shift": 5.0}, 8, 12),
        ({"steps": 4, "shift": 5.0}, 2, 2),
        ({"shift": 9.0}, 11, 9),
        ({"boundary": 0.875}, 11, 9),
        ({"handover": "half", "steps": 7}, 3, 4),
        ({"handover": "step", "handover_step": 0}, 0, 20),
        ({"handover": "step", "handover_step": 20}, 20, 0),
    ],
)
def test_the_handover(comfy_server, models, inputs, high, low):
    text, made = plan(comfy_server, **NO_FILES, **inputs)
    assert experts(made) == ["high"] * high + ["low"] * low
    assert made["handover_step"] == high
    sigmas = [*(step["sigma"] for step in made["steps"]), made["final_sigma"]]
    assert made["handover_sigma"] == sigmas[high]
    assert f"{high + low} steps: {high} high noise, {low} low noise from sigma {sigmas[high]:.4f}" in text


@pytest.mark.parametrize("shift", [8.0, 5.0])
def test_the_sigmas_are_those_of_the_real_model(comfy_server, shift):
    graph = only(demo_graph(n54_shift=shift), "37", "54")
    graph["1"] = {"class_type": "WanFLF2VTestCompareSigmas", "inputs": {"model": ["54", 0], "name": "sigmas"}}
    comfy_server.run(graph)
    compared = comfy_server.state("sigmas")
    assert compared["different"] == []
    assert compared["cases"] >= 44 * 9 * 3 if comfy_server.host_version == "0.30.0" else compared["cases"] > 1000


def test_a_schedule_of_another_length_than_the_steps(comfy_server, models):
    """ddim_uniform makes as many steps as fit, not as many as were asked for."""
    _, made = plan(comfy_server, **NO_FILES, steps=7, scheduler="ddim_uniform")
    assert len(made["steps"]) != 7
    assert sum(expert["steps"] for expert in made["experts"]) == len(made["steps"])


def test_sizes_frames_and_work(comfy_server, models):
    text, made = plan(comfy_server, **NO_FILES, width=960, height=540, length=80, frame_rate=12.0, cfg_low_noise=1.0)
    video = made["video"]
    assert [video[key] for key in ("width", "height", "generated_width", "generated_height")] == [960, 540, 960, 544]
    assert (video["length"], video["frames"], video["seconds"]) == (80, 77, pytest.approx(76 / 12))
    assert video["latent_shape"] == [20, 68, 120]
    assert video["tokens"] == 20 * 34 * 60
    assert [expert["forwards"] for expert in made["experts"]] == [20, 10], "cfg 1 leaves out the negative prompt"
    assert made["tflop"] == pytest.approx(30 * made["tflop_per_forward"])
    assert made["assumed_14b"]
    assert "960x540, generated at 960x544 and cropped; 77 frames (80 is not 4n+1) at 12 fps, 6.33 s" in text
    assert "dimensions of Wan 14B assumed" in text


@pytest.mark.parametrize(
    ("shared", "joined", "lines"),
    [
        (
            1,
            241,
            ("3, joined 241 frames, 15.00 s", "images    from image to image", "the one before: 2 loads a segment"),
        ),
        (
            5,
            233,
            ("3, joined 233 frames, 14.50 s", "carried   each begins with the last 5 frames", "2 loads a segment"),
        ),
    ],
)
def test_segments_and_the_frames_that_they_share(comfy_server, models, shared, joined, lines):
    text, made = plan(comfy_server, **NO_FILES, segments=3, shared_frames=shared)
    assert made["video"]["joined_frames"] == joined
    assert [line for line in lines if line not in text] == []
    assert ("images    from image" in text) == (shared == 1), "segments between images share one"


def test_segments_need_frames_of_their_own(comfy_server, models):
    with pytest.raises(RunFailedError, match="shared_frames is 9, but must be below 9, the length of a segment"):
        plan(comfy_server, **NO_FILES, segments=2, shared_frames=9, length=12)


def test_work_of_the_14b_at_720p(comfy_server, models):
    text, made = plan(comfy_server, **NO_FILES, width=1280, height=720)
    assert made["tflop_per_forward"] == pytest.approx(6523, abs=1)
    assert made["tflop"] == pytest.approx(40 * made["tflop_per_forward"])
    assert "6,523 TFLOP a forward pass" in text


@pytest.mark.parametrize(
    ("file", "cfg"),
    [
        ("tiny_wan_high_noise.safetensors", 4.0),
        ("tiny_wan_high_noise.safetensors", 1.0),
        ("tiny_wan_t2v.safetensors", 4.0),
    ],
)
def test_memory_is_what_the_host_will_ask_for(comfy_server, models, file, cfg):
    """ComfyUI asks for the same memory at cfg 1."""
    graph = only(demo_graph(n37_unet_name=file), "37")
    latent = {"width": 96, "height": 64, "length": 33, "batch_size": 1}
    graph["latent"] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": latent}
    inputs = {"model": ["37", 0], "latent": ["latent", 0], "name": "memory"}
    graph["1"] = {"class_type": "WanFLF2VTestEstimateMemory", "inputs": inputs}
    comfy_server.run(graph)
    host = comfy_server.state("memory")
    _, made = plan(comfy_server, model_high_noise=file, cfg=cfg, width=96, height=64, length=33)
    expert = made["experts"][0]
    assert expert["activation_bytes"] == host["bytes"]
    weights = host["weights"] - 1000 * 4  # the host counts the schedule's 1000 sigmas, which are in no file
    assert expert["weight_bytes"] == weights
    assert expert["vram_bytes"] == host["bytes"] + weights
    assert expert["weight_bytes_by_dtype"] == {"F32": weights}


def test_main_memory_is_the_size_of_all_files(comfy_server, models):
    _, made = plan(comfy_server)
    folders = {"model_high_noise": "diffusion_models", "model_low_noise": "diffusion_models"}
    folders |= {"text_encoder": "text_encoders", "vae": "vae"}
    sizes = [(models / folder / DEFAULTS[key]).stat().st_size for key, folder in folders.items()]
    assert made["ram_bytes"] == sum(sizes)
    assert (made["errors"], made["warnings"], made["assumed_14b"], made["device"]) == ([], [], False, "cpu")
    _, twice = plan(comfy_server, model_low_noise=HIGH)
    assert twice["ram_bytes"] == sum(sizes) - sizes[1], "one file is loaded once"


@pytest.mark.parametrize(
    ("inputs", "latents", "said"),
    [
        ({}, 10, "0.10 GiB: 10 predictions"),
        ({"sampler_name": "euler_cfg_pp"}, 10 * 3, "0.30 GiB: 10 predictions"),
        ({"sampler_name": "euler_cfg_pp", "cfg": 1.0}, 10 * 2, "0.20 GiB: 10 predictions"),
        ({"handover": "step", "handover_step": 0}, 0, None),
        ({"handover": "step", "handover_step": 20}, 0, None),
    ],
)
def test_the_record_that_the_low_noise_phase_needs(comfy_server, models, inputs, latents, said):
    """A latent of 720x720x81 has 16 channels, 21 frames of 90x90, in float32."""
    text, made = plan(comfy_server, **NO_FILES, **inputs)
    assert made["record_bytes"] == latents * 4 * 16 * 21 * 90 * 90
    found = [line for line in text.splitlines() if line.startswith("  record")]
    assert found == [
        f"  record    {said} of the high-noise expert, kept for the low-noise one's phase" for _ in filter(None, [said])
    ]


FULL_HD = {"width": 1920, "height": 1088}  # a latent has 16 channels, 21 frames of 136x240, in float32: 43.9 MB
HD = {"width": 1280, "height": 720}  # 19.4 MB


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({**FULL_HD, "sampler_name": "euler_cfg_pp"}, ["steps give takes 1404 MB", "_MB to 1500 and"]),
        ({**FULL_HD, "sampler_name": "euler_cfg_pp", "handover": "step", "handover_step": 20}, None),
        ({**FULL_HD, "sampler_name": "euler"}, None),
        ({**HD, "segments": 4}, None),
        ({**HD, "segments": 5}, ["steps of 5 segments give takes 1258 MB", "_MB to 1300 and"]),
        ({**HD, "segments": 5, "shared_frames": 5}, None),
    ],
)
def test_what_will_not_be_kept_is_said(comfy_server, models, inputs, says):
    """A record has 10 calls, with the sampler cfg_pp of 3 latents each, and the two latents that it begins with."""
    _, made = plan(comfy_server, **NO_FILES, **inputs)
    assert len(made["warnings"]) == (says is not None), made["warnings"]
    if says is not None:
        assert all(text in made["warnings"][0] for text in [*says, "but 1024 MB at most are kept"])


def test_no_weight_is_read(comfy_server, models):
    """The text encoder here is as large as main memory, and takes no room on the disk."""
    write_sparse(models / "text_encoders" / "huge_umt5.safetensors", BIG)
    try:
        loads = comfy_server.log_text().count("Requested to load")
        text, made = plan(comfy_server, text_encoder="huge_umt5.safetensors")
    finally:
        (models / "text_encoders" / "huge_umt5.safetensors").unlink()
    assert comfy_server.log_text().count("Requested to load") == loads
    assert made["ram_bytes"] > BIG
    assert [warning[:26] for warning in made["warnings"]] == ["The model files need about"]
    assert "Warning     The model files need about" in text


@pytest.mark.parametrize(
    ("inputs", "errors", "warnings"),
    [
        ({"model_high_noise": LOW, "model_low_noise": HIGH}, [SWAPPED], []),
        ({"length": 141}, [], [FRAMES.format(141)]),
        ({"model_low_noise": "tiny_wan_t2v.safetensors"}, ["model_low_noise (tiny_wan_t2v.safetensors) is a"], []),
        ({"model_high_noise": "preflight/x_cut_high_noise.safetensors"}, ["x_cut_high_noise.safetensors is not a"], []),
        ({"steps": 4}, [], []),  # the plan knows of no LoRAs
        ({"model_high_noise": FEW}, [], [f"cfg is 4, but {FEW} (model_high_noise) looks made for few steps"]),
        ({"model_high_noise": FEW, "cfg": 1.0}, [], []),
        ({"model_high_noise": LOW}, [], [f"model_high_noise has {LOW}, whose", "model_high_noise and model_low"]),
    ],
)
def test_what_is_wrong_is_said_and_planned_all_the_same(comfy_server, models, inputs, errors, warnings):
    text, made = plan(comfy_server, **inputs)
    for kind, starts in (("errors", errors), ("warnings", warnings)):
        assert len(made[kind]) == len(starts), made[kind]
        for found, start in zip(made[kind], starts, strict=True):
            assert found.startswith(start)
            assert found in text


def test_a_gguf_file_tells_its_size(comfy_server, models):
    name = "preflight/wan2.2_i2v_high_noise_Q4.gguf"
    size = (models / "diffusion_models" / name).stat().st_size
    text, made = plan(comfy_server, model_high_noise=name, model_low_noise=GGUF)
    expert, low = made["experts"]
    assert (expert["weight_bytes"], expert["activation_bytes"], expert["vram_bytes"]) == (size, None, None)
    assert low["weight_bytes"] == 1004, "from a folder of the GGUF pack's own kind"
    assert "this file does not tell its dimensions" in text


def test_prefixed_and_half_precision_files(comfy_server, models):
    path = models / "diffusion_models" / "preflight" / "x_prefixed_high_noise.safetensors"
    tensors = wan_tensors(prefix="model.diffusion_model.")
    save_file(tensors, path)
    _, made = plan(comfy_server, model_high_noise="preflight/x_prefixed_high_noise.safetensors")
    plain = plan(comfy_server, model_high_noise="preflight/wan_i2v.safetensors")[1]["experts"][0]
    expert = made["experts"][0]
    assert expert["weight_bytes_by_dtype"] == {"F16": sum(tensor.nbytes for tensor in tensors.values())}
    assert expert["activation_bytes"] == plain["activation_bytes"] > 0


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"width": 541}, "width is 541, but must be an even number of pixels from 16 to 4096"),
        ({"model_high_noise": "nowhere.safetensors"}, 'model_high_noise is "nowhere.safetensors", which is not one of'),
    ],
)
def test_bad_values_are_refused_when_queued(comfy_server, models, inputs, message):
    with pytest.raises(PromptRejectedError, match=re.escape(message)):
        plan(comfy_server, **inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"handover": "step", "handover_step": 21}, "handover_step is 21, but must be from 0"),
        ({"steps": 1, "scheduler": "kl_optimal"}, "scheduler kl_optimal gives no sigmas for steps 1. Set more steps"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(comfy_server, models, inputs, message):
    with pytest.raises(RunFailedError, match=message):
        plan(comfy_server, **inputs)


def test_outputs_for_other_nodes(comfy_server, models):
    graph = {"1": {"class_type": "WanFLF2VPlan", "inputs": DEFAULTS}}
    kept = {"text": ["1", 0], "json": ["1", 1], "plot": ["1", 2], "name": "kept"}
    graph["2"] = {"class_type": "WanFLF2VTestKeep", "inputs": kept}
    comfy_server.run(graph)
    kept = comfy_server.state("kept")
    assert kept["text"].startswith("Video       720x720; 81 frames at 16 fps, 5.00 s")
    assert json.loads(kept["json"])["handover_step"] == 10
    assert (kept["shape"], kept["dtype"]) == ([1, 540, 960, 3], "torch.float32")
    assert 0 <= kept["range"][0] < kept["range"][1] == 1


def test_the_plan_is_made_again_every_time(comfy_server, models):
    """Nothing from ComfyUI's cache: files and free memory change."""
    path = models / "diffusion_models" / "preflight" / "x_grows_high_noise.ckpt"
    sizes = []
    for size in (1000, 2000):
        path.write_bytes(bytes(size))
        made = plan(comfy_server, model_high_noise="preflight/x_grows_high_noise.ckpt")[1]
        sizes.append(made["experts"][0]["weight_bytes"])
    assert sizes == [1000, 2000]


def test_the_node_shows_the_plan(comfy_server, models):
    shown = Shown(comfy_server, {"1": {"class_type": "WanFLF2VPlan", "inputs": DEFAULTS}}).texts
    assert [node for node, _ in shown] == ["1"]
    assert "step   sigma  timestep  expert" in shown[0][1]
