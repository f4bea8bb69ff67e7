"""Errors as the hosted API's clients know them."""

from __future__ import annotations

from typing import Any

# The contract's codes: the first three digits are the HTTP status, but a missing token is 401 for clients.
INVALID = 400001
UNAUTHORIZED = 400004
FORBIDDEN = 403001
NOT_FOUND = 404001
VALIDATION = 422001
TOO_MANY = 429001
INTERNAL = 500001


class ApiError(Exception):
    """An answer that is an error: ``{"error_code", "error_message", "detail"}`` with the matching HTTP status."""

    def __init__(self, code: int, message: str, detail: Any = None, *, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = status or (401 if code == UNAUTHORIZED else code // 1000)
        self.detail = detail

    def body(self) -> dict[str, Any]:
        """Return the JSON body."""
        return {"error_code": self.code, "error_message": str(self), "detail": self.detail}


def validation_error(errors: list[dict[str, Any]]) -> ApiError:
    """Return a 422 whose ``detail`` has one entry for each bad field: ``loc``, ``msg``, ``type``."""
    return ApiError(VALIDATION, "; ".join(str(error["msg"]) for error in errors), errors)
