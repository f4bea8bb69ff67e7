"""The demo's base directory: this pack, the demo's own, and the tiny models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from PIL import Image

from ..bootstrap.paths import REPO
from ..bootstrap.server import comfy_env, prepare_base_dir
from ..contract.parameters import END_IMAGE, START_IMAGE

IMAGES = REPO / "demo" / "images"
PACKS = {"wan-flf2v": REPO, "wan-flf2v-demo": REPO / "demo" / "pack"}


def prepare_demo(base_dir: Path, comfyui: Path) -> None:
    """Create the demo's base directory for a ComfyUI; what is there already is kept."""
    prepare_base_dir(base_dir, PACKS)
    # Under the names of the hosted page's own example, so that it runs here as printed.
    for parameter, photograph in ((START_IMAGE, "start.jpg"), (END_IMAGE, "end.jpg")):
        target = base_dir / "input" / str(parameter.default)
        if not target.exists():
            Image.open(IMAGES / photograph).save(target)
    make_models(comfyui, Path(sys.executable), base_dir / "models")


def make_models(comfyui: Path, python: Path, models: Path) -> None:
    """Make the tiny models that are missing below ``models``, in a process of its own that imports ComfyUI.

    Raises:
        subprocess.CalledProcessError: the process failed; what it printed tells why.
    """
    script = REPO / "demo" / "make_models.py"
    # The working directory is not the repository's, whose nodes/ would hide ComfyUI's nodes.py.
    subprocess.run([str(python), str(script), str(comfyui), str(models)], check=True, cwd=comfyui, env=comfy_env())  # noqa: S603
