"""A workflow as a model of the API: its parameters, from what a real ComfyUI says of its nodes."""

import copy

import pytest
from support.client_runs import slow_graph, with_client
from support.demo_graphs import demo_graph
from wan_flf2v.client.derive import DeriveError, derive
from wan_flf2v.client.offers import describe
from wan_flf2v.contract.parameters import MAX_SEED, NodeInput
from wan_flf2v.contract.validation import ContractError, allowed, validate
from wan_flf2v.contract.workflow import load_graph

PROMPTS = ("6_text", "7_text")


def model_of(server, graph, *keys):
    """Return the model of a graph, with the exposed inputs of these keys."""
    exposed = [NodeInput(*key.split("_", 1)) for key in keys] or None
    infos = with_client(server, lambda client: describe(client, graph))
    return derive("mine", graph, infos, exposed)


def refused(server, graph, *keys):
    with pytest.raises(DeriveError) as info:
        model_of(server, graph, *keys)
    return str(info.value).splitlines()


def test_parameters_are_what_the_nodes_say(comfy_server):
    model = model_of(comfy_server, demo_graph(n57_steps=6))
    steps, cfg, seed, fit = map(model.parameter, ("57_steps", "57_cfg", "57_noise_seed", "67_fit"))
    assert (steps.type, steps.default, allowed(steps)) == ("integer", 6, "an integer from 1 to 10000")
    assert steps.title == "Steps (Sampler (two experts, one schedule))"
    assert steps.description, "the tooltip"
    assert (cfg.type, cfg.range) == ("float", (0, 100))
    assert seed.range == (0, MAX_SEED)
    assert fit.enum[0] == fit.default == "crop" and "stretch" in fit.enum
    assert [model.parameter(key).type for key in PROMPTS] == ["string"] * 2
    images = [one for one in model.parameters if one.is_image]
    assert [(one.key, one.required) for one in images] == [("62_image", True), ("68_image", True)]
    assert (model.output_node, model.makes, model.category) == ("73", "video", "image-to-video")
    assert not [one.key for one in model.parameters if one.required and not one.is_image]


def test_what_is_exposed_by_default_is_no_file_and_no_path(comfy_server):
    graph = load_graph("wan22_flf2v_4_steps_lora")
    infos = with_client(comfy_server, lambda client: describe(client, graph))
    keys = {one.key for one in derive("mine", graph, infos).parameters}
    assert {"57_sampler_name", "91_strength_model", "92_strength_model", "73_frame_rate", "71_width"} <= keys
    loaders = {key for key in keys if key.split("_")[0] in ("37", "38", "39", "56", "91", "92")}
    assert loaders == {"91_strength_model", "92_strength_model"}, "and no precision or device of a loader"
    hidden = {"73_filename_prefix", "73_format", "73_save_output", "57_resume", "67_background", "57_positive"}
    assert not hidden & keys


def test_the_operator_can_name_a_file_and_a_switch(comfy_server):
    graph = demo_graph()
    model = model_of(comfy_server, graph, "37_unet_name", "73_ping_pong", "67_background")
    assert [one.key for one in model.parameters] == ["37_unet_name", "73_ping_pong", "67_background"]
    assert "tiny_wan_high_noise.safetensors" in model.parameter("37_unet_name").enum
    assert validate(model, {"73_ping_pong": True})["67_background"] == "#000000"
    with pytest.raises(ContractError) as info:
        validate(model, {"73_ping_pong": 1, "37_unet_name": "../secret.safetensors"})
    name, switch = info.value.errors
    assert name.msg.startswith("37_unet_name must be one of ") and '"../secret.safetensors"' in name.msg
    assert switch.msg == "73_ping_pong must be true or false, got 1. The default is false."


def test_what_requests_could_not_get_is_refused(comfy_server):
    for format_ in ("webp", "png sequence", "png sequence 16-bit"):
        (text,) = refused(comfy_server, demo_graph(n73_format=format_))
        assert text == (
            f'The node 73 "Video" saves by WanFLF2VVideoCombine {format_}, but a result of the API is an MP4, '
            "WebM, MOV, MKV or GIF file, or one PNG. Choose another format or node, and export the workflow again."
        )
    for kind in ("SaveAnimatedWEBP", "SaveAnimatedPNG"):
        graph = slow_graph()
        graph["3"]["class_type"] = kind
        assert refused(comfy_server, graph)[0].startswith(
            f'The node 3 "{kind}" saves by {kind}, but a result of the API'
        )
    choices = model_of(comfy_server, demo_graph(n73_format="webm VP9"), "73_format").parameter("73_format").enum
    assert {"webm VP9", "gif", "mp4 H.264"} <= set(choices)
    assert not [choice for choice in choices if choice.startswith(("webp", "png"))]


def test_an_image_alone_can_be_what_a_workflow_makes(comfy_server):
    model = model_of(comfy_server, slow_graph())
    assert (model.output_node, model.makes, model.category) == ("3", "image", "text-to-image")


def test_the_bundled_workflows_can_be_models(comfy_server):
    """Their 14B files are not there, which only matters to inputs that choose one of them."""
    for name in ("", "_4_steps_lora", "_keyframes", "_several_images", "_loop", "_long_video"):
        model = model_of(comfy_server, load_graph(f"wan22_flf2v{name}"))
        assert model.output_node == "73"
        assert any(one.is_image for one in model.parameters)


def test_where_keyframes_stand_is_exposed_by_default(comfy_server):
    """A text of one line, but no path."""
    frames = model_of(comfy_server, load_graph("wan22_flf2v_keyframes")).parameter("61_frames")
    assert (frames.type, frames.default) == ("string", "40")


def test_refusals_say_what_to_do(comfy_server):
    graph = demo_graph()
    assert refused(comfy_server, graph, "73_filename_prefix", "57_steps") == [
        "73_filename_prefix names the result's file, which the API does. Expose other inputs."
    ]
    assert refused(comfy_server, demo_graph(n57_steps=0), "57_steps") == [
        '57_steps is "0" in the workflow, but must be an integer from 1 to 10000. Change it there, and export the '
        "workflow again."
    ]
    unsaved = {node_id: node for node_id, node in graph.items() if node_id != "73"}
    assert refused(comfy_server, unsaved)[0].startswith("The workflow saves no video and no image. Give it a node")
    twice = copy.deepcopy(graph)
    twice["80"] = {"class_type": "SaveImage", "inputs": {"images": ["62", 0], "filename_prefix": "x"}}
    assert 'The nodes 73 "Video" and 80 "SaveImage" save files' in refused(comfy_server, twice)[0]
    foreign = {**graph, "81": {"class_type": "NoSuchNode", "inputs": {}}}
    assert refused(comfy_server, foreign) == [
        "ComfyUI has no node NoSuchNode. Install or update the node pack that brings it."
    ]
    infos = with_client(comfy_server, lambda client: describe(client, graph))
    with pytest.raises(DeriveError, match="x_1_text cannot be told from another key"):
        derive("mine", {**graph, "x_1": graph["6"]}, infos, [NodeInput("x_1", "text")])
