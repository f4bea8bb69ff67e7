"""``wan-flf2v models`` against a real server that speaks the hub's protocol: cut connections, damage, full disks."""

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from support.hub_server import Hub
from typer.testing import CliRunner
from wan_flf2v.__main__ import app
from wan_flf2v.cli import models
from wan_flf2v.contract.downloads import VAE, VARIANTS, Variant

SIZE = 3_000_000
CONTENT = {file: hashlib.shake_256(file.name.encode()).digest(SIZE) for file in VARIANTS["lightning"].files}


def small(file):
    """Return a file of the table with the size and the hash of the small one that stands in for it here."""
    return replace(file, size=SIZE, sha256=hashlib.sha256(CONTENT[file]).hexdigest())


@pytest.fixture
def hub(monkeypatch):
    """A hub with small files; the command line in this process asks it."""
    from huggingface_hub import constants

    hub = Hub({f"{file.repo}/{file.path}": content for file, content in CONTENT.items()})
    for name in ("fp8", "lightning"):
        files = tuple(small(file) for file in VARIANTS[name].files)
        monkeypatch.setitem(VARIANTS, name, Variant(files, VARIANTS[name].use))
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with hub.serving():
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)  # what is kept, in steps; else ten million
        yield hub


@pytest.fixture
def comfyui(tmp_path):
    for name in ("models", "custom_nodes"):
        (tmp_path / "ComfyUI" / name).mkdir(parents=True)
    return tmp_path / "ComfyUI"


def run(*arguments):
    return CliRunner().invoke(app, ["models", *map(str, arguments)])


def download(comfyui, *arguments):
    return run("download", "--comfyui", comfyui, *arguments)


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


WANTED = {f"{file.folder}/{file.name}" for file in VARIANTS["fp8"].files}


def test_what_is_missing_comes_into_the_right_folders(hub, comfyui):
    done = download(comfyui)
    assert done.exit_code == 0, done.stderr
    assert files_below(comfyui / "models") == WANTED, "and nothing else stays"
    for file in VARIANTS["fp8"].files:
        assert (comfyui / "models" / file.folder / file.name).read_bytes() == CONTENT[original(file)]
    assert done.stdout.splitlines() == [
        str(comfyui / "models" / file.folder / file.name) for file in VARIANTS["fp8"].files
    ]
    assert "press R in ComfyUI, then open the template wan22_flf2v" in done.stderr
    assert hub.ranges == [None] * 4

    again = download(comfyui, "--variant", "lightning")
    assert again.exit_code == 0, again.stderr
    assert len(hub.ranges) == 6, "only the two LoRAs"
    assert again.stderr.count("is there:") == 4

    assert run("check", "--comfyui", comfyui, "--variant", "lightning").exit_code == 0
    (comfyui / "models" / "vae" / VAE.name).write_bytes(bytes(SIZE))
    damaged = run("check", "--comfyui", comfyui)
    assert damaged.exit_code == 1
    assert [line.split()[0] for line in damaged.stderr.splitlines() if VAE.name in line][-1] == "damaged"


def original(file):
    return next(one for one in CONTENT if one.name == file.name)


def test_a_cut_connection_goes_on_where_it_was(hub, comfyui):
    hub.cuts, hub.cut_after = 2, 1_000_000
    done = download(comfyui)
    assert done.exit_code == 0, done.stderr
    assert files_below(comfyui / "models") == WANTED
    resumed = [int(asked.removeprefix("bytes=").partition("-")[0]) for asked in hub.ranges if asked]
    assert len(resumed) == 2
    assert 0 < resumed[0] < resumed[1] < SIZE


def fails_after_a_part(hub, monkeypatch, refusals):
    """Cut the first download, and refuse the next requests."""

    async def one_part(request, content, whole=hub._bytes):
        answer = await whole(request, content)
        hub.down = refusals
        monkeypatch.setattr(hub, "_bytes", whole)
        return answer

    hub.cuts, hub.cut_after = 1, 1_000_000
    monkeypatch.setattr(hub, "_bytes", one_part)


