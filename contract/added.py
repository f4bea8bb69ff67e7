"""Models that an operator added, as the JSON that a store keeps of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from .parameters import ModelContract, Parameter

_TUPLES = ("enum", "aliases", "node_range", "below")


def to_data(model: ModelContract) -> dict[str, Any]:
    """Return a model as what JSON can hold; ``from_data`` makes an equal one of it."""
    return dataclasses.asdict(model)


def from_data(data: Mapping[str, Any]) -> ModelContract:
    """Return the model that ``to_data`` was given, also if its data went through JSON."""
    return ModelContract(**{**data, "parameters": tuple(map(_parameter, data["parameters"]))})


def _parameter(fields: Mapping[str, Any]) -> Parameter:
    tuples = {name: tuple(fields[name]) for name in _TUPLES if fields.get(name) is not None}
    return Parameter(**{**fields, **tuples})
