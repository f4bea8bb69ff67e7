"""The bundled workflows: the two forms of each are one graph, on the nodes this host really has, and run."""

import collections
import itertools
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.demo_graphs import demo_graph, set_inputs
from support.expert_graphs import write_lora
from support.shown import Shown
from support.video_graphs import read_planes
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.workflow import load_graph, switch_on, ui_form

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
PRIMITIVE_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
ANY_TYPE = {"COMFY_MATCHTYPE_V3", None}  # that of what is connected
NODES = {
    "6": "CLIPTextEncode",
    "7": "CLIPTextEncode",
    "37": "UNETLoader",
    "38": "CLIPLoader",
    "39": "VAELoader",
    "54": "ModelSamplingSD3",
    "56": "UNETLoader",
    "57": "WanFLF2VSampler",
    "62": "LoadImage",
    "67": "WanFLF2VConditioning",
    "68": "LoadImage",
    "71": "WanFLF2VResolution",
    "73": "WanFLF2VVideoCombine",
}
LINKS = {
    ("6", "clip"): ("38", 0),
    ("7", "clip"): ("38", 0),
    ("54", "model"): ("37", 0),
    ("57", "model_high_noise"): ("54", 0),
    ("57", "model_low_noise"): ("56", 0),
    ("57", "positive"): ("67", 0),
    ("57", "negative"): ("67", 1),
    ("57", "latent_image"): ("67", 2),
    ("67", "width"): ("71", 0),
    ("67", "height"): ("71", 1),
    ("67", "positive"): ("6", 0),
    ("67", "negative"): ("7", 0),
    ("67", "vae"): ("39", 0),
    ("67", "start_image"): ("68", 0),
    ("67", "end_image"): ("62", 0),
    ("67", "start_mask"): ("68", 1),
    ("67", "end_mask"): ("62", 1),
    ("73", "latent"): ("57", 0),
    ("73", "vae"): ("39", 0),
}
# How high a node is at least in Nodes 2.0, in pixels without its title, as measured in ComfyUI 0.30.0's frontend.
NODES_2_HEIGHTS = {
    "UNETLoader": 86,
    "CLIPTextEncode": 102,
    "CLIPLoader": 114,
    "VAELoader": 86,
    "ModelSamplingSD3": 62,
    "LoadImage": 350,
    "WanFLF2VResolution": 162,
    "WanFLF2VConditioning": 460,
    "WanFLF2VSampler": 540,
    "WanFLF2VSegments": 285,
    "WanFLF2VReport": 560,
    "WanFLF2VLastFrames": 106,
    "WanFLF2VVideoCombine": 700,
}
HOSTED_DEFAULTS = {
    ("6", "text"): "Puppy, playing, happy, barking, joyful",
    ("68", "image"): "example.png",  # every ComfyUI has it
    ("62", "image"): "example.png",
    ("71", "width"): 720,
    ("71", "height"): 720,
    ("71", "preset"): "custom",
    ("67", "length"): 81,
    ("73", "frame_rate"): 16,
    ("57", "noise_seed"): 96860978,
    ("57", "steps"): 20,
    ("57", "cfg"): 4,
    ("54", "shift"): 8,
    ("37", "unet_name"): "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors",
    ("56", "unet_name"): "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors",
    ("38", "clip_name"): "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    ("38", "type"): "wan",
    ("39", "vae_name"): "wan_2.1_vae.safetensors",
    ("57", "sampler_name"): "euler",
    ("57", "scheduler"): "simple",
}


HOSTED_TEMPLATE = "wan22_flf2v"
TEMPLATES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
# The inputs of ComfyUI-GGUF's loaders, as its nodes.py has them; the pack is not installed in tests.
GGUF_LOADERS = {
    "UnetLoaderGGUF": {"input": {"required": {"unet_name": ["COMBO", {}]}}, "output": ["MODEL"]},
    "CLIPLoaderGGUF": {
        "input": {"required": {"clip_name": ["COMBO", {}], "type": ["COMBO", {}]}},
        "output": ["CLIP"],
    },
}


@pytest.fixture(scope="module", params=TEMPLATES)
def template(request):
    return request.param


@pytest.fixture(scope="module")
def any_api(template):
    return load_graph(template)


@pytest.fixture(scope="module")
def any_ui(template):
    return read_ui(template)


