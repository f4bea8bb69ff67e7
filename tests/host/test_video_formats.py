"""Node 73's formats, sound and edits of frames, on a real ComfyUI; the formats themselves are in tests/unit."""

import json
import re
import signal
import sys
import time
import urllib.request
import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.client_runs import with_client
from support.demo_graphs import demo_graph
from support.expert_graphs import add_guided
from support.media import decoded, described, samples
from support.rife import rife_weights
from support.shown import Shown
from support.video_graphs import images_graph, latent_graph, read_planes
from wan_flf2v.client.errors import PromptRejectedError, RunFailedError

RIFE = "tiny_rife.safetensors"
SIZE = (48, 32)


def numbered(count, channels=3):
    """Return frames that tell their number: frame i has the value i / 100."""
    return (torch.arange(count) / 100).view(-1, 1, 1, 1).expand(count, SIZE[1], SIZE[0], channels)


def numbers(host, graph):
    """Run a graph that writes such frames without loss, and return their numbers and the file."""
    (file,) = host.run(graph).files
    path = host.path(file)
    return [round(100 * float(frame.mean()) / 255) for frame in decoded(path, "rgb24", SIZE)], path


def lossless(host, count, **inputs):
    return images_graph(host, numbered(count), n73_format="mkv FFV1", **{f"n73_{key}": v for key, v in inputs.items()})


def shown(host, graph):
    """Run a graph and return what node 73 tells the frontend."""
    result = host.run(graph)
    record = with_client(host, lambda client: client.history(result.prompt_id))
    return record["outputs"]["73"]


def info(host, node="WanFLF2VVideoCombine"):
    with urllib.request.urlopen(f"{host.url}/object_info/{node}", timeout=60) as response:
        return json.load(response).get(node)


@pytest.mark.parametrize("name", ["mp4 H.265 10-bit", "webm VP9", "mov ProRes 422 HQ", "mkv FFV1 16-bit", "gif"])
def test_a_latent_becomes_a_file_of_each_kind(comfy_server, name):
    """Ten and sixteen bits come from the decoder's floats."""
    result = shown(comfy_server, latent_graph(3, n73_format=name, n73_filename_prefix="kinds/clip"))
    (file,) = result["images"]
    assert result["facts"] == [f for f in result["facts"] if f.startswith("64x48, 9 frames, 0.5 s at 16 fps, ")]
    assert result["animated"] == [name != "gif"]
    path = comfy_server.base_dir / "output" / file["subfolder"] / file["filename"]
    assert path.suffix == "." + name.split()[0]
    plays = name in ("webm VP9", "gif")
    (seen,) = result["shown"]
    assert seen == file if plays else seen["type"] == "temp"
    if not plays:
        frames, about = read_planes(comfy_server.base_dir / "temp" / seen["filename"])
        assert (len(frames), about["codec"], about["size"]) == (9, "h264", (64, 48))
    if name == "mkv FFV1 16-bit":
        written = decoded(path, "rgb48le", (64, 48))
        assert len(np.unique(written % 257)) > 200  # more than bytes hold


def test_the_default_is_what_it_always_was(comfy_server):
    described_inputs = info(comfy_server)["input"]
    assert list(described_inputs["required"]) == ["frame_rate", "filename_prefix", "crf"]
    assert list(described_inputs["optional"])[:6] == ["latent", "vae", "images", "width", "height", "decode"]
    assert list(described_inputs["optional"])[7:19] == [
        "format", "quality", "preset", "dither", "save_output", "save_metadata", "skip_first_frames",
        "skip_last_frames", "ping_pong", "loop_count", "hold_fps", "multiplier",
    ]  # fmt: skip
    options = described_inputs["optional"]["format"]
    offered = options[1]["options"] if options[0] == "COMBO" else options[0]
    assert offered[0] == "mp4 H.264"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mp4 H.265 NVENC", "hevc_nvenc does not work on this machine"),
        ("video/h264-mp4", "must be one of: mp4 H.264, "),
    ],
)
def test_a_format_that_is_not_there_is_refused_before_sampling_with_the_nearest(comfy_server, name, message):
    if "NVENC" in name and name in str(info(comfy_server)):
        pytest.skip("NOT RUN: this machine has the encoder")
    with pytest.raises(PromptRejectedError) as error:
        comfy_server.run(demo_graph(n73_format=name))
    assert message in str(error.value)
    assert re.search(r"Use 'mp4 H\.26\d'", str(error.value))


