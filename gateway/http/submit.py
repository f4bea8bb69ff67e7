"""Submitting a request: checked whole, its images fetched, written down, and only then accepted."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
import uuid
from typing import Any

from aiohttp import web

from ...client.images import ImageError
from ...contract.parameters import ModelContract, Value
from ...contract.validation import ContractError, validate
from ..fetch import FetchError
from ..jobs.store import IdempotencyConflictError, QueueFullError
from .addresses import base_url
from .bodies import aside, read_json_object, turn
from .errors import NOT_FOUND, ApiError, validation_error
from .middleware import queue_limit, too_many
from .models import MAX_PROMPT_CHARACTERS
from .responses import json_answer, submit_answer
from .state import State, state_of, token_of

_LOG = logging.getLogger("wan_flf2v.gateway")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def submit(request: web.Request) -> web.Response:
    """Accept a request for a model; when this answers 200, it survives a crash."""
    async with turn(request, state_of(request).large_bodies):
        return await _submit(request)


async def _submit(request: web.Request) -> web.Response:
    state, token = state_of(request), token_of(request)
    model = find_model(state, request.match_info["model_id"])
    webhook = _webhook_query(request)
    body = await read_json_object(request, state.settings.max_body_bytes)
    idempotency = await aside(request, lambda: _idempotency(request, model, body, webhook))
    base = base_url(request, state.settings)
    try:
        earlier = await state.store.submitted_before(token.id, idempotency) if idempotency else None
        if earlier is not None:
            return json_answer(submit_answer(earlier.id, base))
        values = await aside(request, lambda: _validate(model, body))
        limit = queue_limit(request)
        if await state.store.count(token.id, "in_queue") >= limit:  # before anything is fetched
            raise QueueFullError
        if webhook is not None:
            await _check_webhook(state, webhook)
        inputs = await _resolve(state, model, values, token.id)
        job = await state.store.submit(
            *(str(uuid.uuid4()), token.id, model.model_id, values, inputs),
            idempotency=idempotency,
            webhook=webhook,
            webhook_secret=token.webhook_secret,
            base_url=base,
            queue_limit=limit,
        )
    except QueueFullError:
        raise too_many(f"{limit} requests of this token wait already.", 30) from None
    except IdempotencyConflictError:
        message = "This Idempotency-Key was used for another body. Use a new key for a new request."
        raise validation_error([_problem(("header", "Idempotency-Key"), message, "idempotency_conflict")]) from None
    state.dispatcher.poke()
    _LOG.info("event=accepted request=%s token=%s model=%s", job.id, token.name, model.model_id)
    return json_answer(submit_answer(job.id, base))


def find_model(state: State, model_id: str) -> ModelContract:
    """Return a model that is offered; ``ApiError`` names the nearest for one that is not."""
    if model_id in state.models:
        return state.models[model_id]
    near = difflib.get_close_matches(model_id[:200], state.models, n=1, cutoff=0)[0]
    raise ApiError(NOT_FOUND, f"There is no such model here. The nearest one is {near}.")


def _validate(model: ModelContract, body: dict[str, Any]) -> dict[str, Value]:
    problems: list[dict[str, Any]] = []
    values: dict[str, Value] = {}
    try:
        values = validate(model, body)
    except ContractError as error:
        problems = [_problem(("body", *field.loc), field.msg, field.type) for field in error.errors]
    for parameter in model.parameters:
        text = body.get(parameter.key)
        if not parameter.is_image and isinstance(text, str) and len(text) > MAX_PROMPT_CHARACTERS:
            message = f"{parameter.key} has {len(text)} characters, allowed are {MAX_PROMPT_CHARACTERS}. Shorten it."
            problems.append(_problem(("body", parameter.key), message, "string_too_long"))
    if problems:
        raise validation_error(problems)
    return values


async def _resolve(state: State, model: ModelContract, values: dict[str, Value], token: str) -> dict[str, str]:
    """Fetch and check the images. Returns parameter key → stored file; ``values`` gets short names in their place."""
    inputs: dict[str, str] = {}
    problems: list[dict[str, Any]] = []
    for parameter in model.parameters:
        if not parameter.is_image:
            continue
        try:
            image = await state.images.resolve(str(values[parameter.key]), token)
        except ImageError as error:
            problems.append(_problem(("body", parameter.key), f"{parameter.key}: {error}", "image"))
            continue
        if image.stored:
            inputs[parameter.key] = image.name
        values[parameter.key] = image.name
    if problems:
        raise validation_error(problems)
    return inputs


async def _check_webhook(state: State, url: str) -> None:
    try:
        await state.fetcher.check(url)
    except FetchError as error:
        raise validation_error([_problem(("query", "webhook"), f"webhook: {error}", "url")]) from None


def _webhook_query(request: web.Request) -> str | None:
    """Return ``?webhook=``; any other query is an error, lest a misspelt one is lost without a word."""
    problems = [
        _problem(("query", name[:80]), f"{json.dumps(name[:80])} is not a query parameter here; webhook is.", "unknown")
        for name in request.query
        if name != "webhook"
    ]
    found = request.query.getall("webhook", [])
    if len(found) > 1:
        problems.append(_problem(("query", "webhook"), "webhook is given more than once. Give it once.", "twice"))
    if problems:
        raise validation_error(problems)
    return found[0] if found else None


def _idempotency(
    request: web.Request, model: ModelContract, body: dict[str, Any], webhook: str | None
) -> tuple[str, str] | None:
    """Return the request's key and a hash of all that it asks for, ``None`` without a key."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        message = "Idempotency-Key must be 1 to 255 visible ASCII characters, such as a UUID."
        raise validation_error([_problem(("header", "Idempotency-Key"), message, "string_pattern_mismatch")])
    text = json.dumps([model.model_id, webhook, body], sort_keys=True)
    return key, hashlib.sha256(text.encode()).hexdigest()


def _problem(loc: tuple[str, ...], message: str, kind: str) -> dict[str, Any]:
    # A client may print it: what it sent must not come back as commands to its terminal.
    shown = "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in message)
    return {"loc": [part[:80] for part in loc], "msg": shown, "type": kind}


ROUTES = [web.post("/models/{model_id:.+}", submit)]
