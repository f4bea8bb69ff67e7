"""``wan-flf2v plan`` as a process against a real ComfyUI."""

import itertools
import json
import re
import subprocess
import sys

import pytest
from PIL import Image
from support.plan_runs import DEFAULTS, plan
from support.preflight_runs import HIGH, LOW, SWAPPED, model_files

BLUE, ORANGE = (0, 114, 178), (230, 159, 0)


@pytest.fixture(scope="module")
def models(comfy_server):
    with model_files(comfy_server) as models:
        yield models


def cli(server, *arguments, cwd):
    command = [sys.executable, "-m", "wan_flf2v", "plan", "--server", server.url, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8", check=False)


def test_the_command_line_prints_the_same(comfy_server, models, tmp_path):
    settings = [argument for key, value in DEFAULTS.items() for argument in ("--set", f"{key}={value}")]
    done = cli(comfy_server, *settings, "-o", "plot.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "The plot is in plot.png.\n")
    text, _ = plan(comfy_server)
    memory = re.compile(r"; \S+ GiB available")
    assert memory.sub("", done.stdout.rstrip("\n")) == memory.sub("", text)
    check_plot(tmp_path / "plot.png")


def check_plot(path):
    """20 steps at shift 8: high before the middle, low after it, the boundary dashed at nine tenths of the height."""
    with Image.open(path) as picture:
        pixels = picture.convert("RGB").load()
    left, top, right, bottom = 70, 70, 930, 470
    curves = {BLUE: [], ORANGE: []}
    for x in range(left, right):
        for y in range(top - 4, bottom):
            if pixels[x, y] in curves:
                curves[pixels[x, y]].append(x)
    middle = (left + right) // 2
    assert min(curves[BLUE]) == left
    assert middle - 8 <= max(curves[BLUE]) <= middle + 8
    assert middle - 8 <= min(curves[ORANGE]) <= middle + 8
    assert max(curves[ORANGE]) >= right - 4
    boundary = bottom - round((bottom - top) * 0.9)
    dark = [pixels[x, boundary] == (34, 34, 34) for x in range(left + 2, right - 80)]
    changes = sum(one != next_ for one, next_ in itertools.pairwise(dark))
    assert changes > 40, "a dashed line"
    assert 0.4 < sum(dark) / len(dark) < 0.8


def test_the_command_line_takes_the_servers_own_files_and_prints_json(comfy_server, models, tmp_path):
    done = cli(comfy_server, "--json", "--set", "steps=4", "--set", "cfg=1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads(done.stdout)
    names = [expert["file"] for expert in made["experts"]]
    assert names == ["demo_wan22_high_noise.safetensors", "demo_wan22_low_noise.safetensors"]
    assert [expert["forwards"] for expert in made["experts"]] == [2, 2]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--set", "stepz=4"], 2, '"stepz=4" does not set an input. Write NAME=VALUE, with one of: model_high_noise,'),
        (["--set", "steps"], 2, '"steps" does not set an input.'),
        (["--set", "steps=few"], 2, 'steps must be an integer from 1 to 10000, got "few".'),
        (
            ["--set", "scheduler=simpel"],
            2,
            'scheduler is "simpel", which this ComfyUI does not offer. Did you mean simple?',
        ),
        (["--set", "width=721"], 1, "width is 721, but must be an even number"),
        (["-o", "none/plot.png"], 2, "there is no folder none. Create it first."),
    ],
)
def test_the_command_line_says_what_is_wrong(comfy_server, tmp_path, arguments, code, message):
    done = cli(comfy_server, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count(message) == 1, "told once, although ComfyUI tells it for each input that the check reads"
    assert "Traceback" not in done.stderr


def test_a_plan_that_cannot_work_ends_with_1(comfy_server, models, tmp_path):
    swap = ("--set", f"model_high_noise={LOW}", "--set", f"model_low_noise={HIGH}")
    done = cli(comfy_server, *swap, cwd=tmp_path)
    assert done.returncode == 1
    assert f"Error       {SWAPPED}" in done.stdout
