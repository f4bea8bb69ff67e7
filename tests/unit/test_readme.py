"""The README's facts that the code knows too."""

import re

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from wan_flf2v.__main__ import app
from wan_flf2v.benchmarks._rule import high_noise_steps
from wan_flf2v.bootstrap.comfyui import DEFAULT_VERSION, OLDEST_SUPPORTED
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.hosted_api import DEFAULT_PORT, HostedApi
from wan_flf2v.contract.downloads import VARIANTS
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.validation import allowed
from wan_flf2v.gateway.http.metrics import Metrics
from wan_flf2v.gateway.jobs.records import STATUSES, WorkerState
from wan_flf2v.preflight.model_files import WAN_14B

README = (REPO / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
FIGURES = (REPO / "benchmarks" / "README.md").read_text(encoding="utf-8")


def test_it_begins_with_a_moving_picture_five_lines_and_the_two_commands():
    first, commands, *_ = README.split("\n## ")
    pictures, lines = re.findall(r"!\[[^]]+\]\((.+)\)", first), first[first.index("\n- ") :].strip().splitlines()
    assert pictures[:2] == ["docs/gallery.webp", "docs/contact_sheet.jpg"]
    assert [line[:4] for line in lines] == ["- **"] * 5
    assert re.findall(r"^python3 run.py (\w+)", commands, re.MULTILINE) == ["demo", "test"]


def test_the_parameter_table_is_the_contract():
    rows = re.findall(r"^\| `(\w+_\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", README, re.MULTILINE)
    expected = [
        (
            parameter.key,
            parameter.title,
            allowed(parameter).replace('"', "`"),
            "required" if parameter.required else f"`{parameter.default}`",
        )
        for parameter in HOSTED.parameters
    ]
    assert rows == expected


def test_versions_are_those_of_the_tests():
    assert f"ComfyUI {OLDEST_SUPPORTED} or newer: tested on {OLDEST_SUPPORTED} to {DEFAULT_VERSION}" in README
    assert f"ComfyUI {OLDEST_SUPPORTED} and {DEFAULT_VERSION}" in README
    assert f"managed copy of {DEFAULT_VERSION}" in README
    (by_hand,) = re.findall(r"Checked once on ([0-9.]+),", README)
    assert f"Nothing newer than {DEFAULT_VERSION} is there; {by_hand} was checked by hand." in CONTRIBUTING


def test_the_difference_from_the_stock_template_is_the_measured_one():
    (measured,) = re.findall(r"^\| `sampler` \| `half_rel_diff` \(20 steps, shift 5\) \| ([0-9.]+) \|", FIGURES, re.M)
    told = (
        f"at shift 5 it gives {high_noise_steps(20, 5, 'simple')} of 20 steps to the high-noise expert, the template 10"
    )
    text = " ".join(README.split())
    assert told in text
    assert f"on the demo's models their latents by {float(measured) * 100:.0f} %. *handover* = *half* gives" in text


def test_the_gateways_address_is_its_default():
    assert "wan-flf2v serve --comfyui http://127.0.0.1:8188 " in README
    assert f"# {HostedApi.example}\n" in README
    assert f"Port {DEFAULT_PORT}, since 8189" in README


def test_the_metrics_exist_and_the_autoscalers_knows_the_model():
    statuses, unfinished = dict.fromkeys(STATUSES, 0), {("a/model", "in_queue"): 1}
    rendered = Metrics().render(statuses, unfinished, comfyui_up=True, workers=[WorkerState("http://one")])
    for name in re.findall(r"`(wan_flf2v_\w+)[`{]", README):
        assert f"# TYPE {name} " in rendered, name
    (labels,) = re.findall(r"wan_flf2v_unfinished_requests\{(.+?)\}", README)
    assert f"wan_flf2v_unfinished_requests{{{labels.replace('…', 'a/model')}}} 1" in rendered


PAGES = [REPO / "README.md", *(REPO / "docs").glob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_linked_files_exist(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_their_options_exist(page):
    """Every ``wan-flf2v`` command in a code block or between backticks."""
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    for line in re.findall(r"wan-flf2v ((?!@)[a-z][^`\n#]*)", text):
        command, words = get_command(app), line.split()
        while isinstance(command, TyperGroup) and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if isinstance(command, TyperGroup):
            continue  # prose, such as "the wan-flf2v node pack"
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} <= known | {"--help"}, line


def test_work_and_least_time_by_card_are_computed():
    """For 81 frames: 4 steps make 4 forward passes, 20 steps with guidance 40."""
    page, work = (REPO / "docs" / "memory.md").read_text("utf-8"), {}
    for width, height in ((480, 480), (720, 720), (1280, 720)):
        work[f"{width}×{height}"] = tflop = WAN_14B.forward_tflop(width // 16 * (height // 16) * 21)
        rest = f"{tflop:,.0f} TFLOP | {tflop * 40 / 1e3:.0f} PFLOP | {tflop * 4 / 1e3:.0f} PFLOP |"
        assert re.search(rf"^\| {width}×{height} \| [0-9.]+ GiB \| {re.escape(rest)}$", page, re.MULTILINE)
    cards = re.findall(r"^\| (RTX .+?) \| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert len(cards) == 5
    for card, rate, times in cards:
        least = [tflop * 4 / int(rate) for tflop in work.values()]
        assert times.split(" | ") == [f"{seconds:.0f} s; {seconds / 6:.0f} min" for seconds in least], card


def test_sizes_of_the_variants():
    for name, variant in VARIANTS.items():
        size = f"{sum(file.size for file in variant.files) / 1e9:.1f} GB"
        assert size in README
        assert re.search(rf"^\| {name}\b.*\| {size} \|", (REPO / "docs" / "memory.md").read_text("utf-8"), re.MULTILINE)
