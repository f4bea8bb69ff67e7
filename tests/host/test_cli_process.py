"""The command line as a process against a real ComfyUI, at the demo's size."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import av
import pytest
from PIL import Image

IMAGES = Path(__file__).resolve().parents[2] / "demo" / "images"

# The command with the demo's sizes and models: only data differs from what users run.
DEMO_CLI = """
import wan_flf2v.cli.run as cli
from wan_flf2v.__main__ import main
from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.contract.workflow import graph_for

cli.HOSTED = DEMO
cli.load_graph = lambda name: graph_for(DEMO)
main()
"""


def command(server, *arguments, code=None):
    program = ["-m", "wan_flf2v"] if code is None else ["-c", code]
    images = ("--start", IMAGES / "start.jpg", "--end", IMAGES / "end.jpg")
    return [
        sys.executable,
        *program,
        "run",
        *map(str, images),
        "--prompt",
        "a puppy",
        *arguments,
        "--server",
        server.url,
    ]


def run_cli(server, *arguments, cwd, code=None):
    return subprocess.run(
        command(server, *arguments, code=code), cwd=cwd, capture_output=True, encoding="utf-8", check=False
    )


def answer(server, path):
    with urllib.request.urlopen(f"{server.url}/{path}") as response:
        return json.load(response)


def test_a_video_from_two_images_and_a_prompt(comfy_server, tmp_path):
    settings = (
        "--set",
        "67_length=17",
        "--set",
        "57_steps=2",
        "--set",
        "57_cfg=2",
        "--set",
        "73_frame_rate=12",
        "-o",
        "out.mp4",
    )
    (tmp_path / "out.mp4").write_text("an older result that the user named")
    done = run_cli(comfy_server, *settings, cwd=tmp_path, code=DEMO_CLI)
    assert (done.returncode, done.stdout) == (0, "out.mp4\n"), done.stderr
    lines = done.stderr.splitlines()
    assert any("57 Sampler" in line for line in lines)
    assert lines[0].startswith(
        "Warning: cfg is 2, but demo_wan22_high_noise.safetensors (model_high_noise) looks made for"
    )
    assert re.fullmatch(r"Done in \d+\.\d s\.", lines[-1])
    with av.open(tmp_path / "out.mp4") as video:
        stream = video.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (128, 128, 12)
        assert sum(1 for _ in video.decode(stream)) == 17
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]

    # The same again, from ComfyUI's cache, under the server's name: what lies there is not overwritten.
    again = [run_cli(comfy_server, *settings[:-2], cwd=tmp_path, code=DEMO_CLI) for _ in range(2)]
    first, second = (Path(run.stdout.strip()) for run in again)
    assert re.fullmatch(r"wan_flf2v_\d+_?\.mp4", first.name), again[0].stderr
    assert second.name == f"{first.stem}-2.mp4"
    content = (tmp_path / "out.mp4").read_bytes()
    assert (tmp_path / first).read_bytes() == (tmp_path / second).read_bytes() == content


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process on Windows")
def test_ctrl_c_cancels_this_prompt(comfy_server, tmp_path):
    settings = ("--set", "57_steps=20", "--set", "57_noise_seed=4711", "-o", "out.mp4")
    arguments = command(comfy_server, *settings, code=DEMO_CLI)
    with subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, encoding="utf-8") as process:
        seen = next(line for line in process.stderr if "57 Sampler" in line)
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130, seen + rest
    assert rest.splitlines()[-1] == "Cancelled."
    assert "Traceback" not in rest
    assert answer(comfy_server, "queue") == {"queue_running": [], "queue_pending": []}
    last = list(answer(comfy_server, "history").values())[-1]
    assert last["prompt"][2]["57"]["inputs"]["noise_seed"] == 4711
    assert last["status"]["messages"][-1][0] == "execution_interrupted"
    assert not list(tmp_path.iterdir())


def test_missing_models_are_one_clear_message(comfy_server, tmp_path):
    prompts = comfy_server.log_text().count("got prompt")
    done = run_cli(comfy_server, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    told = [line for line in done.stderr.splitlines() if line.startswith("Node ")]
    assert [line.partition(" needs the model file ")[0] for line in told] == [
        'Node 37 "High-noise expert"',
        'Node 38 "Text encoder"',
        'Node 39 "VAE"',
        'Node 56 "Low-noise expert"',
    ]
    assert "which is not in " in told[1]
    assert str(Path("models") / "text_encoders") in told[1]
    assert comfy_server.log_text().count("got prompt") == prompts, "nothing was queued"
    assert "Traceback" not in done.stderr


def test_a_huge_upload_is_refused_in_words(new_comfy_server, tmp_path):
    path = tmp_path / "noise.png"
    Image.effect_noise((1500, 1500), 100).save(path)
    assert path.stat().st_size > 1 << 20
    with new_comfy_server("--max-upload-size", "1") as server:
        done = run_cli(server, "--start", str(path), cwd=tmp_path, code=DEMO_CLI)
    assert done.returncode == 1
    size = path.stat().st_size >> 20
    assert done.stderr.splitlines()[-1] == f"{path} is larger than ComfyUI takes ({size} MB). Give a smaller file."
