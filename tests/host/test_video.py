"""Node 73: the file it writes, read back with PyAV."""

import json

import numpy as np
import pytest
import torch
from support.client_runs import cancelled_graph
from support.demo_graphs import demo_graph
from support.video_graphs import images_graph, latent_graph, read_planes
from wan_flf2v.client.errors import RunFailedError


def bt709(rgb):
    """Return limited-range Y'CbCr of R'G'B' in 0...255, by ITU-R BT.709's own coefficients."""
    red, green, blue = (rgb[..., i].astype(float) for i in range(3))
    luma = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return 16 + luma * 219 / 255, 128 + (blue - luma) / 1.8556 * 224 / 255, 128 + (red - luma) / 1.5748 * 224 / 255


def halved(plane):
    return plane.reshape(plane.shape[0] // 2, 2, plane.shape[1] // 2, 2).mean(axis=(1, 3))


def test_whole_graph_writes_the_frames_asked_for(comfy_server):
    graph = demo_graph(n67_length=9, n71_width=64, n71_height=48, n73_frame_rate=12, n57_noise_seed=5)
    (file,) = comfy_server.run(graph).files
    assert (file.node_id, file.subfolder) == ("73", "video")
    frames, info = read_planes(comfy_server.path(file))
    assert len(frames) == 9
    assert info["size"] == (64, 48)
    assert info["rate"] == 12
    assert (info["codec"], info["format"]) == ("h264", "yuv420p")
    assert info["tags"] == (1, 1, 1, 1)  # limited range, BT.709 thrice


@pytest.mark.parametrize(("width", "height"), [(54, 96), (96, 54), (18, 34)])
def test_exact_size_comes_out(comfy_server, width, height):
    """The small sisters of 540x960 and 960x540, which the host's nodes turn into 536."""
    graph = demo_graph(n71_width=width, n71_height=height, n67_length=5, n57_steps=1, n54_shift=7.0)
    (file,) = comfy_server.run(graph).files
    frames, info = read_planes(comfy_server.path(file))
    assert info["size"] == (width, height)
    assert len(frames) == 5


def test_hosted_size_540x960_comes_out(comfy_server):
    graph = demo_graph(n71_preset="540x960 (9:16)", n67_length=1, n57_steps=1)
    (file,) = comfy_server.run(graph).files
    assert read_planes(comfy_server.path(file))[1]["size"] == (540, 960)


def test_crop_is_centred(comfy_server):
    """The cropped file shows the middle of the generated one."""
    graph = demo_graph(n71_width=54, n71_height=96, n67_length=5, n57_steps=1, n73_crf=0)
    graph["whole"] = {"class_type": "VAEDecode", "inputs": {"samples": ["57", 0], "vae": ["39", 0]}}
    graph["dump"] = {
        "class_type": "WanFLF2VVideoCombine",
        "inputs": {"images": ["whole", 0], "frame_rate": 16, "filename_prefix": "whole", "crf": 0},
    }
    files = {file.node_id: comfy_server.path(file) for file in comfy_server.run(graph).files}
    cropped, _ = read_planes(files["73"])
    whole, info = read_planes(files["dump"])
    assert info["size"] == (64, 96)
    # 64 - 54 = 10, so 5 columns go on each side: an odd offset, but luma is not subsampled.
    assert np.array_equal(cropped[4][0], whole[4][0][:, 5:59])


def test_resized_latent_is_not_cropped(comfy_server):
    """LatentUpscaleBy keeps the latent's unknown keys, so the size in them no longer fits."""
    graph = demo_graph(n71_width=54, n71_height=96, n67_length=1, n57_steps=1)
    inputs = {"samples": ["57", 0], "upscale_method": "nearest-exact", "scale_by": 2.0}
    graph["up"] = {"class_type": "LatentUpscaleBy", "inputs": inputs}
    graph["73"]["inputs"]["latent"] = ["up", 0]
    (file,) = comfy_server.run(graph).files
    assert read_planes(comfy_server.path(file))[1]["size"] == (128, 192)


def test_colours_are_bt709_and_rounded(comfy_server):
    """Every luma sample is within rounding of BT.709's formula, and nothing leans to one side."""
    generator = torch.Generator().manual_seed(3)
    small = torch.rand(2, 3, 8, 10, generator=generator)
    frames = torch.nn.functional.interpolate(small, size=(64, 80), mode="bilinear").movedim(1, -1)
    graph = images_graph(comfy_server, frames, n73_crf=0)
    (file,) = comfy_server.run(graph).files
    planes, _ = read_planes(comfy_server.path(file))
    for frame, written in zip(frames, planes, strict=True):
        luma, blue, red = bt709(np.round(frame.numpy() * 255))
        assert np.abs(written[0] - luma).max() <= 0.6
        assert abs((written[0] - luma).mean()) < 0.05
        for plane, exact in ((written[1], halved(blue)), (written[2], halved(red))):
            assert abs((plane - exact).mean()) < 0.05
            assert np.abs(plane - exact).max() < 3.0


def test_values_are_rounded_not_truncated(comfy_server):
    """0.9 of a code above 100 must become 101; truncation would write 100."""
    frames = torch.full((1, 16, 16, 3), 100.9 / 255)
    (file,) = comfy_server.run(images_graph(comfy_server, frames, n73_crf=0)).files
    planes, _ = read_planes(comfy_server.path(file))
    assert (planes[0][0] == round(16 + 101 * 219 / 255)).all()


def test_images_are_cropped_to_width_and_height(comfy_server):
    frames = torch.rand(3, 48, 64, 3, generator=torch.Generator().manual_seed(4))
    (file,) = comfy_server.run(images_graph(comfy_server, frames, n73_width=40, n73_height=30)).files
    planes, info = read_planes(comfy_server.path(file))
    assert info["size"] == (40, 30)
    assert len(planes) == 3


def test_odd_images_lose_one_pixel_and_the_log_says_so(comfy_server):
    frames = torch.rand(1, 33, 65, 3, generator=torch.Generator().manual_seed(4))
    (file,) = comfy_server.run(images_graph(comfy_server, frames)).files
    assert read_planes(comfy_server.path(file))[1]["size"] == (64, 32)
    assert "65x33 cropped to 64x32: H.264 needs even sizes." in comfy_server.log_text()


def test_prompt_and_workflow_are_in_the_front_of_the_file(comfy_server):
    graph = demo_graph(n67_length=5, n57_steps=1, n57_noise_seed=6)
    workflow = {"nodes": [], "note": "größer & 中文"}
    (file,) = comfy_server.run(graph, workflow=workflow).files
    path = comfy_server.path(file)
    _, info = read_planes(path)
    assert json.loads(info["metadata"]["workflow"]) == workflow
    assert json.loads(info["metadata"]["prompt"])["57"] == graph["57"]
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_disable_metadata_is_honoured(new_comfy_server):
    with new_comfy_server("--disable-metadata") as host:
        (file,) = host.run(demo_graph(n67_length=5, n57_steps=1), workflow={"nodes": []}).files
        _, info = read_planes(host.path(file))
        assert not {"prompt", "workflow"} & info["metadata"].keys()


def test_counter_and_tokens_of_the_prefix(comfy_server):
    frames = torch.rand(1, 32, 48, 3)
    names = []
    for seed in (1, 2):
        graph = images_graph(comfy_server, frames, n73_filename_prefix="sub/%width%x%height%", n73_crf=18 + seed)
        (file,) = comfy_server.run(graph).files
        names.append((file.subfolder, file.filename))
    assert names == [("sub", "48x32_00001_.mp4"), ("sub", "48x32_00002_.mp4")]


def test_prefix_cannot_leave_the_output_folder(comfy_server):
    with pytest.raises(RunFailedError, match="outside the output folder"):
        comfy_server.run(images_graph(comfy_server, torch.rand(1, 16, 16, 3), n73_filename_prefix="../../escaped"))
    assert not list(comfy_server.base_dir.parent.glob("**/escaped*"))


def test_each_clip_of_a_batch_becomes_a_file(comfy_server):
    files = comfy_server.run(demo_graph(n67_batch_size=2, n67_length=5, n57_steps=1)).files
    assert len(files) == 2
    first, second = (read_planes(comfy_server.path(file))[0] for file in files)
    assert len(first) == len(second) == 5
    assert not np.array_equal(first[4][0], second[4][0])


def test_video_output_is_the_file(comfy_server):
    """The VIDEO output feeds core's video nodes."""
    graph = demo_graph(n67_length=5, n57_steps=1, n73_frame_rate=20)
    graph["parts"] = {"class_type": "GetVideoComponents", "inputs": {"video": ["73", 0]}}
    graph["frames"] = {
        "class_type": "SaveImage",
        "inputs": {"images": ["parts", 0], "filename_prefix": "frame"},
    }
    files = comfy_server.run(graph).files
    assert len([file for file in files if file.node_id == "frames"]) == 5


@pytest.mark.parametrize(
    ("connect", "message"),
    [
        ((), "latent and images: neither is connected. Connect one: a latent with its vae, or images."),
        (("latent", "images"), "latent and images: both are connected. Connect one: a latent with its vae, or images."),
        (("latent",), "vae is not connected, but a latent needs it to become frames. Connect the Load VAE node."),
    ],
)
def test_what_to_connect(comfy_server, connect, message):
    graph = images_graph(comfy_server, torch.rand(1, 16, 16, 3))
    del graph["73"]["inputs"]["images"]
    inputs = {"width": 16, "height": 16, "length": 1, "batch_size": 1}
    graph["empty"] = {"class_type": "EmptyHunyuanLatentVideo", "inputs": inputs}
    for name in connect:
        graph["73"]["inputs"][name] = ["empty" if name == "latent" else "frames", 0]
    if not connect:
        del graph["frames"]
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert message in str(error.value)


def test_larger_than_the_images_is_refused(comfy_server):
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(images_graph(comfy_server, torch.rand(1, 16, 16, 3), n73_width=32))
    assert (
        "width x height is 32x16, but the images have 16x16 pixels and can only be cropped. Use a smaller size, or 0 "
        "to keep theirs."
    ) in str(error.value)


def test_cancelled_while_writing_leaves_no_file(comfy_server):
    frames = torch.rand(1, 32, 32, 3).expand(3000, -1, -1, -1)
    graph = images_graph(comfy_server, frames, n73_filename_prefix="cancelled/clip")
    cancelled_graph(comfy_server, graph, "73", 11)
    assert list((comfy_server.base_dir / "output" / "cancelled").iterdir()) == []


@pytest.mark.parametrize("latent_frames", [1, 2, 5])
def test_streamed_and_whole_write_the_same_video(comfy_server, latent_frames):
    decoded = []
    for decode in ("streamed", "whole"):
        graph = latent_graph(latent_frames, n73_decode=decode, n73_crf=0)
        (file,) = comfy_server.run(graph).files
        frames, _ = read_planes(comfy_server.path(file))
        assert len(frames) == 4 * latent_frames - 3
        decoded.append(frames)
    for streamed, whole in zip(*decoded, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(streamed, whole, strict=True))
    assert "ComfyUI's own decode is used" not in comfy_server.log_text()


def test_cancelled_while_decoding_stops_there_and_leaves_no_file(comfy_server):
    graph = latent_graph(120, 128, 128, n73_filename_prefix="cancelled_decode/clip")
    assert cancelled_graph(comfy_server, graph, "73", 9) < 400
    assert list((comfy_server.base_dir / "output" / "cancelled_decode").iterdir()) == []
