"""Node 73: the file it writes, read back with PyAV."""

import json
import math
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.client_runs import cancelled_graph
from support.demo_graphs import demo_graph
from support.video_graphs import images_graph, latent_graph, read_planes
from wan_flf2v.client.errors import PromptRejectedError, RunFailedError


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
    graph = demo_graph(n71_width=54, n71_height=96, n67_length=5, n57_steps=1, n73_crf=1)
    graph["whole"] = {"class_type": "VAEDecode", "inputs": {"samples": ["57", 0], "vae": ["39", 0]}}
    graph["dump"] = {
        "class_type": "WanFLF2VVideoCombine",
        "inputs": {"images": ["whole", 0], "frame_rate": 16, "filename_prefix": "whole", "crf": 1},
    }
    files = {file.node_id: comfy_server.path(file) for file in comfy_server.run(graph).files}
    cropped, _ = read_planes(files["73"])
    whole, info = read_planes(files["dump"])
    assert info["size"] == (64, 96)
    # 64 - 54 = 10, so 5 columns go on each side: an odd offset, but luma is not subsampled.
    apart = [np.abs(cropped[4][0] - whole[4][0][:, left : left + 54]).mean() for left in range(11)]
    assert np.argmin(apart) == 5
    assert apart[5] < 1.0  # what the encoder changes


def test_resized_latent_is_not_cropped(comfy_server):
    """LatentUpscaleBy keeps the latent's unknown keys, so the size in them no longer fits."""
    graph = demo_graph(n71_width=54, n71_height=96, n67_length=1, n57_steps=1)
    inputs = {"samples": ["57", 0], "upscale_method": "nearest-exact", "scale_by": 2.0}
    graph["up"] = {"class_type": "LatentUpscaleBy", "inputs": inputs}
    graph["73"]["inputs"]["latent"] = ["up", 0]
    (file,) = comfy_server.run(graph).files
    assert read_planes(comfy_server.path(file))[1]["size"] == (128, 192)


def test_values_are_rounded_not_truncated(comfy_server):
    """0.9 of a code above 100 must become 101; truncation would write 100."""
    frames = torch.full((1, 16, 16, 3), 100.9 / 255)
    (file,) = comfy_server.run(images_graph(comfy_server, frames, n73_crf=1)).files
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
    assert "65x33 cropped to 64x32: H.264 stores colour for blocks of 2x2." in comfy_server.log_text()


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


def test_counter_and_tokens_of_the_prefix(comfy_server):
    frames = torch.rand(1, 32, 48, 3)
    names = []
    for seed in (1, 2):
        graph = images_graph(comfy_server, frames, n73_filename_prefix="sub/%width%x%height%", n73_crf=18 + seed)
        (file,) = comfy_server.run(graph).files
        names.append((file.subfolder, file.filename))
    assert names == [("sub", "48x32_00001_.mp4"), ("sub", "48x32_00002_.mp4")]


def test_two_processes_on_one_output_folder_lose_no_clip(comfy_server, new_comfy_server):
    """As with one ComfyUI for each GPU: both count the same files at the same moment."""
    graph = images_graph(comfy_server, torch.rand(3, 32, 48, 3), n73_filename_prefix="shared/clip")
    for crf in range(20, 39):  # another one each: equal nodes would share one file
        graph[f"clip {crf}"] = {**graph["73"], "inputs": {**graph["73"]["inputs"], "crf": crf}}
    folders = [word for name in ("input", "output") for word in (f"--{name}-directory", comfy_server.base_dir / name)]
    with new_comfy_server(*map(str, folders)) as other, ThreadPoolExecutor() as pool:
        results = pool.map(lambda host: host.run(graph).files, (comfy_server, other))
        told = [comfy_server.path(file) for files in results for file in files]
    assert len(told) == 40
    assert sorted(told) == sorted((comfy_server.base_dir / "output" / "shared").iterdir())
    assert {len(read_planes(path)[0]) for path in told} == {3}


def test_a_name_that_no_file_can_have_is_refused_before_sampling(comfy_server):
    """255 bytes on Linux, macOS and Windows; the counter and the extension take 11."""
    fits = images_graph(comfy_server, torch.rand(1, 32, 48, 3), n73_filename_prefix="long/" + "x" * 244)
    (file,) = comfy_server.run(fits).files
    assert len(file.filename) == 255
    with pytest.raises(PromptRejectedError) as error:
        comfy_server.run(demo_graph(n73_filename_prefix="long/" + "x" * 245))
    assert "there can be no such file in the output folder: File name too long. Use another name;" in str(error.value)


