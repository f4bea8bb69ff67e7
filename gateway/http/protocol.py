"""Answers what is not HTTP, or no longer is: aiohttp itself does that before any middleware, as plain text."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, LineTooLong

from . import errors
from .errors import ApiError
from .middleware import error_response

_MAX_LINE_BYTES = 8190  # aiohttp's own limits, of the first line and of a header


class RequestHandler(web.RequestHandler):
    """One connection to a gateway; aiohttp calls it for what it cannot give to the application."""

    __slots__ = ()

    def __init__(self, server: web.Server, **options: Any) -> None:
        super().__init__(server, max_line_size=_MAX_LINE_BYTES, max_field_size=_MAX_LINE_BYTES, **options)

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
