"""The errors of a server, and ComfyUI's failures in words: refused workflow, failed node, out of memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..contract.loaders import loaders_with
from ..contract.workflow import Graph, node_title

_LISTED_CHOICES = 8


class ComfyError(Exception):
    """Base of all errors here; the text is complete and meant for the user."""


class ServerAddressError(ComfyError):
    """What was given is not the address of a server."""


class ServerUnreachableError(ComfyError):
    """The server cannot be reached, or does not respond in time."""


class ServerRefusedError(ServerUnreachableError):
    """Nothing listens at the server's address: its machine says so."""


class ServerResponseError(ComfyError):
    """The server responded with an HTTP error; ``status`` is its code."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class HostedApiError(ServerResponseError):
    """The hosted API refused a request, or the request failed; ``code`` is the contract's, 0 if it gave none."""

    def __init__(self, message: str, code: int = 0, status: int = 0) -> None:
        super().__init__(message, status)
        self.code = code


class ServerLostError(ComfyError):
    """The server stopped responding, or forgot the prompt, while the prompt was queued or running."""


class PreflightError(ComfyError):
    """The pack on the server found that the workflow cannot give the video; nothing was queued."""


class PromptRejectedError(ComfyError):
    """The server refused the workflow before running it; ``node_id`` is the first node to blame, if it named one."""

    def __init__(self, message: str, node_id: str | None = None) -> None:
        super().__init__(message)
        self.node_id = node_id


class RunFailedError(ComfyError):
    """A node failed while running."""

    def __init__(self, message: str, node_id: str) -> None:
        super().__init__(message)
        self.node_id = node_id


class OutOfMemoryError(RunFailedError):
    """A node ran out of GPU memory or main memory."""


class RunInterruptedError(RunFailedError):
    """Someone stopped the run on the server."""


class NoOutputError(ComfyError):
    """The run finished but reported no file."""


def named_node(graph: Graph, node_id: str) -> str:
    """Return the node as messages name it: ``node 57 "Sampler"``."""
    return f'node {node_id} "{node_title(graph, node_id)}"'


def explain_rejection(graph: Graph, error: Mapping[str, Any] | str | None, node_errors: Any) -> PromptRejectedError:
    """Translate the ``error`` and ``node_errors`` of ``POST /prompt`` into one error, a line per problem."""
    details: Mapping[str, Any] = error if isinstance(error, Mapping) else {"message": error or "no reason given"}
    info = details.get("extra_info") or {}
    if details.get("type") == "missing_node_type":
        node_id = str(info.get("node_id"))
        return PromptRejectedError(_missing_node(graph, node_id, info.get("class_type")), node_id)
    if not node_errors:
        text = ": ".join(str(part) for part in (details.get("message"), details.get("details")) if part)
        return PromptRejectedError(f"ComfyUI refused the workflow: {text}.")
    node_ids = sorted(node_errors, key=lambda node_id: (len(node_id), node_id))
    lines = [
        line
        for node_id in node_ids
        for line in sorted(set(_node_problems(graph, node_id, node_errors[node_id].get("errors", []))))
    ]  # sorted: ComfyUI checks inputs in the order of a set
    return PromptRejectedError("\n".join(lines), node_ids[0])


def explain_failure(graph: Graph, data: Mapping[str, Any]) -> RunFailedError:
    """Translate the data of an ``execution_error`` or ``execution_interrupted`` message."""
    node_id = str(data.get("node_id"))
    node = named_node(graph, node_id)
    kind = str(data.get("exception_type") or "")
    text = str(data.get("exception_message") or "").strip()
    if not kind:
        return RunInterruptedError(f"The run was stopped on the server at {node}. Run it again.", node_id)
    if _is_out_of_memory(kind, text):
        first_line = text.splitlines()[0] if text else kind
        return OutOfMemoryError(
            f"ComfyUI ran out of memory at {node}. Choose a smaller size or fewer frames, or close other programs "
            f"that use the memory, and run again. ({first_line})",
            node_id,
        )
    return RunFailedError(f"{node[0].upper()}{node[1:]} failed: {text} ({kind})", node_id)


def _is_out_of_memory(kind: str, text: str) -> bool:
    """Recognise torch's CUDA error and its CPU allocator's, and Python's own."""
    words = text.lower()
    return (
        kind.rpartition(".")[2] in ("OutOfMemoryError", "MemoryError")
        or "out of memory" in words
        or "not enough memory" in words
        or "can't allocate memory" in words
    )


def _missing_node(graph: Graph, node_id: str, class_type: object) -> str:
    if class_type is None:
        return f"Node {node_id} of the workflow has no class_type: the workflow is damaged. Export it again."
    if str(class_type).startswith("WanFLF2V"):
        remedy = "Install the wan-flf2v node pack in its custom_nodes folder (or update it) and restart ComfyUI."
    else:
        remedy = "Install the node pack that brings it, or update ComfyUI, and restart it."
    return f"The type of {named_node(graph, node_id)}, {class_type}, is unknown to this ComfyUI. {remedy}"


def _node_problems(graph: Graph, node_id: str, errors: list[Mapping[str, Any]]) -> Iterator[str]:
    node = named_node(graph, node_id)
    node = node[0].upper() + node[1:]
    for error in errors:
        info = error.get("extra_info") or {}
        name, value = info.get("input_name"), info.get("received_value")
        kind, details = error.get("type"), str(error.get("details") or "")
        if kind == "value_not_in_list" and name is not None:
            yield _not_in_list(graph, node_id, node, name, value, _choices(info))
        elif kind == "required_input_missing":
            yield f'{node}: the required input "{name}" is missing.'
        elif kind == "custom_validation_failed":
            # ComfyUI repeats the node's own reason for every input that the check reads.
            reason = details.partition(" - ")[2] or details
            image = reason.removeprefix("Invalid image file: ")
            if image != reason:
                reason = f'the image "{image}" is not in ComfyUI\'s input folder. Upload it, or choose another.'
            yield f"{node}: {reason}"
        else:
            yield f"{node}: {error.get('message')}: {details}"


def _not_in_list(graph: Graph, node_id: str, node: str, name: str, value: object, choices: list[str]) -> str:
    listed = ", ".join(choices[:_LISTED_CHOICES]) + (", …" if len(choices) > _LISTED_CHOICES else "")
    loaders = loaders_with(graph.get(node_id, {}).get("class_type", ""), name)
    if not loaders:
        return f'{node}: {name} is "{value}", which is not one of: {listed}.'
    folders = " or ".join(dict.fromkeys(f"models/{loader.folders[0]}" for loader in loaders))
    present = f" Files that are there: {listed}." if choices else ""
    return (
        f'{node} needs the model file "{value}", which this ComfyUI does not have. '
        f"Put it in ComfyUI's {folders} folder and run again.{present}"
    )


def _choices(info: Mapping[str, Any]) -> list[str]:
    """Return the values ComfyUI would take; it leaves them out when there are more than 20."""
    if not info.get("input_config"):
        return []
    kind, config = info["input_config"]
    return [str(option) for option in (kind if isinstance(kind, list) else config.get("options", []))]
