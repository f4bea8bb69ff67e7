"""The files that a queued prompt will load, found by following its links back from the sampler."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths

from .files import is_distilled

Prompt = Mapping[str, Any]
"""An API prompt: node id -> {"class_type", "inputs"}. It may come from anyone, so nothing in it is taken as given."""

# Loader input -> where the host looks for its file (nodes.py). GGUF loaders take the same names.
_FOLDERS = {
    "unet_name": ("diffusion_models",),
    "model_name": ("diffusion_models",),
    "ckpt_name": ("checkpoints",),
    "clip_name": ("text_encoders", "clip_vision"),
    "clip_name1": ("text_encoders",),
    "clip_name2": ("text_encoders",),
    "vae_name": ("vae",),
    "lora_name": ("loras",),
}
# Loaders that look in no other folder: only of these is it known that a file is missing.
_CORE_LOADERS = {
    "UNETLoader": "diffusion_models",
    "UnetLoaderGGUF": "diffusion_models",
    "CheckpointLoaderSimple": "checkpoints",
    "CLIPLoader": "text_encoders",
    "CLIPLoaderGGUF": "text_encoders",
    "CLIPVisionLoader": "clip_vision",
    "VAELoader": "vae",
    "LoraLoader": "loras",
    "LoraLoaderModelOnly": "loras",
}
_MODEL_INPUTS = ("unet_name", "ckpt_name", "model_name")
_SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pt2", ".pth", ".bin")


class LoaderFile(NamedTuple):
    """A file that a node names: ``path`` is ``None`` if it is not in ``folders``, the host's names of folder kinds."""

    node_id: str
    input: str
    name: str
    folders: tuple[str, ...]
    path: Path | None

    @property
    def folder_list(self) -> str:
        """The folders that were looked in, for a message."""
        return ", ".join(path for folder in self.folders for path in folder_paths.get_folder_paths(folder))


class ExpertFiles(NamedTuple):
    """What one model input of the sampler comes from: its ``loader``'s file and the names of its LoRAs."""

    loader: LoaderFile | None
    loras: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all of them, the loader's first."""
        return (self.loader.name, *self.loras) if self.loader else self.loras

    @property
    def distilled(self) -> str | None:
        """The first of them that says it is made for a few steps."""
        return next(filter(is_distilled, self.names), None)


def node_inputs(prompt: Prompt | None, node_id: object) -> Mapping[str, Any]:
    """Return a node's inputs, none for a node that is not there or is malformed."""
    node = (prompt or {}).get(node_id) if isinstance(node_id, str) else None
    inputs = node.get("inputs") if isinstance(node, Mapping) else None
    return inputs if isinstance(inputs, Mapping) else {}


def class_type(prompt: Prompt, node_id: str) -> str:
    """Return a node's type, empty if it has none."""
    node = prompt.get(node_id)
    return str(node.get("class_type", "")) if isinstance(node, Mapping) else ""


def title(prompt: Prompt, node_id: str) -> str:
    """Return what a person calls the node: its title in the workflow, else its type."""
    node = prompt.get(node_id)
    meta = node.get("_meta") if isinstance(node, Mapping) else None
    return str((meta.get("title") if isinstance(meta, Mapping) else None) or class_type(prompt, node_id))


def linked(value: object) -> str | None:
    """Return the id of the node that an input's value links to, ``None`` if the value is no link."""
    is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
    return value[0] if is_link else None


def upstream(prompt: Prompt | None, *values: object) -> list[str]:
    """Return the ids of all nodes that the given input values come from, each once, the nearest first."""
    found: dict[str, None] = {}
    waiting = deque(node_id for node_id in map(linked, values) if node_id is not None)
    while waiting:
        node_id = waiting.popleft()
        if node_id not in found and node_id in (prompt or {}):
            found[node_id] = None
            waiting += [link for link in map(linked, node_inputs(prompt, node_id).values()) if link is not None]
    return list(found)


def expert_files(prompt: Prompt | None, node_id: object, input_name: str) -> ExpertFiles:
    """Follow a model input back through patches and LoRAs to its loader."""
    link = linked(node_inputs(prompt, node_id).get(input_name))
    names: list[str] = []
    seen: set[str] = set()
    while link is not None and link not in seen:
        seen.add(link)
        inputs = node_inputs(prompt, link)
        for key in _MODEL_INPUTS:
            if isinstance(inputs.get(key), str):
                return ExpertFiles(_find(link, key, inputs[key], _FOLDERS[key]), (*names,))
        names += _file_names(inputs.values())
        link = linked(inputs.get("model"))
    return ExpertFiles(None, (*names,))


def loaded_files(prompt: Prompt | None, node_id: object) -> list[LoaderFile]:
    """Return the files of all loaders upstream of a node: experts, LoRAs, text encoder, VAE."""
    return [
        file
        for loader_id in upstream(prompt, *node_inputs(prompt, node_id).values())
        for file in _files_of(prompt or {}, loader_id)
    ]


def missing_files(prompt: Prompt, node_id: str) -> Iterator[LoaderFile]:
    """Yield the files upstream of a node that the host's own loaders will not find, in the order of the loaders."""
    for file in sorted(loaded_files(prompt, node_id), key=lambda file: (len(file.node_id), file.node_id)):
        if file.path is None and class_type(prompt, file.node_id) in _CORE_LOADERS:
            yield file


def find_file(name: str, folder: str) -> Path | None:
    """Return where a file lies in the host's folders of a kind; a name that leads out of them finds nothing there."""
    try:
        found = folder_paths.get_full_path(folder, name)
    except ValueError:  # on Windows, a name with a drive of its own
        return None
    return None if found is None else Path(found)


def _files_of(prompt: Prompt, node_id: str) -> Iterator[LoaderFile]:
    folder = _CORE_LOADERS.get(class_type(prompt, node_id))
    for key, value in node_inputs(prompt, node_id).items():
        # a VAE loader also takes names that are no file, such as pixel_space
        if key in _FOLDERS and isinstance(value, str) and value.lower().endswith(_SUFFIXES):
            yield _find(node_id, key, value, (folder,) if folder else _FOLDERS[key])


def _find(node_id: str, key: str, name: str, folders: tuple[str, ...]) -> LoaderFile:
    paths = (find_file(name, folder) for folder in folders)
    return LoaderFile(node_id, key, name, folders, next((path for path in paths if path is not None), None))


def _file_names(values: Any) -> Iterator[str]:
    """Yield the file names in a node's inputs; some LoRA nodes keep theirs in {"on": true, "lora": name}."""
    for value in values:
        if isinstance(value, str) and value.lower().endswith(_SUFFIXES):
            yield value
        elif isinstance(value, Mapping) and value.get("on", True):
            yield from _file_names(item for item in value.values() if isinstance(item, str))
