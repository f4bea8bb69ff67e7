"""The address of this API as a client sees it (also behind a reverse proxy), and which hosts and pages are its own."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

from aiohttp import web

from ..settings import Settings
from . import errors
from .errors import ApiError

_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?")
_MAX_PORT = 65535


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
