"""Which edits encode the images again, counted in the VAE of a real host across queue runs."""

import shutil

import pytest
from support.demo_graphs import demo_graph, only

STOCK_INPUTS = ("positive", "negative", "vae", "width", "height", "length", "batch_size", "start_image", "end_image")


def whole_graph(ours=True, **inputs):
    """The demo's graph at a size that no other test has, with this pack's conditioning or with the host's."""
    graph = demo_graph(**{"n71_width": 80, "n71_height": 48, "n67_length": 5, "n57_steps": 1, **inputs})
    if not ours:
        stock = {name: graph["67"]["inputs"][name] for name in STOCK_INPUTS}
        graph["67"] = {"class_type": "WanFirstLastFrameToVideo", "inputs": stock}
    return graph


def graph_of(ours=True, **inputs):
    """As far as the conditioning, which is quicker."""
    graph = only(whole_graph(ours, **inputs), "6", "7", "38", "39", "62", "67", "68", "71")
    dump = {"conditioning": ["67", 0], "name": "reencode"}
    graph["dump"] = {"class_type": "WanFLF2VTestDumpConditioning", "inputs": dump}
    return graph


@pytest.fixture(scope="module")
def encodes(comfy_server):
    """Run a graph and return how many videos were encoded for it."""

    def run(graph):
        path = comfy_server.base_dir / "output" / "encodes.txt"
        before = int(path.read_text()) if path.exists() else 0
        comfy_server.run(graph)
        return int(path.read_text()) - before

    run(graph_of())  # the self-check of a VAE encodes too, once
    return run


@pytest.fixture(params=[True, False], ids=["ours", "stock"])
def ours(request):
    return request.param


@pytest.mark.parametrize("edit", ["n57_noise_seed", "n57_steps", "n6_text", "n7_text"])
def test_whole_graph_edited_after_the_conditioning_or_in_its_prompts(encodes, ours, edit):
    """Seed and steps come after the conditioning, so ComfyUI's own cache serves them; prompts it does not."""
    value = {"n57_noise_seed": 7, "n57_steps": 2}.get(edit, f"edited {ours}")
    encodes(whole_graph(ours))
    assert encodes(whole_graph(ours, **{edit: value})) == (0 if ours or edit.startswith("n57") else 1)


def test_batch_size(encodes, ours):
    encodes(graph_of(ours))
    assert encodes(graph_of(ours, n67_batch_size=2)) == int(not ours)


def test_edit_taken_back(encodes, ours, comfy_server):
    """ComfyUI keeps one result for a node: with images A, B, A it encodes three times."""
    folder = comfy_server.base_dir / "input"
    shutil.copy(folder / "start.jpg", folder / "a.jpg")
    shutil.copy(folder / "end.jpg", folder / "b.jpg")
    runs = [encodes(graph_of(ours, n68_image=name, n67_length=13)) for name in ("a.jpg", "b.jpg", "a.jpg")]
    assert runs == ([1, 1, 0] if ours else [1, 1, 1])


def test_equal_picture_under_another_name(encodes, ours, comfy_server):
    folder = comfy_server.base_dir / "input"
    shutil.copy(folder / "start.jpg", folder / "same.jpg")
    encodes(graph_of(ours))
    assert encodes(graph_of(ours, n68_image="same.jpg")) == int(not ours)


def test_equal_picture_from_another_node(encodes, ours):
    encodes(graph_of(ours))
    graph = graph_of(ours)
    scale = {"image": ["68", 0], "upscale_method": "bilinear", "scale_by": 1.0}
    graph["scaled"] = {"class_type": "ImageScaleBy", "inputs": scale}
    graph["67"]["inputs"]["start_image"] = ["scaled", 0]
    assert encodes(graph) == int(not ours)


@pytest.mark.parametrize(
    "edit", [{"n62_image": "start.jpg"}, {"n67_length": 9}, {"n71_width": 96}, {"n67_fit": "stretch"}], ids=str
)
def test_what_the_encoder_sees_is_encoded(encodes, edit):
    encodes(graph_of())
    assert encodes(graph_of(**edit)) == 1
    assert encodes(graph_of(n6_text=f"edited after {edit}", **edit)) == 0


@pytest.mark.parametrize("encode", ["memoised", "host"])
def test_off_switch(encodes, encode):
    encodes(graph_of())
    assert encodes(graph_of(n67_encode=encode)) == 1
    assert encodes(graph_of(n67_encode=encode, n6_text=f"edited {encode}")) == 1