FORMATS = [
    "mp4 H.264", "mp4 H.264 4:4:4", "mp4 H.264 10-bit", "mp4 H.265", "mp4 H.265 10-bit", "mp4 AV1", "webm AV1",
    "webm VP9", "mov ProRes 422 HQ", "mov ProRes 4444", "mkv FFV1", "mkv FFV1 16-bit", "gif", "webp", "png sequence",
    "png sequence 16-bit",
]  # fmt: skip


def in_formats(graph, names):
    """Let node 73 write a file in each of these formats, in one run; return the graph."""
    for number, name in enumerate(names):
        graph[f"format_{number}"] = {"class_type": "PrimitiveString", "inputs": {"value": name}}
    inputs = {f"inputs.input{number}": [f"format_{number}", 0] for number in range(len(names))}
    graph["formats"] = {"class_type": "CreateList", "inputs": inputs}
    graph["73"]["inputs"]["format"] = ["formats", 0]
    return graph


@pytest.mark.parametrize("names", [FORMATS[::2], FORMATS[1::2]], ids=["even", "odd"])
def test_one_frame_of_an_odd_size_in_every_format_of_one_run(comfy_server, names):
    """Formats that share colour between pixels lose a row or a column; each file is shown, by a copy if it must."""
    frame = torch.rand(1, 67, 69, 3, generator=torch.Generator().manual_seed(2))
    graph = images_graph(comfy_server, frame, n73_filename_prefix="odd/clip")
    told = shown(comfy_server, in_formats(graph, names))
    assert len(told["images"]) == len(told["shown"]) == len(told["facts"]) == len(names)
    for name, file, seen, facts in zip(names, told["images"], told["shown"], told["facts"], strict=True):
        is_rgb = not {"mp4", "mov", "webm"} & set(name.split())
        width = 69 if is_rgb or "4:4:4" in name or "4444" in name else 68
        height = 67 if width == 69 or "422" in name else 66
        assert facts.startswith(f"{width}x{height}, 1 frames, 0.06 s at 16 fps, "), (name, facts)
        path = comfy_server.base_dir / "output" / file["subfolder"] / file["filename"]
        assert f"{width}x{height}" in described(path), name
        plays = name in ("mp4 H.264", "mp4 AV1", "webm AV1", "webm VP9")
        assert seen == file if plays else seen["type"] == "temp"
        if not plays:
            assert len(read_planes(comfy_server.base_dir / "temp" / seen["filename"])[0]) == 1
    assert told["animated"] == [True] * len(names)  # all are videos


def test_gif_and_webp_are_shown_as_they_are(comfy_server):
    """As pictures, without a copy, if nothing but pictures is written."""
    told = shown(comfy_server, in_formats(images_graph(comfy_server, numbered(2)), ["gif", "webp"]))
    assert told["shown"] == told["images"]
    assert told["animated"] == [False, True]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"ping_pong": True}, [0, 1, 2, 3, 4, 3, 2, 1]),
        ({"skip_first_frames": 1, "skip_last_frames": 1}, [1, 2, 3]),
        ({"loop_count": 2, "skip_last_frames": 1}, [0, 1, 2, 3] * 2),
        ({"loop_count": 2, "ping_pong": True, "skip_last_frames": 2}, [0, 1, 2, 1] * 2),
        ({"hold_fps": 32.0}, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]),
        ({"hold_fps": 8.0}, [0, 2, 4][:2]),
        ({"hold_fps": 24.0}, [0, 0, 1, 2, 2, 3, 4, 4]),
    ],
)
def test_frames_that_are_kept_shown_again_and_held(comfy_server, inputs, expected):
    written, path = numbers(comfy_server, lossless(comfy_server, 5, **inputs))
    assert written == expected
    rate = Fraction(inputs.get("hold_fps", 16.0))
    with av.open(str(path)) as container:
        assert container.streams.video[0].average_rate == rate


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["mkv FFV1", "gif", "webp", "png sequence", "mp4 H.264"])
def test_one_and_two_frames_there_and_back(comfy_server, count, name):
    graph = images_graph(comfy_server, numbered(count), n73_format=name, n73_ping_pong=True, n73_hold_fps=40.0)
    files = comfy_server.run(graph).files
    assert len(files) == (round(count * 2.5) if name == "png sequence" else 1)


