"""The Report node in graphs of a real ComfyUI, beside the command line on the same file."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.client_runs import cancelled_graph, with_client
from support.demo_graphs import demo_graph
from support.report_files import FRAMES, HEIGHT, WIDTH, panned, save_ends, with_faults, write_video
from support.shown import Shown
from wan_flf2v.client.errors import PromptRejectedError, RunFailedError
from wan_flf2v.client.run import run_graph

SETTINGS = {"frame_rate": 16.0, "fit": "crop", "background": "#000000"}


@pytest.fixture(scope="module")
def files(comfy_server):
    """good.mp4 and bad.mp4 in the input folder, with their ends at three times the size and another shape."""
    folder, frames = comfy_server.base_dir / "input", panned()
    save_ends(folder, frames, scale=3)
    for name in ("start.png", "end.png"):
        with Image.open(folder / name) as image:
            image.crop((0, 20, image.width - 30, image.height)).save(folder / f"other_{name}")
    write_video(folder / "good.mp4", frames)
    write_video(folder / "bad.mp4", with_faults(frames))
    return folder


def report_graph(video=None, start="start.png", end="end.png", **inputs):
    graph = {"1": {"class_type": "WanFLF2VReport", "inputs": {**SETTINGS, **inputs}}}
    if video is not None:
        graph["video"] = {"class_type": "LoadVideo", "inputs": {"file": video}}
        graph["1"]["inputs"]["video"] = ["video", 0]
    for name, image in (("start", start), ("end", end)):
        if image is not None:
            graph[name] = {"class_type": "LoadImage", "inputs": {"image": image}}
            graph["1"]["inputs"][f"{name}_image"] = [name, 0]
    return graph


def reported(server, graph):
    """Return the node's text and its JSON as an object."""

    async def use(client):
        result = await run_graph(client, graph)
        return await client.outputs(result.prompt_id, "1")

    shown = with_client(server, use)
    return shown["text"][0], json.loads(shown["json"][0])


