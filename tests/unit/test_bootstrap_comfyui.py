"""Which ComfyUI is found, in which order, and what is said when there is none where one was promised."""

import json
import os
import stat
import sys

import pytest
from wan_flf2v.bootstrap.comfyui import find_own_comfyui, pin_for, read_version
from wan_flf2v.bootstrap.console import SetupError


def make_comfyui(folder, version="0.30.0"):
    (folder / "custom_nodes").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text(f'# made by a tool\n\n__version__ = "{version}"\n')
    return folder


@pytest.fixture(autouse=True)
def _no_comfyui_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.fixture
def pack(tmp_path):
    (tmp_path / "pack").mkdir()
    return tmp_path / "pack"


def install_comfy_cli(tmp_path, script):
    """Put a ``comfy`` on PATH that runs these Python lines."""
    comfy = tmp_path / "bin" / "comfy"
    comfy.write_text(f"#!{sys.executable}\nimport sys\n{script}\n")
    comfy.chmod(comfy.stat().st_mode | stat.S_IXUSR)


def test_nothing_found_means_none(pack):
    assert find_own_comfyui(pack) is None


def test_comfyui_path_comes_first(monkeypatch, tmp_path):
    named = make_comfyui(tmp_path / "named", "0.24.0")
    around = make_comfyui(tmp_path / "around")
    pack = around / "custom_nodes" / "pack"
    pack.mkdir()
    monkeypatch.setenv("COMFYUI_PATH", str(named))
    host = find_own_comfyui(pack)
    assert (host.path, host.version, host.managed) == (named, "0.24.0", False)


def test_the_comfyui_around_the_pack_comes_second(tmp_path):
    around = make_comfyui(tmp_path / "around")
    pack = around / "custom_nodes" / "pack"
    pack.mkdir()
    assert find_own_comfyui(pack).path == around


def test_a_folder_called_custom_nodes_elsewhere_is_no_comfyui(tmp_path):
    pack = tmp_path / "custom_nodes" / "pack"
    pack.mkdir(parents=True)
    assert find_own_comfyui(pack) is None


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for comfy-cli is a script with a #! line")
@pytest.mark.parametrize("form", ["sentence", "json"])
def test_comfy_clis_workspace_comes_third(tmp_path, pack, form):
    comfyui = make_comfyui(tmp_path / "work space" / ("long" * 30))
    answers = {
        "sentence": f"Target ComfyUI path: {comfyui}",
        "json": json.dumps({"ok": True, "command": "which", "data": {"workspace_path": str(comfyui)}}),
    }
    # comfy-cli wraps what it prints at the terminal's width
    script = f"""
import os
assert sys.argv[-1] == "which"
text, width = {answers[form]!r}, int(os.environ.get("COLUMNS", 80))
for start in range(0, len(text), width):
    print(text[start : start + width])
"""
    install_comfy_cli(tmp_path, script)
    assert find_own_comfyui(pack).path == comfyui


@pytest.mark.skipif(os.name != "posix", reason="the stand-in for comfy-cli is a script with a #! line")
@pytest.mark.parametrize(
    "script", ["sys.exit(1)", "print('Target ComfyUI path: /nowhere')", "print('?')", "print('[]')", "print('{}')"]
)
def test_comfy_cli_without_a_workspace_is_passed_over(tmp_path, pack, script):
    install_comfy_cli(tmp_path, script)
    assert find_own_comfyui(pack) is None


def test_comfyui_path_without_a_comfyui_is_an_error(monkeypatch, tmp_path, pack):
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(SetupError) as error:
        find_own_comfyui(pack)
    assert str(tmp_path) in str(error.value)
    assert "but that folder is no ComfyUI: it has no main.py and comfyui_version.py. Correct it" in str(error.value)


@pytest.mark.parametrize(
    ("version", "accepted"), [("0.18.1", False), ("0.3.76", False), ("0.18.2", True), ("1.0", True)]
)
def test_what_is_too_old_is_an_error_with_both_versions(monkeypatch, tmp_path, pack, version, accepted):
    monkeypatch.setenv("COMFYUI_PATH", str(make_comfyui(tmp_path / "comfyui", version)))
    if accepted:
        assert find_own_comfyui(pack).version == version
        return
    with pytest.raises(SetupError, match=rf"version {version}, older than the oldest supported, 0\.18\.2"):
        find_own_comfyui(pack)


def test_a_version_file_without_a_version_is_an_error(tmp_path):
    (tmp_path / "comfyui_version.py").write_text("nothing = 1\n")
    with pytest.raises(SetupError, match="names no __version__"):
        read_version(tmp_path)


def test_an_unknown_version_names_the_known_ones():
    with pytest.raises(SetupError, match=r"0\.1\.0 is not among the pinned versions: 0\.30\.0"):
        pin_for("0.1.0")
