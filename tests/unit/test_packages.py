"""What travels: the registry's archive, the wheel, and the pictures that the registry shows."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from safetensors import safe_open
from support.archive import archive_files, copy_files, tracked_files
from support.gateway_process import NOWHERE
from wan_flf2v.bootstrap.paths import REPO

PROJECT = (REPO / "pyproject.toml").read_text(encoding="utf-8")  # Python 3.10 cannot read TOML
PAGE = (".html", ".css", ".js", ".svg")  # what the API's page is made of
PACKAGES = re.findall(r'"(wan_flf2v[\w.]*)"', PROJECT[PROJECT.index("packages = [") :].partition("]")[0])


def value(key):
    return re.search(rf'^{key} = "(.+)"$', PROJECT, re.MULTILINE)[1]


def test_the_archives_files_are_frozen():
    """A new file of the pack belongs into the list; one that ComfyUI does not need belongs into .comfyignore."""
    frozen = Path(__file__).with_name("archive_files.txt").read_text(encoding="utf-8").splitlines()
    assert archive_files() == frozen, "`.venv/bin/python tests/support/archive.py > tests/unit/archive_files.txt`"


@pytest.mark.slow
def test_comfy_cli_finds_no_fault_and_makes_that_archive(tmp_path):
    """Its `node validate` and `node pack`, on what git tracks."""
    source, env = copy_files(tracked_files(), tmp_path / "source"), {**os.environ, "DO_NOT_TRACK": "1"}
    subprocess.run(["git", "init", "--quiet"], cwd=source, check=True)
    subprocess.run(["git", "add", "--all"], cwd=source, check=True)
    uv = [sys.executable, "-m", "uv", "tool", "run", "--quiet", "--python", sys.executable]
    comfy = [*uv, "--from", "comfy-cli>=1.23,<2", "comfy", "--skip-prompt", "--no-enable-telemetry", "node"]
    for command, end in (("validate", "All validation checks passed"), ("pack", "Created zip file")):
        said = subprocess.check_output([*comfy, command], cwd=source, env=env, text=True, stderr=subprocess.STDOUT)
        assert end in said  # the exit code is 0 with findings too
    with zipfile.ZipFile(source / "node.zip") as archive:
        packed = {name: archive.read(name) for name in archive.namelist()}
    assert packed == {path: (REPO / path).read_bytes() for path in archive_files()}


def test_nothing_heavy_travels():
    assert sum((REPO / path).stat().st_size for path in archive_files()) < 3_000_000


@pytest.mark.parametrize(("key", "ratio", "width"), [("Icon", 1, 400), ("Banner", 21 / 9, 1260)])
def test_the_registrys_pictures(key, ratio, width):
    """The registry takes an icon of at most 400x400 and a banner of 21:9, by their addresses."""
    base = f"{value('Repository')}/main/".replace("github.com", "raw.githubusercontent.com")
    url = value(key)
    assert url.startswith(base)
    path = REPO / url.removeprefix(base)
    with Image.open(path) as picture:
        assert (picture.format, picture.width) == ("PNG", width)
        assert picture.width / picture.height == pytest.approx(ratio)
    assert path.with_suffix(".svg").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made of the files that git tracks: what lies about here must not decide what is in it."""
    source, out = copy_files(tracked_files(), tmp_path_factory.mktemp("source")), tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "uv", "build", "--wheel", "--out-dir", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Deprecat" not in done.stderr, done.stderr
    (path,) = out.glob("*.whl")
    return path


def test_the_wheel_has_the_packages_and_nothing_stray(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    assert "License-Expression: Apache-2.0\n" in metadata
    info = {name.partition("/")[0] for name in names} - {"wan_flf2v"}
    assert len(info) == 1 and info.pop().endswith(".dist-info")
    parts = {folder.replace(".", "/") + "/" for folder in PACKAGES}
    expected = {
        f"wan_flf2v/{path}"
        for path in archive_files()
        if f"wan_flf2v/{path.rpartition('/')[0]}/".replace("//", "/") in parts
        and path.endswith((".py", ".json", *PAGE))
    }
    assert {name for name in names if name.startswith("wan_flf2v/")} == expected


@pytest.fixture
def program(wheel, tmp_path):
    """The path of ``wan-flf2v`` in a new environment, and a function that installs the wheel with an extra there."""
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    def install(extra=""):
        command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", str(python)]
        subprocess.run([*command, f"{wheel}{extra}"], check=True)

    return str(python.with_name("wan-flf2v")), install


@pytest.mark.slow
def test_the_wheel_works_where_nothing_else_is(program, tmp_path):
    """As README says: [client] for the command line; without it, a line that says so."""
    path, install = program

    def command(*arguments):
        return subprocess.run([path, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    install()
    bare = command("--version")
    assert (bare.returncode, bare.stderr.count("\n")) == (2, 1)
    assert 'pip install "wan-flf2v[client]' in bare.stderr
    install("[client]")
    assert command("--version").stdout == f"wan-flf2v {value('version')}\n"
    assert "57_steps" in command("params").stdout
    assert "91_lora_name" in command("params", "--workflow", "wan22_flf2v_4_steps_lora").stdout
    listed = command("models", "list")
    assert listed.returncode == 0, listed.stderr
    assert "No ComfyUI was found here." in listed.stderr
    (tmp_path / "models").mkdir()
    (tmp_path / "custom_nodes").mkdir()
    lacking = command("models", "download")
    assert lacking.returncode == 1
    assert 'pip install "wan-flf2v[models]' in lacking.stderr


@pytest.mark.slow
def test_the_extra_serve_is_all_that_the_api_needs(program, tmp_path):
    path, install = program
    install("[serve]")
    command = [path, "serve", "--port", "0", "--data", str(tmp_path / "data"), "--comfyui", NOWHERE]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        said = []
        while not said or (said[-1] and not said[-1].startswith("Serving http")):  # ends with the process
            said.append(process.stderr.readline())
        process.kill()
    assert said[-1], said
    listed = subprocess.run([path, "token", "list", "--data", str(tmp_path / "data")], capture_output=True, text=True)
    assert "There is no token in" in listed.stderr


def test_the_demos_models_are_small_and_of_wans_kind():
    """Float16, 16 MB together; the VAE is 16 channels wide, the experts take latent, mask and image: 36 channels."""
    files = sorted((REPO / "demo" / "models").rglob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) <= 16e6
    shapes = {}
    for file in files:
        with safe_open(file, "pt") as weights:
            slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118 -- it is no dict
            assert {one.get_dtype() for one in slices.values()} == {"F16"}
            first = slices.get("patch_embedding.weight") or slices["encoder.conv1.weight"]
            shapes[file.stem] = first.get_shape()
    assert {name: shape[:2] for name, shape in shapes.items()} == {
        "demo_wan22_high_noise": [128, 36],
        "demo_wan22_low_noise": [128, 36],
        "demo_wan_vae": [16, 3],
    }
    assert (REPO / "docs" / "gallery.webp").stat().st_size <= 2e6
