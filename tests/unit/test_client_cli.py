"""The command line as a process, as far as it goes without a ComfyUI."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from wan_flf2v.bootstrap.paths import REPO


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
    completed = {"_WAN_FLF2V_COMPLETE": "complete_bash", "COMP_WORDS": "wan-flf2v st", "COMP_CWORD": "1"}
    assert cli(cwd=tmp_path, **completed).stdout.split() == ["status"]


def test_what_is_missing_is_said_in_options(folder):
    done = cli("run", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "--prompt (Prompt) is missing.",
        "--start (Start Image) is missing.",
        "--end (End Image) is missing.",
    ]


def test_every_bad_value_is_reported(folder):
    lines = refused(folder, "--set", "57_steps=30", "--set", "67_length=80", "--set", "57_cfg=x", "--set", "6_text=y")
    assert [line.partition(". ")[0] for line in lines] == [
        "57_steps must be an integer from 6 to 20, got 30",
        "67_length must be one of 81, 141, got 80",
        '57_cfg must be a number from 0.6 to 4, got "x" (a text)',
        "6_text is given twice",
    ]


def test_unknown_parameter(folder):
    (line,) = refused(folder, "--set", "57_stepz=6")
    assert line.startswith('"57_stepz" is not a parameter. Did you mean 57_steps (Steps)? All of them: 6_text, ')


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
    assert line == f"ComfyUI at http://127.0.0.1:{port} answered /system_stats with 404 File not found."
