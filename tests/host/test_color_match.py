"""The colour match node in a real ComfyUI: corrected while node 73 writes, and on images."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.client_runs import cancelled_graph
from support.demo_graphs import demo_graph
from support.shown import Shown
from support.video_graphs import images_graph, latent_graph, read_planes
from wan_flf2v.benchmarks._drifts import DRIFTS, delta_e, photographs
from wan_flf2v.client.errors import PromptRejectedError, RunFailedError

SIDE = 64


@pytest.fixture(scope="module")
def pictures():
    return list(photographs(SIDE).values())


def with_match(graph, ends, **inputs):
    """Add a colour match node and connect it to node 73; ``ends`` are its images, as sources in the graph."""
    settings = {"strength": 1.0, "fit": "crop", "background": "#000000"}
    graph["match"] = {"class_type": "WanFLF2VColorMatch", "inputs": {**settings, **ends, **inputs}}
    graph["73"]["inputs"]["color_match"] = ["match", 0]
    return graph


def add_image(host, graph, name, picture):
    """Add [3, height, width] as a source of an IMAGE."""
    save_file({"image": picture.movedim(0, -1)[None].contiguous()}, host.base_dir / "input" / f"{name}.safetensors")
    graph[name] = {"class_type": "WanFLF2VTestLoadTensorImage", "inputs": {"name": name}}
    return [name, 0]


def combine(graph, name, **inputs):
    """Add another node 73 that differs in these inputs; None disconnects one."""
    inputs = {**graph["73"]["inputs"], "filename_prefix": name, **inputs}
    inputs = {key: value for key, value in inputs.items() if value is not None}
    graph[name] = {"class_type": "WanFLF2VVideoCombine", "inputs": inputs}


def files_of(host, graph):
    return {file.node_id: host.path(file) for file in host.run(graph).files}


def waiting_files(host):
    return list((host.base_dir / "temp").glob("tmp*"))


def drifted_clip(pictures):
    """Two photographs dissolve, both with the colours of a drift; [frames, height, width, 3]."""
    ends = [DRIFTS["gain"](pictures[0], 0.15).clamp(0, 1), DRIFTS["darker gamma"](pictures[1], 0.3)]
    return torch.stack([torch.lerp(*ends, i / 4) for i in range(5)]).movedim(1, -1)


def test_images_get_the_colours_of_both_ends(comfy_server, pictures):
    """On the node itself, and while node 73 writes: the same video."""
    clip = drifted_clip(pictures)
    graph = images_graph(comfy_server, clip, n73_crf=1)
    ends = {
        name: add_image(comfy_server, graph, name, picture)
        for name, picture in zip(("start_image", "end_image"), pictures, strict=False)
    }
    with_match(graph, ends, images=["frames", 0])
    combine(graph, "apart", images=["match", 1], color_match=None)
    inputs = {"images": ["match", 1], "filename_prefix": "corrected"}
    graph["png"] = {"class_type": "SaveImage", "inputs": inputs}
    shown = Shown(comfy_server, graph)
    written = {
        name: read_planes(max((comfy_server.base_dir / "output").glob(pattern)))[0]
        for name, pattern in (("73", "video/wan_flf2v_*.mp4"), ("apart", "apart_*.mp4"))
    }
    for a, b in zip(written["73"], written["apart"], strict=True):
        # One rounds to 8 bits before the correction too, and the encoder changes each by up to 2.
        assert np.abs(a[0] - b[0]).max() <= 5
    names = sorted((comfy_server.base_dir / "output").glob("corrected_*.png"))[-5:]
    images = [torch.from_numpy(np.asarray(Image.open(name)).copy()).movedim(-1, 0) / 255 for name in names]
    for i, picture in ((0, pictures[0]), (-1, pictures[1])):
        assert delta_e(images[i], picture) < delta_e(clip[i].movedim(-1, 0), picture) / 4
    for node_id in ("73", "match"):
        (text,) = [text for node, text in shown.texts if node == node_id]
        assert "colour: start ΔE " in text and " → " in text and "; end ΔE " in text


def test_a_latent_is_corrected_while_it_is_streamed(comfy_server):
    """The images are the decoded ends, 30 % mixed with grey, so that what is right is known."""
    graph = latent_graph(3, 64, 48, n73_crf=1)
    graph["whole"] = {"class_type": "VAEDecode", "inputs": {"samples": ["57", 0], "vae": ["39", 0]}}
    size = {"width": 64, "height": 48, "batch_size": 1, "color": 0x808080}
    graph["grey"] = {"class_type": "EmptyImage", "inputs": size}
    ends = {}
    for name, index in (("start_image", 0), ("end_image", 8)):
        inputs = {"image": ["whole", 0], "batch_index": index, "length": 1}
        graph[f"{name}_frame"] = {"class_type": "ImageFromBatch", "inputs": inputs}
        inputs = {"image1": [f"{name}_frame", 0], "image2": ["grey", 0], "blend_factor": 0.3, "blend_mode": "normal"}
        graph[name] = {"class_type": "ImageBlend", "inputs": inputs}
        ends[name] = [name, 0]
        combine(graph, f"{name}_file", images=[name, 0], latent=None, vae=None)
    with_match(graph, ends)
    graph["off_match"] = {"class_type": "WanFLF2VColorMatch", "inputs": {**graph["match"]["inputs"], "strength": 0.0}}
    combine(graph, "all_at_once", decode="whole")
    combine(graph, "off", color_match=["off_match", 0])
    combine(graph, "plain", color_match=None)
    before = waiting_files(comfy_server)
    written = {name: read_planes(path)[0] for name, path in files_of(comfy_server, graph).items()}
    assert waiting_files(comfy_server) == before
    for a, b in (("73", "all_at_once"), ("off", "plain")):
        for one, other in zip(written[a], written[b], strict=True):
            assert all(np.array_equal(*planes) for planes in zip(one, other, strict=True))
    for name, i in (("start_image", 0), ("end_image", 8)):
        before, after = (
            np.abs(written[which][i][0] - written[f"{name}_file"][0][0]).mean() for which in ("plain", "73")
        )
        assert before > 5
        assert after < before / 4
    assert not np.array_equal(written["73"][4][0], written["plain"][4][0])


def test_sizes_that_are_no_multiple_of_16(comfy_server):
    """The images are fitted to the exact size; each clip of a batch is measured by itself."""
    graph = demo_graph(n71_width=54, n71_height=96, n67_length=5, n67_batch_size=2, n57_steps=1)
    with_match(graph, {"start_image": ["68", 0], "end_image": ["62", 0]}, fit="pad", background="#ff0000")
    shown = Shown(comfy_server, graph)
    text = [text for node, text in shown.texts if node == "73"][-1]
    first, second = text.splitlines()
    assert first.partition(".mp4:")[2] != second.partition(".mp4:")[2]
    assert all(".mp4: colour: start ΔE " in line for line in (first, second))


def test_cancelled_while_frames_wait_leaves_no_file(comfy_server, pictures):
    graph = latent_graph(120, 128, 128, n73_filename_prefix="cancelled_match/clip")
    with_match(graph, {"end_image": add_image(comfy_server, graph, "end_image", pictures[0])})
    before = waiting_files(comfy_server)
    assert 9 <= cancelled_graph(comfy_server, graph, "73", 9) < 400  # counted while no frame was written
    assert list((comfy_server.base_dir / "output" / "cancelled_match").iterdir()) == []
    assert waiting_files(comfy_server) == before


@pytest.mark.parametrize(
    ("image", "inputs", "message"),
    [
        ("", {}, "start_image and end_image: neither is connected. Connect at least one"),
        ("grey", {}, "start_image has 1 channel(s), but must be RGB or RGBA. Convert it first."),
        (
            "rgb",
            {"strength": ["number", 0]},
            "strength is 2, but must be from 0 (off) to 1",
        ),
        ("rgb", {"images": ["grey", 0]}, "images has 1 channel(s), but must be RGB or RGBA. Convert it first."),
    ],
)
def test_what_is_refused(comfy_server, pictures, image, inputs, message):
    graph = images_graph(comfy_server, torch.rand(1, 16, 16, 3))
    graph["number"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 2.0}}
    for name, channels in (("rgb", 3), ("grey", 1)):
        add_image(comfy_server, graph, name, pictures[0][:channels])
    with_match(graph, {"start_image": [image, 0]} if image else {}, **inputs)
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert message in str(error.value)


def test_images_out_without_images_in(comfy_server, pictures):
    graph = images_graph(comfy_server, torch.rand(1, 16, 16, 3))
    with_match(graph, {"start_image": add_image(comfy_server, graph, "rgb", pictures[0])})
    graph["73"]["inputs"]["images"] = ["match", 1]
    with pytest.raises(AssertionError, match='needs its input "images": connect frames'):  # what the app shows
        Shown(comfy_server, graph)


def test_a_wrong_background_is_refused_when_queued(comfy_server, pictures):
    graph = images_graph(comfy_server, torch.rand(1, 16, 16, 3))
    ends = {"start_image": add_image(comfy_server, graph, "rgb", pictures[0])}
    with pytest.raises(PromptRejectedError) as error:
        comfy_server.run(with_match(graph, ends, background="red"))
    assert "background is 'red', but must be a colour like #000000" in str(error.value)
