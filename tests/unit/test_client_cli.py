"""The command line as a process, as far as it goes without a ComfyUI."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner
from wan_flf2v.__main__ import app
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.contract.workflow import load_graph


def cli(*arguments, cwd, **env):
    command = [sys.executable, "-m", "wan_flf2v", *map(str, arguments)]
    # A wide terminal, so that rich does not break usage errors into lines.
    inherited = {name: value for name, value in os.environ.items() if name != "COMFYUI_URL"}
    environment = {**inherited, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8", **env}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", check=False)


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    return tmp_path


def refused(folder, *arguments, start="a.png", code=2):
    done = cli("run", "--start", start, "--end", "b.png", "--prompt", "x", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (code, "")
    return done.stderr.splitlines()


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_params_are_lines_for_programs(tmp_path):
    done = cli("params", "--tsv", cwd=tmp_path)
    assert done.returncode == 0
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(rows) == 10
    assert rows[0] == ["6_text", "Prompt", "a text", "required"]
    assert rows[7] == ["57_steps", "Steps", "an integer from 6 to 20", "20"]


def test_params_are_a_table_for_people_piped_or_not(tmp_path):
    narrow = cli("params", cwd=tmp_path, COLUMNS="80").stdout
    wide = cli("params", cwd=tmp_path, FORCE_COLOR="1").stdout
    for text in (narrow, re.sub(r"\x1b\[[0-9;]*m", "", wide)):
        assert "community/wan-2-2/first-last-frame" in text
        assert "18446744073709551615" in text, "nothing is cut off"
    assert "Number of denoising iterations" in wide


def test_version_and_completion(tmp_path):
    version = re.search(r'^version = "(.+)"', (REPO / "pyproject.toml").read_text("utf-8"), re.MULTILINE)[1]
    assert cli("--version", cwd=tmp_path).stdout == f"wan-flf2v {version}\n"
    named = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell that started these tests may be gone
    script = cli("--show-completion", "bash", cwd=tmp_path, **named).stdout
    assert script.endswith(" wan-flf2v\n"), "of the installed command, however it was called"
    completed = {"_WAN_FLF2V_COMPLETE": "complete_bash", "COMP_WORDS": "wan-flf2v sta", "COMP_CWORD": "1"}
    assert cli(cwd=tmp_path, **completed).stdout.split() == ["status"]


def test_what_is_missing_is_said_in_options(folder):
    done = cli("run", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "--prompt (Prompt) is missing.",
        "--start (Start Image) is missing.",
        "--end (End Image) is missing.",
    ]


def test_every_wrong_key_is_reported(folder):
    keys = ("57_stepz=6", "99_steps=6", "57_steps", "57_positive=x", "57_seed=1")
    lines = refused(folder, *(word for key in keys for word in ("--set", key)))
    listed = "`wan-flf2v params --workflow wan22_flf2v` lists them all."
    assert lines == [
        f'wan22_flf2v has no input "57_stepz". Did you mean 57_steps? {listed}',
        f'wan22_flf2v has no input "99_steps". Did you mean 57_steps or 57_prelude_steps? {listed}',
        '--set "57_steps" is not KEY=VALUE. Write it like 57_steps=12.',
        '57_positive comes from node 67 "First and last frame", so it has no value to set.',
        f'wan22_flf2v has no input "57_seed". Did you mean 57_noise_seed or 57_seed_count? {listed}',
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--set", "6_text=y"), "6_text is given twice (6_text and --prompt). Give it once."),
        (("--set", "68_image=y"), "68_image is given twice (--start and 68_image). Give it once."),
        (("--size", "64x64", "--set", "71_width=64"), "71_width is given twice (71_width and --size (width))."),
        (("--size", "big"), '--size is "big", but must be WIDTHxHEIGHT in pixels, such as 720x1280.'),
        (("--set", "71_widthx71_height=big"), '71_widthx71_height is "big", but must be WIDTHxHEIGHT in pixels'),
        (("--workflow", "wan22_flf2v_loop"), "68_image is given twice (--start and --end). Give it once."),
        (
            ("--workflow", "two.json"),
            "--start: the workflow two.json has several places for it: 68_image, 62_image. Use",
        ),
        (("--workflow", "wan22_flf2v_4_step_lora"), "Did you mean wan22_flf2v_4_steps_lora? Templates: wan22_flf2v, "),
        (("--workflow", "wan22_flf2v_start_image_only"), "--end: the workflow wan22_flf2v_start_image_only has no"),
        (("--workflow", "wan22_flf2v_plan"), "--prompt: the workflow wan22_flf2v_plan has no one place for it. Use"),
        (
            ("--workflow", "ui.json"),
            "--workflow ui.json is a workflow as the editor saves it. A run needs its API form",
        ),
        (("--workflow", "list.json"), "--workflow list.json is not a workflow in API form"),
        (("--workflow", "a.png"), "--workflow a.png cannot be read as JSON"),
    ],
)
def test_what_cannot_be_given_is_said(folder, arguments, message, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "ui.json").write_bytes((REPO / "workflows" / "wan22_flf2v.json").read_bytes())
    (folder / "list.json").write_text('{"1": {"class_type": "LoadImage"}}')
    two = load_graph("wan22_flf2v")
    two["167"] = {**two["67"], "inputs": {**two["67"]["inputs"], "start_image": ["62", 0]}}
    (folder / "two.json").write_text(json.dumps(two))
    done = CliRunner().invoke(app, ["run", "--start", "a.png", "--end", "b.png", "--prompt", "x", *arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in " ".join(done.stderr.splitlines())


def test_a_start_image_alone_needs_no_end():
    given = ["run", "--workflow", "wan22_flf2v_start_image_only", "--prompt", "x"]
    done = CliRunner().invoke(app, given)
    assert done.stderr.splitlines() == ["--start (Start Image) is missing."]
    own_image = CliRunner().invoke(app, [*given, "--set", "68_image=x.png", "--server", "nonsense"])
    assert own_image.stderr.startswith('"nonsense" is not the address of a server'), "nothing is missing"


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("loop", ["--prompt (Prompt)", "--start (Start Image)"]),
        (
            "keyframes",
            ["--prompt (Prompt)", "--start (Start Image)", "--end (End Image)", "63_image (Image on the way)"],
        ),
        (
            "several_images",
            [
                "--prompt (Prompt)",
                "--start (Start Image)",
                "--end (End Image)",
                "63_image (Image 2)",
                "64_image (Image 3)",
            ],
        ),
        ("long_video", ["--prompt (Prompt)", "--start (Start Image)", "--end (End Image)"]),
    ],
)
def test_no_image_of_a_template_is_left_to_it(name, missing):
    done = CliRunner().invoke(app, ["run", "--workflow", f"wan22_flf2v_{name}"])
    lines = done.stderr.splitlines()
    assert [line.partition(" is missing.")[0] for line in lines] == missing
    assert all(line.endswith(f" Give it with --set {line[:8]}=FILE.") for line in lines if not line.startswith("--"))


def test_params_of_a_workflow_are_all_its_inputs():
    rows = CliRunner().invoke(app, ["params", "--workflow", "wan22_flf2v_4_steps_lora", "--tsv"]).stdout.splitlines()
    assert "57_steps\tSampler (two experts, one schedule)\t4" in rows
    assert "91_strength_model\tLoRA, high noise\t1.0" in rows
    assert not any(row.startswith("57_positive") for row in rows)
    assert "no such template" in CliRunner().invoke(app, ["params", "--workflow", "nothing"]).stderr


def test_missing_unreadable_and_huge_image(folder):
    (folder / "text.png").write_text("text")
    Image.new("1", (10000, 10000)).save(folder / "huge.png")
    for name, reason in (
        ("none.png", ": there is no such file"),
        ("text.png", " is not a PNG, JPEG or WebP image"),
        ("huge.png", " has more than 89,478,485 pixels (10000x10000)"),
    ):
        (line,) = refused(folder, start=name)
        assert line.startswith(f"{name}{reason}. ")


def test_output_that_cannot_be_written(folder):
    (folder / "videos").mkdir()
    inside, nowhere = Path("videos") / "out.mp4", Path("none") / "out.mp4"
    assert refused(folder, "-o", "videos") == [f"-o videos is a folder. Name the video file, such as {inside}."]
    assert refused(folder, "-o", nowhere) == [f"-o {nowhere}: there is no folder none. Create it first."]


def test_server_address_and_server_down(folder):
    assert refused(folder, "--server", "localhost") == [
        '"localhost" is not the address of a server. Give one like http://127.0.0.1:8188.'
    ]
    port = closed_port()
    down = [
        f"Cannot reach ComfyUI at http://127.0.0.1:{port} (connection refused). "
        "Start ComfyUI, or give the address where it runs."
    ]
    assert refused(folder, "--server", f"http://user:secret@127.0.0.1:{port}/", code=1) == down
    arguments = ("run", "--start", "a.png", "--end", "b.png", "--prompt", "x")
    assert cli(*arguments, cwd=folder, COMFYUI_URL=f"http://127.0.0.1:{port}").stderr.splitlines() == down


def test_a_server_that_is_not_comfyui(folder):
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        port = re.search(r"port (\d+)", server.stdout.readline())[1]
        (line,) = refused(folder, "--server", f"http://127.0.0.1:{port}", code=1)
        server.terminate()
    assert line == f"ComfyUI at http://127.0.0.1:{port} responded to /system_stats with 404 File not found."
