"""Inputs that come as lists: the calls that ComfyUI would make of them, for nodes that take all of them at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def calls_of(lists: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return the inputs of each call; a list that is shorter than the longest repeats its last value, as in ComfyUI.

    Raises:
        ValueError: a list is empty.
    """
    given = {name: values for name, values in lists.items() if values is not None}
    if empty := [name for name, values in given.items() if not values]:
        raise ValueError(f"{empty[0]} is an empty list. Connect a list with at least one value, or nothing.")
    count = max(map(len, given.values()))
    return [{name: values[min(number, len(values) - 1)] for name, values in given.items()} for number in range(count)]
