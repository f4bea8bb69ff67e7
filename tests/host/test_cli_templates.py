"""``wan-flf2v run`` on the templates for loops, keyframes, several images and long videos, with small models."""

import hashlib
import json
import urllib.request
from pathlib import Path

import av
import pytest
from PIL import Image
from support.demo_graphs import demo_graph
from support.expert_graphs import write_lora
from typer.testing import CliRunner
from wan_flf2v.__main__ import app
from wan_flf2v.cli import workflows
from wan_flf2v.contract.workflow import load_graph

COLOURS = {"a.png": "red", "b.png": "green", "c.png": "blue", "d.png": "white"}
SMALL = ("--size", "64x64", "--set", "67_length=9", "--set", "57_steps=1", "--set", "57_cfg=1")
PROMPT, NEGATIVE, ENDS = ("--prompt", "a puppy"), ("--negative", "a cat"), ("--start", "a.png", "--end", "b.png")
TEXTS = {"6": "a puppy", "7": "a cat"}


@pytest.fixture
def run(comfy_server, tmp_path, monkeypatch):
    """Return a function that runs a template: the video's number of frames, and the graph that ComfyUI ran."""

    def small(name):
        """Return the template with the demo's loaders in the place of its own."""
        return {**load_graph(name), **{node_id: demo_graph()[node_id] for node_id in ("37", "38", "39", "56")}}

    def run(name, *given):
        done = CliRunner().invoke(app, ["run", "--workflow", f"wan22_flf2v_{name}", *SMALL, *given, *server])
        assert done.exit_code == 0, done.output
        with av.open("out.mp4") as container:
            form = json.loads(container.metadata["workflow"])
            frames = container.streams.video[0].frames
        with urllib.request.urlopen(f"{comfy_server.url}/history", timeout=60) as response:
            graph = list(json.load(response).values())[-1]["prompt"][2]
        assert {str(node["id"]) for node in form["nodes"] if not node["mode"]} >= graph.keys()
        return frames, graph

    server = ("--server", comfy_server.url, "-o", "out.mp4")
    monkeypatch.setattr(workflows, "load_graph", small)
    monkeypatch.chdir(tmp_path)
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 64), colour).save(tmp_path / name)
    return run


def held(graph, name):
    """Return the texts, or the files that were uploaded, by the node that holds them."""
    files = {hashlib.sha256(Path(file).read_bytes()).hexdigest()[:32]: file for file in COLOURS}
    found = {node_id: node["inputs"][name] for node_id, node in graph.items() if name in node["inputs"]}
    values = {node_id: value for node_id, value in found.items() if isinstance(value, str)}
    return {one: files[value.rpartition("/")[2][:32]] for one, value in values.items()} if name == "image" else values


def test_a_loop_takes_one_image(run, comfy_server):
    lora = write_lora(comfy_server)
    frames, graph = run("loop", "--start", "a.png", *PROMPT, *NEGATIVE, "--lora-high", lora, "--lora-low", lora)
    assert (frames, held(graph, "image"), held(graph, "text")) == (8, {"68": "a.png"}, TEXTS)
    assert [graph["54"]["inputs"]["model"], graph["57"]["inputs"]["model_low_noise"]] == [["91", 0], ["92", 0]]


def test_a_keyframe_is_a_file_here(run, comfy_server):
    lora = write_lora(comfy_server)
    loras = ("--lora-high", f"{lora}:0.5", "--lora-low", lora)
    key = ("--set", "63_image=c.png", "--set", "61_frames=4")
    frames, graph = run("keyframes", *ENDS, *key, *PROMPT, *NEGATIVE, *loras)
    assert (frames, held(graph, "text")) == (9, TEXTS)
    assert held(graph, "image") == {"68": "a.png", "63": "c.png", "62": "b.png"}
    strengths = {"91": (0.5, ["37", 0]), "92": (1.0, ["56", 0])}
    inputs = {one: graph[one]["inputs"] for one in strengths}
    assert {one: (made["strength_model"], made["model"]) for one, made in inputs.items()} == strengths


def test_several_images_and_a_line_for_each_segment(run, comfy_server):
    lora = write_lora(comfy_server)
    between = ("--set", "63_image=c.png", "--set", "64_image=d.png")
    prompts = "one\ntwo\nthree"
    loras = ("--lora-high", lora, "--lora-low", lora)
    frames, graph = run("several_images", *ENDS, *between, "--prompt", prompts, *NEGATIVE, *loras)
    assert (frames, graph["60"]["inputs"]["prompts"], held(graph, "text")) == (25, prompts, {"7": "a cat"})
    assert held(graph, "image") == {"68": "a.png", "63": "c.png", "64": "d.png", "62": "b.png"}
    assert {"91", "92"} <= graph.keys()


def test_a_long_video_has_one_prompt_or_one_for_each_segment(run):
    second = ("--set", "77_length=9", "--set", "87_steps=1", "--set", "87_cfg=1")
    frames, graph = run("long_video", *ENDS, *PROMPT, *NEGATIVE, *second)
    assert (frames, held(graph, "text")) == (17, {**TEXTS, "16": "a puppy"})
    assert held(graph, "image") == {"68": "a.png", "62": "b.png"}
    _, graph = run("long_video", *ENDS, *PROMPT, *NEGATIVE, *second, "--set", "16_text=it jumps")
    assert held(graph, "text") == {**TEXTS, "16": "it jumps"}


def test_an_image_that_is_nowhere_is_said(comfy_server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")
    given = ("run", "--workflow", "wan22_flf2v_keyframes", "--start", "a.png", "--set", "62_image=a.png", *PROMPT)
    done = CliRunner().invoke(app, [*given, "--set", "63_image=none.png", "--server", comfy_server.url])
    assert done.exit_code == 2
    assert done.stderr.startswith('63_image is "none.png", which this ComfyUI does not offer. ')
    assert done.stderr.rstrip().endswith("There is no such file here either.")
