"""What ComfyUI's own nodes say of themselves: the choices of an input, the type of an output."""

from __future__ import annotations

import sys
from typing import Any

from ..client.offers import choices


def offered(class_type: str, name: str) -> list[str] | None:
    """Return what an input of a node lists at present; ``None`` if this ComfyUI does not know the node or lists none.

    ``/object_info`` says the same to others.
    """
    try:
        return choices(_node(class_type).INPUT_TYPES(), name)
    except Exception:  # noqa: BLE001 -- another pack's code, or no such node
        return None


def output_type(class_type: str, output: object) -> str | None:
    """Return the type of a node's n-th output, such as ``"CONDITIONING"``; ``None`` if there is none."""
    types = getattr(_node(class_type), "RETURN_TYPES", ())
    return str(types[output]) if isinstance(output, int) and 0 <= output < len(types) else None


def _node(class_type: str) -> Any:
    """Return the class of a node; where ComfyUI runs, it has imported its ``nodes`` before any pack."""
    return getattr(sys.modules.get("nodes"), "NODE_CLASS_MAPPINGS", {}).get(class_type)
