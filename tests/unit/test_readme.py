"""The README's facts that the code knows too."""

import re

from wan_flf2v.bootstrap.comfyui import DEFAULT_VERSION, OLDEST_SUPPORTED
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.hosted_api import DEFAULT_PORT, HostedApi
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.validation import allowed

README = (REPO / "README.md").read_text(encoding="utf-8")


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


def test_the_gateways_address_is_its_default():
    assert "wan-flf2v serve --comfyui http://127.0.0.1:8188 " in README
    assert f"# {HostedApi.example}\n" in README
    assert f"Port {DEFAULT_PORT}, since 8189" in README


def test_linked_files_exist():
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", README):
        assert (REPO / target).exists(), target
