"""The schemas of a model's input and output: as the hosted model's page prints them, and as real JSON Schema."""

from __future__ import annotations

from typing import Any

from ...contract.parameters import IMAGE_FORMAT, MAX_PROMPT_CHARACTERS, ModelContract, Parameter

TEXT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"  # a prompt may hold tabs and line breaks


def page_schema(model: ModelContract) -> dict[str, Any]:
    """Return the input schema as the hosted model's page prints it, ``"type": "float"`` and placeholders included.

    The page does not say which parameters take an image; of a model that an operator added, ``format`` does.
    """
    properties = {parameter.key: _page_property(parameter) for parameter in model.parameters}
    for parameter in model.parameters:
        if parameter.is_image and model.graph is not None:
            properties[parameter.key]["format"] = IMAGE_FORMAT
    return {
        "type": "object",
        "title": "modelApiDoc_navInputSchema" if model.graph is None else model.display_name,
        "required": _required(model),
        "properties": properties,
    }


def output_schema(model: ModelContract) -> dict[str, Any]:
    """Return the output schema as the hosted model's page prints it; an image alone for a model that makes one."""

    def one(description: str) -> dict[str, Any]:
        return {"type": "string", "format": "uri", "description": description}

    def many(description: str) -> dict[str, Any]:
        return {"type": "array", "description": description, "items": {"type": "string", "format": "uri"}}

    properties = {
        "image": one("modelApiDoc_outDescImage"),
        "video": one("modelApiDoc_outDescVideo"),
        "images": many("modelApiDoc_outDescImages"),
        "videos": many("modelApiDoc_outDescVideos"),
    }
    if model.makes == "image":
        properties = {name: shown for name, shown in properties.items() if name.startswith("image")}
    return {"output": {"type": "object", "properties": properties}}


def json_schema(model: ModelContract) -> dict[str, Any]:
    """Return the input as real JSON Schema (2020-12): exactly what is accepted."""
    return {
        "type": "object",
        "title": model.display_name,
        "required": _required(model),
        "properties": {parameter.key: _json_property(parameter) for parameter in model.parameters},
        "additionalProperties": False,
    }


def _required(model: ModelContract) -> list[str]:
    """Return the required keys in the page's order, which is that of their titles."""
    required = sorted((item for item in model.parameters if item.required), key=lambda item: item.title)
    return [parameter.key for parameter in required]


def _page_property(parameter: Parameter) -> dict[str, Any]:
    page: dict[str, Any] = {
        "title": parameter.title,
        "description": parameter.description,
        "type": parameter.type,
        "default": parameter.default,
    }
    if parameter.enum:
        page["enum"] = list(parameter.enum)
    if parameter.minimum is not None:
        page["minimum"] = parameter.minimum
    if parameter.maximum is not None:
        page["maximum"] = parameter.maximum
    return page


def _json_property(parameter: Parameter) -> dict[str, Any]:
    schema = _page_property(parameter)
    low, high = parameter.range
    if parameter.type == "boolean":
        return schema
    if parameter.type != "string":
        schema["type"] = "number" if parameter.type == "float" else "integer"
        limits = {} if parameter.enum else {"minimum": low, "maximum": high}
        return {**schema, **{name: limit for name, limit in limits.items() if limit is not None}}
    if parameter.is_image:
        about = "A public HTTPS URL, a data URI, a name in ComfyUI's input folder, or the id of an uploaded file."
        return {**schema, "description": about, "format": IMAGE_FORMAT, "minLength": 1}
    if not parameter.enum:
        return {**schema, "pattern": TEXT_PATTERN, "maxLength": MAX_PROMPT_CHARACTERS}
    return schema
