"""Which ComfyUI to use: the user's own if there is one, else the managed copy that ``pins.json`` names."""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .console import SetupError, say
from .paths import REPO

COMFY_CLI_TIMEOUT_S = 20


@dataclass(frozen=True)
class Pin:
    """One ComfyUI version: where its source archive is, and the hashes that prove it.

    ``project``, ``release``, ``file`` and ``sha256`` name the source archive on PyPI that carries ComfyUI's tree;
    ``tree`` is git's hash of that tree and ``commit`` the upstream commit that has it, None where only the archive
    is known.
    """

    version: str
    project: str
    release: str
    file: str
    sha256: str
    commit: str | None
    tree: str
    note: str = ""


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI on this machine; ``managed`` if it is the copy in the cache folder."""

    version: str
    path: Path
    managed: bool


_PINS = json.loads(Path(__file__).with_name("pins.json").read_text("utf-8"))
DEFAULT_VERSION: str = _PINS["default"]
OLDEST_SUPPORTED: str = _PINS["oldest_supported"]
PINS = {entry["version"]: Pin(**entry) for entry in _PINS["versions"]}


def pin_for(version: str) -> Pin:
    """Return the pin of a ComfyUI version; SetupError naming the known ones."""
    if version not in PINS:
        raise SetupError(f"ComfyUI {version} is not among the pinned versions: {', '.join(PINS)}")
    return PINS[version]


def find_own_comfyui(repo: Path = REPO) -> ComfyUI | None:
    """Return the user's own ComfyUI, or None: ``COMFYUI_PATH``, the one this pack lies in, then comfy-cli's.

    SetupError if ``COMFYUI_PATH`` holds no ComfyUI, or one older than the oldest supported.
    """
    if given := os.environ.get("COMFYUI_PATH"):
        path = Path(given).expanduser().absolute()
        if not holds_comfyui(path):
            raise SetupError(
                f"COMFYUI_PATH is {given!r}, but that folder is no ComfyUI: it has no main.py and "
                "comfyui_version.py. Correct it, or unset it to use the managed copy."
            )
        return _own_comfyui(path)
    around = repo.parent.parent
    found = around if repo.parent.name == "custom_nodes" and holds_comfyui(around) else _comfy_cli_workspace()
    try:
        return _own_comfyui(found) if found else None
    except SetupError as error:  # the user did not name this one, so it must not stop them
        say(f"not used: {error}")
        return None


def holds_comfyui(folder: Path) -> bool:
    """Return whether ``folder`` is a ComfyUI's root."""
    return (folder / "main.py").is_file() and (folder / "comfyui_version.py").is_file()


def read_version(comfyui: Path) -> str:
    """Return what ``comfyui_version.py`` says, such as ``0.30.0``; SetupError if it says nothing."""
    text = (comfyui / "comfyui_version.py").read_text("utf-8")
    if match := re.search(r"""__version__\s*=\s*["']([^"']+)["']""", text):
        return match[1]
    raise SetupError(f"{comfyui / 'comfyui_version.py'} names no __version__")


def _own_comfyui(path: Path) -> ComfyUI:
    version = read_version(path)
    if _as_numbers(version) < _as_numbers(OLDEST_SUPPORTED):
        raise SetupError(
            f"the ComfyUI at {path} is version {version}, older than the oldest supported, {OLDEST_SUPPORTED}. "
            "Bring it up to date, or set COMFYUI_PATH to another one."
        )
    return ComfyUI(version, path, managed=False)


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _comfy_cli_workspace() -> Path | None:
    """Return the ComfyUI that ``comfy which`` names, None without comfy-cli or without a workspace."""
    comfy = shutil.which("comfy")
    if comfy is None:
        return None
    command = [comfy, "--skip-prompt", "which"]
    env = {**os.environ, "COLUMNS": "10000"}  # rich wraps a long path otherwise
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            stdin=subprocess.DEVNULL,
            timeout=COMFY_CLI_TIMEOUT_S,
            env=env,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    path = _path_in_output(done.stdout)
    return path if path and holds_comfyui(path) else None


def _path_in_output(output: str) -> Path | None:
    """Read the output of ``comfy which``: a sentence, or from newer versions one JSON object."""
    if match := re.search(r"^Target ComfyUI path: (.+)$", output, re.MULTILINE):
        return Path(match[1].strip())
    try:
        return Path(json.loads(output)["data"]["workspace_path"])
    except (ValueError, KeyError, TypeError):
        return None