def test_the_check_of_a_name_makes_no_folder(comfy_server):
    """ComfyUI checks a prompt without the size that its video will have."""
    output = comfy_server.base_dir / "output"
    with pytest.raises(PromptRejectedError, match="there can be no such file"):
        comfy_server.run(demo_graph(n73_filename_prefix="refused/" + "x" * 245))
    assert not (output / "refused").exists()
    (file,) = comfy_server.run(
        images_graph(comfy_server, torch.rand(1, 32, 48, 3), n73_filename_prefix="of_%width%/a")
    ).files
    assert file.subfolder == "of_48"
    assert [path.name for path in output.glob("of_*")] == ["of_48"]


def test_prefix_cannot_leave_the_output_folder(comfy_server):
    with pytest.raises(PromptRejectedError, match="outside the output folder"):
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


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 16, 16), "images has 0 frames of 16x16 pixels. Connect at least one frame."),
        ((1, 1, 1), "width x height is 1x1, but a video has at least 2x2 pixels (H.264 stores colour for blocks of"),
        ((1, 1, 64), "width x height is 64x1, but a video has at least 2x2 pixels (H.264 stores colour for blocks of"),
    ],
)
def test_images_that_are_no_video_are_refused(comfy_server, shape, message):
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(images_graph(comfy_server, torch.rand(*shape, 3)))
    assert message in str(error.value)


def test_a_latent_without_frames_is_refused(comfy_server):
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(latent_graph(0))
    assert "latent has the shape [1, 16, 0, 6, 8], so no frame. Connect one with frames in it." in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind", "value", "message"),
    [
        ("frame_rate", "Float", 0.0, "frame_rate is 0.0, but must be from 0.1 to 240.0. Give another value."),
        (
            "frame_rate",
            "Float",
            1e9,
            "frame_rate is 1000000000.0, but must be from 0.1 to 240.0. Give another value.",
        ),
        ("crf", "Int", 52, "crf is 52, but must be from 0 to 51. Give another value."),
    ],
)
def test_linked_values_out_of_range_are_refused(comfy_server, name, kind, value, message):
    """ComfyUI looks only at the range of values that are typed in."""
    graph = images_graph(comfy_server, torch.rand(1, 16, 16, 3))
    graph["value"] = {"class_type": f"Primitive{kind}", "inputs": {"value": value}}
    graph["73"]["inputs"][name] = ["value", 0]
    with pytest.raises(RunFailedError) as error:
        comfy_server.run(graph)
    assert message in str(error.value)


def test_crf_0_is_written_so_that_browsers_play_it(comfy_server):
    frames = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(7))
    (file,) = comfy_server.run(images_graph(comfy_server, frames, n73_crf=0)).files
    assert read_planes(comfy_server.path(file))[1]["profile"] == "High"
    assert "crf 0 is lossless, which browsers cannot play: the video is written with crf 1." in comfy_server.log_text()


def test_a_frame_rate_of_ntsc_is_kept_and_shown(comfy_server):
    """The editor shows as many decimals as the input's step has."""
    graph = images_graph(comfy_server, torch.rand(2, 32, 48, 3), n73_frame_rate=23.976)
    (file,) = comfy_server.run(graph).files
    assert read_planes(comfy_server.path(file))[1]["rate"] == 24000 / 1001
    with urllib.request.urlopen(f"{comfy_server.url}/object_info/WanFLF2VVideoCombine", timeout=60) as response:
        options = json.load(response)["WanFLF2VVideoCombine"]["input"]["required"]["frame_rate"][1]
    assert -math.log10(options["step"]) >= 3
    assert options.get("round", 0.001) <= 0.001


def test_cancelled_while_writing_leaves_no_file(comfy_server):
    frames = torch.rand(1, 32, 32, 3).expand(3000, -1, -1, -1)
    graph = images_graph(comfy_server, frames, n73_filename_prefix="cancelled/clip")
    cancelled_graph(comfy_server, graph, "73", 11)
    assert list((comfy_server.base_dir / "output" / "cancelled").iterdir()) == []


@pytest.mark.parametrize("latent_frames", [1, 2, 5])
def test_streamed_and_whole_write_the_same_video(comfy_server, latent_frames):
    decoded = []
    for decode in ("streamed", "whole"):
        graph = latent_graph(latent_frames, n73_decode=decode, n73_crf=1)
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