def test_skipping_everything_is_refused(comfy_server):
    with pytest.raises(
        RunFailedError, match="skip_first_frames is 3 and skip_last_frames 2, but the video has 5 frames"
    ):
        comfy_server.run(lossless(comfy_server, 5, skip_first_frames=3, skip_last_frames=2))


@pytest.mark.sweep
def test_ten_thousand_frames(comfy_server):
    """There and back, so that they also go through the spool."""
    frames = torch.arange(5001).remainder(256).div(255).view(-1, 1, 1, 1).expand(-1, 16, 16, 3)
    graph = images_graph(comfy_server, frames, n73_ping_pong=True, n73_preset="ultrafast")
    (file,) = comfy_server.run(graph).files
    with av.open(str(comfy_server.path(file))) as container:
        assert sum(packet.size > 0 for packet in container.demux(video=0)) == 10_000


@pytest.mark.parametrize(("through_a_link", "error"), [(False, PromptRejectedError), (True, RunFailedError)])
@pytest.mark.parametrize(("name", "most"), [("gif", 50), ("webp", 90)])
def test_what_is_faster_than_browsers_show_is_refused(comfy_server, name, most, through_a_link, error):
    """Before anything runs, if the rate is typed."""
    graph = images_graph(comfy_server, numbered(3), n73_format=name, n73_frame_rate=120.0)
    if through_a_link:
        graph["rate"] = {"class_type": "PrimitiveFloat", "inputs": {"value": 120.0}}
        graph["73"]["inputs"]["frame_rate"] = ["rate", 0]
    said = rf"120 frames per second, but a {name} shows {most} at most\. Set hold_fps to {most}"
    with pytest.raises(error, match=said):
        comfy_server.run(graph)


def test_a_webp_larger_than_its_format_is_refused(comfy_server):
    graph = images_graph(comfy_server, torch.zeros(1, 16, 16384, 3), n73_format="webp")
    with pytest.raises(
        RunFailedError, match=r"16384x16, but webp takes at most 16383x16383 pixels\. Use a smaller size"
    ):
        comfy_server.run(graph)


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ({"n73_frame_rate": 0.0}, "frame_rate is 0.0, but must be from 0.1 to 240.0. Give another value."),
        ({"n73_hold_fps": -1.0}, "hold_fps is -1.0, but must be from 0.1 to 240.0. Give another value."),
    ],
)
def test_rates_that_are_typed_out_of_range_are_refused_before_anything_runs(comfy_server, rates, message):
    with pytest.raises(PromptRejectedError, match=re.escape(message)):
        comfy_server.run(images_graph(comfy_server, numbered(3), **rates))


@pytest.mark.parametrize(("through_a_link", "error"), [(False, PromptRejectedError), (True, RunFailedError)])
def test_a_quality_of_another_encoder_is_refused(comfy_server, through_a_link, error):
    """Before anything runs, if the value is typed."""
    graph = images_graph(comfy_server, numbered(3), n73_format="mp4 H.265", n73_quality=80)
    if through_a_link:
        graph["quality"] = {"class_type": "PrimitiveInt", "inputs": {"value": 80}}
        graph["73"]["inputs"]["quality"] = ["quality", 0]
    with pytest.raises(error, match=r"quality is 80, but mp4 H\.265 takes 0 to 51, or -1 for its default"):
        comfy_server.run(graph)


def test_png_sequence_is_a_folder_and_the_video_output_says_why_it_cannot_be(comfy_server):
    graph = images_graph(
        comfy_server, numbered(3, 4), n73_format="png sequence", n73_filename_prefix="pngs/clip", n73_hold_fps=8.0
    )
    files = comfy_server.run(graph).files
    assert [(file.subfolder, file.filename) for file in files] == [
        ("pngs/clip_00001_", "00001.png"), ("pngs/clip_00001_", "00002.png"),
    ]  # fmt: skip
    assert Image.open(comfy_server.path(files[0])).mode == "RGBA"
    again = {**graph, "parts": {"class_type": "GetVideoComponents", "inputs": {"video": ["73", 0]}}}
    again["out"] = {"class_type": "SaveImage", "inputs": {"images": ["parts", 0], "filename_prefix": "x"}}
    with pytest.raises(AssertionError, match=r"cannot read png sequence\. Choose another format"):  # what the app shows
        Shown(comfy_server, again)


