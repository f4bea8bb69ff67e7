"""``wan-flf2v report`` as a process on real MP4 files."""

import json
import os
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image
from support.report_files import (
    FRAMES,
    HEIGHT,
    WIDTH,
    panned,
    photographs_with_faults,
    save_ends,
    with_faults,
    write_video,
)
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.quality.video_file import open_video


def cli(*arguments, cwd, **env):
    command = [sys.executable, "-m", "wan_flf2v", "report", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8", **env}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    frames = panned()
    save_ends(folder, frames)
    write_video(folder / "good.mp4", frames)
    write_video(folder / "bad.mp4", with_faults(frames))
    (folder / "text.mp4").write_text("no video")
    (folder / "text.png").write_text("no image")
    content = (folder / "good.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(content[: len(content) // 2])
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    return folder


def test_a_good_video_passes(folder):
    done = cli("good.mp4", "start.png", "end.png", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == f"Video       {WIDTH}x{HEIGHT}; {FRAMES} frames at 16 fps, 2.00 s"
    assert lines[1].startswith("First       start image: PSNR ")
    assert lines[-1] == "Verdict     pass: the ends match their images, nothing wrong in between"


@pytest.mark.pictures
def test_the_example_of_the_readme(tmp_path):
    """Makes its picture, docs/report.png."""
    images = [REPO / "demo" / "images" / name for name in ("start.jpg", "end.jpg")]
    write_video(tmp_path / "video.mp4", photographs_with_faults(*images), crf=19)
    done = cli("video.mp4", *images, "-o", REPO / "docs" / "report.png", cwd=tmp_path)
    assert done.stdout in (REPO / "README.md").read_text("utf-8"), done.stdout


def test_segments_that_share_frames(folder):
    done = cli("good.mp4", "--segments", 2, "--shared-frames", 5, "--json", cwd=folder)
    assert [seam["frame"] for seam in json.loads(done.stdout)["seams"]] == [18], "of 33 frames each segment adds 14"


def test_what_is_wrong_is_said_and_ends_with_1(folder):
    done = cli("bad.mp4", "start.png", "end.png", "-o", "plot.png", cwd=folder)
    assert (done.returncode, done.stderr) == (1, "The plot is in plot.png.\n")
    found = [line.removeprefix("Finding     ") for line in done.stdout.splitlines() if line.startswith("Finding")]
    assert found[0].startswith("1 flash: frame 8 (0.50 s) by +1")
    assert found[1:] == [
        "1 frame repeats the one before: frame 15 (0.94 s).",
        "The picture stands still: frames 20 to 25 (1.25 s).",
    ]
    assert "Verdict     3 findings: flash, duplicate, freeze" in done.stdout
    with Image.open(folder / "plot.png") as plot:
        assert (plot.size, plot.mode) == ((1280, 900), "RGB")
        colours = {colour for _, colour in plot.getcolors(1 << 24)}
    assert {(230, 159, 0), (86, 180, 233), (0, 114, 178)} <= colours, "flash, duplicate and freeze are marked"


def test_json(folder):
    done = cli("bad.mp4", "start.png", "end.png", "--json", cwd=folder)
    made = json.loads(done.stdout)
    assert made["verdict"] == "findings"
    assert made["video"] == {"width": WIDTH, "height": HEIGHT, "frames": FRAMES, "frame_rate": 16, "seconds": 2}
    assert (made["duplicates"], made["freezes"]) == ([[15, 16]], [[20, 26]])
    assert [finding["kind"] for finding in made["findings"]] == ["flash", "duplicate", "freeze"]
    assert len(made["luma"]) == len(made["motion"]) == len(made["times"]) == FRAMES
    assert made["start"]["psnr"] > 30
    assert made["thresholds"]["freeze_frames"] == 4


def test_either_image_may_be_missing(folder):
    only_start = json.loads(cli("good.mp4", "start.png", "--json", cwd=folder).stdout)
    only_end = json.loads(cli("good.mp4", "-", "end.png", "--json", cwd=folder).stdout)
    none = json.loads(cli("good.mp4", "--json", cwd=folder).stdout)
    assert [made["start"] is None for made in (only_start, only_end, none)] == [False, True, True]
    assert [made["end"] is None for made in (only_start, only_end, none)] == [True, False, True]
    assert none["verdict"] == "pass"


def test_thresholds_fit_and_background(folder):
    done = cli("good.mp4", "start.png", "end.png", "--set", "psnr=90", cwd=folder)
    assert done.returncode == 1
    assert "The first frame is not the start image: PSNR is " in done.stdout
    Image.new("RGBA", (50, 50), (255, 0, 0, 0)).save(folder / "clear.png")
    green = np.full((HEIGHT, WIDTH, 3), (0, 255, 0), np.uint8)
    write_video(folder / "green.mp4", [green] * 3)
    done = cli("green.mp4", "clear.png", "--background", "#00ff00", "--fit", "pad", "--json", cwd=folder)
    assert json.loads(done.stdout)["start"]["psnr"] > 40


@pytest.mark.parametrize("size", [(640, 360), (1280, 720)])
@pytest.mark.parametrize("tagged", [True, False])
def test_colours_are_read_as_players_show_them(tmp_path, size, tagged):
    """Tagged files by their matrix; untagged ones by BT.709 from 720 lines on, else by BT.601."""
    colours = ((200, 40, 60), (30, 180, 90), (40, 60, 210), (128, 128, 128))
    path = tmp_path / "flat.mp4"
    frames = [np.full((size[1], size[0], 3), colour, np.uint8) for colour in colours]
    if tagged:
        write_video(path, frames)
    else:
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=16)
            stream.width, stream.height, stream.pix_fmt, stream.options = *size, "yuv420p", {"crf": "0"}
            for frame in frames:
                matrix = "ITU709" if size[1] >= 720 else "ITU601"
                picture = av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="yuv420p", dst_colorspace=matrix)
                picture.colorspace = 2  # of H.273: not named
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    with open_video(path) as video:
        read = [picture for _, picture in video.frames]
    for picture, colour in zip(read, colours, strict=True):
        assert np.abs(picture.astype(int) - colour).max() <= 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.mp4", "start.png"], "none.mp4: there is no such file. Give the path of a video."),
        (["text.mp4", "start.png"], "text.mp4 cannot be read as a video: "),
        (["cut.mp4", "start.png"], "cut.mp4 cannot be read as a video: "),
        (["sound.mp4", "start.png"], "sound.mp4 has no pictures in it. Give a video file, such as an MP4."),
        (["good.mp4", "none.png"], "none.png: there is no such file. Give the path of an image."),
        (["good.mp4", "-", "text.png"], "text.png is not a PNG, JPEG or WebP image."),
        (["good.mp4", "--set", "psnt=3"], '"psnt=3" does not set a threshold. Write NAME=VALUE, with one of: psnr, '),
        (["good.mp4", "--set", "psnr=high"], 'psnr is "high", but must be a number, such as 22.0.'),
        (["good.mp4", "--set", "flash_frames=1.5"], 'flash_frames is "1.5", but must be a whole number, such as 3.'),
        (["good.mp4", "--set", "ssim=2"], "ssim is 2, but must be from -1 to 1. The default is 0.7."),
        (["good.mp4", "--fit", "zoom"], '--fit is "zoom", but must be one of: crop, pad, stretch.'),
        (["good.mp4", "--background", "red"], "--background is 'red', but must be a colour like #000000"),
        (["good.mp4", "-o", "none/plot.png"], "there is no folder none. Create it first."),
    ],
)
def test_what_cannot_be_judged_ends_with_2(folder, arguments, message):
    done = cli(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_not_installed_is_named(folder):
    (folder / "block" / "av").mkdir(parents=True, exist_ok=True)
    (folder / "block" / "av" / "__init__.py").write_text("raise ModuleNotFoundError(name='av')")
    done = cli("good.mp4", cwd=folder, PYTHONPATH=str(folder / "block"))
    assert done.returncode == 2
    assert done.stderr == "av is not installed, but report needs it: pip install 'wan-flf2v[report]'.\n"
