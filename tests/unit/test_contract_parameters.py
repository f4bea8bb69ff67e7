"""The contract's data against the numbers of the hosted model's public page, written out here once more."""

import dataclasses
import json

import pytest
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.contract.parameters import (
    DEMO,
    HOSTED,
    KEYFRAMES,
    LOOP,
    MODELS,
    RESOLUTIONS,
    SEGMENTS,
    parse_size,
)
from wan_flf2v.contract.validation import validate
from wan_flf2v.contract.workflow import fill, graph_for, load_graph

WORKFLOWS = REPO / "workflows"
STEPS_TEXT = "Number of denoising iterations; more steps refine detail and stability but take longer."
CFG_TEXT = "Controls how strongly the output adheres to the prompt versus allowing creative variation."
SHIFT_TEXT = (
    "Offsets the diffusion sampling schedule, trading stability for stronger motion/style as the value increases."
)
SIZES = (
    "480x480 (1:1)",
    "720x720 (1:1)",
    "480x720 (2:3)",
    "720x480 (3:2)",
    "540x960 (9:16)",
    "576x1024 (9:16)",
    "720x1280 (9:16)",
    "960x540 (16:9)",
    "1024x576 (16:9)",
    "1280x720 (16:9)",
)
# key: title, description, type, default, enum, minimum, maximum, required
PAGE = {
    "6_text": ("Prompt", "", "string", "Puppy, playing, happy, barking, joyful", (), None, None, True),
    "68_image": ("Start Image", "", "string", "Runcomfy_Example_1259_1.png", (), None, None, True),
    "62_image": ("End Image", "", "string", "Runcomfy_Example_1259_2.png", (), None, None, True),
    "71_widthx71_height": ("Resolution (W:H)", "", "string", "720x720 (1:1)", SIZES, None, None, False),
    "67_length": ("Number of Frames", "", "integer", 81, (81, 141), None, None, False),
    "73_frame_rate": ("Frames Per Second", "", "integer", 16, (), 12, 24, False),
    "57_noise_seed": ("Seed", "", "integer", 96860978, (), None, None, False),
    "57_steps": ("Steps", STEPS_TEXT, "integer", 20, (), 6, 20, False),
    "57_cfg": ("Guidance Scale", CFG_TEXT, "float", 4, (), 0.6, 4, False),
    "54_shift": ("Shift", SHIFT_TEXT, "float", 8, (), 1, 15, False),
}


def facts(parameter):
    names = ("title", "description", "type", "default", "enum", "minimum", "maximum", "required")
    return tuple(getattr(parameter, name) for name in names)


def test_hosted_model_is_the_page():
    assert HOSTED.model_id == "community/wan-2-2/first-last-frame"
    assert {parameter.key: facts(parameter) for parameter in HOSTED.parameters} == PAGE
    assert [parameter.key for parameter in HOSTED.parameters] == list(PAGE)


def test_page_numbers_keep_the_type_they_are_served_with():
    for parameter in HOSTED.parameters:
        page = PAGE[parameter.key]
        assert type(parameter.default) is type(page[3])
        assert (type(parameter.minimum), type(parameter.maximum)) == (type(page[5]), type(page[6]))


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.model_id)
def test_every_key_is_spelled_from_the_node_inputs_it_fills(model):
    for parameter in model.parameters:
        assert parameter.key == "x".join(f"{target.node_id}_{target.name}" for target in parameter.inputs)


@pytest.mark.parametrize(
    ("model", "parameter"),
    # Images are required, so the API always fills them; the workflow shows a picture that every ComfyUI has.
    [
        pytest.param(model, parameter, id=f"{model.model_id}-{parameter.key}")
        for model in MODELS.values()
        for parameter in model.parameters
        if model is not DEMO and not parameter.is_image
    ],
)
def test_defaults_are_what_the_bundled_workflow_holds(model, parameter):
    graph = load_graph(model.workflow)
    if parameter.inputs[0].node_id in model.slots:  # a node that it has bypassed
        assert (parameter.default, parameter.inputs[0].node_id in graph) == (0, False)
        return
    held = [graph[target.node_id]["inputs"][target.name] for target in parameter.inputs]
    if parameter.key == "61_frames":  # one number of a text that can hold several
        held = [int(held[0])]
    assert held == (list(parse_size(parameter.default)) if len(held) == 2 else [parameter.default])


