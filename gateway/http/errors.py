"""Every error response but a 422 about values, in one table: its code, HTTP status and text (401, 404, 413, 429, …)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from aiohttp import web

from ..durable import is_full
from ..jobs.store import StoreError, StoreFullError

_STORE_AGAIN_S = 5  # a store on several machines chooses its next leader meanwhile


class ErrorKind(NamedTuple):
    """A row of the table: code, text, and for a 422 the ``type`` of its entry in ``detail``.

    The first three digits of a code are the HTTP status, except that 400004 comes with 401. The text of a 429 must
    have ``{retry_after}``.
    """

    code: int
    text: str
    type: str = ""


INVALID_REQUEST_ID = ErrorKind(400001, "Invalid request id: expected the lowercase UUID that submit returned.")
INVALID_HOST = ErrorKind(400001, "Invalid Host header: expected a host name or an IP address, with or without a port.")
MALFORMED = ErrorKind(400001, "This is not an HTTP request that can be read: {reason}.")
INVALID_JSON = ErrorKind(400001, "The body is not valid JSON in UTF-8: {reason}.")
NOT_AN_OBJECT = ErrorKind(400001, "The body must be a JSON object, got {kind}.")
DUPLICATE_KEY = ErrorKind(400001, "The body has the key {key} twice. Give it once.")
NOT_A_NUMBER = ErrorKind(400001, "The body has {value}, which is not JSON. Give a number.")
TOO_MANY_ITEMS = ErrorKind(400001, "The body has too many items. Send one flat object with at most ten values.")
TOO_DEEP = ErrorKind(400001, "The body is nested deeper than {limit} levels. Send one flat object.")
BODY_CUT_OFF = ErrorKind(400001, "The connection ended before the whole body arrived. Send the request again.")
BODY_DAMAGED = ErrorKind(
    400001, "The body cannot be read: its chunks or its Content-Encoding are damaged. Send it again, uncompressed."
)
INVALID_FORM = ErrorKind(400001, "The body is not valid multipart/form-data. Send the image as a form.")
QUERY_NOT_INTEGER = ErrorKind(400001, "{name} must be an integer from {low} to {high}.")
QUERY_NOT_BOOLEAN = ErrorKind(400001, "{name} must be true or false.")
QUERY_NOT_STATUS = ErrorKind(400001, "status must be one of {statuses}.")
INVALID_CURSOR = ErrorKind(400001, "cursor must be the next_cursor of an earlier list. Leave it out to begin again.")

UNAUTHORIZED = ErrorKind(
    400004, 'The token is missing or unknown. Send "Authorization: Bearer <token>" with a token of this server.'
)

ONLY_THIS_MACHINE = ErrorKind(
    403001, "Without tokens, only this machine may call this API. Use the host localhost, 127.0.0.1 or [::1]."
)
OTHER_PAGE = ErrorKind(
    403001,
    "Without tokens, no web page of another origin may call this API. Use tokens, or name the page's origin in the "
    "setting cors_origins.",
)
INVALID_LINK = ErrorKind(403001, "The link to this file is incomplete or was changed. Use the link that result gave.")
EXPIRED_LINK = ErrorKind(403001, "The link to this file has expired. Ask for the request's result to get a new link.")
REVOKED_LINK = ErrorKind(403001, "The token of this request was revoked, and with it the link to this file.")
INVALID_EVENTS_URL = ErrorKind(
    403001, "The link to these events is incomplete or was changed. Use the events_url that submit or status gave."
)
EXPIRED_EVENTS_URL = ErrorKind(
    403001, "The link to these events has expired. Ask for the request's status to get a new events_url."
)
REVOKED_EVENTS_URL = ErrorKind(403001, "The token of this request was revoked, and with it the link to these events.")

NO_SUCH_PATH = ErrorKind(404001, "There is nothing at this path. GET /v1/openapi.json lists the paths.")
NO_SUCH_MODEL = ErrorKind(404001, "There is no such model here. {advice}")
NO_SUCH_REQUEST = ErrorKind(404001, "There is no request {request_id}, or it has expired.")
NO_SUCH_RESULT = ErrorKind(404001, "This result is no longer kept.")
METHOD_NOT_ALLOWED = ErrorKind(405001, "This path only takes {methods}.")

TOO_SLOW = ErrorKind(408001, "The body arrived too slowly. Send it again.")
TOO_LARGE = ErrorKind(413001, "The body is larger than {limit} MiB. Send smaller images, or their URLs.")
NOT_SENT_AS_JSON = ErrorKind(415001, 'The body must be JSON with "Content-Type: application/json", not {content_type}.')
NOT_SENT_AS_FORM = ErrorKind(
    415001, 'The body must be multipart/form-data with the image in its only field, "{field}", not {content_type}.'
)
NO_SUCH_RANGE = ErrorKind(
    416001, 'The file has {size} bytes, and none that "Range" asks for. Ask for one range, such as bytes=0-{last}.'
)
UNKNOWN_EXPECT = ErrorKind(417001, '"Expect" may only be 100-continue. Send the request without it.')

# The 422 texts. Those about the values of a request are in contract/validation.py.
PROMPT_TOO_LONG = ErrorKind(
    422001, "{key} has {length} characters, allowed are {limit}. Shorten it.", "string_too_long"
)
INVALID_IMAGE = ErrorKind(422001, "{key}: {reason}", "image")
INVALID_WEBHOOK = ErrorKind(422001, "webhook: {reason}", "url")
DUPLICATE_WEBHOOK = ErrorKind(422001, "webhook is given more than once. Give it once.", "twice")
INVALID_IDEMPOTENCY_KEY = ErrorKind(
    422001, "Idempotency-Key must be 1 to 255 visible ASCII characters, such as a UUID.", "string_pattern_mismatch"
)
IDEMPOTENCY_CONFLICT = ErrorKind(
    422001, "This Idempotency-Key was used for another body. Use a new key for a new request.", "idempotency_conflict"
)
FIELD_MISSING = ErrorKind(422001, 'The form must have the image in its only field, "{field}".', "missing")
EXTRA_FIELD = ErrorKind(422001, 'The form must have only one field, "{field}".', "extra_forbidden")

RATE_LIMIT = ErrorKind(429001, "This token may send {limit} requests per minute{where}. Try again in {retry_after} s.")
QUEUE_FULL = ErrorKind(429001, "This token already has {limit} requests waiting. Try again in {retry_after} s.")
STREAMS_FULL = ErrorKind(
    429001, "This token already has {limit} event streams open{where}. Try again in {retry_after} s."
)
UPLOADS_FULL = ErrorKind(
    429001, "With this file, the uploads of this token exceed {limit} MiB in all. Try again in {retry_after} s."
)

INTERNAL = ErrorKind(500001, "An error occurred in the API. The server's log says which.")
STORE_DOWN = ErrorKind(503001, "The API cannot use its store or its files. The server's log says why. Try again later.")
DISK_FULL = ErrorKind(507001, "The API's disk is full: nothing was accepted or changed. Try again when it has room.")

MODEL_UNAVAILABLE = ErrorKind(503002, "This model cannot run here now, so the request was not queued. {reason}")

# What the OpenAPI document says of each status.
SUMMARIES = {
    400: "Invalid identifier, parameter or JSON (400001).",
    401: "The token is missing or unknown (400004).",
    403: "The signature is wrong (403001).",
    404: "Not found, expired, or another token's (404001).",
    405: "The path does not take this method (405001).",
    408: "The body arrived too slowly (408001).",
    413: "The body is too large (413001).",
    415: "The body has another content type (415001).",
    416: "The file has no such range (416001).",
    422: "Values were refused; one entry in `detail` for each (422001).",
    429: "Too many requests, or too many of them waiting (429001).",
    500: "An error occurred in the API (500001).",
    503: "The API cannot use its store (503001), or ComfyUI lacks what the model needs, listed in `detail` (503002).",
    507: "The API's disk is full (507001).",
}


class ApiError(Exception):
    """An error of the table, raised: ``kind`` with ``values`` in its text and ``detail`` in its body."""

    def __init__(self, kind: ErrorKind, detail: Any = None, /, **values: object) -> None:
        super().__init__(kind.text.format(**values))
        self.code = kind.code
        self.status = 401 if kind is UNAUTHORIZED else kind.code // 1000
        self.detail = detail


def kind_of(error: Exception) -> ErrorKind:
    """Return the row for an error that nobody expected: of the store and its disk, or any other."""
    if isinstance(error, StoreFullError) or (isinstance(error, OSError) and is_full(error)):
        return DISK_FULL
    return STORE_DOWN if isinstance(error, (StoreError, OSError)) else INTERNAL


def too_many(kind: ErrorKind, wait_s: float, /, **values: object) -> ApiError:
    """Return a 429 that says when to try again."""
    seconds = max(1, math.ceil(wait_s))
    return ApiError(kind, {"retry_after": seconds}, retry_after=seconds, **values)


def bad_field(kind: ErrorKind, /, *loc: str, **values: object) -> dict[str, Any]:
    """Return the entry of a 422 for the field at ``loc``."""
    return field_entry(loc, kind.text.format(**values), kind.type)


def field_entry(loc: tuple[str, ...], message: str, kind: str) -> dict[str, Any]:
    """Return the entry of a 422 with control characters escaped: a client may print them to its terminal."""
    shown = "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in message)
    return {"loc": [part[:80] for part in loc], "msg": shown, "type": kind}


def validation_error(entries: list[dict[str, Any]]) -> ApiError:
    """Return a 422 whose ``detail`` has one entry (``loc``, ``msg``, ``type``) for each bad field."""
    return ApiError(ErrorKind(422001, "{text}"), entries, text="; ".join(entry["msg"] for entry in entries))


def error_response(error: ApiError) -> web.Response:
    """Return the response that tells a client of an error."""
    headers = {"Cache-Control": "no-store"}
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if error.status == 429:
        headers["Retry-After"] = str(error.detail["retry_after"])
    if error.code == STORE_DOWN.code:
        headers["Retry-After"] = str(_STORE_AGAIN_S)
    if error.status == 416:
        headers["Content-Range"] = f"bytes */{error.detail['size']}"
    body = {"error_code": error.code, "error_message": str(error), "detail": error.detail}
    response = web.json_response(body, status=error.status, headers=headers)
    if error.status in (408, 413):  # the rest of the body is not read
        response.force_close()
    return response


def http_error_response(error: web.HTTPException) -> web.Response:
    """Translate an error that aiohttp itself raises: an unknown path, a method that the path does not take."""
    if error.status == 404:
        return error_response(ApiError(NO_SUCH_PATH))
    if isinstance(error, web.HTTPMethodNotAllowed):
        response = error_response(ApiError(METHOD_NOT_ALLOWED, methods=", ".join(sorted(error.allowed_methods))))
        response.headers["Allow"] = error.headers["Allow"]
        return response
    if error.status == 417:
        return error_response(ApiError(UNKNOWN_EXPECT))
    return error_response(ApiError(ErrorKind(error.status * 1000 + 1, "{reason}."), reason=error.reason))
