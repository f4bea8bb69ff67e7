"""Where a ComfyUI on this machine keeps its model files: its own folders, and those of extra_model_paths.yaml."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .shared import UsageError

_EXTRA = "extra_model_paths.yaml"
_OLD_NAMES = {"unet": "diffusion_models", "clip": "text_encoders"}  # folder_paths.py still takes these


class ModelFolders:
    """The model folders of the ComfyUI in ``root``, a folder that ``find_comfyui`` returned.

    Raises ``UsageError`` if its extra_model_paths.yaml cannot be read.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._preferred: dict[str, list[Path]] = {}
        self._others: dict[str, list[Path]] = {}
        if (root / _EXTRA).is_file():
            self._read(root / _EXTRA)

    def all(self, folder: str) -> list[Path]:
        """Return the folders of a kind, such as ``loras``, in the order in which ComfyUI looks."""
        models = self.root / "models"
        own = [models / folder, *(models / old for old, new in _OLD_NAMES.items() if new == folder)]
        return [*self._preferred.get(folder, []), *own, *self._others.get(folder, [])]

    def target(self, folder: str) -> Path:
        """Return where a new file of a kind goes."""
        return self.all(folder)[0]

    def find(self, folder: str, name: str) -> Path | None:
        """Return where a file is, in these folders or below them; ``None`` if it is nowhere."""
        for top in self.all(folder):
            if (top / name).is_file():
                return top / name
        for top in self.all(folder):
            for inside, _, names in os.walk(top, followlinks=True):
                if name in names:
                    return Path(inside, name)
        return None

    def _read(self, path: Path) -> None:
        """Read the file as ComfyUI's utils/extra_config.py does."""
        try:
            import yaml  # type: ignore[import-untyped]
        except ImportError as error:
            raise UsageError(f"{path} cannot be read without PyYAML: pip install 'wan-flf2v[models]'") from error
        try:
            groups: dict[str, dict[str, Any] | None] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            for group in groups.values():
                self._add(path.parent.absolute(), dict(group or {}))
        except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
            raise UsageError(f"{path} cannot be read ({error}). Correct it; ComfyUI needs it too.") from error

    def _add(self, here: Path, group: dict[str, Any]) -> None:
        base = Path(os.path.expandvars(str(group.pop("base_path", "") or ""))).expanduser()
        found = self._preferred if group.pop("is_default", False) else self._others
        for kind, lines in group.items():
            folders = found.setdefault(_OLD_NAMES.get(kind, kind), [])
            folders += [here / base / line for line in str(lines).split("\n") if line]


def find_comfyui(given: Path | None) -> Path | None:
    """Return ComfyUI's folder: ``given``, or the one that this pack or the current folder lies in; ``None`` if none is.

    Raises ``UsageError`` if ``given`` is none.
    """
    if given is not None:
        root = _comfyui_at(given.expanduser())
        if root is None:
            raise UsageError(
                f"--comfyui {given} is not a ComfyUI: it has no comfyui_version.py, and no models and custom_nodes."
            )
        return root
    pack = Path(__file__).absolute().parents[1]
    around = _comfyui_at(pack.parents[1]) if pack.parent.name == "custom_nodes" else None
    here = Path.cwd()
    return around or _comfyui_at(here) or next(filter(_is_comfyui, here.parents), None)


def _comfyui_at(folder: Path) -> Path | None:
    """Return the folder, or ComfyUI in it, as in the Windows portable version."""
    return next(filter(_is_comfyui, (folder, folder / "ComfyUI")), None)


def _is_comfyui(folder: Path) -> bool:
    """Whether it is a ComfyUI, or a base directory of one, which has no code."""
    return (folder / "comfyui_version.py").is_file() or all(
        (folder / name).is_dir() for name in ("models", "custom_nodes")
    )
