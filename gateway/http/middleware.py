"""What happens around every route: CORS, access log, errors, authentication by token, rate limit, hosts and pages."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias, TypeVar

from aiohttp import web
from aiohttp.http import HttpProcessingError, HttpVersion11
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

from ..jobs.records import Token
from ..jobs.results import ExpiredLinkError, InvalidLinkError, Results
from ..jobs.store import Store, within
from ..jobs.tokens import ANONYMOUS, RateLimiter, find_token
from ..settings import Settings
from . import errors
from .errors import ApiError, error_response, http_error_response, too_many
from .metrics import Metrics

Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

WRITE_S = 9.0  # how long a POST waits for records at a time: it can be sent again, and must not hang

_LOG = logging.getLogger("wan_flf2v.gateway")
_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH")
_MAX_TOKEN_CHARACTERS = 256
_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_MAX_PORT = 65535
_MAX_LINE_BYTES = 8190  # aiohttp's own limits, of the first line and of a header
_TOKEN = "wan_flf2v_token"  # noqa: S105 -- where a request keeps its Token; ComfyUI's server has keys there too


_PUBLIC: set[object] = set()
_LINKED: set[object] = set()
_Method = TypeVar("_Method", bound=Callable[..., Awaitable[web.StreamResponse]])


def public(method: _Method) -> _Method:
    """Mark a method that handles requests as one that needs no token."""
    _PUBLIC.add(method)
    return method


def linked(method: _Method) -> _Method:
    """Mark the method that handles a request's events: its signed address takes the place of a token."""
    _LINKED.add(method)
    return method


def token_of(request: web.Request) -> Token:
    """Return the token that ``Authentication`` found for a request."""
    token: Token = request[_TOKEN]
    return token


def base_url(request: web.Request, settings: Settings) -> str:
    """Return the address without ``/v1``: from the settings, else from a trusted proxy, else from the request.

    ``ApiError`` if the client's Host header is no host name.
    """
    if settings.base_url:
        return settings.base_url.rstrip("/")
    scheme, host = request.scheme, request.headers.get("Host", "")
    if request.remote in settings.trusted_proxies:
        # The first value is what the client asked the outermost proxy for.
        forwarded = request.headers.get("X-Forwarded-Proto", scheme).split(",")[0].strip().lower()
        scheme = forwarded if forwarded in ("http", "https") else scheme
        host = request.headers.get("X-Forwarded-Host", host).split(",")[0].strip()
    if _host_in(host) is None:
        raise ApiError(errors.INVALID_HOST)
    return f"{scheme}://{host}"


def names_loopback(request: web.Request) -> bool:
    """Return whether the Host header is a loopback address or ``localhost``.

    A web page whose own host name was made to lead to this machine (DNS rebinding) sends another one.
    """
    host = _host_in(request.headers.get("Host", ""))
    return host is not None and is_loopback(host)


def is_from_other_page(request: web.Request, allowed: Sequence[str]) -> bool:
    """Return whether a browser says that a page of another origin makes this request, and none of ``allowed``.

    Browsers send ``Origin`` with each request that could change something, and ``Sec-Fetch-Site`` with all; pages can
    change neither.
    """
    origin = request.headers.get("Origin")
    if origin is None:
        return request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")
    own = origin.partition("://")[2].lower() == request.headers.get("Host", "").lower()
    return not own and origin not in allowed


def is_loopback(host: str) -> bool:
    """Return whether a host, without port or brackets, is ``localhost`` or a loopback address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _host_in(header: str) -> str | None:
    """Return the host that a Host header names, without port or brackets; ``None`` if it is no host, or no port."""
    match = _HOST.fullmatch(header)
    if match is None or not 0 < int(match[2] or _MAX_PORT) <= _MAX_PORT:
        return None
    return match[1].strip("[]")


class Cors:
    """Lets web pages of the given origins call this API (cross-origin resource sharing)."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = origins

    @web.middleware
    async def permit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Respond to the request by which a browser asks whether it may send the real one."""
        asks_first = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        if not asks_first or request.headers.get("Origin") not in self._origins:
            return await handler(request)
        headers = {
            "Access-Control-Allow-Methods": "GET, POST, DELETE",
            "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID",
        }
        return web.Response(status=204, headers=headers)

    async def allow_origin(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the header that lets the page read the response; called before any response is sent, streams too."""
        origin = request.headers.get("Origin", "")
        if origin in self._origins:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"


class AccessLog:
    """Counts and logs each response by its route's pattern; what a client sends is never logged."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    @web.middleware
    async def record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Count and log one response."""
        start = time.perf_counter()
        response = await handler(request)
        seconds = time.perf_counter() - start
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else "unmatched"
        method = request.method if request.method in _METHODS else "OTHER"
        self._metrics.count(method, route, response.status, seconds)
        level = logging.INFO if method not in ("GET", "HEAD") or response.status >= 400 else logging.DEBUG
        _LOG.log(
            level,
            "response sent method=%s route=%s status=%d ms=%.1f remote=%s",
            *(method, route, response.status, seconds * 1000, request.remote),
        )
        return response


