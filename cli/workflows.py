"""What ``wan-flf2v run`` runs: a template, or a file of one's own; and how options and ``--set`` change its graph."""

from __future__ import annotations

import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..client.offers import read_value
from ..contract.parameters import DEMO, DEMO_WORKFLOW, RESOLUTIONS, NodeInput, inputs_named
from ..contract.suggestions import near
from ..contract.workflow import Graph, graph_names, graph_with_defaults, load_graph, node_title, settable, switch_on
from .shared import UsageError

_CONDITIONING, _RESOLUTION, _SEGMENTS = "WanFLF2VConditioning", "WanFLF2VResolution", "WanFLF2VSegments"
_LORA, _IMAGE = "LoraLoaderModelOnly", "LoadImage"
_SIZE = re.compile(r"\s*(\d+)\s*[xX×]\s*(\d+)\s*(?:\(.*\))?\s*")
# The sampler's input of each expert, and the id of the LoRA loader that templates have for it, bypassed.
_EXPERTS = {"--lora-high": ("model_high_noise", "91"), "--lora-low": ("model_low_noise", "92")}

LoraHighOption = Annotated[
    list[str] | None,
    typer.Option(
        "--lora-high", metavar="FILE[:STRENGTH]", help="A LoRA of ComfyUI's for the high-noise expert; repeatable."
    ),
]
LoraLowOption = Annotated[
    list[str] | None,
    typer.Option("--lora-low", metavar="FILE[:STRENGTH]", help="The same for the low-noise expert."),
]


@dataclass(frozen=True)
class Assignment:
    """A value for one input of the graph, still as text; ``label`` is what messages call it."""

    label: str
    target: NodeInput
    text: str


@dataclass(frozen=True)
class Workflow:
    """A graph in API form, and the template it was made from; its images and prompts only hold their places then."""

    name: str
    graph: Graph
    template: str | None = None

    def places(self, option: str) -> tuple[NodeInput, ...]:
        """Return the inputs that ``--start``, ``--end``, ``--prompt`` or ``--negative`` fills, each once.

        They are found by the links of the nodes for conditioning, whatever ids the nodes have.
        """
        name, wanted = _PLACES[option]
        last = option == "--end"
        found = (_upstream(self.graph, node["inputs"].get(name), wanted, last) for _, node in self._conditioning())
        return tuple(dict.fromkeys(one for one in found if one is not None))

    def size_place(self, name: str) -> NodeInput | None:
        """Return the input from which all nodes for conditioning get their width or height, if there is just one."""
        found = set()
        for node_id, node in self._conditioning():
            source = node["inputs"].get(name)
            found.add(NodeInput(str(source[0]) if isinstance(source, list) else node_id, name))
        return found.pop() if len(found) == 1 and found <= set(settable(self.graph)) else None

    def images(self) -> list[NodeInput]:
        """Return the inputs that name an image."""
        return [one for one in settable(self.graph) if _image(self.graph[one.node_id]) == one.name]

    def _conditioning(self) -> list[tuple[str, dict[str, Any]]]:
        return [(node_id, node) for node_id, node in self.graph.items() if node["class_type"] == _CONDITIONING]


def read_workflow(given: str, label: str = "--workflow") -> Workflow:
    """Return the template of this name, or the workflow in this file; ``UsageError`` if it is neither.

    ``wan22_flf2v_demo`` is the bundled workflow on the demo's models, as ``run.py serve --demo`` has it.

    ``label`` is what messages call what was given.
    """
    if given in graph_names():
        return Workflow(given, load_graph(given), given)
    if given == DEMO_WORKFLOW:
        return Workflow(given, graph_with_defaults(DEMO), DEMO.workflow)
    path = Path(given)
    if not path.is_file():
        found = near(given.removesuffix(".json"), {name: (name,) for name in graph_names()})
        meant = f"Did you mean {' or '.join(found)}? " if found else ""
        raise UsageError(
            f'{label} is "{given}", but there is no such file and no such template. {meant}'
            f"Templates: {', '.join(graph_names())}."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{label} {path} cannot be read as JSON ({error}).") from error
    if isinstance(content, dict) and isinstance(content.get("nodes"), list):
        raise UsageError(
            f"{label} {path} is a workflow as the editor saves it. A run needs its API form: in ComfyUI choose "
            "Workflow, Export (API), and give that file."
        )
    nodes = content.values() if isinstance(content, dict) and content else [None]
    if not all(isinstance(node, dict) and _is_node(node) for node in nodes):
        raise UsageError(
            f"{label} {path} is not a workflow in API form: an object of nodes with class_type and inputs."
        )
    return Workflow(given, content)


def _is_node(node: Mapping[str, Any]) -> bool:
    return isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)