@pytest.fixture(scope="module")
def api():
    return load_graph(HOSTED_TEMPLATE)


@pytest.fixture(scope="module")
def ui():
    return read_ui(HOSTED_TEMPLATE)


@pytest.fixture
def object_info(comfy_server):
    with urllib.request.urlopen(f"{comfy_server.url}/object_info", timeout=60) as response:
        return {**json.load(response), **GGUF_LOADERS}


def read_ui(name):
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def links_of(graph):
    return {
        (node_id, name): tuple(value)
        for node_id, node in graph.items()
        for name, value in node["inputs"].items()
        if isinstance(value, list)
    }


def values_of(graph):
    return {
        (node_id, name): value
        for node_id, node in graph.items()
        for name, value in node["inputs"].items()
        if not isinstance(value, list)
    }


def ordered_inputs(info, names=()):
    """Yield (name, type, options) of a node type in the order in which the frontend makes its widgets.

    ``names`` are inputs of a node: those of a group that grows have names and types from what is connected.
    """
    for category in ("required", "optional"):
        specs = info["input"].get(category, {})
        for name in info.get("input_order", {}).get(category, specs):
            kind, options = specs[name][0], (specs[name] + [{}])[1]
            if kind == "COMFY_AUTOGROW_V3":
                yield from ((one, None, {}) for one in names if one.startswith(f"{name}."))
                continue
            yield name, "COMBO" if isinstance(kind, list) else kind, options


BYPASSED = 4


def ui_to_api(workflow, object_info):
    """Convert as the frontend does: widget values in order, each control-after-generate and upload slot skipped."""
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    for node in workflow["nodes"]:
        if node["mode"] == BYPASSED:  # what comes into it goes on
            (came,), (went,) = node["inputs"], node["outputs"]
            assert came["type"] == went["type"]
            sources |= dict.fromkeys(went["links"], sources[came["link"]])
    graph = {}
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote" or node["mode"] == BYPASSED:
            continue
        values, inputs = iter(node["widgets_values"]), {}
        for name, kind, options in ordered_inputs(object_info[node["type"]]):
            if kind not in PRIMITIVE_TYPES:
                continue
            inputs[name] = next(values)
            if options.get("control_after_generate"):
                assert next(values) == "fixed"
            if options.get("image_upload"):
                assert next(values) == "image"
        assert next(values, "end") == "end", f"node {node['id']} has widget values left over"
        inputs |= {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": node["title"]}}
    return graph


def test_both_forms_are_the_same_graph(any_ui, any_api, object_info):
    assert ui_to_api(any_ui, object_info) == any_api


def test_ids_links_and_defaults_are_the_contract(api):
    assert {node_id: node["class_type"] for node_id, node in api.items()} == NODES
    assert links_of(api) == LINKS
    values = values_of(api)
    assert {key: values[key] for key in HOSTED_DEFAULTS} == HOSTED_DEFAULTS


def test_every_hosted_parameter_has_its_node_input(api):
    for parameter in HOSTED.parameters:
        for target in parameter.inputs:
            assert target.name in api[target.node_id]["inputs"], parameter.key
        assert "x".join(f"{target.node_id}_{target.name}" for target in parameter.inputs) == parameter.key


def test_every_input_exists_on_this_host(any_api, object_info):
    for node_id, node in any_api.items():
        info = object_info[node["class_type"]]
        known = {name: kind for name, kind, _ in ordered_inputs(info, node["inputs"])}
        assert set(node["inputs"]) <= set(known), node_id
        required = {name.partition(".")[0] for name in node["inputs"]}
        assert set(info["input"].get("required", {})) <= required, node_id
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                made = object_info[any_api[value[0]]["class_type"]]["output"][value[1]]
                assert made == known[name] or {made, known[name]} & ANY_TYPE, (node_id, name)


def test_links_of_the_ui_form_are_consistent(any_ui, object_info):
    nodes = {node["id"]: node for node in any_ui["nodes"]}
    for link_id, source, source_slot, target, target_slot, kind in any_ui["links"]:
        output, slot = nodes[source]["outputs"][source_slot], nodes[target]["inputs"][target_slot]
        assert link_id in output["links"]
        assert slot["link"] == link_id
        assert output["type"] == slot["type"] == kind
    for node in any_ui["nodes"]:
        if node["type"] != "MarkdownNote":
            made = [output["type"] for output in node["outputs"]]
            assert made == object_info[node["type"]]["output"] or ANY_TYPE & {*object_info[node["type"]]["output"]}


def test_layout_has_no_overlaps_and_every_node_lies_in_its_group(any_ui):
    title_height = 30

    def box(node):
        (x, y), (width, height) = node["pos"], node["size"]
        return x, y - title_height, x + width, y + max(height, NODES_2_HEIGHTS.get(node["type"], 0))

    def overlap(a, b):
        return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]

    boxes = {node["id"]: box(node) for node in any_ui["nodes"]}
    for (first, a), (second, b) in itertools.combinations(boxes.items(), 2):
        assert not overlap(a, b), (first, second)
    groups = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in any_ui["groups"])]
    assert not any(overlap(a, b) for a, b in itertools.combinations(groups, 2))
    for node in any_ui["nodes"]:
        inside = [a for a in groups if overlap(a, boxes[node["id"]])]
        if node["type"] != "MarkdownNote":
            assert len(inside) == 1, node["id"]
        for left, top, right, bottom in inside:
            x0, y0, x1, y1 = boxes[node["id"]]
            assert left < x0 and top < y0 and x1 < right and y1 < bottom, node["id"]