class HiddenTokens(logging.Filter):
    """Takes what was sent out of aiohttp's log lines about malformed requests: it may be a token, or the end of one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change such a line; keep every line."""
        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            record.exc_text, record.exc_info = f"{type(record.exc_info[1]).__name__}: what was sent is not shown", None
        return True


class Authentication:
    """Finds the token of each request and limits the rate of each token."""

    def __init__(self, settings: Settings, store: Store, results: Results) -> None:
        self._settings = settings
        self._store = store
        self._results = results
        self._limiter = RateLimiter()

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse a request without a known token, or over the rate limit; unknown paths need no token.

        Without tokens, refuse what does not come from this machine, or comes from another page in its browser.
        """
        if not self._settings.auth and not names_loopback(request):
            raise ApiError(errors.ONLY_THIS_MACHINE)
        match = request.match_info
        method = getattr(match.handler, "__func__", None)
        if match.http_exception is not None or method in _PUBLIC:
            return await handler(request)
        if not self._settings.auth and is_from_other_page(request, self._settings.cors_origins):
            raise ApiError(errors.OTHER_PAGE)
        with within(WRITE_S) if request.method == "POST" else nullcontext():
            token = await self.find(request)
        if token is None and method in _LINKED and "signature" in request.query:
            token = await self._find_by_link(request)
        if token is None:
            raise ApiError(errors.UNAUTHORIZED)
        request[_TOKEN] = token
        limit = self._settings.rate_per_minute if token.rate_per_minute is None else token.rate_per_minute
        wait_s = self._limiter.wait_s(token.id, limit)
        if wait_s > 0:
            where = " to each gateway" if self._settings.nats is not None else ""
            raise too_many(errors.RATE_LIMIT, wait_s, limit=limit, where=where)
        return await handler(request)

    async def find(self, request: web.Request) -> Token | None:
        """Return the token that a request carries; ``None`` if it has none, or an unknown one."""
        if not self._settings.auth:
            return ANONYMOUS
        scheme, _, text = request.headers.get("Authorization", "").partition(" ")
        text = text.strip()
        has_token = scheme.lower() == "bearer" and 0 < len(text) <= _MAX_TOKEN_CHARACTERS
        return await find_token(self._store, text) if has_token else None

    async def _find_by_link(self, request: web.Request) -> Token:
        """Return the token of the request that a signed address is about; ``ApiError`` if the address is no good."""
        request_id, query = request.match_info["request_id"], request.query
        try:
            self._results.verify_events(request_id, query.get("expires", ""), query["signature"])
        except InvalidLinkError:
            raise ApiError(errors.INVALID_EVENTS_URL) from None
        except ExpiredLinkError:
            raise ApiError(errors.EXPIRED_EVENTS_URL) from None
        job = await self._store.get(request_id)
        token = None if job is None else await self._store.find_token_by_id(job.token)
        if token is None:
            raise ApiError(errors.REVOKED_EVENTS_URL)
        return token


async def handle_expect(request: web.Request) -> web.Response | None:
    """Tell a client that asks with ``Expect`` to go on, or that nothing but 100-continue can be expected."""
    if request.version >= HttpVersion11:  # older clients do not know it
        if request.headers["Expect"].lower() != "100-continue":
            return error_response(ApiError(errors.UNKNOWN_EXPECT))
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the response has not begun
    return None


@web.middleware
async def respond_to_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a response with the contract's body."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(error)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return http_error_response(error)
    except Exception as error:  # noqa: BLE001 -- the last resort: the log has all of it, the client learns no internals
        _LOG.exception("request failed method=%s", request.method if request.method in _METHODS else "OTHER")
        return error_response(ApiError(errors.kind_of(error)))


class RequestHandler(web.RequestHandler):
    """One connection to a gateway. It also responds to what is not HTTP, or no longer is.

    aiohttp itself does that before any middleware, as plain text.
    """

    __slots__ = ()

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, max_line_size=_MAX_LINE_BYTES, max_field_size=_MAX_LINE_BYTES, **options)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; an error that no middleware saw, such as of an odd ``Expect``, in the contract's form."""
        if isinstance(resp, web.HTTPException) and resp.status >= 400:
            resp = http_error_response(resp)
        return await super().finish_response(request, resp, start_time)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the contract's error response; the connection is closed after it."""
        super().handle_error(request, status, exc, message)  # it logs, and raises if a response has begun
        malformed = ApiError(errors.MALFORMED, reason=_reason(exc))
        response = error_response(malformed if status == malformed.status else ApiError(errors.INTERNAL))
        response.force_close()
        return response


def _reason(error: BaseException | None) -> str:
    """Say what is wrong without what was sent: that may hold a token."""
    if isinstance(error, LineTooLong):
        return f"its address, or a header, is longer than {_MAX_LINE_BYTES} bytes"
    if isinstance(error, BadHttpMethod):
        return "its method is unknown"
    return "its first line, or a header, is malformed"
