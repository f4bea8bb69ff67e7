"""Around every call: who asks, how often, what an error looks like, what is counted and logged."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from aiohttp import web

from ..jobs.records import Token
from ..jobs.tokens import ANONYMOUS, find_token
from .addresses import names_loopback
from .errors import FORBIDDEN, INTERNAL, NOT_FOUND, TOO_MANY, UNAUTHORIZED, ApiError
from .state import set_token, state_of, token_of

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOG = logging.getLogger("wan_flf2v.gateway")
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")
_MAX_TOKEN_CHARACTERS = 256
_public: set[object] = set()


def public(handler: Handler) -> Handler:
    """Mark a route that needs no token."""
    _public.add(handler)
    return handler


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what browsers ask before a page of a configured origin calls this API."""
    asked = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if not asked or _origin(request) is None:
        return await handler(request)
    response = web.Response(status=204)
    response.headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE"
    response.headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID"
    return response


async def allow_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Let pages of the configured origins, none by default, read an answer; done as it is sent, streams included."""
    if (origin := _origin(request)) is not None:
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Vary"] = "Origin"


def _origin(request: web.Request) -> str | None:
    origin = request.headers.get("Origin")
    return origin if origin in state_of(request).settings.cors_origins else None


@web.middleware
async def observe(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Count and log every answer, by the route's pattern: what a client sends is never logged."""
    start = time.perf_counter()
    response = await handler(request)
    seconds = time.perf_counter() - start
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unmatched"
    method = request.method if request.method in _METHODS else "OTHER"
    state_of(request).metrics.count(method, route, response.status, seconds)
    level = logging.INFO if method not in ("GET", "HEAD") or response.status >= 400 else logging.DEBUG
    _LOG.log(
        level,
        "event=answer method=%s route=%s status=%d ms=%.1f remote=%s",
        *(method, route, response.status, seconds * 1000, request.remote),
    )
    return response


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into the contract's body."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(error)
    except web.HTTPException as error:
        return _http_error(request, error)
    except Exception:  # noqa: BLE001 -- the last resort: logged whole, and answered without internals
        _LOG.exception("event=error method=%s", request.method if request.method in _METHODS else "OTHER")
        return error_response(ApiError(INTERNAL, "Something went wrong here. The server's log says what."))


@web.middleware
async def authenticate(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Find the token of a request and take one from its rate; paths that do not exist need none."""
    if not state_of(request).settings.auth and not names_loopback(request):
        message = "Without tokens this API is for this machine only: call it as localhost, 127.0.0.1 or [::1]."
        raise ApiError(FORBIDDEN, message)
    if request.match_info.http_exception is not None or request.match_info.handler in _public:
        return await handler(request)
    state, token = state_of(request), await known_token(request)
    if token is None:
        message = 'The token is missing or unknown. Send "Authorization: Bearer <token>" with one of this server\'s.'
        raise ApiError(UNAUTHORIZED, message)
    set_token(request, token)
    limit = state.settings.rate_per_minute if token.rate_per_minute is None else token.rate_per_minute
    wait_s = state.limiter.wait_s(token.id, limit)
    if wait_s > 0:
        raise too_many(f"More than {limit} requests a minute.", wait_s)
    return await handler(request)


async def known_token(request: web.Request) -> Token | None:
    """Return the token that a request was made with; ``None`` if it has none that is known here."""
    state = state_of(request)
    if not state.settings.auth:
        return ANONYMOUS
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    text = text.strip()
    shaped = scheme.lower() == "bearer" and 0 < len(text) <= _MAX_TOKEN_CHARACTERS
    return await find_token(state.store, text) if shaped else None


def queue_limit(request: web.Request) -> int:
    """Return how many requests of this request's token may wait."""
    own = token_of(request).queue_limit
    return state_of(request).settings.queue_limit if own is None else own


def too_many(message: str, wait_s: float) -> ApiError:
    """Return a 429 that says when to come back."""
    seconds = max(1, math.ceil(wait_s))
    return ApiError(TOO_MANY, f"{message} Try again in {seconds} s.", {"retry_after": seconds})


def error_response(error: ApiError) -> web.Response:
    """Return an error as the contract has it."""
    headers = {"Cache-Control": "no-store"}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.code == TOO_MANY and isinstance(error.detail, dict):
        headers["Retry-After"] = str(error.detail["retry_after"])
    response = web.json_response(error.body(), status=error.status, headers=headers)
    if error.status in (408, 413):  # the rest of the body is not read
        response.force_close()
    return response


def _http_error(request: web.Request, error: web.HTTPException) -> web.StreamResponse:
    """Translate aiohttp's own answers: no such path, no such method, a range that is not there."""
    if error.status < 400:
        raise error
    if error.status == 404:
        return error_response(ApiError(NOT_FOUND, "There is nothing at this address."))
    message = f"{error.reason}."
    if isinstance(error, web.HTTPMethodNotAllowed):
        message = f"This address takes {', '.join(sorted(error.allowed_methods))} only."
    response = error_response(ApiError(error.status * 1000 + 1, message, status=error.status))
    for name in ("Allow", "Content-Range"):
        if name in error.headers:
            response.headers[name] = error.headers[name]
    return response
