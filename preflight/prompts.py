"""What a prompt names, by its links back from the sampler: model files, images, frames, numbers, the output folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import comfy.supported_models
import folder_paths

from ..contract.loaders import LOADERS, loaders_with
from .host_nodes import offered, output_type
from .model_files import is_distilled, read_titles

Prompt = Mapping[str, Any]
"""An API prompt: node id -> {"class_type", "inputs"}. It may come from anyone, so any part of it may be malformed."""


_MODEL_FOLDERS = {"diffusion_models", "checkpoints"}
_LORA_FOLDERS = ("loras",)
_IMAGE_INPUTS = ("start_image", "end_image")
_LARGEST = 1 << 64  # no input takes more; JSON has numbers, and NaN, that cannot be computed with


class LoaderFile(NamedTuple):
    """A file that a node names: ``path`` is ``None`` if it is not in ``folders``, ComfyUI's kinds of folder.

    ``titles`` are what the metadata of an expert's file or LoRA calls it.
    """

    node_id: str
    input: str
    name: str
    folders: tuple[str, ...]
    path: Path | None
    titles: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The folder to put the file into: of several, the first with the usual name (models/unet comes before it)."""
        usual = self.folders[0]
        paths = folder_paths.get_folder_paths(usual)
        return next((path for path in paths if Path(path).name == usual), paths[0])


class ExpertFiles(NamedTuple):
    """What one model input of the sampler comes from: its ``loader``'s file and its LoRAs."""

    loader: LoaderFile | None
    loras: tuple[LoaderFile, ...]

    @property
    def distilled(self) -> str | None:
        """The name of the first of them that says it is made for a few steps."""
        files = (self.loader, *self.loras) if self.loader else self.loras
        return next((file.name for file in files if is_distilled(file.name, file.titles)), None)


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


_ANY_TYPE = ("*", "COMFY_MATCHTYPE_V3")  # the outputs of switches, in other packs and in ComfyUI


def upstream(prompt: Prompt | None, *values: object, carrying: str | None = None) -> list[str]:
    """Return the ids of all nodes that the given input values come from, each once, the nearest first.

    With ``carrying``, only links that carry that type, such as ``"CONDITIONING"``, or any type are followed.
    """
    prompt = prompt or {}
    found: dict[str, None] = {}
    waiting = deque(values)
    while waiting:
        value = waiting.popleft()
        node_id = linked(value)
        if node_id is None or node_id in found or node_id not in prompt:
            continue
        if carrying is None or output_type(class_type(prompt, node_id), value[1]) in (carrying, *_ANY_TYPE):
            found[node_id] = None
            waiting += node_inputs(prompt, node_id).values()
    return list(found)


def expert_files(prompt: Prompt | None, node_id: object, input_name: str) -> ExpertFiles:
    """Follow a model input back through patches and LoRAs to its loader; read the titles of all files found."""
    link = linked(node_inputs(prompt, node_id).get(input_name))
    loader: LoaderFile | None = None
    loras: list[LoaderFile] = []
    seen: set[str] = set()
    while link is not None and link not in seen and loader is None:
        seen.add(link)
        inputs = node_inputs(prompt, link)
        for key, value in inputs.items():
            folders = _folders(prompt or {}, link, key)
            if isinstance(value, str) and _MODEL_FOLDERS.intersection(folders):
                loader = _find(link, key, value, folders)
        if loader is None:
            loras += [
                _find(link, key, name, _LORA_FOLDERS) for key, value in inputs.items() for name in _file_names(value)
            ]
        link = linked(inputs.get("model"))
    return ExpertFiles(loader and _with_titles(loader), tuple(map(_with_titles, loras)))


def loaded_files(prompt: Prompt | None, node_id: object) -> list[LoaderFile]:
    """Return the files of all loaders upstream of a node: experts, LoRAs, text encoder, VAE."""
    prompt = prompt or {}
    return [
        _find(loader_id, key, value, folders)
        for loader_id in upstream(prompt, *node_inputs(prompt, node_id).values())
        for key, value in node_inputs(prompt, loader_id).items()
        # a VAE loader also takes names that are no file, such as pixel_space
        if (folders := _folders(prompt, loader_id, key)) and isinstance(value, str) and _is_file_name(value, folders)
    ]


def missing_files(prompt: Prompt, node_id: str) -> list[LoaderFile]:
    """Return the files upstream of a node that their loaders do not offer, in the order of the loaders' ids.

    Whether a loader that ComfyUI does not have would offer a file is not known.
    """
    files = sorted(loaded_files(prompt, node_id), key=lambda file: (len(file.node_id), file.node_id))
    return [file for file in files if file.path is None and _is_refused(class_type(prompt, file.node_id), file)]


