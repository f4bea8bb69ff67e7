"""What a ComfyUI's nodes offer: an input's type, range and choices, and which nodes and files a graph lacks there."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..contract.suggestions import near

if TYPE_CHECKING:  # preflight reads node descriptions in ComfyUI itself and needs no client
    from ..contract.workflow import Graph
    from .comfy import ComfyClient

_SHOWN_CHOICES = 8
_SUFFIXES = (".safetensors", ".sft", ".gguf", ".ckpt", ".pt", ".pt2", ".pth", ".bin")


def is_model_file(text: str) -> bool:
    """Whether an input's value is the name of a model file; loaders also take names such as ``pixel_space``."""
    return text.lower().endswith(_SUFFIXES)


def choices(inputs: Mapping[str, Any], name: str) -> list[str] | None:
    """Return what an input lists, ``None`` if it is no list or the node has no such input.

    ``inputs`` are a node's inputs as ``/object_info`` and ``INPUT_TYPES`` describe them, under ``required`` and
    ``optional``. ComfyUI writes the list in the place of the type, or, for newer nodes, as ``options`` of a COMBO.
    """
    kind, config = spec(inputs, name)
    listed = kind if isinstance(kind, list | tuple) else config.get("options")
    return None if listed is None else [str(item) for item in listed]


def read_value(inputs: Mapping[str, Any], name: str, text: str) -> object:
    """Return what ``text``, from a command line, is as the value of an input, in the input's own type.

    ``inputs`` is described at ``choices``. Raises ``ValueError``, with what the input takes and what was given, if the
    text has not its type, lies outside its range, or is none of its choices.
    """
    kind, config = spec(inputs, name)
    if kind == "COMBO" or isinstance(kind, list | tuple):
        return _choice(kind if isinstance(kind, list | tuple) else config.get("options"), config, text)
    if kind in ("INT", "FLOAT"):
        return _number(kind, config, text)
    if kind == "BOOLEAN":
        if text.lower() not in ("true", "false"):
            raise ValueError(f'must be true or false, got "{text}".')
        return text.lower() == "true"
    if kind == "STRING":
        return text
    raise ValueError(f"takes no value: it comes from another node ({kind}).")


def spec(inputs: Mapping[str, Any], name: str) -> tuple[Any, Mapping[str, Any]]:
    """Return an input's type, or its list of choices, and its settings; ``None`` and nothing if there is no such."""
    for group in ("required", "optional"):
        spec = (inputs.get(group) or {}).get(name)
        if spec:
            kind, *config = spec
            return kind, config[0] if config else {}
    return None, {}


def _choice(listed: Sequence[object] | None, config: Mapping[str, Any], text: str) -> object:
    """Return the choice that reads like ``text``. Lists of images lack those in folders, which ComfyUI takes."""
    options = {str(option): option for option in listed or ()}
    if text in options:
        return options[text]
    if listed is None or (config.get("image_upload") and "/" in text):
        return text
    found = near(text, {option: (option, option.rpartition("/")[2]) for option in options})
    if found:
        advice = f"Did you mean {' or '.join(found[:_SHOWN_CHOICES])}?"
    else:
        shown = ", ".join(list(options)[:_SHOWN_CHOICES]) + (", …" if len(options) > _SHOWN_CHOICES else "")
        advice = f"It has: {shown}." if options else "It has none."
    raise ValueError(f'is "{text}", which this ComfyUI does not offer. {advice}')


def _number(kind: str, config: Mapping[str, Any], text: str) -> int | float:
    low, high = config.get("min", -math.inf), config.get("max", math.inf)
    noun = "an integer" if kind == "INT" else "a number"
    takes = f"must be {noun}" + (f" from {low} to {high}" if math.isfinite(high - low) else "")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or (kind == "INT" and not number.is_integer()):
        raise ValueError(f'{takes}, got "{text}".')
    value: int | float = number
    if kind == "INT":
        with contextlib.suppress(ValueError):
            value = int(text)  # of a large seed, the float is not exact
    if not low <= value <= high:
        raise ValueError(f"{takes}, got {text}. The nearest that it takes is {low if value < low else high}.")
    return int(value) if kind == "INT" else float(value)


async def describe(client: ComfyClient, *graphs: Graph) -> dict[str, dict[str, Any] | None]:
    """Return what ComfyUI says of each type of node in the graphs, ``None`` for a type that it does not have."""
    types = sorted({node["class_type"] for graph in graphs for node in graph.values()})
    described = await asyncio.gather(*map(client.object_info, types))
    return dict(zip(types, described, strict=True))


async def find_lacking(client: ComfyClient, graph: Graph) -> list[str]:
    """Return what ``graph`` needs and this ComfyUI lacks; raise a ``ComfyError`` if ComfyUI does not respond."""
    return lacking_in(graph, await describe(client, graph))


def lacking_in(graph: Graph, infos: Mapping[str, Mapping[str, Any] | None]) -> list[str]:
    """Return what ``graph`` needs and a ComfyUI lacks, a sentence for each node type and each model file.

    A model file is there if the node that takes it lists it, whichever folder it lies in. ``infos`` comes from
    ``describe``, of this graph and perhaps of others.
    """
    lacking = [
        f"ComfyUI has no node {class_type}. Install or update the node pack that brings it."
        for class_type in sorted({node["class_type"] for node in graph.values()})
        if infos[class_type] is None
    ]
    for node in graph.values():
        info = infos[node["class_type"]]
        for name, value in node["inputs"].items():
            if info is not None and isinstance(value, str) and is_model_file(value):
                listed = choices(info["input"], name)
                if listed is not None and value not in listed:
                    lacking.append(f"The model file {value} is missing: {node['class_type']} does not list it.")
    return list(dict.fromkeys(lacking))