def test_a_refusal_in_between_ends_nothing_that_had_begun(hub, comfyui, monkeypatch):
    fails_after_a_part(hub, monkeypatch, refusals=1)
    done = download(comfyui)
    assert done.exit_code == 0, done.stderr
    assert files_below(comfyui / "models") == WANTED
    assert hub.ranges[0] is None and hub.ranges[1].startswith("bytes=")


def test_a_hub_that_goes_away_is_said(hub, comfyui, monkeypatch):
    first = VARIANTS["fp8"].files[0]
    fails_after_a_part(hub, monkeypatch, refusals=100)
    done = download(comfyui)
    assert done.exit_code == 1
    assert f"{first.name} was not finished (" in done.stderr
    assert "What is there is kept: run this again to go on." in done.stderr
    assert files_below(comfyui / "models") == {f"diffusion_models/.{first.name}.part"}, "nothing that looks whole"


def test_a_stopped_download_goes_on_in_the_next_run(hub, comfyui, monkeypatch):
    from huggingface_hub import file_download

    first = VARIANTS["fp8"].files[0]
    hub.cuts, hub.cut_after = 1, 1_000_000
    with monkeypatch.context() as patch:  # what Ctrl-C does, at the moment of the cut
        patch.setattr(file_download.time, "sleep", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        stopped = download(comfyui)
    assert stopped.exit_code == 130
    assert "Stopped. Run the same command to go on." in stopped.stderr
    assert files_below(comfyui / "models") == {f"diffusion_models/.{first.name}.part"}
    done = download(comfyui)
    assert done.exit_code == 0, done.stderr
    assert hub.ranges[1].startswith("bytes=") and hub.ranges[2:] == [None] * 3
    assert files_below(comfyui / "models") == WANTED


def test_damaged_bytes_never_get_a_models_name(hub, comfyui):
    hub.damage = True
    done = download(comfyui)
    assert done.exit_code == 1
    first = VARIANTS["fp8"].files[0]
    assert f"{first.name} came damaged: its SHA-256 is " in done.stderr
    assert files_below(comfyui / "models") == set()
    hub.damage = False
    assert download(comfyui).exit_code == 0


def test_a_file_that_the_hub_has_changed_is_refused_before_it_is_downloaded(hub, comfyui):
    file = VARIANTS["fp8"].files[0]
    hub.files[f"{file.repo}/{file.path}"] = b"another"
    done = download(comfyui)
    assert done.exit_code == 1
    assert f"The hub has another {file.name} than this version of wan-flf2v knows" in done.stderr
    assert hub.ranges == []


def test_a_file_without_a_known_hash_is_checked_by_the_hubs(hub, comfyui, monkeypatch):
    unknown = tuple(replace(file, sha256=None, size=1) for file in VARIANTS["fp8"].files)
    monkeypatch.setitem(VARIANTS, "fp8", Variant(unknown, ""))
    hub.damage = True
    assert "came damaged: its SHA-256 is " in download(comfyui).stderr
    hub.damage = False
    assert download(comfyui).exit_code == 0
    assert run("check", "--comfyui", comfyui).exit_code == 0


def test_a_hub_that_does_not_respond_is_said(hub, comfyui):
    hub.files.clear()
    done = download(comfyui)
    assert done.exit_code == 1
    assert f"The hub does not give {VARIANTS['fp8'].files[0].name} (" in done.stderr
    assert "HF_ENDPOINT names a mirror" in done.stderr


def test_a_full_disk_is_said_before_anything_comes(hub, comfyui, monkeypatch):
    usage = shutil.disk_usage(comfyui)
    monkeypatch.setattr(models.shutil, "disk_usage", lambda path: usage._replace(free=4 * SIZE - 1))
    done = download(comfyui)
    assert done.exit_code == 2
    assert "has 12 MB free, but 12 MB are to be downloaded. Make room, " in done.stderr
    assert hub.ranges == []


def test_another_file_of_that_name_is_left_alone(hub, comfyui):
    path = comfyui / "models" / "vae" / VAE.name
    path.parent.mkdir()
    path.write_bytes(b"mine")
    done = download(comfyui)
    assert done.exit_code == 2
    assert f"{path} has 4 bytes, not 3,000,000" in done.stderr
    assert path.read_bytes() == b"mine"


def test_extra_model_paths_are_looked_in_and_preferred(hub, comfyui, tmp_path, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", str(tmp_path))
    (comfyui / "extra_model_paths.yaml").write_text(
        "big:\n  base_path: $ELSEWHERE/big\n  is_default: true\n  unet: models/a\n  vae: |\n    v1/\n    v2/\n"
        "more:\n  loras: relative\nempty:\n"
    )
    there = tmp_path / "big" / "v2" / "wan"
    there.mkdir(parents=True)
    (there / VAE.name).write_bytes(CONTENT[VAE])
    done = download(comfyui, "--variant", "lightning")
    assert done.exit_code == 0, done.stderr
    assert f"{VAE.name} is there: {there / VAE.name}" in done.stderr
    experts = {file.name for file in VARIANTS["fp8"].files if file.folder == "diffusion_models"}
    assert files_below(tmp_path / "big" / "models" / "a") == experts
    assert {name.partition("/")[0] for name in files_below(comfyui / "models")} == {"text_encoders", "loras"}


@pytest.mark.parametrize("text", ["a: [", "- list", "a: text"])
def test_a_bad_extra_model_paths_is_said(comfyui, text):
    (comfyui / "extra_model_paths.yaml").write_text(text)
    done = run("list", "--comfyui", comfyui)
    assert done.exit_code == 2
    assert "extra_model_paths.yaml cannot be read (" in done.stderr


def test_the_list(comfyui, tmp_path, monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    path = comfyui / "models" / "vae" / VAE.name
    path.parent.mkdir()
    path.write_bytes(b"cut")
    monkeypatch.chdir(tmp_path)  # in the portable version, ComfyUI is a folder below
    done = run("list")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "fp8: 3 of 4 missing, 35.3 GB"
    assert lines[1] == "  missing    14.3 GB  diffusion_models/wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors"
    assert lines[4] == f"  cut short   254 MB  vae/{VAE.name}"
    assert "gguf: 3 of 4 missing, 23.4 GB" in lines
    assert done.stderr == f"ComfyUI is in {comfyui}.\n"
    monkeypatch.chdir(path.parent)
    assert run("list", "--variant", "fp8").stdout.splitlines()[0] == lines[0], "from below too"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    nowhere = run("list", "--variant", "gguf")
    assert nowhere.exit_code == 0 and "No ComfyUI was found here." in nowhere.stderr
    assert nowhere.stdout.splitlines()[0] == "gguf: 23.7 GB"
    assert run("check").exit_code == 2
    assert run("list", "--comfyui", tmp_path / "none").exit_code == 2


def test_the_choices_are_the_table():
    assert [choice.value for choice in models.Choice] == list(VARIANTS)


def test_as_a_process_with_hf_endpoint(hub, comfyui, tmp_path):
    """What a user runs, with the address of a mirror in the environment and small files in the table."""
    sizes = {file.name: (file.size, file.sha256) for file in VARIANTS["fp8"].files}
    code = (
        "from dataclasses import replace; from wan_flf2v.contract import downloads as table; "
        f"sizes = {sizes!r}; "
        "small = lambda f: replace(f, size=sizes[f.name][0], sha256=sizes[f.name][1]); "
        "files = tuple(map(small, table.VARIANTS['fp8'].files)); "
        "table.VARIANTS['fp8'] = table.Variant(files, 'x'); from wan_flf2v.__main__ import main; main()"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        [sys.executable, "-c", code, "models", "download"],
        cwd=comfyui,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert files_below(comfyui / "models") == WANTED
    assert "Traceback" not in done.stderr