def find_file(name: str, folders: Iterable[str]) -> Path | None:
    """Return where a file lies in ComfyUI's folders of some kinds; a name that leads out of them finds nothing."""
    for folder in folders:
        try:
            found = folder_paths.get_full_path(folder, name)
        except ValueError:  # on Windows, a name with a drive letter
            continue
        if found is not None:
            return Path(found)
    return None


def number(prompt: Prompt, node_id: str, name: str) -> float | None:
    """Return the number in a node's input, also through a link to a node that only holds one (``value``)."""
    value = node_inputs(prompt, node_id).get(name)
    source = linked(value)
    if source is not None:
        value = node_inputs(prompt, source).get("value")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and -_LARGEST < value < _LARGEST else None


def images_connected(prompt: Prompt, node_id: str) -> bool:
    """Whether a first or last image goes into the sampler's positive conditioning.

    Nodes that only prepare pictures for one that makes conditioning do not count: those of a VACE graph have inputs of
    the same names, and a VACE checkpoint takes its images another way.
    """
    nodes = upstream(prompt, node_inputs(prompt, node_id).get("positive"), carrying="CONDITIONING")
    return any(
        linked(node_inputs(prompt, node).get(name)) is not None
        for node in nodes
        if class_type(prompt, node).startswith("Wan")
        for name in _IMAGE_INPUTS
    )


def video_length(prompt: Prompt, node_id: str) -> tuple[str, int] | None:
    """Return the node that makes the sampler's latent, and its ``length``; ``None`` if it is not known."""
    for node in upstream(prompt, node_inputs(prompt, node_id).get("latent_image")):
        length = number(prompt, node, "length")
        if length is not None:
            return node, int(length)
    return None


def has_prelude(prompt: Prompt, node_id: str) -> bool:
    """Whether a sampler's first steps are a prelude's."""
    inputs = node_inputs(prompt, node_id)
    return linked(inputs.get("model_prelude")) is not None and inputs.get("prelude") != "none"


def schedule_shift(prompt: Prompt, node_id: str, input_name: str = "model_high_noise") -> float | None:
    """Return the shift that a model of the sampler gets from a ModelSamplingSD3, the model's own without one.

    ``None`` if another node than that one sets the schedule, or the value is not known.
    """
    link = linked(node_inputs(prompt, node_id).get(input_name))
    for _ in prompt:  # a link may lead in a circle
        if link is None:
            break
        kind = class_type(prompt, link)
        if kind == "ModelSamplingSD3":
            return number(prompt, link, "shift")
        if kind.startswith("ModelSampling"):
            return None
        link = linked(node_inputs(prompt, link).get("model"))
    return float(comfy.supported_models.WAN21_T2V.sampling_settings["shift"])


def output_folder(prompt: Prompt) -> Path:
    """Return the folder that the prompt's videos go to: ComfyUI's, with the folder of a ``filename_prefix``."""
    output = Path(folder_paths.get_output_directory())
    for node_id in prompt:
        prefix = node_inputs(prompt, node_id).get("filename_prefix")
        if isinstance(prefix, str) and "\0" not in prefix:
            folder = (output / prefix).parent
            if output in folder.parents and ".." not in folder.parts:
                return folder
    return output


def _folders(prompt: Prompt, node_id: str, input_name: str) -> tuple[str, ...]:
    """Return the kinds of folder where a node looks for an input's file; none if the input is no file name.

    Of a node that is not in the table, those of all loaders with an input of that name.
    """
    loaders = loaders_with(class_type(prompt, node_id), input_name)
    folders = dict.fromkeys(folder for loader in loaders for folder in loader.folders)
    return tuple(folder for folder in folders if folder in folder_paths.folder_names_and_paths)


def _find(node_id: str, key: str, name: str, folders: tuple[str, ...]) -> LoaderFile:
    return LoaderFile(node_id, key, name, folders, find_file(name, folders))


def _with_titles(file: LoaderFile) -> LoaderFile:
    return file if file.path is None else file._replace(titles=read_titles(file.path))


def _is_refused(class_type: str, file: LoaderFile) -> bool:
    listed = offered(class_type, file.input) if class_type in LOADERS else None
    return listed is not None and file.name not in listed


def _file_names(value: object) -> Iterator[str]:
    """Yield the file names in a node's input; some LoRA nodes keep theirs in {"on": true, "lora": name}."""
    if isinstance(value, str) and _is_file_name(value, _LORA_FOLDERS):
        yield value
    elif isinstance(value, Mapping) and value.get("on", True):
        yield from (item for item in value.values() if isinstance(item, str) and _is_file_name(item, _LORA_FOLDERS))


def _is_file_name(name: str, folders: Iterable[str]) -> bool:
    """Whether a name ends as files do that ComfyUI, or the GGUF pack, looks for in one of these kinds of folder."""
    suffix = Path(name).suffix.lower()
    return suffix == ".gguf" or any(suffix in folder_paths.folder_names_and_paths[folder][1] for folder in folders)
