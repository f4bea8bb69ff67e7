"""The demo's base directory for ComfyUI: both packs, the images, the workflow and the models."""

from __future__ import annotations

import filecmp
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from ..bootstrap.paths import REPO
from ..bootstrap.server import comfy_env, prepare_base_dir
from ..contract.parameters import DEMO, DEMO_WORKFLOW, END_IMAGE, START_IMAGE
from ..contract.workflow import graph_with_defaults, ui_form

IMAGES = REPO / "demo" / "images"
MODELS = REPO / "demo" / "models"
PACKS = {"wan-flf2v": REPO, "wan-flf2v-demo": REPO / "demo" / "pack"}


def prepare_demo(base_dir: Path, comfyui: Path) -> None:
    """Create the demo's base directory for a ComfyUI; existing files are kept."""
    prepare_base_dir(base_dir, PACKS)
    # Under the names of the hosted page's own example, so that it runs here as printed.
    for parameter, photograph in ((START_IMAGE, "start.jpg"), (END_IMAGE, "end.jpg")):
        target = base_dir / "input" / str(parameter.default)
        unfinished = target.with_suffix(".unfinished")
        Image.open(IMAGES / photograph).save(unfinished, format="PNG")
        unfinished.replace(target)
    workflows = base_dir / "user" / "default" / "workflows"
    workflows.mkdir(parents=True, exist_ok=True)
    (workflows / f"{DEMO_WORKFLOW}.json").write_text(json.dumps(demo_workflow()), "utf-8")
    copy_trained_models(base_dir / "models")
    make_models(comfyui, Path(sys.executable), base_dir / "models", "text_encoders")


def demo_workflow() -> dict[str, Any]:
    """Return the bundled workflow in UI form on the demo's models and at its size, for ``serve --demo``."""
    return ui_form(DEMO.workflow, graph_with_defaults(DEMO))


def copy_trained_models(models: Path) -> None:
    """Put the trained models below ``models``; equal files are left alone.

    Raises:
        FileNotFoundError: this copy of the project has none.
    """
    sources = list(MODELS.rglob("*.safetensors"))
    if not sources:
        raise FileNotFoundError(f"{MODELS} has no models: this copy of the project is not complete. Clone it again.")
    for source in sources:
        target = models / source.relative_to(MODELS)
        if not (target.exists() and filecmp.cmp(source, target, shallow=False)):
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished = target.with_suffix(".unfinished")
            shutil.copyfile(source, unfinished)
            unfinished.replace(target)


def make_models(comfyui: Path, python: Path, models: Path, folder: str = "") -> None:
    """Make the tiny models with random weights that are missing below ``models``, or below one folder in it.

    A separate process makes them, since that imports ComfyUI.

    Raises:
        subprocess.CalledProcessError: the process failed; its output says why.
    """
    script = REPO / "demo" / "make_models.py"
    command = [str(python), str(script), str(comfyui), str(models), folder]
    # The working directory is not the repository's, whose nodes/ would hide ComfyUI's nodes.py.
    subprocess.run(command, check=True, cwd=comfyui, env=comfy_env())  # noqa: S603
