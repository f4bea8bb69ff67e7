"""Preflight of a prompt before it is queued, on real files: what is refused and what is warned of."""

import json
import urllib.error
import urllib.request

import pytest
from support.client_runs import with_client
from support.demo_graphs import only
from support.preflight_runs import (
    BIG,
    FRAMES,
    GUIDED,
    HIGH,
    LORA,
    LOW,
    OFFICIAL_LORA,
    RENAMED_LORA,
    SAME,
    SWAPPED,
    TAE,
    graph,
    linked_length,
    model_files,
    other,
    with_gguf,
    with_loras,
    with_official_loras,
    with_vace,
    without_images,
)
from wan_flf2v.contract.downloads import VARIANTS
from wan_flf2v.contract.workflow import load_graph


@pytest.fixture(scope="module")
def models(comfy_server):
    with model_files(comfy_server) as models:
        yield models


def post(server, body):
    """Return the route's status and response; ``body`` is sent as it is, or as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(f"{server.url}/wan_flf2v/preflight", data)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def check(server, prompt):
    status, answer = post(server, {"prompt": prompt})
    assert status == 200, answer
    return answer["errors"], answer["warnings"]


@pytest.mark.parametrize(
    "prompt",
    [
        graph(),
        graph(n57_cfg=1.0),
        with_loras(LORA, "high", "low", n57_steps=4, n57_cfg=1.0),
        with_loras(LORA, "high", "low", n57_steps=8, n57_cfg=1.0),
        with_loras("preflight/style_low_noise.safetensors", "low"),
        graph(n37_unet_name="preflight/wan_i2v.safetensors"),
        graph(n67_length=81),
        without_images(n37_unet_name="preflight/wan_t2v_high_noise.safetensors"),
        graph(n39_vae_name="pixel_space"),
        graph(n39_vae_name=TAE),
        with_gguf(),
        with_vace(),
        with_official_loras(n57_steps=4, n57_cfg=1.0),
        only(graph(), "6", "38"),
        {},
    ],
)
def test_nothing_is_said_of_what_is_right(comfy_server, models, prompt):
    assert check(comfy_server, prompt) == ([], [])


def test_a_gguf_file_is_judged_by_its_name(comfy_server, models):
    prompt = graph(n37_unet_name="preflight/wan2.2_i2v_high_noise_Q4.gguf")
    prompt["37"]["class_type"] = "UnetLoaderGGUF"
    assert check(comfy_server, prompt) == ([], [])
    prompt["56"]["inputs"]["unet_name"] = HIGH
    errors, warnings = check(comfy_server, prompt)
    assert (errors, len(warnings)) == ([], 1)


@pytest.mark.parametrize(
    ("prompt", "errors", "warnings"),
    [
        (graph(n37_unet_name=LOW, n56_unet_name=HIGH), [SWAPPED], []),
        (
            graph(n37_unet_name="preflight/wan_t2v_high_noise.safetensors"),
            [
                "model_high_noise (preflight/wan_t2v_high_noise.safetensors) is a text-to-video checkpoint: it has no "
                "input channels for images, so it would ignore both of them. Load an image-to-video checkpoint, for "
                "example wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors."
            ],
            [],
        ),
        (
            graph(n56_unet_name="tiny_wan_t2v.safetensors"),
            [
                "model_low_noise (tiny_wan_t2v.safetensors) is a text-to-video checkpoint: it has no input channels "
                "for images, so it would ignore both of them. Load an image-to-video checkpoint, for example "
                "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors."
            ],
            [],
        ),
        (
            graph(n37_unet_name="preflight/wan_i2v.safetensors", n56_unet_name="preflight/wan_i2v.safetensors"),
            [],
            [SAME.format("preflight/wan_i2v.safetensors")],
        ),
        (
            graph(n56_unet_name=HIGH),
            [],
            [other("model_low_noise", HIGH, "high", "low"), SAME.format(HIGH)],
        ),
        (
            with_loras("preflight/style_low_noise.safetensors", "high"),
            [],
            [other("model_high_noise", "preflight/style_low_noise.safetensors", "low", "high")],
        ),
        (
            with_official_loras(n57_steps=20, n57_cfg=4.0, n57_cfg_low_noise=1.0),
            [],
            [
                GUIDED.format("cfg", OFFICIAL_LORA.format("high"), "model_high_noise"),
                f"steps is 20, but {OFFICIAL_LORA.format('high')} and {OFFICIAL_LORA.format('low')} look made for 4 to "
                "8 steps. Set steps to 4, or remove those files.",
            ],
        ),
        (
            with_loras(RENAMED_LORA, "high"),
            [],
            [
                other("model_high_noise", RENAMED_LORA, "low", "high"),
                GUIDED.format("cfg", RENAMED_LORA, "model_high_noise"),
            ],
        ),
        (linked_length(85), [], [FRAMES.format(85)]),
        (graph(n67_length=141), [], [FRAMES.format(141)]),
        (
            with_loras(LORA, "high", "low", n57_steps=4),
            [],
            [
                GUIDED.format("cfg", LORA, "model_high_noise"),
                GUIDED.format("cfg of the low-noise expert", LORA, "model_low_noise"),
            ],
        ),
        (
            with_loras(LORA, "low", n57_cfg=4.0),
            [],
            [GUIDED.format("cfg of the low-noise expert", LORA, "model_low_noise")],
        ),
        (
            with_loras(LORA, "high", "low", n57_steps=9, n57_cfg=1.0),
            [],
            [
                f"steps is 9, but {LORA} and {LORA} look made for 4 to 8 steps. Set steps to 4, or remove those files.",
            ],
        ),
        (
            graph(n57_steps=8),
            [],
            [
                "steps is 8, but no file's name says that it is made for few steps (Lightning, lightx2v, 4steps): the "
                "video will be blurred. Set steps to 20, or load a 4-step LoRA for each expert and set cfg to 1."
            ],
        ),
    ],
)
def test_what_is_found_in_a_prompt(comfy_server, models, prompt, errors, warnings):
    assert check(comfy_server, prompt) == (errors, warnings)


def test_cfg_of_the_low_noise_expert_is_its_own_where_it_is_set(comfy_server, models):
    prompt = with_loras(LORA, "low", n57_cfg=4.0, n57_cfg_low_noise=1.0)
    assert check(comfy_server, prompt) == ([], [])
    prompt["57"]["inputs"]["cfg_low_noise"] = 0.0
    assert len(check(comfy_server, prompt)[1]) == 1, "0 is the same as cfg"


@pytest.mark.parametrize(
    ("inputs", "node", "name", "folder"),
    [
        ({"n37_unet_name": "none.safetensors"}, '37 "High-noise expert"', "none.safetensors", "diffusion_models"),
        ({"n39_vae_name": "none.safetensors"}, '39 "VAE"', "none.safetensors", "vae"),
        # a name that leads out of the folders finds nothing, though the file is there
        (
            {"n56_unet_name": "../../input/outside.safetensors"},
            '56 "Low-noise expert"',
            "../../input/outside.safetensors",
            "diffusion_models",
        ),
    ],
)
def test_missing_files_are_named_with_their_folders(comfy_server, models, inputs, node, name, folder):
    errors, warnings = check(comfy_server, graph(**inputs))
    assert (len(errors), warnings) == (1, [])
    assert errors[0].startswith(f'Node {node} needs the model file "{name}", which this ComfyUI does not have.')
    assert f"Put it into {models / folder}, or choose another in " in errors[0]


@pytest.mark.parametrize(
    ("workflow", "variant", "experts"),
    [
        ("wan22_flf2v", "fp8", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"),
        ("wan22_flf2v_4_steps_lora", "lightning", "Comfy-Org/Wan_2.2_ComfyUI_Repackaged"),
        ("wan22_flf2v_gguf", "gguf", "QuantStack/Wan2.2-I2V-A14B-GGUF"),
    ],
)
def test_missing_files_are_those_of_the_workflows_own_variant(comfy_server, workflow, variant, experts):
    prompt = load_graph(workflow)
    errors = {error.split()[1]: error for error in check(comfy_server, prompt)[0]}
    names = {file.name for file in VARIANTS[variant].files}
    assert {name for name in names for error in errors.values() if f'"{name}"' in error} == names
    for error in errors.values():
        assert f'"wan-flf2v models download --variant {variant}" on ComfyUI\'s machine gets it from ' in error
    assert errors["37"].endswith(f" from https://huggingface.co/{experts}.")


def test_a_missing_file_that_no_variant_has_is_left_to_who_chose_it(comfy_server, models):
    prompt = with_gguf()
    prompt["56"]["inputs"]["unet_name"] = "own.gguf"
    (error,) = check(comfy_server, prompt)[0]
    assert error.endswith(", or choose another in unet_name.")


def test_a_file_of_a_loader_that_is_not_installed_is_left_to_comfyui(comfy_server, models):
    """ComfyUI refuses the unknown node; which files that would offer nobody can say."""
    prompt = graph()
    prompt["37"] = {"class_type": "DiffusionModelLoaderKJ", "inputs": {"model_name": "none.safetensors"}}
    assert check(comfy_server, prompt) == ([], [])


def test_no_path_leads_out_of_the_model_folders(comfy_server, models):
    outside = comfy_server.base_dir / "input" / "outside.safetensors"
    for name in (str(outside), f"preflight/../../../input/{outside.name}", f"..\\..\\input\\{outside.name}", "x\0.pt"):
        errors, _ = check(comfy_server, graph(n37_unet_name=name))
        assert [error.partition(" needs the model file ")[0] for error in errors] == ['Node 37 "High-noise expert"']


def test_a_file_that_was_cut_short_is_an_error(comfy_server, models):
    errors, _ = check(comfy_server, graph(n37_unet_name="preflight/x_cut_high_noise.safetensors"))
    assert len(errors) == 1
    assert errors[0].startswith("x_cut_high_noise.safetensors is not a whole safetensors file (")


def test_too_little_memory_is_a_warning(comfy_server, models):
    errors, warnings = check(comfy_server, with_loras("preflight/huge.safetensors", "high"))
    assert (errors, len(warnings)) == ([], 1)
    assert warnings[0].startswith(f"The model files need about {BIG / 2**30:.1f} GiB of main memory, but only ")


def odd(value):
    prompt = graph()
    prompt["57"]["inputs"]["model_high_noise"] = value
    return prompt


LOOP = {"57": {"class_type": "WanFLF2VSampler", "inputs": {"model_high_noise": ["1", 0], "positive": ["1", 0]}}}
LOOP["1"] = {
    "class_type": "WanImageToVideo",
    "inputs": {"model": ["1", 0], "start_image": ["57", 0], "length": ["1", 0]},
}


@pytest.mark.parametrize(
    "prompt",
    [
        LOOP,
        {"57": None},
        {"57": {"class_type": "WanFLF2VSampler"}},
        {"57": {"class_type": ["WanFLF2VSampler"], "inputs": 5}},
        {"57": {"class_type": "WanFLF2VSampler", "inputs": []}},
        *map(odd, (None, [], [[], 0], ["37"], ["nowhere", 0], {"a": 1}, "text", ["57", 0], [None, None])),
        graph(n57_steps=float("nan"), n57_cfg=10**400, n67_length="long", n57_cfg_low_noise=True),
        graph(n37_unet_name="", n56_unet_name=["", ""], n39_vae_name="a" * 10000 + ".pt"),
        graph(n73_filename_prefix="../../x/y"),
        graph(n73_filename_prefix="/etc/x"),
        graph(n73_filename_prefix="a\0/b"),
        graph(n73_filename_prefix="a" * 5000 + "/b"),
    ],
)
def test_a_malformed_prompt_breaks_nothing(comfy_server, models, prompt):
    errors, warnings = check(comfy_server, prompt)
    assert all(isinstance(text, str) for text in errors + warnings)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"prompt": []}', b'{"prompt": null}', b"[" * 100_000, b"\xff"])
def test_a_body_without_a_prompt_is_refused(comfy_server, body):
    assert post(comfy_server, body) == (400, {"error": 'a JSON object with "prompt", a graph in API form, is expected'})


def test_the_client_gives_what_the_route_finds(comfy_server, models):
    prompt = graph(n37_unet_name=LOW, n56_unet_name=HIGH, n67_length=85)
    findings = with_client(comfy_server, lambda client: client.preflight(prompt))
    assert (findings.errors, findings.warnings) == ((SWAPPED,), (FRAMES.format(85),))


def samplers(server, prompt):
    request = urllib.request.Request(f"{server.url}/wan_flf2v/samplers", json.dumps({"prompt": prompt}).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


@pytest.mark.parametrize(
    ("inputs", "experts"),
    [
        ({"n54_shift": 8}, "high " * 10 + "low " * 10),
        ({"n54_shift": 5}, "high " * 8 + "low " * 12),
        ({"n57_handover": "step", "n57_handover_step": 3, "n57_steps": 5}, "high " * 3 + "low " * 2),
        ({"n57_handover": "half", "n57_steps": 5}, "high " * 2 + "low " * 3),
        ({"n57_sampler_name": ["1", 0]}, ""),
    ],
)
def test_the_editor_is_told_the_schedule(comfy_server, models, inputs, experts):
    (view,) = samplers(comfy_server, graph(**inputs)).values()
    assert [step["expert"] for step in view["steps"]] == experts.split()


def test_without_a_node_for_the_shift_it_is_the_model_s_own(comfy_server, models):
    prompt = graph(n54_shift=8)
    with_node = samplers(comfy_server, prompt)
    prompt["57"]["inputs"]["model_high_noise"] = ["37", 0]
    assert samplers(comfy_server, prompt) == with_node


def test_the_editor_is_told_which_node_a_finding_is_about(comfy_server, models):
    prompt = graph(n37_unet_name="missing.safetensors", n67_length=141, n57_handover="step", n57_handover_step=21)
    findings = samplers(comfy_server, prompt)["57"]["findings"]
    about = {finding["text"].split()[0]: (finding["error"], finding["node"]) for finding in findings}
    assert about == {"Node": (True, "37"), "handover_step": (True, None), "The": (False, "67")}