def by_command_line(folder, *arguments):
    command = [sys.executable, "-m", "wan_flf2v", "report", *arguments, "--json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode in (0, 1), done.stderr
    return json.loads(done.stdout)


def images_graph(server, frames, **inputs):
    """Return a graph that judges these frames, a float tensor."""
    save_file({"image": frames.contiguous()}, server.base_dir / "input" / "report_frames.safetensors")
    graph = report_graph(None, None, None, **inputs)
    graph["frames"] = {"class_type": "WanFLF2VTestLoadTensorImage", "inputs": {"name": "report_frames"}}
    graph["1"]["inputs"]["images"] = ["frames", 0]
    return graph


def tensor(frames):
    return torch.from_numpy(np.stack(frames)).float() / 255


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_node_and_command_line_say_the_same(comfy_server, comfy_install, files, fit):
    """So the images are resized alike: here by ComfyUI, there in numpy. An older PyAV places colours otherwise."""
    same_pyav = comfy_install["python"] == sys.executable
    images = ("other_start.png", "other_end.png")
    _, made = reported(comfy_server, report_graph("good.mp4", *images, fit=fit, background="#336699"))
    told = by_command_line(files, "good.mp4", *images, "--fit", fit, "--background", "#336699")
    for end in ("start", "end"):
        assert made[end]["psnr"] == pytest.approx(told[end]["psnr"], abs=1e-3 if same_pyav else 0.5)
        assert made[end]["ssim"] == pytest.approx(told[end]["ssim"], abs=1e-5 if same_pyav else 0.05)
        assert made[end]["delta_e"] == pytest.approx(told[end]["delta_e"], abs=1e-3 if same_pyav else 1.0)
    for key in ("video", "flashes", "duplicates", "freezes", "cuts", "times"):
        assert made[key] == told[key], key
    for key in ("luma", "motion"):
        assert made[key] == (told[key] if same_pyav else pytest.approx(told[key], abs=0.005)), key


def test_what_is_wrong_is_said(comfy_server, files):
    text, made = reported(comfy_server, report_graph("bad.mp4"))
    assert [finding["kind"] for finding in made["findings"]] == ["flash", "duplicate", "freeze"]
    assert (made["duplicates"], made["freezes"]) == ([[15, 16]], [[20, 26]])
    assert "frame 15" in text and "3 findings" in text
    _, strict = reported(comfy_server, report_graph("bad.mp4", freeze_frames=7, flash=0.5))
    assert (strict["freezes"], strict["flashes"], strict["duplicates"]) == ([], [], [[15, 16], [20, 26]])


def test_images_are_judged_as_their_video_is(comfy_server, files):
    frames = with_faults(panned())
    _, made = reported(comfy_server, images_graph(comfy_server, tensor(frames), frame_rate=8.0))
    assert [finding["kind"] for finding in made["findings"]] == ["flash", "duplicate", "freeze"]
    assert made["video"] == {"width": WIDTH, "height": HEIGHT, "frames": FRAMES, "frame_rate": 8, "seconds": 4}
    assert (made["start"], made["end"]) == (None, None)


def test_a_video_made_of_images_is_not_encoded(comfy_server, files):
    graph = images_graph(comfy_server, tensor(panned()))
    graph["video"] = {"class_type": "CreateVideo", "inputs": {"images": ["frames", 0], "fps": 12.0}}
    graph["1"]["inputs"]["video"] = ["video", 0]
    del graph["1"]["inputs"]["images"]
    graph |= {key: node for key, node in report_graph().items() if key != "1"}
    graph["1"]["inputs"] |= {"start_image": ["start", 0], "end_image": ["end", 0]}
    _, made = reported(comfy_server, graph)
    assert made["video"]["frame_rate"] == 12
    assert made["end"]["psnr"] == 100, "the frames are the images themselves"
    assert made["verdict"] == "pass"


@pytest.mark.parametrize("start_time", [0.75, -1.3125])  # below 0: from the end, of 33 frames
def test_a_trimmed_video_is_judged_where_it_is(comfy_server, files, start_time):
    graph = report_graph("bad.mp4", None, None)
    part = {"video": ["video", 0], "start_time": start_time, "duration": 0.5, "strict_duration": False}
    graph["part"] = {"class_type": "Video Slice", "inputs": part}
    graph["1"]["inputs"]["video"] = ["part", 0]
    _, made = reported(comfy_server, graph)
    assert (made["video"]["frames"], made["times"][0], made["duplicates"]) == (8, 0, [[3, 4]])


def test_the_video_of_video_combine(comfy_server, files):
    """From sampler to report in one graph; the tiny models' video is noise, and is not its images."""
    graph = demo_graph(n67_length=9, n71_width=64, n71_height=64, n73_frame_rate=12)
    images = {"start_image": ["68", 0], "end_image": ["62", 0]}
    graph["1"] = {"class_type": "WanFLF2VReport", "inputs": {**SETTINGS, "video": ["73", 0], **images}}
    text, made = reported(comfy_server, graph)
    assert made["video"] == {"width": 64, "height": 64, "frames": 9, "frame_rate": 12, "seconds": pytest.approx(2 / 3)}
    assert "The last frame is not the end image: PSNR is " in text


def test_seams_of_segments_and_of_a_loop(comfy_server):
    """Pictures that get brighter by the same step."""
    there = [np.full((32, 32, 3), 20 + 2 * number, np.uint8) for number in range(9)]
    joined = {"segments": 2, "loop": True}
    text, made = reported(comfy_server, images_graph(comfy_server, tensor([*there, *there[-2:0:-1]]), **joined))
    assert ([seam["frame"] for seam in made["seams"]], made["findings"]) == ([8, 0], [])
    assert "of the loop: brightness 1.00, motion 1.00 of the usual step" in text
    _, broken = reported(comfy_server, images_graph(comfy_server, tensor(there), loop=True))
    assert [finding["kind"] for finding in broken["findings"]] == ["seam"]
    assert broken["seams"][0]["brightness"] == pytest.approx(8, abs=0.01)
    _, lenient = reported(comfy_server, images_graph(comfy_server, tensor(there), loop=True, seam=9.0))
    assert lenient["findings"] == []


def test_the_mask_of_a_transparent_image(comfy_server, files):
    rgba = np.dstack([panned()[0], np.full((HEIGHT, WIDTH), 255, np.uint8)])
    rgba[:40, :, 3] = 0
    Image.fromarray(rgba, "RGBA").save(files / "clear.png")
    frame = panned()[0].copy()
    frame[:40] = (51, 102, 153)
    graph = images_graph(comfy_server, tensor([frame] * 3), background="#336699")
    graph["start"] = {"class_type": "LoadImage", "inputs": {"image": "clear.png"}}
    graph["1"]["inputs"] |= {"start_image": ["start", 0], "start_mask": ["start", 1]}
    assert reported(comfy_server, graph)[1]["start"]["psnr"] > 60


def test_of_several_start_and_end_frames_the_outer_ones_count(comfy_server, files):
    graph = images_graph(comfy_server, tensor(panned()))
    graph["1"]["inputs"] |= {"start_image": ["frames", 0], "end_image": ["frames", 0]}
    _, made = reported(comfy_server, graph)
    assert (made["start"]["psnr"], made["end"]["psnr"]) == (100, 100)


def test_outputs_for_other_nodes_and_the_text_on_the_node(comfy_server, files):
    graph = report_graph("bad.mp4")
    kept = {"text": ["1", 0], "json": ["1", 1], "plot": ["1", 2], "name": "kept_report"}
    graph["2"] = {"class_type": "WanFLF2VTestKeep", "inputs": kept}
    shown = Shown(comfy_server, graph).texts
    kept = comfy_server.state("kept_report")
    assert kept["text"].startswith(f"Video       {WIDTH}x{HEIGHT}; {FRAMES} frames at 16 fps, 2.00 s")
    assert json.loads(kept["json"])["verdict"] == "findings"
    assert (kept["shape"], kept["dtype"]) == ([1, 900, 1280, 3], "torch.float32")
    assert shown == [("1", kept["text"])]


def test_cancelled_while_reading_stops_there(comfy_server, files):
    frames = torch.rand(1, 32, 32, 3).expand(6000, -1, -1, -1)
    assert cancelled_graph(comfy_server, images_graph(comfy_server, frames), "1", 20) < 6000


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"background": "blue"}, "background is 'blue', but must be a colour like #000000 (black)"),
        ({"ssim": 1.5}, "ssim"),
        ({"flash_frames": 6}, "flash_frames"),
    ],
)
def test_bad_values_are_refused_when_queued(comfy_server, files, inputs, message):
    with pytest.raises(PromptRejectedError, match=re.escape(message)):
        reported(comfy_server, report_graph("good.mp4", **inputs))


def test_what_cannot_be_judged_is_refused(comfy_server, files):
    with pytest.raises(RunFailedError, match=r"video and images: neither is connected\. Connect one: the video of"):
        reported(comfy_server, report_graph(None))
    graph = images_graph(comfy_server, tensor(panned(2)))
    graph["video"] = {"class_type": "LoadVideo", "inputs": {"file": "good.mp4"}}
    graph["1"]["inputs"]["video"] = ["video", 0]
    with pytest.raises(RunFailedError, match="video and images: both are connected"):
        reported(comfy_server, graph)
    with pytest.raises(RunFailedError, match=r"images has 1 channel\(s\), but must be RGB or RGBA"):
        reported(comfy_server, images_graph(comfy_server, torch.rand(2, 16, 16, 1)))