def read_assignments(workflow: Workflow, texts: Iterable[str]) -> tuple[list[Assignment], list[str]]:
    """Read ``KEY=VALUE`` texts; return the assignments, and a line for each text that is none."""
    made: list[Assignment] = []
    errors: list[str] = []
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator:
            errors.append(f'--set "{text}" is not KEY=VALUE. Write it like 57_steps=12.')
            continue
        try:
            made += _assign(workflow, key.strip(), value)
        except UsageError as error:
            errors.append(str(error))
    return made, errors


def _assign(workflow: Workflow, key: str, value: str) -> list[Assignment]:
    known, targets = set(settable(workflow.graph)), inputs_named(key)
    if len(targets) == 2 and known.issuperset(targets):
        return [Assignment(key, *pair) for pair in zip(targets, read_size(key, value), strict=True)]
    return [Assignment(key, find_input(workflow, key), value)]


def find_input(workflow: Workflow, key: str) -> NodeInput:
    """Return the input that a key such as ``57_steps`` names; ``UsageError`` if there is none, or it has no value."""
    graph = workflow.graph
    known = {f"{one.node_id}_{one.name}": one for one in settable(graph)}
    if key in known:
        return known[key]
    node_id, _, name = key.partition("_")
    source = graph.get(node_id, {"inputs": {}})["inputs"].get(name)
    if isinstance(source, list):
        title = node_title(graph, str(source[0]))
        raise UsageError(f'{key} comes from node {source[0]} "{title}", so it has no value to set.')
    found = near(key, {one: (one,) for one in known})
    if not found:  # 57_seed: the number is right, and a part of the name
        parts = {one: (target.name, *target.name.split("_")) for one, target in known.items()}
        found = near(key.lstrip("0123456789_"), parts)
    meant = f"Did you mean {' or '.join(found)}? " if found else ""
    raise UsageError(
        f'{workflow.name} has no input "{key}". {meant}`wan-flf2v params --workflow {workflow.name}` lists them all.'
    )


