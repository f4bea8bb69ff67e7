"""Node 67 against the host's own WanFirstLastFrameToVideo, bit for bit, and beyond it."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.demo_graphs import demo_graph, only, set_inputs

CORE_INPUTS = ("positive", "negative", "vae", "width", "height", "length", "batch_size")
OPTIONAL = ("start_image", "end_image", "clip_vision_start_image", "clip_vision_end_image")


def images(seed, frames, width=80, height=48, channels=3):
    inputs = {"seed": seed, "frames": frames, "width": width, "height": height, "channels": channels}
    return {"class_type": "WanFLF2VTestRandomImages", "inputs": inputs}


def tensor_image(host, name, image):
    save_file({"image": image.contiguous()}, host.base_dir / "input" / f"{name}.safetensors")
    return {"class_type": "WanFLF2VTestLoadTensorImage", "inputs": {"name": name}}


def conditioning_graph(width=32, height=32, length=17, batch_size=1, start=None, end=None, **inputs):
    """Return a graph with node 67 alone on two image nodes, both conditionings and the latent dumped."""
    graph = only(demo_graph(), "6", "7", "38", "39", "67")
    sizes = {"n67_width": width, "n67_height": height, "n67_length": length, "n67_batch_size": batch_size}
    set_inputs(graph, **sizes, **{f"n67_{key}": value for key, value in inputs.items()})
    for node_id, name, node in (("68", "start_image", start), ("62", "end_image", end)):
        if node is None:
            del graph["67"]["inputs"][name]
        else:
            graph[node_id] = node
    for name in ("start_mask", "end_mask"):
        if not isinstance(inputs.get(name), list):
            del graph["67"]["inputs"][name]
    return add_dumps(graph, "67", "ours")


def add_dumps(graph, node_id, name):
    for slot, kind, key in ((0, "Conditioning", "positive"), (1, "Conditioning", "negative"), (2, "Latent", "latent")):
        source = {"latent" if kind == "Latent" else "conditioning": [node_id, slot]}
        inputs = {**source, "name": f"{name}_{key}"}
        graph[f"{name}_{key}"] = {"class_type": f"WanFLF2VTestDump{kind}", "inputs": inputs}
    return graph


def add_core(graph, name="core"):
    """Add the host's node with the same inputs."""
    inputs = graph["67"]["inputs"]
    core = {key: inputs[key] for key in (*CORE_INPUTS, *OPTIONAL) if key in inputs}
    graph[name] = {"class_type": "WanFirstLastFrameToVideo", "inputs": core}
    return add_dumps(graph, name, name)


def assert_equal(host, ours, core):
    for part in ("positive", "negative", "latent"):
        mine, theirs = host.tensors(f"{ours}_{part}"), host.tensors(f"{core}_{part}")
        assert mine.keys() == theirs.keys()
        for key in mine:
            assert mine[key].dtype == theirs[key].dtype
            assert torch.equal(mine[key], theirs[key]), f"{part} {key}"


@pytest.mark.parametrize("ends", ["both", "start", "end", "neither"])
@pytest.mark.parametrize("length", [1, 5, 17, 33, 81])
def test_bit_equal_to_core(comfy_server, ends, length):
    start = images(1, 1) if ends in ("both", "start") else None
    end = images(2, 1, width=48, height=80) if ends in ("both", "end") else None
    comfy_server.run(add_core(conditioning_graph(length=length, start=start, end=end)))
    assert_equal(comfy_server, "ours", "core")


@pytest.mark.parametrize(("first", "last"), [(5, 1), (1, 5), (2, 7), (20, 20)])
def test_several_frames_at_the_ends_are_bit_equal_to_core(comfy_server, first, last):
    graph = conditioning_graph(length=17, batch_size=2, start=images(3, first), end=images(4, last))
    comfy_server.run(add_core(graph))
    assert_equal(comfy_server, "ours", "core")
    assert comfy_server.tensors("ours_latent")["samples"].shape == (2, 16, 5, 4, 4)


@pytest.mark.parametrize("given", [("start",), ("end",), ("start", "end")])
def test_clip_vision_is_bit_equal_to_core(comfy_server, given):
    graph = conditioning_graph(length=5, start=images(5, 1), end=images(6, 1))
    for seed, end in enumerate(given):
        graph[f"clip_{end}"] = {"class_type": "WanFLF2VTestFakeClipVision", "inputs": {"seed": seed}}
        graph["67"]["inputs"][f"clip_vision_{end}_image"] = [f"clip_{end}", 0]
    comfy_server.run(add_core(graph))
    assert_equal(comfy_server, "ours", "core")
    tokens = comfy_server.tensors("ours_positive")["0.clip_vision_output"]
    assert tokens.shape == (1, 257 * len(given), 1280)


@pytest.mark.parametrize("length", [79, 80, 81, 82, 140, 141])
def test_end_image_survives_every_length(comfy_server, length):
    """The conditioning depends on the end image; with the host's node it does not at 79, 80, 82 and 140."""
    latents = {"ours": [], "core": []}
    for seed in (7, 8):
        graph = add_core(conditioning_graph(length=length, start=images(1, 1), end=images(seed, 1)))
        comfy_server.run(graph)
        for name in latents:
            latents[name].append(comfy_server.tensors(f"{name}_positive")["0.concat_latent_image"])
    assert not torch.equal(*latents["ours"])
    assert latents["ours"][0].shape[2] == (length - 1) // 4 + 1
    assert torch.equal(*latents["core"]) == (length in (79, 80, 82, 140))
    if length % 4 != 1:
        snapped = (length - 1) // 4 * 4 + 1
        notice = f"length {length} is not 4n+1: the video has {snapped} frames, the last of them the end image."
        assert notice in comfy_server.log_text()


