"""Values in the bundled workflow's nodes."""

import copy
import json
import re
from pathlib import Path

import pytest
from wan_flf2v.contract.parameters import DEMO, HOSTED
from wan_flf2v.contract.validation import validate
from wan_flf2v.contract.workflow import WorkflowError, fill, graph_for, load_graph, node_title, switch_on, ui_form

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
VALUES = {
    "6_text": "a cat",
    "68_image": "first.png",
    "62_image": "last.png",
    "71_widthx71_height": "540x960 (9:16)",
    "67_length": 141,
    "73_frame_rate": 24,
    "57_noise_seed": 2**64 - 1,
    "57_steps": 7,
    "57_cfg": 1.5,
    "54_shift": 3.0,
}


def differences(before, after):
    return {
        (node_id, name): node["inputs"][name]
        for node_id, node in after.items()
        for name in node["inputs"]
        if node["inputs"][name] != before[node_id]["inputs"][name]
    }


def test_every_value_lands_in_its_node_and_nothing_else_changes():
    graph = load_graph(HOSTED.workflow)
    untouched = copy.deepcopy(graph)
    filled = fill(graph, HOSTED, validate(HOSTED, VALUES))
    assert differences(graph, filled) == {
        ("6", "text"): "a cat",
        ("68", "image"): "first.png",
        ("62", "image"): "last.png",
        ("71", "width"): 540,
        ("71", "height"): 960,
        ("67", "length"): 141,
        ("73", "frame_rate"): 24,
        ("57", "noise_seed"): 2**64 - 1,
        ("57", "steps"): 7,
        ("57", "cfg"): 1.5,
        ("54", "shift"): 3.0,
    }
    assert filled["71"]["inputs"]["preset"] == "custom", "a preset would win over width and height"
    assert graph == untouched
    filled["67"]["inputs"]["start_image"].append("changed")
    assert graph == untouched, "the copy shares nothing with the original"


@pytest.mark.parametrize("path", sorted(WORKFLOWS.glob("*.json")), ids=lambda path: path.stem)
def test_notes_can_be_read_in_both_renderers(path):
    """Nodes 2.0 shows code in a note blue on blue, and cuts a table at the note's edge."""
    notes = [node for node in json.loads(path.read_text("utf-8"))["nodes"] if node["type"] == "MarkdownNote"]
    assert notes
    for note in notes:
        assert not re.search(r"`|^\|", note["widgets_values"][0], re.MULTILINE), note["title"]


def test_a_workflow_without_the_node_or_the_input_is_refused():
    graph = load_graph(HOSTED.workflow)
    del graph["57"]["inputs"]["steps"]
    with pytest.raises(
        WorkflowError, match=re.escape('57_steps: node 57 "Sampler (two experts, one schedule)" has no input "steps".')
    ):
        fill(graph, HOSTED, {"57_steps": 7})
    del graph["57"]
    with pytest.raises(WorkflowError, match=re.escape("57_steps: the workflow has no node 57.")):
        fill(graph, HOSTED, {"57_steps": 7})
    with pytest.raises(KeyError):
        fill(graph, HOSTED, {"7_text": "x"})


def test_a_node_is_called_by_its_title_else_its_type_else_its_id():
    graph = {"1": {"class_type": "A", "_meta": {"title": "First"}}, "2": {"class_type": "B"}}
    assert [node_title(graph, node_id) for node_id in ("1", "2", "3")] == ["First", "B", "3"]


def test_an_unknown_workflow_is_an_error():
    with pytest.raises(FileNotFoundError):
        load_graph("nothing")


def read_ui(name):
    return json.loads((WORKFLOWS / f"{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("name", sorted(path.stem for path in WORKFLOWS.glob("*.json")))
def test_the_ui_form_of_an_unchanged_graph_is_the_bundled_file(name):
    assert ui_form(name, load_graph(name)) == read_ui(name)


def test_the_ui_form_has_a_run_s_values_and_loaders():
    filled = ui_form(HOSTED.workflow, fill(graph_for(DEMO), HOSTED, VALUES))
    changed = {}
    for node, stock in zip(filled["nodes"], read_ui(HOSTED.workflow)["nodes"], strict=True):
        if node["widgets_values"] != stock["widgets_values"]:
            changed[node["id"]] = node["widgets_values"]
    assert changed == {
        37: ["demo_wan22_high_noise.safetensors", "default"],
        56: ["demo_wan22_low_noise.safetensors", "default"],
        38: ["tiny_umt5.safetensors"],
        39: ["demo_wan_vae.safetensors"],
        68: ["first.png", "image"],
        62: ["last.png", "image"],
        71: ["custom", 540, 960],
        54: [3.0],
        6: ["a cat"],
        67: [720, 720, 141, 1, "crop", "#000000", "cached"],
        57: [2**64 - 1, "fixed", 7, 1.5, *read_ui(HOSTED.workflow)["nodes"][11]["widgets_values"][4:]],
        73: [24, "video/wan_flf2v", 19, 0, 0, "streamed", *read_ui(HOSTED.workflow)["nodes"][12]["widgets_values"][6:]],
    }
    assert {node["id"]: node["type"] for node in filled["nodes"]}[38] == "WanFLF2VDemoCLIPLoader"


@pytest.mark.parametrize("name", ["keyframes", "loop", "several_images"])
def test_a_bypassed_loader_is_switched_on(name):
    name = f"wan22_flf2v_{name}"
    graph, values = load_graph(name), {"lora_name": "a.safetensors", "strength_model": 0.5}
    assert all(switch_on(name, graph, node_id, values) for node_id in ("91", "92"))
    assert {node_id: graph[node_id]["inputs"]["model"] for node_id in ("91", "92")} == {
        "91": ["37", 0],
        "92": ["56", 0],
    }
    assert [graph["54"]["inputs"]["model"], graph["57"]["inputs"]["model_low_noise"]] == [["91", 0], ["92", 0]]
    form = {node["id"]: node for node in ui_form(name, graph)["nodes"]}
    assert [(form[one]["mode"], form[one]["widgets_values"]) for one in (91, 92)] == [(0, ["a.safetensors", 0.5])] * 2
    again = copy.deepcopy(graph)
    assert not switch_on(name, graph, "91", values), "it is on"
    assert not switch_on(name, graph, "68", values), "it is no bypassed node"
    assert not switch_on("wan22_flf2v", graph, "91", values), "there is none"
    assert graph == again
