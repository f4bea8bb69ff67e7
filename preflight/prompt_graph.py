"""What a queued prompt says of a run besides its files: images, frames, numbers, where the video goes."""

from __future__ import annotations

from pathlib import Path

import folder_paths

from .prompt_files import Prompt, class_type, linked, node_inputs, upstream

_LARGEST = 1 << 64  # no input of the host takes more; JSON has numbers, and NaN, that cannot be computed with
_IMAGE_INPUTS = ("start_image", "end_image")


def number(prompt: Prompt, node_id: str, name: str) -> float | None:
    """Return the number in a node's input, also through a link to a node that only holds one (``value``)."""
    value = node_inputs(prompt, node_id).get(name)
    source = linked(value)
    if source is not None:
        value = node_inputs(prompt, source).get("value")
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and -_LARGEST < value < _LARGEST else None


def images_connected(prompt: Prompt, node_id: str) -> bool:
    """Whether a first or last image goes into the sampler's positive conditioning."""
    nodes = upstream(prompt, node_inputs(prompt, node_id).get("positive"))
    return any(
        linked(node_inputs(prompt, node).get(name)) is not None
        for node in nodes
        if class_type(prompt, node).startswith("Wan")
        for name in _IMAGE_INPUTS
    )


def video_frames(prompt: Prompt, node_id: str) -> int | None:
    """Return the ``length`` of the node that makes the sampler's latent."""
    for node in upstream(prompt, node_inputs(prompt, node_id).get("latent_image")):
        length = number(prompt, node, "length")
        if length is not None:
            return int(length)
    return None


def output_folder(prompt: Prompt) -> Path:
    """Return the folder that the prompt's videos go to: the host's, with the folder of a ``filename_prefix``."""
    output = Path(folder_paths.get_output_directory())
    for node_id in prompt:
        prefix = node_inputs(prompt, node_id).get("filename_prefix")
        if isinstance(prefix, str) and "\0" not in prefix:
            folder = (output / prefix).parent
            if output in folder.parents and ".." not in folder.parts:
                return folder
    return output
