"""Python environments: ``.venv`` for the project and its ComfyUI, one in the cache for each other ComfyUI version."""

import functools
import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

from .comfyui import ComfyUI
from .console import SetupError, run_tool, say
from .paths import REPO

VENV = REPO / ".venv"
# ComfyUI leaves torch unpinned; the newest torch and the newest torchaudio need different CUDA versions.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
UV = "uv>=0.8,<1"  # `uv venv --clear` came with 0.8
STAMP = "wan-flf2v-stamp.json"
EXTRAS = ("", "demo", "train", "test")  # each brings what those before it do


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
        _install(folder, python_in(folder), comfyui, "")
    return python_in(folder)


def python_in(env: Path) -> Path:
    """Return where an environment has its Python."""
    return env / "Scripts" / "python.exe" if sys.platform == "win32" else env / "bin" / "python"


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


def _install(env: Path, python: Path, comfyui: ComfyUI, extra: str) -> None:
    what = f"ComfyUI {comfyui.version}'s requirements" + (f" and this project [{extra}]" if extra else "")
    say(f"installing {what} into {env}: about 6 GB the first time, minutes; seconds once uv has it in its cache")
    stamp = env / STAMP
    stamp.unlink(missing_ok=True)
    inputs = _inputs(env, comfyui)
    uv_install = (tools_python(), "-m", "uv", "pip", "install", "--python", python)
    project = ("-e", f"{REPO}[{extra}]") if extra else ()
    failure = f"the packages could not be installed into {env}"
    run_tool(failure, *uv_install, "-r", comfyui.path / "requirements.txt", *TORCH, *project)
    unfinished = stamp.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"inputs": inputs, "extra": extra}), "utf-8")
    unfinished.replace(stamp)


def _inputs(env: Path, comfyui: ComfyUI) -> str:
    """Return a digest of everything that decides what is installed."""
    parts = [
        (comfyui.path / "requirements.txt").read_bytes(),
        (REPO / "pyproject.toml").read_bytes(),
        (env / "pyvenv.cfg").read_bytes(),  # which Python
        str(env).encode(),
        repr((TORCH, os.environ.get("UV_TORCH_BACKEND", ""))).encode(),
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