def test_everything_is_readable_in_the_file_and_the_switch_turns_it_off(comfy_server):
    whole = demo_graph(n67_length=5, n57_steps=2, n57_noise_seed=77, n73_format="webm VP9")
    (file,) = comfy_server.run(whole, workflow={"nodes": []}).files
    facts = json.loads(re.search(r"wan_flf2v +: (\{.*)", described(comfy_server.path(file)), re.I)[1])
    with urllib.request.urlopen(f"{comfy_server.url}/system_stats", timeout=60) as response:
        assert facts["comfyui"] == json.load(response)["system"]["comfyui_version"]
    assert (facts["noise_seed"], facts["steps"], facts["handover"]) == (77, 2, "boundary")
    assert (facts["width"], facts["height"], facts["frames"], facts["frame_rate"]) == (64, 64, 5, "16")
    (file,) = comfy_server.run(latent_graph(1, n73_save_metadata=False), workflow={"nodes": []}).files
    assert not {"prompt", "workflow", "wan_flf2v"} & read_planes(comfy_server.path(file))[1]["metadata"].keys()


def facts_of(host, graph):
    """Run a graph and return what its video tells of the run."""
    (file,) = [file for file in host.run(graph).files if file.node_id == "73"]
    return json.loads(re.search(r"wan_flf2v +: (\{.*)", described(host.path(file)), re.I)[1])


def test_a_seed_through_a_link_is_told(comfy_server):
    graph = demo_graph(n67_length=1, n57_steps=2)
    graph["seed"] = {"class_type": "PrimitiveInt", "inputs": {"value": 78}}
    graph["57"]["inputs"]["noise_seed"] = ["seed", 0]
    facts = facts_of(comfy_server, graph)
    assert (facts["noise_seed"], facts["steps"]) == (78, 2)
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    assert facts["wan_flf2v"] == re.search(r'^version = "(.+)"', project, re.M)[1]


def test_the_seed_of_a_guiders_run_is_told(comfy_server):
    graph = add_guided(demo_graph(n67_length=1, n57_steps=2, n57_noise_seed=79, n57_cfg=2.5))
    graph["73"]["inputs"]["latent"] = ["58", 0]
    del graph["57"], graph["dump_stock"]
    facts = facts_of(comfy_server, graph)
    assert {key: facts[key] for key in ("noise_seed", "steps", "cfg", "handover")} == {
        **{"noise_seed": 79, "steps": 2, "cfg": 2.5, "handover": "boundary"}
    }


KEPT_IN = ["mp4 H.264", "webm VP9", "gif", "webp", "png sequence"]


def with_words(host, **inputs):
    """Write a frame in these formats; return in which files each of three words is that tags have."""
    graph = in_formats(images_graph(host, numbered(1), n73_filename_prefix="tags/x", **inputs), KEPT_IN)
    files = host.run(graph, workflow={"nodes": []}).files
    contents = [host.path(file).read_bytes().lower() for file in files]
    return [[word in content for content in contents] for word in (b"prompt", b"workflow", b"wan_flf2v")]


def test_tags_are_in_every_kind_of_file_or_in_none(comfy_server):
    assert with_words(comfy_server) == [[True] * 5] * 3
    assert with_words(comfy_server, n73_save_metadata=False) == [[False] * 5] * 3


def test_disable_metadata_is_honoured_in_every_kind_of_file(new_comfy_server):
    with new_comfy_server("--disable-metadata") as host:
        assert with_words(host) == [[False] * 5] * 3


def test_a_workflow_that_is_too_long_for_a_webm_is_warned_of(comfy_server):
    """As it stands in the file, where a letter of another script has six bytes."""
    for note, warned in (("x" * 400_000, 0), ("中" * 400_000, 1)):
        before = comfy_server.log_text().count("have more than 2 MiB")
        comfy_server.run(images_graph(comfy_server, numbered(1), n73_format="webm VP9"), workflow={"note": note})
        assert comfy_server.log_text().count("have more than 2 MiB") - before == warned