def test_snapped_length_equals_core_at_the_length_below(comfy_server):
    graph = conditioning_graph(length=12, start=images(1, 1), end=images(2, 1))
    add_core(graph)["core"]["inputs"]["length"] = 9
    comfy_server.run(graph)
    assert_equal(comfy_server, "ours", "core")


def reference_fit(image, width, height, fit, background):
    """Fit [1, height, width, 3] coded apart from the product, for pictures that need no resampling."""
    have_height, have_width = image.shape[1:3]
    canvas = torch.tensor(background).expand(1, height, width, 3).clone()
    if fit == "pad":
        top, left = (height - have_height) // 2, (width - have_width) // 2
        canvas[:, top : top + have_height, left : left + have_width] = image
        return canvas
    top, left = (have_height - height) // 2, (have_width - width) // 2
    return image[:, top : top + height, left : left + width]


@pytest.mark.parametrize(
    ("fit", "have", "want"), [("crop", (80, 32), (48, 32)), ("crop", (48, 80), (48, 48)), ("pad", (32, 48), (64, 48))]
)
def test_fit_places_the_picture(comfy_server, fit, have, want):
    picture = torch.rand(1, have[1], have[0], 3, generator=torch.Generator().manual_seed(9))
    expected = reference_fit(picture, *want, fit, (1.0, 0.0, 128 / 255))
    width, height = want
    end = images(2, 1, width=width, height=height)
    start = tensor_image(comfy_server, "picture", picture)
    graph = conditioning_graph(width, height, 5, start=start, end=end, fit=fit, background="#ff0080")
    add_core(graph)
    graph["fitted"] = tensor_image(comfy_server, "fitted", expected)
    graph["core"]["inputs"]["start_image"] = ["fitted", 0]
    comfy_server.run(graph)
    assert_equal(comfy_server, "ours", "core")


def test_stretch_keeps_everything(comfy_server):
    """Stretching a picture made of two flat halves keeps both halves, where crop would lose the outer parts."""
    picture = torch.zeros(1, 16, 64, 3)
    picture[:, :, 32:] = 1.0
    expected = torch.zeros(1, 32, 32, 3)
    expected[:, :, 16:] = 1.0
    graph = conditioning_graph(length=5, start=tensor_image(comfy_server, "halves", picture), fit="stretch")
    add_core(graph)
    graph["stretched"] = tensor_image(comfy_server, "stretched", expected)
    graph["core"]["inputs"]["start_image"] = ["stretched", 0]
    comfy_server.run(graph)
    assert_equal(comfy_server, "ours", "core")


def test_size_between_multiples_of_16_repeats_the_edges(comfy_server):
    """54 x 96 is generated at 64 x 96, with the picture untouched in the middle."""
    picture = torch.rand(1, 96, 54, 3, generator=torch.Generator().manual_seed(11))
    expected = torch.cat([picture[:, :, :1].repeat(1, 1, 5, 1), picture, picture[:, :, -1:].repeat(1, 1, 5, 1)], dim=2)
    graph = conditioning_graph(54, 96, 5, start=tensor_image(comfy_server, "exact", picture))
    add_core(graph)
    graph["generated"] = tensor_image(comfy_server, "generated", expected)
    graph["core"]["inputs"].update(width=64, start_image=["generated", 0])
    comfy_server.run(graph)
    assert_equal(comfy_server, "ours", "core")


def test_transparent_png_through_load_image(comfy_server):
    """LoadImage drops alpha from IMAGE, so red pixels hidden under full transparency must not come back."""
    rgba = np.zeros((32, 32, 4), np.uint8)
    rgba[..., 0] = 255
    rgba[:16, :, 3] = 255
    rgba[16:24, :, 3] = 51
    Image.fromarray(rgba).save(comfy_server.base_dir / "input" / "transparent.png")
    alpha = torch.from_numpy(rgba[..., 3:4].astype(np.float32) / 255)
    blue, red = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    # LoadImage's mask is 1 - alpha, so the opacity used is 1 - (1 - alpha).
    opacity = 1.0 - (1.0 - alpha)
    expected = (red * opacity + blue * (1.0 - opacity))[None]
    start = {"class_type": "LoadImage", "inputs": {"image": "transparent.png"}}
    graph = conditioning_graph(length=5, start=start, start_mask=["68", 1], background="#0000ff")
    add_core(graph)
    graph["composited"] = tensor_image(comfy_server, "composited", expected)
    graph["core"]["inputs"]["start_image"] = ["composited", 0]
    comfy_server.run(graph)
    assert_equal(comfy_server, "ours", "core")


def test_opaque_picture_with_its_mask_wired_is_bit_equal_to_core(comfy_server):
    start = {"class_type": "LoadImage", "inputs": {"image": "start.jpg"}}
    graph = conditioning_graph(length=5, start=start, end=images(2, 1), start_mask=["68", 1], end_mask=["68", 1])
    comfy_server.run(add_core(graph))
    assert_equal(comfy_server, "ours", "core")


def test_four_channel_image_is_composited(comfy_server):
    picture = torch.rand(1, 32, 32, 4, generator=torch.Generator().manual_seed(13))
    white = picture[..., :3] * picture[..., 3:] + torch.ones(3) * (1.0 - picture[..., 3:])
    graph = conditioning_graph(length=5, end=tensor_image(comfy_server, "four_channels", picture), background="#ffffff")
    add_core(graph)
    graph["on_white"] = tensor_image(comfy_server, "on_white", white)
    graph["core"]["inputs"]["end_image"] = ["on_white", 0]
    comfy_server.run(graph)
    assert_equal(comfy_server, "ours", "core")
