"""What a ComfyUI's nodes offer: the choices of an input, and which nodes and model files a graph lacks there."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # preflight reads node descriptions in ComfyUI itself and needs no client
    from ..contract.workflow import Graph
    from .comfy import ComfyClient

_SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pt2", ".pth", ".bin")


def is_model_file(text: str) -> bool:
    """Whether an input's value is the name of a model file; loaders also take names such as ``pixel_space``."""
    return text.lower().endswith(_SUFFIXES)


def choices(inputs: Mapping[str, Any], name: str) -> list[str] | None:
    """Return what an input lists, ``None`` if it is no list or the node has no such input.

    ``inputs`` are a node's inputs as ``/object_info`` and ``INPUT_TYPES`` describe them, under ``required`` and
    ``optional``. ComfyUI writes the list in the place of the type, or, for newer nodes, as ``options`` of a COMBO.
    """
    for group in ("required", "optional"):
        spec = (inputs.get(group) or {}).get(name)
        if spec:
            kind, *config = spec
            listed = kind if isinstance(kind, list | tuple) else (config[0] if config else {}).get("options")
            return None if listed is None else [str(item) for item in listed]
    return None


async def find_lacking(client: ComfyClient, graph: Graph) -> list[str]:
    """Return what ``graph`` needs and this ComfyUI lacks, a sentence for each node type and each model file.

    A model file is there if the node that takes it lists it, whichever folder it lies in. Raises a ``ComfyError`` if
    ComfyUI does not answer.
    """
    types = sorted({node["class_type"] for node in graph.values()})
    described = await asyncio.gather(*map(client.object_info, types))
    infos = dict(zip(types, described, strict=True))
    lacking = [
        f"ComfyUI has no node {class_type}. Install or update the node pack that brings it."
        for class_type, info in infos.items()
        if info is None
    ]
    for node in graph.values():
        info = infos[node["class_type"]]
        for name, value in node["inputs"].items():
            if info is not None and isinstance(value, str) and is_model_file(value):
                listed = choices(info["input"], name)
                if listed is not None and value not in listed:
                    lacking.append(f"The model file {value} is missing: {node['class_type']} does not list it.")
    return list(dict.fromkeys(lacking))
