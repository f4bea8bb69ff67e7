"""The OpenAPI document, made from the parameters and from the answers' models, so that it cannot drift from either."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ...contract.parameters import ModelContract
from .models import json_schema
from .responses import (
    CancelAnswer,
    ErrorAnswer,
    FileAnswer,
    ModelAnswer,
    ModelListAnswer,
    ResultAnswer,
    StatusAnswer,
    SubmitAnswer,
)

API_VERSION = "1.0.0"
_ANSWERS: tuple[type[BaseModel], ...] = (
    CancelAnswer,
    ErrorAnswer,
    FileAnswer,
    ModelAnswer,
    ModelListAnswer,
    ResultAnswer,
    StatusAnswer,
    SubmitAnswer,
)
_ERRORS = {
    400: "Invalid identifier, parameter or JSON (400001).",
    401: "The token is missing or unknown (400004).",
    403: "The signature is wrong (403001).",
    404: "Not found, expired, or another token's (404001).",
    405: "The address does not take this method (405001).",
    408: "The body came too slowly (408001).",
    413: "The body is too large (413001).",
    415: "The body is of another content type (415001).",
    416: "The file has no such range (416001).",
    422: "Values were refused; one entry in `detail` for each (422001).",
    429: "Too many requests, or too many of them waiting (429001).",
    500: "Something went wrong (500001).",
}
_COMMON = (400, 401, 429, 500)
_LINKS = {
    call: {"operationId": f"{call}_request", "parameters": {"request_id": "$response.body#/request_id"}}
    for call in ("status", "result", "cancel", "events")
}
_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}]


def document(models: list[ModelContract]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of an API that offers ``models``."""
    paths: dict[str, Any] = {}
    for model in models:
        paths[f"/v1/models/{model.model_id}"] = {"get": _get_model(model), "post": _submit(model)}
    schemas = {f"Input_{index}": json_schema(model) for index, model in enumerate(models)}
    for index, model in enumerate(models):
        body = {"$ref": f"#/components/schemas/Input_{index}"}
        post = paths[f"/v1/models/{model.model_id}"]["post"]
        post["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Wan FLF2V",
            "version": API_VERSION,
            "description": "Two images and a prompt become a video.",
        },
        "paths": {**paths, **_fixed_paths()},
        "components": {
            "schemas": {**_answer_schemas(), **schemas},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


@cache
def _answer_schemas() -> dict[str, Any]:
    _, top = models_json_schema(
        [(answer, "validation") for answer in _ANSWERS], ref_template="#/components/schemas/{model}"
    )
    definitions: dict[str, Any] = top["$defs"]
    return definitions


def _get_model(model: ModelContract) -> dict[str, Any]:
    answers = {200: _json("The model, with the hosted page's schemas.", ModelAnswer)}
    return _operation(f"Describe {model.display_name}", answers, (404,), _id("describe", model))


def _submit(model: ModelContract) -> dict[str, Any]:
    parameters = [
        _parameter("Idempotency-Key", "header", {"type": "string", "format": "idempotency-key", "maxLength": 255}),
        _parameter("webhook", "query", {"type": "string", "format": "webhook-url"}),
    ]
    answers = {200: {**_json("Accepted.", SubmitAnswer), "links": _LINKS}}
    operation = _operation(
        f"Submit a request to {model.display_name}", answers, (404, 408, 413, 415, 422), _id("submit", model)
    )
    return {**operation, "parameters": parameters}


def _fixed_paths() -> dict[str, Any]:
    request_id = _parameter("request_id", "path", {"type": "string", "format": "uuid"}, required=True)
    root = "/v1/requests/{request_id}"
    return {
        "/v1/models": {"get": _list_models()},
        f"{root}/status": {
            "get": _about(request_id, "Where a request stands", {200: _json("The status.", StatusAnswer)}, "status")
        },
        f"{root}/result": {
            "get": _about(request_id, "The result, or the state", {200: _json("The result.", ResultAnswer)}, "result")
        },
        f"{root}/cancel": {
            "post": _about(request_id, "Cancel a request", {202: _json("What came of it.", CancelAnswer)}, "cancel")
        },
        f"{root}/events": {"get": _events(request_id)},
        "/v1/files": {"post": _upload()},
        "/v1/results/{request_id}/{name}": {"get": _file(request_id)},
    }


def _list_models() -> dict[str, Any]:
    parameters = [
        *(_parameter(name, "query", {"type": "string"}) for name in ("search", "category", "kind")),
        _parameter("include_schema", "query", {"type": "boolean"}),
        _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": 100}),
        _parameter("offset", "query", {"type": "integer", "minimum": 0, "maximum": 1_000_000}),
    ]
    answers = {200: _json("The models that match.", ModelListAnswer)}
    return {**_operation("List the models", answers, (), "list_models"), "parameters": parameters}


def _about(request_id: dict[str, Any], summary: str, answers: dict[int, Any], name: str) -> dict[str, Any]:
    return {**_operation(summary, answers, (404,), f"{name}_request"), "parameters": [request_id]}


def _events(request_id: dict[str, Any]) -> dict[str, Any]:
    stream = {"description": "Events until the request has ended.", "content": {"text/event-stream": {}}}
    answers = {200: stream, 204: {"description": "The request has ended, and Last-Event-ID says that this is known."}}
    last = _parameter("Last-Event-ID", "header", {"type": "string"})
    return {**_operation("Follow a request", answers, (404,), "events_request"), "parameters": [request_id, last]}


def _upload() -> dict[str, Any]:
    image = {"type": "string", "contentMediaType": "application/octet-stream", "format": "image-file"}
    form = {"type": "object", "required": ["file"], "properties": {"file": image}, "additionalProperties": False}
    answers = {200: _json("The file is kept for as long as results are.", FileAnswer)}
    operation = _operation("Upload an image", answers, (408, 413, 415, 422), "upload_file")
    return {**operation, "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def _file(request_id: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        request_id,
        _parameter("name", "path", {"type": "string"}, required=True),
        _parameter("expires", "query", {"type": "integer"}, required=True),
        _parameter("signature", "query", {"type": "string"}, required=True),
    ]
    kinds: dict[str, Any] = {kind: {} for kind in ("video/mp4", "image/png")}
    answers = {
        200: {"description": "The file.", "content": kinds},
        206: {"description": "A range of it.", "content": kinds},
        304: {"description": "It has not changed."},
    }
    operation = _operation("Fetch a result's file", answers, (403, 404, 416), "get_file")
    return {**operation, "parameters": parameters, "security": []}


def _operation(summary: str, answers: dict[int, Any], statuses: tuple[int, ...], name: str) -> dict[str, Any]:
    errors = {status: _json(_ERRORS[status], ErrorAnswer) for status in (*_COMMON, *statuses)}
    if 429 in errors:
        errors[429]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "required": True}}
    responses = {str(status): answer for status, answer in sorted({**answers, **errors}.items())}
    return {"summary": summary, "operationId": name, "security": _SECURITY, "responses": responses}


def _json(description: str, answer: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{answer.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _parameter(name: str, place: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _id(verb: str, model: ModelContract) -> str:
    return f"{verb}_{''.join(character if character.isalnum() else '_' for character in model.model_id)}"
