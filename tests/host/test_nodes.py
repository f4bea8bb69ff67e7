"""What the pack shows to users, and what it refuses when a prompt is queued."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
from support.demo_graphs import demo_graph
from wan_flf2v.client.errors import PromptRejectedError, RunFailedError

OURS = (
    "WanFLF2VResolution",
    "WanFLF2VConditioning",
    "WanFLF2VSampler",
    "WanFLF2VGuider",
    "WanFLF2VColorMatch",
    "WanFLF2VVideoCombine",
    "WanFLF2VPlan",
    "WanFLF2VKeyframes",
    "WanFLF2VSegments",
    "WanFLF2VLastFrames",
    "WanFLF2VReport",
)
DOCS = Path(__file__).resolve().parents[2] / "web" / "docs"


@pytest.mark.parametrize("name", OURS)
def test_everything_is_explained(comfy_server, name):
    with urllib.request.urlopen(f"{comfy_server.url}/object_info/{name}", timeout=60) as response:
        info = json.load(response)[name]
    assert info["description"]
    assert info["display_name"].startswith("Wan ")
    for category in ("required", "optional"):
        for key, spec in info["input"].get(category, {}).items():
            assert spec[1].get("tooltip"), f"{name}.{key} has no tooltip"
    assert all(info["output_tooltips"])
    with urllib.request.urlopen(f"{comfy_server.url}/extensions/wan-flf2v/docs/{name}.md", timeout=60) as response:
        page = response.read().decode()
    assert page == (DOCS / f"{name}.md").read_text(encoding="utf-8")
    for key in info["input"].get("required", {}):
        assert key in page, f"the help page of {name} does not mention {key}"


def test_the_tiny_models_load_whole(comfy_server):
    """Weights that the host misses stay uninitialised, and would make every comparison meaningless."""
    comfy_server.run(demo_graph(n57_steps=1))
    complaints = re.findall(
        r"(?i).*(?:missing vae keys|(?:clip|unet) missing|left over keys).*", comfy_server.log_text()
    )
    assert complaints == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            {"n71_width": 541},
            "width is 541, but must be an even number of pixels from 16 to 4096 (video colour is stored for blocks of "
            "2x2 pixels). Use 540 or 542.",
        ),
        (
            {"n71_height": 5000},
            "height is 5000, but must be an even number of pixels from 16 to 4096 (video colour is stored for blocks "
            "of 2x2 pixels). Use 4096.",
        ),
        (
            {"n71_height": 8},
            "height is 8, but must be an even number of pixels from 16 to 4096 (video colour is stored for blocks of "
            "2x2 pixels). Use 16.",
        ),
        (
            {"n71_preset": "721x721 (1:1)"},
            "preset is '721x721 (1:1)', but must be one of: custom, 480x480 (1:1), 720x720 (1:1),",
        ),
        (
            {"n67_width": 33},
            "width is 33, but must be an even number of pixels from 16 to 4096 (video colour is stored for blocks of "
            "2x2 pixels). Use 32 or 34.",
        ),
        (
            {"n67_background": "red"},
            "background is 'red', but must be a colour like #000000 (black) or #ffffff (white).",
        ),
        (
            {"n67_background": ""},
            "background is '', but must be a colour like #000000 (black) or #ffffff (white).",
        ),
    ],
)
def test_bad_values_are_refused_when_queued(comfy_server, inputs, message):
    with pytest.raises(PromptRejectedError) as error:
        comfy_server.run(demo_graph(**inputs))
    assert message in str(error.value)


def test_a_preset_wins_over_width_and_height(comfy_server):
    """Odd width and height do not matter while a preset is chosen."""
    graph = demo_graph(n71_preset="480x480 (1:1)", n71_width=33, n71_height=33, n67_length=1, n57_steps=1)
    assert comfy_server.run(graph).files


def test_size_from_another_node_is_checked_before_encoding(comfy_server):
    """A linked value is unknown when the prompt is queued, so node 67 checks again before it encodes."""
    graph = demo_graph()
    graph["odd"] = {"class_type": "PrimitiveInt", "inputs": {"value": 33}}
    graph["67"]["inputs"]["width"] = ["odd", 0]
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert "width is 33, but must be an even number" in str(error.value)
