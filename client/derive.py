"""Makes a model of the API from a workflow: its parameters, from what ComfyUI's nodes say of their inputs."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..contract.parameters import ModelContract, NodeInput, Parameter, Value, inputs_named
from ..contract.validation import ContractError, allowed, validate
from ..contract.workflow import Graph, node_title, settable
from .offers import choices, lacking_in, spec

_PREFIX = "filename_prefix"  # the input by which nodes that save name their files
_FORMAT = "format"  # the input by which they choose what they write, where there is a choice
# Animations and sequences that are no result of the API: nodes of ComfyUI, formats of node 73 and of VideoHelperSuite.
_NOT_GIVEN = re.compile(r"webp|animatedpng|png sequence|16bit-png", re.IGNORECASE)
_LISTS_OF_NUMBERS = {("WanFLF2VKeyframes", "frames")}  # texts of one line; their node refuses all else
_FILE_WORDS = {"dir", "directory", "file", "filename", "folder", "path", "paths", "uri", "url", "urls"}
# With an extension, or in a folder; "mp4 H.264" and "v1.5" are none.
_FILE_NAME = re.compile(r"(.*\.[A-Za-z][A-Za-z0-9]{1,10}|.*[/\\].*)", re.DOTALL)


class DeriveError(ValueError):
    """The workflow cannot become the model that was asked for; a line for each problem."""


class _UnfitError(ValueError):
    """No parameter can set the input; the text goes on behind the input's key."""


def derive(
    model_id: str,
    graph: Graph,
    infos: Mapping[str, Mapping[str, Any] | None],
    exposed: Iterable[NodeInput] | None = None,
) -> ModelContract:
    """Return a workflow as a model whose parameters are the ``exposed`` inputs; the graph's values are the defaults.

    Without ``exposed`` these are numbers, the frames of keyframes, texts of several lines, choices, and the images of
    nodes that load one; but no file, no path, and no choice of a node that loads a file or saves the result. A request
    must give the images.

    ``infos`` comes from ``offers.describe``. Raises ``DeriveError``.
    """
    if None in infos.values():
        raise DeriveError("\n".join(lacking_in(graph, infos)))
    described = {node_id: infos[node["class_type"]] or {} for node_id, node in graph.items()}
    output_node = _find_output(graph, described)
    _check_format(graph, output_node)
    parameters, problems = [], []
    for target in settable(graph) if exposed is None else dict.fromkeys(exposed):
        inputs = described[target.node_id]["input"]
        if exposed is None and not _is_harmless(graph, inputs, target, saves=target.node_id == output_node):
            continue
        try:
            if target == (output_node, _PREFIX):
                raise _UnfitError("names the result's file, which the API does")
            parameter = _parameter(graph, inputs, target)
            if target == (output_node, _FORMAT):
                given = tuple(one for one in parameter.enum if not _NOT_GIVEN.search(str(one)))
                parameter = replace(parameter, enum=given)
            parameters.append(parameter)
        except _UnfitError as error:
            problems.append(f"{target.node_id}_{target.name} {error}. Expose other inputs.")
    if exposed is not None and problems:
        raise DeriveError("\n".join(problems))
    model = ModelContract(
        model_id,
        model_id,
        "",
        tuple(parameters),
        description="A workflow that the operator of this API added.",
        graph=graph,
        output_node=output_node,
        makes="image" if graph[output_node]["class_type"] == "SaveImage" else "video",
    )
    _check_defaults(model)
    return model


