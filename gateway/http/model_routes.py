"""Which models there are."""

from __future__ import annotations

from aiohttp import web

from .errors import INVALID, ApiError
from .models import describe, search
from .responses import ModelAnswer, ModelListAnswer, json_answer
from .state import state_of
from .submit import find_model

_MAX_LIMIT = 100
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


async def list_models(request: web.Request) -> web.Response:
    """List the models that match ``search``, ``category`` and ``kind``."""
    query = request.query
    models = search(
        list(state_of(request).models.values()),
        *(query.get(name, "") for name in ("search", "category", "kind")),
    )
    schema = _boolean(request, "include_schema", default=False)
    limit = _integer(request, "limit", default=50, low=1, high=_MAX_LIMIT)
    offset = _integer(request, "offset", default=0, low=0, high=1_000_000)
    page = [ModelAnswer(**describe(model, schema=schema)) for model in models[offset : offset + limit]]
    return json_answer(ModelListAnswer(models=page, total=len(models)))


async def get_model(request: web.Request) -> web.Response:
    """Describe one model, with its schemas."""
    model = find_model(state_of(request), request.match_info["model_id"])
    return json_answer(ModelAnswer(**describe(model, schema=True)))


def _integer(request: web.Request, name: str, *, default: int, low: int, high: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise ApiError(INVALID, f"{name} must be an integer from {low} to {high}.")
    return int(text)


def _boolean(request: web.Request, name: str, *, default: bool) -> bool:
    text = request.query.get(name)
    if text is None:
        return default
    if text not in _BOOLEANS:
        raise ApiError(INVALID, f"{name} must be true or false.")
    return _BOOLEANS[text]


ROUTES = [web.get("/models", list_models), web.get("/models/{model_id:.+}", get_model)]