def test_the_demo_differs_only_where_its_models_are_small():
    changed = {
        old.key: {name for name in vars(old) if getattr(old, name) != getattr(new, name)}
        for old, new in zip(HOSTED.parameters, DEMO.parameters, strict=True)
    }
    assert {key: names for key, names in changed.items() if names} == {
        "71_widthx71_height": {"enum", "default"},
        "67_length": {"enum", "default"},
        "57_steps": {"minimum", "default"},
        "6_text": {"default"},
        "57_cfg": {"default"},
    }
    assert DEMO.parameter("71_widthx71_height").enum == ("128x128 (1:1)", "96x128 (3:4)", "128x96 (4:3)")
    assert DEMO.parameter("71_widthx71_height").default == "128x128 (1:1)"
    assert (DEMO.parameter("67_length").enum, DEMO.parameter("67_length").default) == ((17, 33), 33)
    assert (DEMO.parameter("57_steps").minimum, DEMO.parameter("57_steps").default) == (1, 6)


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.model_id)
def test_every_image_of_the_workflow_can_be_given(model):
    graph = graph_for(model)
    loaders = {f"{node_id}_image" for node_id, node in graph.items() if node["class_type"] == "LoadImage"}
    assert {parameter.key for parameter in model.parameters if parameter.is_image} == loaders
    assert graph[model.output_node]["inputs"]["format"].startswith("mp4"), "result_file names it"


@pytest.mark.parametrize("model", MODELS.values(), ids=lambda model: model.model_id)
def test_all_keys_fill_their_graph(model):
    given = {one.key: one.default for one in model.parameters}
    graph = fill(graph_for(model), model, validate(model, given))
    assert graph.keys() == graph_for(model).keys()
    given |= {key: 0.5 for key in given if key.partition("_")[0] in model.slots}
    graph = fill(graph_for(model), model, validate(model, given))
    for parameter in model.parameters:
        held = [graph[target.node_id]["inputs"][target.name] for target in parameter.inputs]
        value = given[parameter.key]
        assert held == (list(parse_size(value)) if len(held) == 2 else [value])


@pytest.mark.parametrize("model", [KEYFRAMES, SEGMENTS, LOOP], ids=lambda model: model.model_id)
def test_a_slot_has_the_lora_of_its_expert(model):
    """What the template's bypassed loader has, so that the editor and the API give the same."""
    form = json.loads((WORKFLOWS / f"{model.workflow}.json").read_text("utf-8"))
    bypassed = {str(node["id"]): node["widgets_values"][0] for node in form["nodes"] if node["mode"]}
    assert {node_id: inputs["lora_name"] for node_id, inputs in model.slots.items()} == bypassed
    both = {"91_strength_model": 0.5, "92_strength_model": 2.0}
    for given in (both, {"91_strength_model": 0.5, "92_strength_model": 0.0}, {"92_strength_model": 2.0}):
        graph = fill(graph_for(model), model, given)
        links = {"high": graph["54"]["inputs"]["model"], "low": graph["57"]["inputs"]["model_low_noise"]}
        filled = {key.partition("_")[0]: value for key, value in given.items() if value}
        base = {"91": ["37", 0], "92": ["56", 0]}
        assert links == {
            expert: [node_id, 0] if node_id in filled else base[node_id]
            for expert, node_id in (("high", "91"), ("low", "92"))
        }
        for node_id, strength in filled.items():
            expected = {**model.slots[node_id], "strength_model": strength, "model": base[node_id]}
            assert graph[node_id]["inputs"] == expected
        assert graph.keys() - graph_for(model).keys() == filled.keys()


def test_sizes_are_read_from_their_labels():
    assert RESOLUTIONS["540x960 (9:16)"] == (540, 960)
    assert [f"{width}x{height}" for width, height in RESOLUTIONS.values()] == [label.split()[0] for label in SIZES]
    with pytest.raises(ValueError, match='"720 by 720" is not a size such as "720x1280'):
        parse_size("720 by 720")


def test_the_contract_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        HOSTED.parameters[0].default = "x"
    with pytest.raises(KeyError):
        HOSTED.parameter("57_step")
