"""The models that this API offers: their routes and input schemas, and the length limit of a prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aiohttp import web

from ...contract.parameters import HOSTED, MODELS, ModelContract, Parameter
from ...contract.suggestions import near
from ..settings import Settings
from . import errors
from .availability import Availability
from .errors import ApiError
from .responses import CategoryListResponse, ModelListResponse, ModelResponse, json_response

MAX_PROMPT_CHARACTERS = 20_000  # the text encoder reads 512 tokens; a longer text is no prompt
TEXT_PATTERN = r"^[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]*$"  # a prompt may hold tabs and line breaks
MODEL_PATH = "/models/{model_id:(?!categories$).+}"
_CATEGORIES = ("image-to-video",)
_KIND = "workflow"
_MAX_LIMIT = 100
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class ModelRoutes:
    """``GET /models``, ``GET /models/categories`` and ``GET /models/{model_id}``."""

    def __init__(self, models: Mapping[str, ModelContract], availability: Availability) -> None:
        self._models = models
        self._availability = availability

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/models", self.list_models),
            web.get("/models/categories", self.list_categories),
            web.get(MODEL_PATH, self.get_model),
        ]

    async def list_models(self, request: web.Request) -> web.Response:
        """List the models that match ``search``, ``category`` and ``kind``."""
        query = request.query
        found = _search(self._models.values(), *(query.get(name, "") for name in ("search", "category", "kind")))
        schema = boolean_query(request, "include_schema")
        limit = _integer(request, "limit", default=50, low=1, high=_MAX_LIMIT)
        offset = _integer(request, "offset", default=0, low=0, high=1_000_000)
        page = [await self._describe(model, schema=schema) for model in found[offset : offset + limit]]
        return json_response(ModelListResponse(models=page, total=len(found)))

    async def list_categories(self, _: web.Request) -> web.Response:
        """List what ``category`` can be."""
        return json_response(CategoryListResponse(categories=list(_CATEGORIES)))

    async def get_model(self, request: web.Request) -> web.Response:
        """Describe one model, with its schemas."""
        model = find_model(self._models, request.match_info["model_id"])
        return json_response(await self._describe(model, schema=True))

    async def _describe(self, model: ModelContract, *, schema: bool) -> ModelResponse:
        optional: dict[str, Any] = {}
        if lacking := await self._availability.lacking(model):
            optional["reason"] = " ".join(lacking)
        if schema:
            optional |= {"input_schema": _page_schema(model), "output_schema": _output_schema()}
        return ModelResponse(
            model_id=model.model_id,
            display_name=model.display_name,
            description="Two images, the first and the last frame, and a prompt become a video.",
            categories=list(_CATEGORIES),
            kind=_KIND,
            available=not lacking,
            **optional,
        )


def offered(settings: Settings) -> dict[str, ModelContract]:
    """Return the models of this API by id: the hosted one, and the demo's if the settings say so."""
    return MODELS if settings.demo else {HOSTED.model_id: HOSTED}


def find_model(models: Mapping[str, ModelContract], model_id: str) -> ModelContract:
    """Return a model that is offered; for an unknown one, the text of the ``ApiError`` names one that is near."""
    if model_id in models:
        return models[model_id]
    found = near(model_id, {known: (known, model.display_name) for known, model in models.items()})
    advice = f"Did you mean {' or '.join(found)}?" if found else "GET /v1/models lists those that are."
    raise ApiError(errors.NO_SUCH_MODEL, advice=advice)


def _search(models: Iterable[ModelContract], text: str, category: str, kind: str) -> list[ModelContract]:
    """Return the models whose id or name has every word of ``text``; empty criteria match all."""
    if (category and category not in _CATEGORIES) or (kind and kind != _KIND):
        return []
    words = text.lower().split()
    return [
        model for model in models if all(word in f"{model.model_id} {model.display_name}".lower() for word in words)
    ]


def _integer(request: web.Request, name: str, *, default: int, low: int, high: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise ApiError(errors.QUERY_NOT_INTEGER, name=name, low=low, high=high)
    return int(text)


def boolean_query(request: web.Request, name: str) -> bool:
    """Return whether a query parameter is true; it is false if it is not given, ``ApiError`` if it is neither."""
    text = request.query.get(name, "false").lower()  # Python clients send True
    if text not in _BOOLEANS:
        raise ApiError(errors.QUERY_NOT_BOOLEAN, name=name)
    return _BOOLEANS[text]


def _page_schema(model: ModelContract) -> dict[str, Any]:
    """Return the input schema as the hosted model's page prints it, ``"type": "float"`` and placeholders included."""
    return {
        "type": "object",
        "title": "modelApiDoc_navInputSchema",
        "required": _required(model),
        "properties": {parameter.key: _page_property(parameter) for parameter in model.parameters},
    }


def _output_schema() -> dict[str, Any]:
    """Return the output schema as the hosted model's page prints it."""

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
    if parameter.type != "string":
        schema["type"] = "number" if parameter.type == "float" else "integer"
        limits = {} if parameter.enum else {"minimum": low, "maximum": high}
        return {**schema, **limits}
    if parameter.is_image:
        about = "A public HTTPS URL, a data URI, a name in ComfyUI's input folder, or the id of an uploaded file."
        return {**schema, "description": about, "format": "image-reference", "minLength": 1}
    if not parameter.enum:
        return {**schema, "pattern": TEXT_PATTERN, "maxLength": MAX_PROMPT_CHARACTERS}
    return schema
