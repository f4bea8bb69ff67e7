"""Puts parameter values into a workflow: ``57_steps`` becomes the input ``steps`` of node 57 in the graph."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from .parameters import ModelContract, NodeInput, Parameter, Value, parse_size

Graph: TypeAlias = dict[str, dict[str, Any]]  # node id -> {"class_type", "inputs", "_meta"}

_FOLDER = Path(__file__).resolve().parent.parent / "workflows"
_ACTIVE, _BYPASSED = 0, 4  # modes of a node in the UI form
_SEED = "noise_seed"  # in the editor's list of a node's values, its "control after generate" follows


class WorkflowError(ValueError):
    """The workflow has no place for a parameter."""


def load_graph(name: str) -> Graph:
    """Read the bundled API workflow ``name`` (``"wan22_flf2v"``). ``FileNotFoundError`` if there is none."""
    graph: Graph = json.loads((_FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))
    return graph


def graph_names() -> list[str]:
    """Return the names of the bundled workflows."""
    return sorted(path.stem for path in (_FOLDER / "api").glob("*.json"))


def graph_for(model: ModelContract) -> Graph:
    """Return a copy of the graph of ``model`` with the model's loaders in it, ready for ``fill``."""
    if model.graph is not None:
        return copy.deepcopy({node_id: dict(node) for node_id, node in model.graph.items()})
    graph = load_graph(model.workflow)
    for node_id, node in model.loaders.items():
        graph[node_id].update(copy.deepcopy(dict(node)))
    return graph


def graph_with_defaults(model: ModelContract) -> Graph:
    """Return the graph of ``model`` with its loaders and the defaults of all its parameters."""
    return fill(graph_for(model), model, {parameter.key: parameter.default for parameter in model.parameters})


def settable(graph: Graph) -> Iterator[NodeInput]:
    """Yield every input that has a value, none that comes from another node."""
    for node_id, node in graph.items():
        for name, value in node["inputs"].items():
            if not isinstance(value, list):
                yield NodeInput(node_id, name)


def node_title(graph: Graph, node_id: str) -> str:
    """Return what a person calls the node: its title in the workflow, else its type, else its id."""
    node = graph.get(node_id, {})
    title = node.get("_meta", {}).get("title") or node.get("class_type") or node_id
    return str(title)


def fill(graph: Graph, model: ModelContract, values: Mapping[str, Value]) -> Graph:
    """Return a copy of ``graph`` with every value of ``values`` (already validated) in its node inputs.

    A slot of ``model`` gets into the graph with the first value for it that is not 0, and is left out without one.
    Raises ``WorkflowError`` if a node or an input that a value names is not in the graph, ``KeyError`` if ``model``
    has no such parameter.
    """
    filled = copy.deepcopy(graph)
    for key, value in values.items():
        parameter = model.parameter(key)
        for target, part in zip(parameter.inputs, _parts(parameter, value), strict=True):
            node = filled.get(target.node_id)
            if node is None and target.node_id in model.slots:
                if part:
                    inputs = {**model.slots[target.node_id], target.name: part}
                    switch_on(model.workflow, filled, target.node_id, inputs)
                continue
            if node is None:
                raise WorkflowError(f"{key}: the workflow has no node {target.node_id}.")
            if target.name not in node["inputs"]:
                title = node_title(graph, target.node_id)
                raise WorkflowError(f'{key}: node {target.node_id} "{title}" has no input "{target.name}".')
            node["inputs"][target.name] = part
    return filled


def ui_form(name: str, graph: Graph) -> dict[str, Any]:
    """Return the bundled workflow ``name`` as the editor saves it (UI form), with the values and loaders of ``graph``.

    ``graph`` was made from the same workflow's API form. A video's file with the result inside restores groups, notes
    and sizes when it is dropped on the editor; from a graph alone the editor makes nodes in a heap.
    """
    form = _read_form(name)
    for node in form["nodes"]:
        made = graph.get(str(node["id"]))
        if made is None:  # a note, or bypassed
            continue
        node["mode"] = _ACTIVE
        inputs = made["inputs"]
        if made["class_type"] != node["type"]:  # another loader: its values are all that it has
            node.update(type=made["class_type"], widgets_values=list(inputs.values()), properties={})
            continue
        with_widgets = {slot["name"] for slot in node["inputs"] if "widget" in slot}
        position = 0
        for key, value in inputs.items():
            if not isinstance(value, list):
                node["widgets_values"][position] = value
                position += 2 if key == _SEED else 1
            elif key in with_widgets:  # a widget that a link stands in for has a place too
                position += 1
    return form


def switch_on(name: str, graph: Graph, node_id: str, values: Mapping[str, Value]) -> bool:
    """Put a node that the UI form of ``name`` has bypassed into ``graph``, with ``values`` as its widgets' values.

    Such a node has one input and one output, of one type. Returns whether there is one that the graph has not yet.
    """
    form = _read_form(name)
    nodes, links = {str(node["id"]): node for node in form["nodes"]}, {link[0]: link for link in form["links"]}
    node = nodes.get(node_id)
    if node is None or node["mode"] != _BYPASSED or node_id in graph:
        return False
    (slot,), (output,) = node["inputs"], node["outputs"]
    _, source, number, *_ = links[slot["link"]]
    inputs = {**values, slot["name"]: [str(source), number]}
    graph[node_id] = {"class_type": node["type"], "inputs": inputs, "_meta": {"title": node["title"]}}
    for link in output["links"]:
        _, _, _, target, place, _ = links[link]
        graph[str(target)]["inputs"][nodes[str(target)]["inputs"][place]["name"]] = [node_id, 0]
    return True


def _read_form(name: str) -> dict[str, Any]:
    form: dict[str, Any] = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return form


def _parts(parameter: Parameter, value: Value) -> list[Value]:
    """Split a value over the parameter's inputs: ``"720x1280 (9:16)"`` is width 720 and height 1280."""
    return [value] if len(parameter.inputs) == 1 else list(parse_size(str(value)))
