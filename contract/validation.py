"""Checks request values against a model's parameters, and writes the texts of a 422: one error for each bad field."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model
from pydantic_core import ErrorDetails, PydanticCustomError

from .parameters import ModelContract, Parameter, Value
from .suggestions import near

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # tabs and line breaks may be in it
_SHOWN_CHARACTERS = 80
_SHOWN_CHOICES = 60  # a folder can have thousands of LoRAs
_SHOWN_UNKNOWN = 20  # unknown keys that get an entry each
# Where the contract has no limit: the integers that a node can count with (torch's int64, and seeds), any finite float.
_LIMITS = {"integer": (-(2**63), 2**64 - 1), "float": (-sys.float_info.max, sys.float_info.max)}
_BOOLEANS = {"true": True, "false": False}  # as a command line has them


@dataclass(frozen=True)
class FieldError:
    """One bad field: where it is, what is wrong in words, and pydantic's name for the kind of error."""

    loc: tuple[str, ...]
    msg: str
    type: str


class ContractError(ValueError):
    """Values that the contract refuses; ``errors`` has one entry per bad field, the text is one line each."""

    def __init__(self, errors: list[FieldError]) -> None:
        super().__init__("\n".join(error.msg for error in errors))
        self.errors = errors


def validate(model: ModelContract, values: Mapping[str, object]) -> dict[str, Value]:
    """Return ``values`` checked and completed with defaults, in the model's order.

    Nothing is clamped, and no unknown key passes. A float such as 6.0 is an integer (JSON Schema), a boolean is not a
    number, and a string is never converted.
    Raises ``ContractError`` with one entry per bad field; if there are many unknown keys, the last entry
    says how many more.
    """
    try:
        checked = _request_model(model).model_validate(dict(values))
    except ValidationError as error:
        raise ContractError(_explain_all(model, values, error.errors())) from error
    complete = checked.model_dump(by_alias=True)
    if errors := [*_too_high(model, complete), *_miscounted(model, complete)]:
        raise ContractError(errors)
    return complete


def parse_assignment(model: ModelContract, text: str) -> tuple[str, Value]:
    """Read ``KEY=VALUE`` from a command line, with the value in the parameter's type.

    Raises ``ContractError`` if there is no ``=``, the key is unknown, or the value is refused.
    """
    key, separator, raw = text.partition("=")
    key = key.strip()
    if not separator:
        message = f"{_show(text)} is not KEY=VALUE. Write it like {model.parameters[-1].key}=5."
        raise ContractError([FieldError((key,), message, "assignment")])
    parameter = next((item for item in model.parameters if item.key == key), None)
    if parameter is None:
        raise ContractError([FieldError((key,), _unknown_key(model, key), "extra_forbidden")])
    value: Value = raw
    if parameter.type == "boolean":
        value = _BOOLEANS.get(raw.lower(), raw)
    elif parameter.type != "string":
        value = _number(raw)
    only_this = ModelContract(model.model_id, model.display_name, model.workflow, (parameter,))
    return key, validate(only_this, {key: value})[key]


def allowed(parameter: Parameter) -> str:
    """Say in words what the parameter accepts, e.g. ``an integer from 6 to 20``."""
    if parameter.enum:
        more = len(parameter.enum) - _SHOWN_CHOICES
        shown = ", ".join(_show(value) for value in parameter.enum[:_SHOWN_CHOICES])
        return f"one of {shown}" + (f" and {more} more, which the model's schema lists" if more > 0 else "")
    if parameter.type == "string":
        return "the name of an image" if parameter.is_image else "a text"
    if parameter.type == "boolean":
        return "true or false"
    noun = "an integer" if parameter.type == "integer" else "a number"
    low, high = parameter.range
    if low is None or high is None:
        return noun + (f" of {low} or more" if low is not None else f" of {high} or less" if high is not None else "")
    return f"{noun} from {low} to {high}"


@lru_cache(maxsize=16)
def _request_model(model: ModelContract) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for index, parameter in enumerate(model.parameters):
        default = ... if parameter.required else parameter.default
        fields[f"field_{index}"] = (_annotation(parameter), Field(default=default, alias=parameter.key))
    return create_model("Request", __config__=ConfigDict(strict=True, extra="forbid"), **fields)


def _annotation(parameter: Parameter) -> Any:
    if parameter.type == "string":
        return Literal[parameter.enum] if parameter.enum else Annotated[str, AfterValidator(_text_check(parameter))]
    if parameter.type == "boolean":
        return bool
    if parameter.type == "float":
        low, high = _limits(parameter)
        return Annotated[float, Field(ge=low, le=high, allow_inf_nan=False)]
    if parameter.enum:
        return Annotated[int, AfterValidator(_enum_check(parameter)), BeforeValidator(_integral)]
    low, high = _limits(parameter)
    return Annotated[int, Field(ge=low, le=high), BeforeValidator(_integral)]


def _limits(parameter: Parameter) -> tuple[float, float]:
    low, high = parameter.range
    lowest, highest = _LIMITS[parameter.type]
    return lowest if low is None else max(low, lowest), highest if high is None else min(high, highest)


