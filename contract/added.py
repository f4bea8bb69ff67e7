"""Models that an operator added, as JSON in a store; and the contract that the schema of a model tells its clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from .parameters import ModelContract, Parameter, ParameterType

IMAGE_FORMAT = "image-reference"  # JSON Schema's format of a parameter that takes an image
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


def from_schema(model_id: str, schema: Mapping[str, Any]) -> ModelContract:
    """Return the contract of a model that only its server knows, from the ``input_schema`` that the server shows.

    Properties of a type that a parameter cannot have are left out.
    """
    required = schema.get("required") or ()
    parameters = tuple(
        Parameter(
            key=key,
            title=str(shown.get("title") or key),
            type=shown["type"],
            default=shown.get("default", ""),
            description=str(shown.get("description") or ""),
            enum=tuple(shown.get("enum") or ()),
            minimum=shown.get("minimum"),
            maximum=shown.get("maximum"),
            required=key in required,
            is_image=shown.get("format") == IMAGE_FORMAT,
        )
        for key, shown in (schema.get("properties") or {}).items()
        if shown.get("type") in get_args(ParameterType)
    )
    return ModelContract(model_id, model_id, "", parameters)