def test_temp_instead_of_output(comfy_server):
    graph = images_graph(comfy_server, numbered(3), n73_save_output=False, n73_filename_prefix="passing/clip")
    (file,) = shown(comfy_server, graph)["images"]
    assert file["type"] == "temp"
    assert (comfy_server.base_dir / "temp" / "passing" / file["filename"]).exists()
    assert not (comfy_server.base_dir / "output" / "passing").exists()


def test_no_number_and_infinity_are_written_as_black_and_white_and_the_log_says_so(comfy_server):
    frames = torch.full((2, SIZE[1], SIZE[0], 3), 0.5)
    frames[0, :, :24], frames[1, :, 24:] = float("nan"), float("inf")
    for name in ("mkv FFV1", "mkv FFV1 16-bit"):
        (file,) = comfy_server.run(images_graph(comfy_server, frames, n73_format=name)).files
        written = decoded(comfy_server.path(file), "rgb24", SIZE)
        assert (written[0, :, :24] == 0).all()
        assert (written[1, :, 24:] == 255).all()
    assert "frames have values that are infinite or no numbers" in comfy_server.log_text()


def test_no_number_in_a_latent_is_black_and_in_alpha_transparent(comfy_server):
    graph = latent_graph(2, n73_format="mkv FFV1")
    broken = torch.full((1, 16, 2, 6, 8), float("nan"))
    latent = {"latent_tensor": broken, "latent_format_version_0": torch.tensor([])}
    save_file(latent, comfy_server.base_dir / "input" / "broken.latent")
    graph["57"] = {"class_type": "LoadLatent", "inputs": {"latent": "broken.latent"}}
    (file,) = comfy_server.run(graph).files
    assert not decoded(comfy_server.path(file), "rgb24", (64, 48)).any()
    frames = numbered(2, 4).clone()
    frames[:, :, :24, 3], frames[:, :, 24:, 3] = float("nan"), float("inf")
    for name in ("mkv FFV1", "mkv FFV1 16-bit"):
        (file,) = comfy_server.run(images_graph(comfy_server, frames, n73_format=name)).files
        alpha = decoded(comfy_server.path(file), "rgba", SIZE)[..., 3]
        assert not alpha[:, :, :24].any()
        assert (alpha[:, :, 24:] == 255).all()