def _find_output(graph: Graph, described: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the one node that saves a video or an image under a name that can be given to it."""
    saving = [
        node_id
        for node_id, info in described.items()
        if info.get("output_node") and _PREFIX in graph[node_id]["inputs"] and _takes_pictures(info["input"])
    ]
    if not saving:
        raise DeriveError(
            "The workflow saves no video and no image. Give it a node that does, such as WanFLF2VVideoCombine, "
            "SaveVideo or SaveImage, and export it again."
        )
    if len(saving) > 1:
        named = " and ".join(f'{node_id} "{node_title(graph, node_id)}"' for node_id in saving)
        raise DeriveError(
            f"The nodes {named} save files, but a model of the API gives one. Bypass or delete the others, and export "
            "the workflow again."
        )
    return saving[0]


def _check_format(graph: Graph, node_id: str) -> None:
    """Refuse what the node would write if no request could get it."""
    node = graph[node_id]
    how = f"{node['class_type']} {node['inputs'].get(_FORMAT, '')}".strip()
    if _NOT_GIVEN.search(how):
        raise DeriveError(
            f'The node {node_id} "{node_title(graph, node_id)}" saves by {how}, but a result of the API is an MP4, '
            "WebM, MOV, MKV or GIF file, or one PNG. Choose another format or node, and export the workflow again."
        )


def _takes_pictures(inputs: Mapping[str, Any]) -> bool:
    names = [name for group in ("required", "optional") for name in inputs.get(group) or {}]
    kinds = [kind for name in names if isinstance(kind := spec(inputs, name)[0], str)]
    return any({"IMAGE", "VIDEO"} & set(kind.split(",")) for kind in kinds)


def _is_harmless(graph: Graph, inputs: Mapping[str, Any], target: NodeInput, *, saves: bool) -> bool:
    """Whether a request may set the input though the operator did not name it; ``saves``: its node saves the result."""
    name = target.name
    kind, config = spec(inputs, name)
    if _is_image(config):
        return True
    if _FILE_WORDS & set(re.split(r"[^a-z]+", name.lower())):
        return False
    if kind in ("INT", "FLOAT"):
        return True
    if kind == "STRING":
        return bool(config.get("multiline")) or (graph[target.node_id]["class_type"], name) in _LISTS_OF_NUMBERS
    names = [other for group in ("required", "optional") for other in inputs.get(group) or {}]
    return bool(choices(inputs, name)) and not saves and not any(_lists_files(inputs, other) for other in names)


def _is_image(config: Mapping[str, Any]) -> bool:
    """Whether an input takes an image of ComfyUI's input folder, as that of Load Image does."""
    return bool(config.get("image_upload")) and config.get("image_folder", "input") == "input"


def _lists_files(inputs: Mapping[str, Any], name: str) -> bool:
    """Whether an input's choices are files, such as models; those of a list without any may be."""
    kind, config = spec(inputs, name)
    if _is_image(config) or (kind != "COMBO" and not isinstance(kind, list)):
        return False
    listed = choices(inputs, name)
    return not listed or any(key.endswith("_upload") for key in config) or any(map(_FILE_NAME.fullmatch, listed))


def _parameter(graph: Graph, inputs: Mapping[str, Any], target: NodeInput) -> Parameter:
    """Return the parameter that sets an input; ``_UnfitError`` if none can."""
    node_id, name = target
    key, value = f"{node_id}_{name}", graph[node_id]["inputs"][name]
    if inputs_named(key) != (target,):
        raise _UnfitError("cannot be told from another key, because of its name or its node's id")
    kind, config = spec(inputs, name)
    fields: dict[str, Any] = {
        "key": key,
        "title": f"{name.replace('_', ' ').capitalize()} ({node_title(graph, node_id)})",
        "description": str(config.get("tooltip") or ""),
        "default": value,
    }
    if kind in ("INT", "FLOAT"):
        fields |= {"minimum": _limit(kind, config, "min"), "maximum": _limit(kind, config, "max")}
        return Parameter(**fields, type="integer" if kind == "INT" else "float")
    if kind == "BOOLEAN":
        return Parameter(**fields, type="boolean")
    if kind == "STRING":
        return Parameter(**fields, type="string")
    if _is_image(config):
        return Parameter(**fields, type="string", is_image=True, required=True)
    if kind == "COMBO" or isinstance(kind, list):
        options = _options(kind, config)
        return Parameter(**fields, enum=options, type="string" if isinstance(options[0], str) else "integer")
    raise _UnfitError(f"takes no value that a request can give ({kind})")


def _limit(kind: str, config: Mapping[str, Any], name: str) -> float | None:
    limit = config.get(name)
    if not isinstance(limit, int | float) or not math.isfinite(limit):
        return None
    return int(limit) if kind == "INT" else limit  # nodes write 1e20 too


def _options(kind: Any, config: Mapping[str, Any]) -> tuple[Value, ...]:
    """Return what a request can choose from: texts, or integers."""
    options = kind if isinstance(kind, list) else config.get("options")
    if options is None:
        raise _UnfitError("does not say what it offers, so that no choice could be checked")
    if not options:
        raise _UnfitError("has nothing to choose from on this ComfyUI")
    for type_ in (str, int):
        if all(type(option) is type_ for option in options):
            return tuple(options)
    raise _UnfitError("has choices that are neither all texts nor all integers")


def _check_defaults(model: ModelContract) -> None:
    try:
        validate(model, {parameter.key: parameter.default for parameter in model.parameters})
    except ContractError as error:
        wrong = [model.parameter(one.loc[0]) for one in error.errors]
        raise DeriveError(
            "\n".join(
                f'{one.key} is "{one.default}" in the workflow, but must be {allowed(one)}. Change it there, and '
                "export the workflow again."
                for one in wrong
            )
        ) from error