def _integral(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _enum_check(parameter: Parameter) -> Callable[[int], int]:
    def check(value: int) -> int:
        if value not in parameter.enum:
            raise PydanticCustomError("literal_error", "not in the list")
        return value

    return check


def _text_check(parameter: Parameter) -> Callable[[str], str]:
    def check(value: str) -> str:
        is_name = parameter.is_image and value[:5].lower() != "data:"  # clients break the lines of a data URI
        if (_CONTROL if is_name else _CONTROL_IN_TEXT).search(value):
            raise PydanticCustomError("control_character", "has a control character")
        if parameter.is_image and not value.strip():
            raise PydanticCustomError("empty", "is empty")
        return value

    return check


def _number(text: str) -> Value:
    """Read an int, else a float, else leave the text for the check to refuse."""
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def _too_high(model: ModelContract, values: Mapping[str, Value]) -> Iterator[FieldError]:
    """Yield an error for each value that does not stay below that of another parameter, as ``below`` asks."""
    for parameter in model.parameters:
        key, margin = parameter.below or ("", 0)
        value, other = values[parameter.key], values.get(key)
        if isinstance(value, (int, float)) and isinstance(other, (int, float)) and value > other - margin:
            message = (
                f"{parameter.key} must be {other - margin} or less where {key} is {other}, got {_show(value)}. Values "
                f"are never changed for you: give another, or a larger {key}."
            )
            yield FieldError((parameter.key,), message, "less_than_equal")


def _miscounted(model: ModelContract, values: Mapping[str, Value]) -> Iterator[FieldError]:
    """Yield an error for each text that has several lines, but not as many as ``lines`` asks."""
    for parameter in model.parameters:
        if parameter.lines is None:
            continue
        found = sum(bool(line.strip()) for line in str(values[parameter.key]).splitlines())
        if found not in (0, 1, parameter.lines):
            message = (
                f"{parameter.key} has {found} lines. Give {parameter.lines} lines, or a single one that is for all; "
                "empty lines do not count."
            )
            yield FieldError((parameter.key,), message, "line_count")


def _explain_all(model: ModelContract, values: Mapping[str, object], details: list[ErrorDetails]) -> list[FieldError]:
    known = [detail for detail in details if detail["type"] != "extra_forbidden"]
    unknown = [detail for detail in details if detail["type"] == "extra_forbidden"]
    errors = [_explain(model, values, detail) for detail in known + unknown[:_SHOWN_UNKNOWN]]
    more = len(unknown) - _SHOWN_UNKNOWN
    if more > 0:
        key = str(unknown[_SHOWN_UNKNOWN]["loc"][0])
        message = f"{_show(key)} is not a parameter either; of such keys {more} are not listed. Remove them."
        errors.append(FieldError((key,), message, "extra_forbidden"))
    return errors


def _explain(model: ModelContract, values: Mapping[str, object], detail: ErrorDetails) -> FieldError:
    key, kind = str(detail["loc"][0]), detail["type"]
    if kind == "extra_forbidden":
        return FieldError((key,), _unknown_key(model, key), kind)
    parameter = model.parameter(key)
    if kind == "missing":
        message = f"{key} ({parameter.title}) is missing. Give {allowed(parameter)}."
    elif kind == "control_character":
        message = f"{key} must not hold control characters, got {_show(values[key])}. Remove them."
    else:
        advice = _advice(parameter, values[key])
        message = f"{key} must be {allowed(parameter)}, got {_show_typed(parameter, values[key])}. {advice}"
    return FieldError((key,), message, kind)


def _unknown_key(model: ModelContract, key: str) -> str:
    names = {parameter.key: _names(parameter) for parameter in model.parameters}
    found = near(key, names) or near(key.lstrip("0123456789_"), names)  # 57_seed: the number is right, the name is not
    meant = " or ".join(f"{near_key} ({model.parameter(near_key).title})" for near_key in found)
    return (
        f"{_show(key)} is not a parameter. {f'Did you mean {meant}? ' if meant else ''}All of them: {', '.join(names)}."
    )


def _names(parameter: Parameter) -> list[str]:
    inputs = [node_input.name for node_input in parameter.inputs]
    return [parameter.key, *inputs, parameter.title.partition("(")[0], *parameter.aliases]


def _advice(parameter: Parameter, value: object) -> str:
    """Say what to do: the nearest allowed value where there is one."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and _can_compare(parameter, value):
        return f"Values are never changed for you; the nearest allowed one is {_nearest(parameter, value)}."
    if isinstance(value, str) and parameter.type == "string":
        choices = [str(choice) for choice in parameter.enum]
        found = near(
            value, {choice: (choice, choice.partition(" ")[0]) for choice in choices}
        )  # also by its size alone
        if found:
            return f"Did you mean {' or '.join(map(_show, found))}?"
    return f"The default is {_show(parameter.default)}."


def _can_compare(parameter: Parameter, value: float) -> bool:
    is_nan = isinstance(value, float) and math.isnan(value)  # of a huge integer, math.isnan raises OverflowError
    return parameter.type in ("integer", "float") and not is_nan


def _nearest(parameter: Parameter, value: float) -> Value:
    choices = [choice for choice in parameter.enum if not isinstance(choice, str)]
    low, high = (min(choices), max(choices)) if choices else _limits(parameter)
    inside = min(max(value, low), high)  # from here on the value is finite: arithmetic cannot overflow
    if choices:
        return min(choices, key=lambda choice: abs(choice - inside))
    return round(inside) if parameter.type == "integer" else inside


def _show(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _show_typed(parameter: Parameter, value: object) -> str:
    """Show a value, with its type where the type is what is wrong."""
    names: dict[type, str] = {str: "a text", bool: "a boolean", list: "a list", dict: "an object"}
    name = names.get(type(value))
    wrong_type = name is not None and (parameter.type != "string" or not isinstance(value, str))
    return f"{_show(value)} ({name})" if wrong_type else _show(value)