def write_tone(host, seconds, rate=22050):
    wave_form = (np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate) * 16000).astype("<i2")
    with wave.open(str(host.base_dir / "input" / "tone.wav"), "wb") as file:
        file.setparams((1, 2, rate, len(wave_form), "NONE", ""))
        file.writeframes(wave_form.tobytes())
    return {"class_type": "LoadAudio", "inputs": {"audio": "tone.wav"}}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("mp4 H.264", "aac"),
        ("webm VP9", "opus"),
        ("mov ProRes 422 HQ", "pcm_s16le"),
        ("mkv FFV1", "flac"),
    ],
)
def test_sound_is_trimmed_or_filled_up_through_ping_pong(comfy_server, name, said):
    """16 frames there and back are 30, of 1.875 s at 16 a second; the tone lasts 1.2 s."""
    graph = images_graph(comfy_server, numbered(16), n73_format=name, n73_ping_pong=True)
    graph["tone"] = write_tone(comfy_server, 1.2)
    graph["73"]["inputs"]["audio"] = ["tone", 0]
    (file,) = comfy_server.run(graph, workflow={"nodes": []}).files
    path = comfy_server.path(file)
    assert f"Audio: {said}" in described(path)
    assert "workflow" in described(path).lower()
    heard, rate = samples(path)
    assert abs(len(heard) - 1.875 * rate) <= 1024
    loud = np.abs(heard[: len(heard) // 64 * 64, 0]).reshape(-1, 64).max(1) > 0.1
    assert abs(loud.sum() * 64 / rate - 1.2) < 0.03
    assert loud[: int(1.15 * rate / 64)].all()


@pytest.mark.parametrize(
    ("inputs", "pieces"),
    [
        ({"skip_first_frames": 2}, [(2, 8)]),
        ({"loop_count": 2, "skip_last_frames": 4}, [(0, 4), (0, 4)]),
        ({"loop_count": 2, "skip_first_frames": 4, "ping_pong": True}, [(4, 10), (4, 10)]),
    ],
)
def test_sound_goes_with_the_frames_that_are_kept_and_repeated(comfy_server, inputs, pieces):
    """A frame lasts 800 samples; no two of these samples are equal."""
    rate = 12_800
    wave_form = np.arange(-rate, rate // 2).astype("<i2")
    with wave.open(str(comfy_server.base_dir / "input" / "ramp.wav"), "wb") as file:
        file.setparams((1, 2, rate, len(wave_form), "NONE", ""))
        file.writeframes(wave_form.tobytes())
    graph = lossless(comfy_server, 8, audio=["ramp", 0], **inputs)
    graph["ramp"] = {"class_type": "LoadAudio", "inputs": {"audio": "ramp.wav"}}
    (file,) = comfy_server.run(graph).files
    heard, _ = samples(comfy_server.path(file))
    expected = np.concatenate([wave_form[800 * first : 800 * end] for first, end in pieces])
    assert np.array_equal(np.round(heard[:, 0] * 32768), expected)


def test_a_format_without_sound_says_that_it_is_left_out(comfy_server):
    graph = images_graph(comfy_server, numbered(2), n73_format="gif")
    graph["tone"] = write_tone(comfy_server, 0.2)
    graph["73"]["inputs"]["audio"] = ["tone", 0]
    assert len(comfy_server.run(graph).files) == 1
    assert "gif has no sound: audio is left out." in comfy_server.log_text()


@pytest.fixture
def rife(comfy_server):
    """Put a tiny interpolation model with seeded weights where ComfyUI finds it."""
    if info(comfy_server, "FrameInterpolate") is None:
        assert "interp_model" not in info(comfy_server)["input"]["optional"]
        pytest.skip("this ComfyUI has no frame interpolation")
    path = comfy_server.base_dir / "models" / "frame_interpolation" / RIFE
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(rife_weights(), path)
    return {"class_type": "FrameInterpolationModelLoader", "inputs": {"model_name": RIFE}}


@pytest.mark.parametrize(("latent_frames", "multiplier"), [(6, 2), (3, 5)])
def test_interpolation_in_the_stream_is_that_of_comfyuis_node_on_the_whole_clip(
    comfy_server, rife, latent_frames, multiplier
):
    inputs = {"n73_format": "mkv FFV1 16-bit", "n73_multiplier": multiplier}
    streamed = latent_graph(latent_frames, **inputs, n73_filename_prefix="vfi/streamed")
    streamed["model"], streamed["73"]["inputs"]["interp_model"] = rife, ["model", 0]
    whole = latent_graph(latent_frames, n73_format="mkv FFV1 16-bit", n73_filename_prefix="vfi/whole")
    whole["model"] = rife
    whole["decode"] = {"class_type": "VAEDecode", "inputs": {"samples": ["57", 0], "vae": ["39", 0]}}
    whole["more"] = {
        "class_type": "FrameInterpolate",
        "inputs": {"interp_model": ["model", 0], "images": ["decode", 0], "multiplier": multiplier},
    }
    del whole["73"]["inputs"]["latent"], whole["73"]["inputs"]["vae"]
    whole["73"]["inputs"] |= {"images": ["more", 0], "frame_rate": 16.0 * multiplier}
    paths = [comfy_server.path(comfy_server.run(graph).files[0]) for graph in (streamed, whole)]
    ours, node = (decoded(path, "rgb48le", (64, 48)) for path in paths)
    assert len(ours) == (4 * latent_frames - 4) * multiplier + 1
    assert np.array_equal(ours, node)
    assert not np.array_equal(ours[1], ours[0])
    with av.open(str(paths[0])) as container:
        assert container.streams.video[0].average_rate == 16 * multiplier


def test_a_gif_that_its_interpolation_makes_too_fast_is_refused_before_anything_runs(comfy_server, rife):
    graph = latent_graph(1, n73_format="gif", n73_multiplier=4)
    graph["model"], graph["73"]["inputs"]["interp_model"] = rife, ["model", 0]
    with pytest.raises(PromptRejectedError, match=r"64 frames per second, but a gif shows 50 at most\. Set hold_fps"):
        comfy_server.run(graph)
    graph["73"]["inputs"]["hold_fps"] = 25.0
    comfy_server.run(graph)


def test_sound_lasts_as_long_as_the_interpolated_frames(comfy_server, rife):
    """13 frames become 37, of 0.771 s at 48 a second; the tone lasts 1.2 s."""
    graph = latent_graph(4, n73_format="mkv FFV1", n73_multiplier=3)
    graph["model"], graph["73"]["inputs"]["interp_model"] = rife, ["model", 0]
    graph["tone"] = write_tone(comfy_server, 1.2)
    graph["73"]["inputs"]["audio"] = ["tone", 0]
    path = comfy_server.path(comfy_server.run(graph).files[0])
    assert len(decoded(path, "rgb24", (64, 48))) == 37
    heard, rate = samples(path)
    assert len(heard) == pytest.approx(37 / 48 * rate, abs=1)
    assert np.abs(heard[-rate // 20 :]).max() > 0.1


@pytest.mark.skipif(sys.platform == "win32", reason="kills as POSIX does")
def test_what_a_killed_comfyui_leaves_is_removed_at_its_next_start(own_comfy_server):
    host = own_comfy_server
    output = host.base_dir / "output" / "killed"
    frames = torch.rand(1, 32, 32, 3).expand(4000, -1, -1, -1)
    graph = images_graph(host, frames, n73_filename_prefix="killed/clip", n73_format="mp4 H.265")
    body = json.dumps({"prompt": graph}).encode()
    urllib.request.urlopen(f"{host.url}/prompt", body, timeout=60).close()
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(path.stat().st_size for path in output.glob(".~*")):
        time.sleep(0.05)
    host._signal_all(signal.SIGKILL)
    assert len(list(output.iterdir())) == 2  # the name, and the beginning of the file
    host.stop()
    host.start()
    assert list(output.iterdir()) == []
    assert list((host.base_dir / "user" / "wan_flf2v" / "unfinished").iterdir()) == []


@pytest.mark.parametrize(("through_a_link", "error"), [(False, PromptRejectedError), (True, RunFailedError)])
def test_a_file_in_the_place_of_the_folder_is_named(comfy_server, through_a_link, error):
    """Before anything runs, if the name is typed."""
    (comfy_server.base_dir / "output" / "taken").write_bytes(b"a file")
    graph = images_graph(comfy_server, numbered(2), n73_filename_prefix="taken/clip")
    if through_a_link:
        graph["name"] = {"class_type": "PrimitiveString", "inputs": {"value": "taken/clip"}}
        graph["73"]["inputs"]["filename_prefix"] = ["name", 0]
    with pytest.raises(error, match=r"taken.*Not a directory|Not a directory.*taken"):
        comfy_server.run(graph)
    assert (comfy_server.base_dir / "output" / "taken").read_bytes() == b"a file"


@pytest.fixture
def closed_folder(comfy_server):
    """Make a folder in the output folder that nobody can write into, not even root, where there is such a one."""
    folder = comfy_server.base_dir / "output" / "closed"
    if sys.platform == "linux":
        folder.symlink_to("/proc")
        yield folder
        folder.unlink()
    else:
        folder.mkdir(0o500)
        yield folder
        folder.rmdir()


def test_an_output_folder_that_cannot_be_written_is_named_before_anything_runs(comfy_server, closed_folder):
    """Also for a folder that would have to be made there."""
    for prefix in ("closed/clip", "closed/in it/clip"):
        told = rf"filename_prefix is '{prefix}', but no file can be made there: .*closed.* Let the user"
        with pytest.raises(PromptRejectedError, match=told):
            comfy_server.run(images_graph(comfy_server, numbered(2), n73_filename_prefix=prefix))


def test_a_linked_name_that_no_file_can_have_is_named(comfy_server):
    graph = images_graph(comfy_server, numbered(2))
    graph["name"] = {"class_type": "PrimitiveString", "inputs": {"value": "x" * 300}}
    graph["73"]["inputs"]["filename_prefix"] = ["name", 0]
    with pytest.raises(RunFailedError, match=r"filename_prefix is 'x+', but no file can be made there: .*too long"):
        comfy_server.run(graph)