def read_size(label: str, text: str) -> tuple[str, str]:
    """Return width and height of ``720x1280``, also with a ratio in brackets behind it; else ``UsageError``."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise UsageError(f'{label} is "{text}", but must be WIDTHxHEIGHT in pixels, such as 720x1280.')
    return match[1], match[2]


def size_assignments(workflow: Workflow, text: str) -> list[Assignment]:
    """Return what ``--size`` sets: the width and the height that the nodes for conditioning get."""
    made = []
    for name, value in zip(("width", "height"), read_size("--size", text), strict=True):
        target = workflow.size_place(name)
        if target is None:
            raise UsageError(no_place(workflow, "--size"))
        made.append(Assignment(f"--size ({name})", target, value))
    return made


def no_place(workflow: Workflow, option: str, places: Iterable[NodeInput] = ()) -> str:
    """Say that the workflow does not have what an option changes, or has it in several ``places``."""
    keys = ", ".join(f"{node_id}_{name}" for node_id, name in places)
    has = f"several places for it: {keys}" if keys else "no one place for it"
    return (
        f"{option}: the workflow {workflow.name} has {has}. Use --set; "
        f"`wan-flf2v params --workflow {workflow.name}` lists its inputs."
    )


def add_loras(workflow: Workflow, high: list[str] | None, low: list[str] | None) -> list[Assignment]:
    """Add the LoRAs of ``--lora-high`` and ``--lora-low``; return what they set."""
    given = [("--lora-high", text) for text in high or ()] + [("--lora-low", text) for text in low or ()]
    return [one for option, text in given for one in add_lora(workflow, option, text)]


def add_lora(workflow: Workflow, option: str, text: str) -> list[Assignment]:
    """Put a LoRA, ``FILE`` or ``FILE:STRENGTH``, between an expert and its sampler; return what it sets.

    The first in a template that has a bypassed loader for it is that loader.
    """
    name, separator, tail = text.rpartition(":")
    try:
        strength = str(float(tail)) if separator else "1.0"
    except ValueError:  # a colon in the name
        name, strength = text, "1.0"
    name = name if separator else text
    graph, (expert, node_id) = workflow.graph, _EXPERTS[option]
    slots = {slot for _, slot in _EXPERTS.values()}
    values = {"lora_name": name, "strength_model": strength}
    if workflow.template and switch_on(workflow.template, graph, node_id, values):
        return [Assignment(option, NodeInput(node_id, one), value) for one, value in values.items()]
    users = [node for node in graph.values() if isinstance(node["inputs"].get(expert), list)]
    if not users:
        raise UsageError(no_place(workflow, option))
    first = max((int(one) for one in graph if one.isdecimal()), default=0) + 1
    node_id = next(str(one) for one in itertools.count(first) if str(one) not in slots)
    inputs = {**values, "model": users[0]["inputs"][expert]}
    graph[node_id] = {"class_type": _LORA, "inputs": inputs, "_meta": {"title": f"LoRA of {option}"}}
    for node in users:
        if node["inputs"][expert] == inputs["model"]:
            node["inputs"][expert] = [node_id, 0]
    return [Assignment(option, NodeInput(node_id, one), value) for one, value in values.items()]


def assign(graph: Graph, infos: Mapping[str, Mapping[str, Any] | None], assignments: Iterable[Assignment]) -> list[str]:
    """Put the values into the graph, checked by what ComfyUI says of its nodes; return a line for each bad one."""
    errors = []
    given = list(assignments)
    for one in given:
        node = graph[one.target.node_id]
        info = infos[node["class_type"]] or {"input": {}}
        try:
            node["inputs"][one.target.name] = read_value(info["input"], one.target.name, one.text)
        except ValueError as error:
            no_file = " There is no such file here either." if _image(node) == one.target.name else ""
            errors.append(f"{one.label} {error}{no_file}")
    sized = {one.target.node_id for one in given if one.target.name in ("width", "height")}
    for node_id in sized - {one.target.node_id for one in given if one.target.name == "preset"}:
        if graph[node_id]["class_type"] == _RESOLUTION:
            graph[node_id]["inputs"]["preset"] = "custom"  # a preset would win over both
    return errors


def free_sizes(graph: Graph, exposed: Collection[NodeInput] | None) -> None:
    """Let width and height of Resolution nodes count, which a preset wins over; unless ``exposed`` has the preset."""
    for node_id, node in graph.items():
        size = RESOLUTIONS.get(str(node["inputs"].get("preset")))
        if node["class_type"] == _RESOLUTION and size is not None and (node_id, "preset") not in (exposed or ()):
            node["inputs"]["width"], node["inputs"]["height"] = size
            node["inputs"]["preset"] = "custom"


_Wanted = Callable[[Mapping[str, Any]], str | None]


def _upstream(graph: Graph, link: object, wanted: _Wanted, last: bool) -> NodeInput | None:
    """Return the input that ``wanted`` names of the nearest node back from a link where it names one.

    Of the images of Segments, the first or the ``last`` is followed.
    """
    waiting, seen = deque([link]), set()
    while waiting:
        value = waiting.popleft()
        node_id = str(value[0]) if isinstance(value, list) and value else ""
        if node_id in seen or node_id not in graph:
            continue
        seen.add(node_id)
        name = wanted(graph[node_id])
        if name is not None and not isinstance(graph[node_id]["inputs"].get(name), list):
            return NodeInput(node_id, name)
        inputs = graph[node_id]["inputs"]
        if wanted is _image and graph[node_id]["class_type"] == _SEGMENTS:
            numbers = [int(key.removeprefix("image_")) for key in inputs if key.startswith("image_")]
            waiting += [inputs[f"image_{(max if last else min)(numbers)}"]] if numbers else []
        else:
            waiting += inputs.values()
    return None


def _text(node: Mapping[str, Any]) -> str | None:
    if node["class_type"] == _SEGMENTS:
        return "prompts"
    return "text" if isinstance(node["inputs"].get("text"), str) else None


def _image(node: Mapping[str, Any]) -> str | None:
    return "image" if node["class_type"] == _IMAGE else None


_PLACES: dict[str, tuple[str, _Wanted]] = {
    "--prompt": ("positive", _text),
    "--negative": ("negative", _text),
    "--start": ("start_image", _image),
    "--end": ("end_image", _image),
}
