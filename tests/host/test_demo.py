"""The demo as a user runs it: a process, a real ComfyUI, real files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import av
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from wan_flf2v.benchmarks._metrics import nearest_word
from wan_flf2v.benchmarks.fidelity import clips_of_words
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.demo import base
from wan_flf2v.quality.fit import fitted


@pytest.fixture
def demo(project_comfyui, demo_models, tmp_path):
    """Return a function that starts the demo with the models already made; afterwards no server may be left."""
    cache = tmp_path / "cache"
    shutil.copytree(demo_models, cache / "demo" / "models")

    def start(*arguments, **options):
        command = [sys.executable, "-I", "-m", "wan_flf2v.demo", "--comfyui", project_comfyui]
        return subprocess.Popen(
            [*command, "--cache", str(cache), *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    yield start
    assert servers_below(cache) == []


def servers_below(folder):
    """Return the processes that were started with this folder on their command line."""
    return [
        process.pid
        for process in psutil.process_iter(["cmdline"])
        if "main.py" in " ".join(process.info["cmdline"] or []) and str(folder) in " ".join(process.info["cmdline"])
    ]


def fitted_photograph(path):
    """Return an image file as the demo's video should show it, [3, 1, 128, 128], 0...1."""
    with Image.open(path) as image:
        pixels = fitted(np.asarray(image.convert("RGB")), 128, 128, "crop", (0, 0, 0))
    return torch.from_numpy(pixels).float().movedim(-1, 0)[:, None]


def test_demo_makes_the_video_and_the_sheet(demo, tmp_path):
    process = demo("--out", "result", "--prompt", "wipe left")
    output, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors
    with av.open(str(tmp_path / "result" / "demo.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (128, 128, 16)
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert len(frames) == 33
        assert "wipe left" in container.metadata["prompt"]
    assert Image.open(tmp_path / "result" / "demo.png").size == (808, 444)
    ends = [str(base.IMAGES / f"{name}.jpg") for name in ("start", "end")]
    judged = [sys.executable, "-I", "-m", "wan_flf2v", "report", "result/demo.mp4", *ends, "--json"]
    report = json.loads(subprocess.run(judged, cwd=tmp_path, capture_output=True, text=True, check=False).stdout)
    assert report["start"]["psnr"] > 25
    assert report["end"]["psnr"] > 22
    clip = torch.from_numpy(np.stack(frames)).movedim(-1, 0) / 255
    assert nearest_word(clip, clips_of_words(*map(fitted_photograph, ends), len(frames))) == "wipe left"
    assert "33 frames, 128x128, 16 fps, made in " in output
    assert "57 Sampler (two experts, one schedule)" in output
    notices = [
        line for line in (tmp_path / "cache/demo/server.log").read_text().splitlines() if "notice node=57" in line
    ]
    assert len(notices) == 1 and "6 steps: 3 high noise, 3 low noise" in notices[0], "no warning beside the schedule"


@pytest.mark.pictures
def test_the_contact_sheet_of_the_readme(demo, tmp_path):
    """Makes its picture, docs/contact_sheet.jpg: what the demo leaves if nothing is said."""
    process = demo("--out", "result")
    _, errors = process.communicate(timeout=1500)
    assert process.returncode == 0, errors
    with Image.open(tmp_path / "result" / "demo.png") as sheet:
        sheet.save(REPO / "docs" / "contact_sheet.jpg", quality=90, subsampling=0)


def test_bad_image_is_a_reason_and_an_exit_code(demo, tmp_path):
    (tmp_path / "text.png").write_text("not an image")
    process = demo("--start", "text.png", "--end", "text.png")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "text.png is not a PNG, JPEG or WebP image. Give a file of one of these types." in errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--start", "text.png"), "--start and --end go together: give both, or neither for the demo's photographs"),
        (("--gallery", "--prompt", "circle"), "--gallery makes a video for every word: leave out --prompt"),
    ],
)
def test_options_that_do_not_go_together(demo, arguments, message):
    process = demo(*arguments)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 2
    assert message in errors


def test_a_copy_without_the_trained_models_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(base, "MODELS", tmp_path)
    with pytest.raises(FileNotFoundError, match="has no models: this copy of the project is not complete"):
        base.copy_trained_models(tmp_path / "models")


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent another way on Windows")
def test_ctrl_c_leaves_no_server(demo, tmp_path):
    process = demo(start_new_session=True)
    deadline = time.monotonic() + 120
    while not servers_below(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the whole group
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "Stopped." in output