def test_it_opens_at_a_zoom_where_text_is_drawn(any_ui):
    """ComfyUI draws text from a zoom of 0.57 on, and shows a template in three quarters of the window."""
    left, top, width, height = zip(*(group["bounding"] for group in any_ui["groups"]), strict=True)
    wide = max(x + w for x, w in zip(left, width, strict=True)) - min(left)
    high = max(y + h for y, h in zip(top, height, strict=True)) - min(top)
    assert min(0.75 * 1600 / wide, 0.75 * 900 / high) >= 0.6


def test_loaders_say_where_their_models_are(any_ui):
    """With these ComfyUI offers the download of what is missing, for these sites and endings alone."""
    loaders = [node for node in any_ui["nodes"] if node["type"].startswith(("UNETL", "CLIPL", "VAEL", "Lora"))]
    for node in loaders:
        if node["type"].endswith("GGUF"):
            continue
        (model,) = node["properties"]["models"]
        assert model["name"] == node["widgets_values"][0]
        assert model["url"].startswith("https://huggingface.co/Comfy-Org/")
        assert model["url"].endswith(f"/{model['directory']}/{model['name']}")
        assert model["name"].endswith(".safetensors")


def test_the_gguf_note_says_how_to_get_the_files():
    """ComfyUI offers no download of them."""
    note = next(node for node in read_ui("wan22_flf2v_gguf")["nodes"] if node.get("title") == "Models")
    text = note["widgets_values"][0]
    assert "models download --variant gguf" in text
    for repository in ("QuantStack/Wan2.2-I2V-A14B-GGUF", "city96/umt5-xxl-encoder-gguf"):
        assert f"(https://huggingface.co/{repository})" in text


def test_app_mode_is_one_click_away(any_ui, any_api):
    extra = any_ui["extra"]
    assert extra["linearMode"] is False  # True would open the card as an app
    assert all(str(node_id) in any_api for node_id in extra["linearData"]["outputs"])
    for node_id, widget in extra["linearData"]["inputs"]:  # pairs only: the frontend of 0.18.2 takes no third element
        assert not isinstance(any_api[str(node_id)]["inputs"][widget], list)
    shown = collections.defaultdict(set)
    for node_id, widget in extra["linearData"]["inputs"]:
        shown[str(node_id)].add(widget)
    for kind in ("WanFLF2VSampler", "WanFLF2VConditioning"):  # else one segment would not get what the form says
        alike = [shown[node_id] for node_id, node in any_api.items() if node["class_type"] == kind]
        assert all(one == alike[0] for one in alike)


def test_notes_name_every_model_and_its_folder(ui, api):
    notes = " ".join(node["widgets_values"][0] for node in ui["nodes"] if node["type"] == "MarkdownNote")
    folders = {"37": "diffusion_models", "56": "diffusion_models", "38": "text_encoders", "39": "vae"}
    names = {"37": "unet_name", "56": "unet_name", "38": "clip_name", "39": "vae_name"}
    for node_id, folder in folders.items():
        assert f"- **{api[node_id]['inputs'][names[node_id]]}** in *{folder}*\n" in notes


