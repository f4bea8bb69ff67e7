"""The models that this API offers: their routes, and what each lacks on ComfyUI to run."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aiohttp import web

from ...client.errors import ComfyError, ServerUnreachableError
from ...client.offers import describe, lacking_in
from ...contract.parameters import DEMO, MODELS, ModelContract
from ...contract.suggestions import near
from ...contract.workflow import Graph, graph_for
from ..jobs.addresses import NO_OUTWARD, NO_WORKER, Address, Outward, addresses_of, resolved
from ..jobs.catalogue import Catalogue
from ..jobs.store import StoreError
from ..settings import Settings
from . import errors
from .errors import ApiError
from .responses import CategoryListResponse, ModelListResponse, ModelResponse, json_response
from .schemas import output_schema, page_schema

MODEL_PATH = "/models/{model_id:(?!categories$).+}"
_LOG = logging.getLogger("wan_flf2v.gateway")
_FRESH_S = 3.0  # a response is not asked for again
_OLD_S = 60.0  # until then, a model that could run is taken to be there while ComfyUI is asked again
_PATIENCE_S = 1.0  # of a submit; a ComfyUI that is loading a model can take long to respond
_LOOK_S = 5.0  # for one ComfyUI
_WHOLE_LOOK_S = 15.0  # after so long no other ComfyUIs are asked
_PROBE_S = 6.0  # for a probe of readiness: what was known before counts then
_FIRST_AT_ONCE, _AT_ONCE = 2, 8  # ComfyUIs that are asked at the same time
_KIND = "workflow"
MAX_LIMIT = 100  # of a list
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}


class Problem(NamedTuple):
    """Why no request can run now. If it ``waits``, requests wait for a worker to connect, and all else is well."""

    text: str
    waits: bool = False


class Availability:
    """Which models can run: what ComfyUIs said last. Calls at the same time share one look."""

    def __init__(self, settings: Settings, models: Catalogue, outward: Outward = NO_OUTWARD) -> None:
        self._addresses = addresses_of(settings)
        self._outward = outward
        self._models = models
        self._said: dict[Address, dict[str, list[str]]] = {}  # what each model lacks there, as it said last
        self._silent: set[Address] = set()  # they did not respond when they were asked last
        self._lacking: dict[str, list[str]] = {}
        self._problem: Problem | None = Problem("No ComfyUI has responded yet.", waits=not self._addresses)
        self._known_at = -math.inf
        self._look: asyncio.Task[None] | None = None

    async def lacking(self, model: ModelContract) -> list[str]:
        """Return what ``model`` lacks wherever it could run; nothing if a ComfyUI may have all of it.

        One that does not respond, perhaps since it is loading a model, has what it had when it responded last; if it
        never did, or none responds now, it may have all. A model that lacked something, or is new, is looked for
        again. Waits a second at most.
        """
        age, known = time.monotonic() - self._known_at, self._lacking.get(model.model_id)
        if age > _FRESH_S or known is None:
            look = self._begin_look()
            if age > _OLD_S or known != []:
                await asyncio.wait((look,), timeout=_PATIENCE_S)
        return self._lacking.get(model.model_id, [])

    async def problem(self) -> Problem | None:
        """Return why ComfyUI can run no request now, ``None`` if it can run one.

        Where all workers are outward, none of them is expected to be there: they come when there is work. Waits a few
        seconds at most.
        """
        if time.monotonic() - self._known_at > _FRESH_S:
            await asyncio.wait((self._begin_look(),), timeout=_PROBE_S)
        return self._problem

    def _begin_look(self) -> asyncio.Task[None]:
        if self._look is None or self._look.done():
            # Not in the caller's context: others wait for it too, and its call may be one ``within`` a few seconds.
            self._look = contextvars.Context().run(asyncio.create_task, self._ask())
        return self._look

    async def _ask(self) -> None:
        lacking: dict[str, list[str]] = {model_id: [] for model_id in self._lacking}
        problem, waits = None, not self._addresses
        try:
            models = await self._models.all()
            lacking = {model_id: [] for model_id in models}
            responded = await self._ask_each({model_id: graph_for(model) for model_id, model in models.items()})
            lacking = _least(models, self._said.values())
            if all(_least(models, responded).values()):
                text = "No model of this API can run on this ComfyUI; GET /v1/models says what each lacks."
                problem = Problem(text)
        except asyncio.TimeoutError:
            text = f"ComfyUI did not respond within {_LOOK_S:g} s. It may be loading a model, or hang."
            problem = Problem(text, waits)
        except ServerUnreachableError as error:
            problem = Problem(str(error), waits)
        except (ComfyError, StoreError) as error:
            problem = Problem(str(error))
        except Exception:  # noqa: BLE001 -- what cannot be understood must not pass for readiness
            _LOG.exception("look at ComfyUI failed")
            problem = Problem("ComfyUI's response could not be understood. The API's log says more.")
        self._lacking, self._problem, self._known_at = lacking, problem, time.monotonic()

    async def _ask_each(self, graphs: Mapping[str, Graph]) -> list[dict[str, list[str]]]:
        """Note, and return, what each model lacks on ComfyUIs that respond; raise an error if none does.

        A few are asked at a time, and no more once each model has a place: there can be hundreds, and many gateways.
        """
        addresses = [*await resolved(self._addresses), *self._outward.addresses()]
        if not addresses:
            raise ServerUnreachableError(NO_WORKER)
        self._said = {address: self._said.get(address, {}) for address in addresses}
        self._silent.intersection_update(addresses)
        addresses.sort(key=self._rank)
        responded: list[dict[str, list[str]]] = []
        errors: list[BaseException] = []
        end, at_once, wanted = time.monotonic() + _WHOLE_LOOK_S, _FIRST_AT_ONCE, graphs
        while addresses and wanted and time.monotonic() < end:
            asked, addresses, at_once = addresses[:at_once], addresses[at_once:], _AT_ONCE
            looks = [asyncio.wait_for(_find_lacking_on(each, wanted), _LOOK_S) for each in asked]
            for address, result in zip(asked, await asyncio.gather(*looks, return_exceptions=True), strict=True):
                if isinstance(result, BaseException):
                    self._silent.add(address)
                    errors.append(result)
                else:
                    self._silent.discard(address)
                    self._said[address] |= result
                    responded.append(result)
            if responded:  # what one of them has need not be looked for on others
                wanted = {model_id: graphs[model_id] for model_id, lacks in _least(wanted, responded).items() if lacks}
        if not responded:
            raise errors[0]
        return responded

    def _rank(self, address: Address) -> tuple[bool, float]:
        """Return how early to ask a ComfyUI: those that lacked the least come first, those that were silent last."""
        said = self._said[address]
        return address in self._silent, sum(map(bool, said.values())) if said else math.inf


def _least(models: Iterable[str], offers: Iterable[Mapping[str, list[str]]]) -> dict[str, list[str]]:
    """Return what each model lacks on the ComfyUI that lacks the least of it; nothing where that is not known."""
    offers = list(offers)
    return {model_id: min((offer.get(model_id, []) for offer in offers), key=len) for model_id in models}


async def _find_lacking_on(address: Address, graphs: Mapping[str, Graph]) -> dict[str, list[str]]:
    async with address.client() as client:
        await client.system_stats()
        infos = await describe(client, *graphs.values())
        return {model_id: lacking_in(graph, infos) for model_id, graph in graphs.items()}


class ModelRoutes:
    """``GET /models``, ``GET /models/categories`` and ``GET /models/{model_id}``."""

    def __init__(self, models: Catalogue, availability: Availability) -> None:
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
        models = (await self._models.all()).values()
        found = _search(models, *(query.get(name, "") for name in ("search", "category", "kind")))
        schema = boolean_query(request, "include_schema")
        limit = integer_query(request, "limit", default=50, low=1, high=MAX_LIMIT)
        offset = integer_query(request, "offset", default=0, low=0, high=1_000_000)
        page = [await self._describe(model, schema=schema) for model in found[offset : offset + limit]]
        return json_response(ModelListResponse(models=page, total=len(found)))

    async def list_categories(self, _: web.Request) -> web.Response:
        """List what ``category`` can be."""
        models = (await self._models.all()).values()
        return json_response(CategoryListResponse(categories=sorted({model.category for model in models})))

    async def get_model(self, request: web.Request) -> web.Response:
        """Describe one model, with its schemas."""
        model = await find_model(self._models, request.match_info["model_id"])
        return json_response(await self._describe(model, schema=True))

    async def _describe(self, model: ModelContract, *, schema: bool) -> ModelResponse:
        optional: dict[str, Any] = {}
        if lacking := await self._availability.lacking(model):
            optional["reason"] = " ".join(lacking)
        if schema:
            optional |= {"input_schema": page_schema(model), "output_schema": output_schema(model)}
        return ModelResponse(
            model_id=model.model_id,
            display_name=model.display_name,
            description=model.description,
            categories=[model.category],
            kind=_KIND,
            available=not lacking,
            **optional,
        )


def offered(settings: Settings) -> dict[str, ModelContract]:
    """Return the bundled models of this API by id, the hosted one first; the demo's only if the settings say so."""
    return {model_id: model for model_id, model in MODELS.items() if settings.demo or model is not DEMO}


async def find_model(models: Catalogue, model_id: str) -> ModelContract:
    """Return a model that is offered; for an unknown one, the text of the ``ApiError`` names one that is near."""
    if (model := await models.find(model_id)) is not None:
        return model
    found = near(model_id, {known: (known, model.display_name) for known, model in (await models.all()).items()})
    advice = f"Did you mean {' or '.join(found)}?" if found else "GET /v1/models lists those that are."
    raise ApiError(errors.NO_SUCH_MODEL, advice=advice)


def _search(models: Iterable[ModelContract], text: str, category: str, kind: str) -> list[ModelContract]:
    """Return the models whose id or name has every word of ``text``; empty criteria match all."""
    if kind and kind != _KIND:
        return []
    words = text.lower().split()
    return [
        model
        for model in models
        if category in ("", model.category)
        and all(word in f"{model.model_id} {model.display_name}".lower() for word in words)
    ]


def integer_query(request: web.Request, name: str, *, default: int, low: int, high: int) -> int:
    """Return an integer query parameter; ``ApiError`` if it is none, or outside ``low`` to ``high``."""
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
