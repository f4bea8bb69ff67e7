"""The OpenAPI document, made from the parameters of the models and from the response bodies."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ...contract.parameters import ModelContract
from ..jobs.records import STATUSES
from ..jobs.results import CONTENT_TYPES
from .errors import SUMMARIES
from .models import MAX_LIMIT
from .responses import (
    CancelResponse,
    CategoryListResponse,
    ErrorResponse,
    ModelListResponse,
    ModelResponse,
    RequestListResponse,
    ResultResponse,
    StatusResponse,
    SubmitResponse,
    UploadResponse,
)
from .schemas import json_schema

API_VERSION = "1.0.0"
_BODIES: tuple[type[BaseModel], ...] = (
    *(CancelResponse, CategoryListResponse, ErrorResponse, ModelListResponse, ModelResponse),
    *(RequestListResponse, ResultResponse, StatusResponse, SubmitResponse, UploadResponse),
)
_COMMON = (400, 401, 429, 500, 503, 507)
_LINKS = {
    call: {"operationId": f"{call}_request", "parameters": {"request_id": "$response.body#/request_id"}}
    for call in ("status", "result", "cancel", "events")
}
_SECURITY: list[dict[str, list[str]]] = [{"bearer": []}]


def document(models: Iterable[ModelContract]) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of an API that offers ``models``."""
    paths: dict[str, Any] = {}
    schemas = dict(_response_schemas())
    for index, model in enumerate(models):
        schemas[f"Input_{index}"] = json_schema(model)
        name = "".join(character if character.isalnum() else "_" for character in model.model_id)
        name += f"_{index}" if model.graph is not None else ""  # a.b is another model than a_b
        paths[f"/v1/models/{model.model_id}"] = {
            "get": _get_model(model, f"describe_{name}"),
            "post": _submit(model, f"Input_{index}", f"submit_{name}"),
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Wan FLF2V",
            "version": API_VERSION,
            "description": "Two images and a prompt become a video.",
        },
        "paths": {**paths, **_fixed_paths()},
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "link": {"type": "apiKey", "in": "query", "name": "signature", "description": "As in events_url."},
            },
        },
    }


@functools.cache
def _response_schemas() -> dict[str, Any]:
    _, top = models_json_schema([(body, "validation") for body in _BODIES], ref_template="#/components/schemas/{model}")
    definitions: dict[str, Any] = top["$defs"]
    return definitions


def _get_model(model: ModelContract, name: str) -> dict[str, Any]:
    responses = {200: _json("The model, with the hosted page's schemas.", ModelResponse)}
    return _operation(f"Describe {model.display_name}", responses, (404,), name)


def _submit(model: ModelContract, schema: str, name: str) -> dict[str, Any]:
    parameters = [
        _parameter("Idempotency-Key", "header", {"type": "string", "format": "idempotency-key", "maxLength": 255}),
        _parameter("webhook", "query", {"type": "string", "format": "webhook-url"}),
        _parameter("webhook_intermediate_status", "query", {"type": "boolean"}),
    ]
    responses = {200: {**_json("Accepted.", SubmitResponse), "links": _LINKS}}
    operation = _operation(f"Submit a request to {model.display_name}", responses, (404, 408, 413, 415, 422, 503), name)
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    return {**operation, "parameters": parameters, "requestBody": {"required": True, "content": content}}


def _fixed_paths() -> dict[str, Any]:
    request_id = _parameter("request_id", "path", {"type": "string", "format": "uuid"}, required=True)
    root = "/v1/requests/{request_id}"
    return {
        "/v1/models": {"get": _list_models()},
        "/v1/models/categories": {"get": _list_categories()},
        "/v1/requests": {"get": _list_requests()},
        f"{root}/status": {"get": _about(request_id, "The status of a request", 200, StatusResponse, "status")},
        f"{root}/result": {"get": _about(request_id, "The result or the present state", 200, ResultResponse, "result")},
        f"{root}/cancel": {"post": _about(request_id, "Cancel a request", 202, CancelResponse, "cancel")},
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
    responses = {200: _json("The models that match.", ModelListResponse)}
    return {**_operation("List the models", responses, (), "list_models"), "parameters": parameters}


def _list_categories() -> dict[str, Any]:
    responses = {200: _json("The categories of the models.", CategoryListResponse)}
    return _operation("List the categories", responses, (), "list_categories")


def _list_requests() -> dict[str, Any]:
    parameters = [
        _parameter("status", "query", {"type": "string", "enum": list(STATUSES)}),
        _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}),
        _parameter("cursor", "query", {"type": "string", "format": "uuid"}),
    ]
    responses = {200: _json("The token's requests, newest first.", RequestListResponse)}
    return {**_operation("List your requests", responses, (404,), "list_requests"), "parameters": parameters}


def _about(request_id: dict[str, Any], summary: str, status: int, body: type[BaseModel], name: str) -> dict[str, Any]:
    responses = {status: _json(f"The {name}.", body)}
    return {**_operation(summary, responses, (404,), f"{name}_request"), "parameters": [request_id]}


def _events(request_id: dict[str, Any]) -> dict[str, Any]:
    stream = {"description": "Events until the request has ended.", "content": {"text/event-stream": {}}}
    responses = {200: stream, 204: {"description": "The request has ended, and the client knows it by Last-Event-ID."}}
    parameters = [
        request_id,
        _parameter("Last-Event-ID", "header", {"type": "string"}),
        _parameter("preview", "query", {"type": "boolean"}),
        _parameter("expires", "query", {"type": "string", "description": "With signature, as in events_url."}),
    ]
    operation = _operation("Follow a request", responses, (403, 404), "events_request")
    return {**operation, "parameters": parameters, "security": [*_SECURITY, {"link": []}]}


def _upload() -> dict[str, Any]:
    image = {"type": "string", "contentMediaType": "application/octet-stream", "format": "image-file"}
    form = {"type": "object", "required": ["file"], "properties": {"file": image}, "additionalProperties": False}
    responses = {200: _json("The file is kept for as long as results are.", UploadResponse)}
    operation = _operation("Upload an image", responses, (408, 413, 415, 422), "upload_file")
    return {**operation, "requestBody": {"required": True, "content": {"multipart/form-data": {"schema": form}}}}


def _file(request_id: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        request_id,
        _parameter("name", "path", {"type": "string"}, required=True),
        _parameter("expires", "query", {"type": "integer"}, required=True),
        _parameter("signature", "query", {"type": "string"}, required=True),
    ]
    kinds: dict[str, Any] = {kind: {} for kind in sorted(set(CONTENT_TYPES.values()))}
    responses = {
        200: {"description": "The file.", "content": kinds},
        206: {"description": "A range of it.", "content": kinds},
        304: {"description": "It has not changed."},
    }
    operation = _operation("Fetch a result's file", responses, (403, 404, 416), "get_file")
    return {**operation, "parameters": parameters, "security": []}


def _operation(summary: str, successes: dict[int, Any], statuses: tuple[int, ...], name: str) -> dict[str, Any]:
    errors = {status: _json(SUMMARIES[status], ErrorResponse) for status in (*_COMMON, *statuses)}
    errors[429]["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "required": True}}
    responses = {str(status): response for status, response in sorted({**successes, **errors}.items())}
    return {"summary": summary, "operationId": name, "security": _SECURITY, "responses": responses}


def _json(description: str, body: type[BaseModel]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{body.__name__}"}
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _parameter(name: str, place: str, schema: dict[str, Any], *, required: bool = False) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}
