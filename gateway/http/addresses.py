"""The address of this API as a client sees it (also behind a reverse proxy), and which hosts are this machine."""

from __future__ import annotations

import ipaddress
import re

from aiohttp import web

from ..settings import Settings
from . import errors
from .errors import ApiError

_HOST = re.compile(r"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:\d{1,5})?")


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
    if not _HOST.fullmatch(host):
        raise ApiError(errors.INVALID_HOST)
    return f"{scheme}://{host}"


def names_loopback(request: web.Request) -> bool:
    """Return whether the Host header is a loopback address or ``localhost``.

    A web page whose own host name was made to lead to this machine (DNS rebinding) sends another one.
    """
    host = _HOST.fullmatch(request.headers.get("Host", ""))
    return host is not None and is_loopback(host[1].strip("[]"))


def is_loopback(host: str) -> bool:
    """Return whether a host, without port or brackets, is ``localhost`` or a loopback address."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