def test_template_browser_lists_them_with_thumbnails(comfy_server):
    with urllib.request.urlopen(f"{comfy_server.url}/api/workflow_templates", timeout=60) as response:
        templates = json.load(response)
    assert sorted(templates["wan-flf2v"]) == TEMPLATES  # each twice, if there were an example_workflows/ too
    for name in TEMPLATES:
        url = f"{comfy_server.url}/api/workflow_templates/wan-flf2v/{name}.jpg"
        with urllib.request.urlopen(url, timeout=60) as response:
            assert response.read(2) == b"\xff\xd8"


def test_names_of_templates_are_frozen():
    assert set(TEMPLATES) >= {
        "wan22_flf2v",
        "wan22_flf2v_4_steps_lora",
        "wan22_flf2v_gguf",
        "wan22_flf2v_keyframes",
        "wan22_flf2v_long_video",
        "wan22_flf2v_loop",
        "wan22_flf2v_plan",
        "wan22_flf2v_several_images",
        "wan22_flf2v_start_image_only",
        "wan22_flf2v_upscale",
    }


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name not in (HOSTED_TEMPLATE, "wan22_flf2v_plan")])
def test_templates_run_on_small_models(comfy_server, name):
    """The template's own graph, with the demo's loaders in the place of its loaders, small and quick."""
    graph, demo = load_graph(name), demo_graph()
    for node_id in ("37", "38", "39", "56"):
        graph[node_id] = demo[node_id]
    set_inputs(graph, n71_width=64, n71_height=64)
    for node_id, node in graph.items():
        small = {"length": 9, "steps": min(node["inputs"].get("steps", 0), 4), "frames": "4"}
        if node["class_type"] in ("WanFLF2VConditioning", "WanFLF2VSampler", "WanFLF2VKeyframes"):
            node["inputs"].update((name, value) for name, value in small.items() if name in node["inputs"])
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = "start.jpg" if node_id == "68" else "end.jpg"
        if node["class_type"] == "LoraLoaderModelOnly":
            node["inputs"]["lora_name"] = write_lora(comfy_server)
        if node["class_type"] == "UpscaleModelLoader":
            node["inputs"]["model_name"] = write_upscaler(comfy_server)
    (file,) = (file for file in comfy_server.run(graph).files if file.filename.endswith(".mp4"))
    frames, info = read_planes(comfy_server.path(file))
    count = {"wan22_flf2v_several_images": 25, "wan22_flf2v_loop": 8, "wan22_flf2v_long_video": 17}.get(name, 9)
    assert (graph["57"]["inputs"]["steps"], len(frames)) == (4, count)
    assert info["size"] == ((128, 128) if name == "wan22_flf2v_upscale" else (64, 64))


@pytest.mark.parametrize("name", ["wan22_flf2v_keyframes", "wan22_flf2v_loop", "wan22_flf2v_several_images"])
def test_a_bypassed_lora_loader_that_is_switched_on_is_the_same_graph_in_both_forms(name, object_info):
    graph = load_graph(name)
    for node_id in ("91", "92"):
        assert switch_on(name, graph, node_id, {"lora_name": "a.safetensors", "strength_model": 0.5})
    assert ui_to_api(ui_form(name, graph), object_info) == graph


def write_upscaler(host):
    """Make a tiny upscale model of random weights, twice the size (Real-ESRGAN's SRVGGNetCompact); return its name."""
    path = host.base_dir / "models" / "upscale_models" / "tiny_x2.safetensors"
    path.parent.mkdir(exist_ok=True)
    random, tensors = np.random.default_rng(7), {}
    for number, (rows, columns) in {0: (8, 3), 2: (8, 8), 4: (12, 8)}.items():
        tensors[f"body.{number}.weight"] = random.normal(0, 0.1, (rows, columns, 3, 3)).astype(np.float32)
        tensors[f"body.{number}.bias"] = np.zeros(rows, np.float32)
    for number in (1, 3):
        tensors[f"body.{number}.weight"] = np.full(8, 0.2, np.float32)
    save_file(tensors, path)
    return path.name


def test_the_plan_template_runs(comfy_server):
    shown = Shown(comfy_server, load_graph("wan22_flf2v_plan"))
    assert "10 high noise, 10 low noise" in shown.texts[-1][1]
