"""How the options of ``run`` change a graph: where texts, images, sizes and LoRAs go, whatever ids the nodes have."""

import pytest
from wan_flf2v.cli.shared import UsageError
from wan_flf2v.cli.workflows import (
    Workflow,
    add_lora,
    assign,
    free_sizes,
    read_assignments,
    read_size,
    size_assignments,
)
from wan_flf2v.contract.parameters import RESOLUTION, NodeInput
from wan_flf2v.contract.workflow import load_graph

NUMBER = ["INT", {"min": 16, "max": 8192}]
INFOS = {
    "WanFLF2VResolution": {"input": {"required": {"width": NUMBER, "height": NUMBER, "preset": ["STRING", {}]}}},
    "LoraLoaderModelOnly": {"input": {"required": {"lora_name": ["STRING", {}], "strength_model": ["FLOAT", {}]}}},
}


def places(workflow):
    """Return the keys that each option fills."""
    options = ("--prompt", "--negative", "--start", "--end")
    return [[f"{node_id}_{name}" for node_id, name in workflow.places(option)] for option in options]


@pytest.fixture
def workflow():
    return Workflow("own.json", load_graph("wan22_flf2v"))


def test_places_are_found_by_links(workflow):
    assert places(workflow) == [["6_text"], ["7_text"], ["68_image"], ["62_image"]]
    graph = workflow.graph
    graph["67"]["inputs"]["start_image"] = ["99", 0]  # a node in between
    graph["99"] = {"class_type": "ImageScale", "inputs": {"image": ["68", 0], "width": 64}}
    graph["6"]["inputs"]["clip"] = ["6", 0]  # a circle must not hang it
    del graph["7"]
    assert places(workflow) == [["6_text"], [], ["68_image"], ["62_image"]]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("loop", [["6_text"], ["7_text"], ["68_image"], ["68_image"]]),
        ("keyframes", [["6_text"], ["7_text"], ["68_image"], ["62_image"]]),
        ("several_images", [["60_prompts"], ["7_text"], ["68_image"], ["62_image"]]),
        ("long_video", [["6_text", "16_text"], ["7_text"], ["68_image"], ["62_image"]]),
    ],
)
def test_places_in_longer_videos(name, found):
    workflow = Workflow(name, load_graph(f"wan22_flf2v_{name}"), f"wan22_flf2v_{name}")
    assert places(workflow) == found
    assert [tuple(one.target) for one in size_assignments(workflow, "64x96")] == [("71", "width"), ("71", "height")]


def test_the_ends_of_several_images_are_the_first_and_the_last(workflow):
    workflow.graph.update(load_graph("wan22_flf2v_several_images"))
    inputs = workflow.graph["60"]["inputs"]
    inputs["image_10"], inputs["image_4"] = ["scaled", 0], ["63", 0]
    workflow.graph["scaled"] = {"class_type": "ImageScale", "inputs": {"image": ["62", 0]}}
    assert places(workflow)[2:] == [["68_image"], ["62_image"]]


def test_a_lora_is_the_templates_bypassed_loader_and_further_ones_follow():
    workflow = Workflow("wan22_flf2v_loop", load_graph("wan22_flf2v_loop"), "wan22_flf2v_loop")
    given = [one for name in ("a:0.5", "b") for one in add_lora(workflow, "--lora-high", name)]
    given += add_lora(workflow, "--lora-low", "c")
    assert assign(workflow.graph, INFOS, given) == []
    graph = workflow.graph
    added = {node_id: node["inputs"] for node_id, node in graph.items() if node["class_type"] == "LoraLoaderModelOnly"}
    assert added == {
        "91": {"lora_name": "a", "strength_model": 0.5, "model": ["37", 0]},
        "92": {"lora_name": "c", "strength_model": 1.0, "model": ["56", 0]},
        "93": {"lora_name": "b", "strength_model": 1.0, "model": ["54", 0]},
    }
    assert [graph["54"]["inputs"]["model"], graph["57"]["inputs"]["model_high_noise"]] == [["91", 0], ["93", 0]]
    assert graph["57"]["inputs"]["model_low_noise"] == ["92", 0]


def test_a_lora_of_a_long_video_is_for_all_segments():
    workflow = Workflow("wan22_flf2v_long_video", load_graph("wan22_flf2v_long_video"), "wan22_flf2v_long_video")
    given = add_lora(workflow, "--lora-high", "a") + add_lora(workflow, "--lora-low", "b:0.5")
    assert assign(workflow.graph, INFOS, given) == []
    graph = workflow.graph
    samplers = [graph[node_id]["inputs"] for node_id in ("57", "87")]
    for expert, before, values in (
        ("model_high_noise", "54", {"lora_name": "a", "strength_model": 1.0}),
        ("model_low_noise", "56", {"lora_name": "b", "strength_model": 0.5}),
    ):
        ((node_id, _), other) = (sampler[expert] for sampler in samplers)
        assert (other, graph[node_id]["inputs"]) == ([node_id, 0], {**values, "model": [before, 0]})


@pytest.mark.parametrize("option", ["--size", RESOLUTION.key])
def test_a_size_wins_over_a_preset(workflow, option):
    workflow.graph["71"]["inputs"]["preset"] = "720x720 (1:1)"
    if option == "--size":
        given, errors = size_assignments(workflow, "64x96"), []
    else:
        given, errors = read_assignments(workflow, [f"{option}=64x96 (2:3)"])
    assert errors == []
    assert assign(workflow.graph, INFOS, given) == []
    assert workflow.graph["71"]["inputs"] == {"preset": "custom", "width": 64, "height": 96}


def test_a_size_without_a_resolution_node_goes_into_the_conditioning(workflow):
    workflow.graph["67"]["inputs"].update(width=1, height=1)
    assert [tuple(one.target) for one in size_assignments(workflow, "64X96")] == [("67", "width"), ("67", "height")]
    del workflow.graph["67"]
    with pytest.raises(UsageError, match="has no one place for it"):
        size_assignments(workflow, "64x96")


def test_loras_follow_each_other(workflow):
    given = [one for name in ("a:0.5", "dir/b", "C:c") for one in add_lora(workflow, "--lora-high", name)]
    assert assign(workflow.graph, INFOS, given) == []
    graph, seen, link = workflow.graph, [], workflow.graph["57"]["inputs"]["model_high_noise"]
    while graph[link[0]]["class_type"] == "LoraLoaderModelOnly":
        inputs = graph[link[0]]["inputs"]
        seen.append((inputs["lora_name"], inputs["strength_model"]))
        link = inputs["model"]
    assert (seen, link) == ([("C:c", 1.0), ("dir/b", 1.0), ("a", 0.5)], ["54", 0])
    assert graph["57"]["inputs"]["model_low_noise"] == ["56", 0]


@pytest.mark.parametrize("text", ["", "64", "64x", "x64", "64x96x2", "-64x96", "a64x96"])
def test_what_is_no_size(text):
    with pytest.raises(UsageError):
        read_size("--size", text)


def test_a_preset_does_not_win_over_what_requests_set(workflow):
    inputs = workflow.graph["71"]["inputs"]
    inputs["preset"] = "1280x720 (16:9)"
    free_sizes(workflow.graph, [NodeInput("71", "preset")])
    assert inputs == {"preset": "1280x720 (16:9)", "width": 720, "height": 720}
    free_sizes(workflow.graph, None)
    assert inputs == {"preset": "custom", "width": 1280, "height": 720}
    inputs["preset"] = ["9", 0]
    free_sizes(workflow.graph, [NodeInput("71", "width")])
    assert inputs["preset"] == ["9", 0], "what comes from another node stays"
