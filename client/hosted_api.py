"""The client of the hosted API: submit, status, result, cancel, watch, download. Works with the hosted service too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, get_args

import aiohttp
from yarl import URL

from ..contract.parameters import IMAGE_FORMAT, ModelContract, Parameter, ParameterType, Value
from .connection import Connection
from .errors import HostedApiError, ServerUnreachableError

_POLL_S = 1.0
_LOST_AFTER = 30  # tries in a row: a server that restarts is back by then
_ENDED = ("completed", "cancelled")  # a failed request is called completed


DEFAULT_PORT = 8219
"""Where ``wan-flf2v serve`` listens by default. ComfyUI has 8188, Comfy-Org's own API proxy 8189, and further copies of
ComfyUI the ports behind. IANA has assigned this one to nobody, and no common AI tool uses it.
"""


class HostedApi(Connection):
    """One API, as ``async with HostedApi(base, token) as api``. ``base`` ends in ``/v1``.

    Every method raises ``ServerUnreachableError`` if the API does not respond, else ``HostedApiError``.
    """

    name = "the API"
    kind = "an API"
    example = f"http://127.0.0.1:{DEFAULT_PORT}/v1"

    def __init__(self, base: str, token: str | None = None) -> None:
        super().__init__(base)
        self._token = {"Authorization": f"Bearer {token}"} if token else {}

    async def submit(
        self,
        model_id: str,
        values: Mapping[str, Value],
        *,
        idempotency_key: str | None = None,
        webhook: str | None = None,
    ) -> dict[str, Any]:
        """Submit a request; returns its id and addresses."""
        headers = {**self._token, **({"Idempotency-Key": idempotency_key} if idempotency_key else {})}
        query = {"webhook": webhook} if webhook is not None else {}
        return await self._call("POST", f"models/{model_id}", json=dict(values), headers=headers, params=query)

    async def contract(self, model_id: str) -> ModelContract:
        """Return a model's contract, made from the ``input_schema`` that the API shows of it."""
        shown = await self._call("GET", f"models/{model_id}", headers=self._token)
        return contract_from_schema(model_id, shown.get("input_schema") or {})

    async def status(self, request_id: str) -> dict[str, Any]:
        """Return where a request stands."""
        return await self._call("GET", f"requests/{request_id}/status", headers=self._token)

    async def result(self, request_id: str) -> dict[str, Any]:
        """Return a request's result, or its present state."""
        return await self._call("GET", f"requests/{request_id}/result", headers=self._token)

    async def cancel(self, request_id: str) -> dict[str, Any]:
        """Cancel a request; ``outcome`` says whether that was possible."""
        return await self._call("POST", f"requests/{request_id}/cancel", headers=self._token)

    async def watch(self, request_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the request's status whenever it changed, until it has ended; waits for a server that restarts."""
        shown: dict[str, Any] | None = None
        failures = 0
        while shown is None or shown["status"] not in _ENDED:
            if shown is not None:
                await asyncio.sleep(_POLL_S)
            try:
                status, failures = await self.status(request_id), 0
            except (HostedApiError, ServerUnreachableError) as error:
                failures += 1
                refused = isinstance(error, HostedApiError) and error.status < 500 and error.status != 429
                if refused or failures >= _LOST_AFTER:
                    raise
                await asyncio.sleep(_POLL_S)
                continue
            if status != shown:
                yield status
            shown = status

    async def download(self, url: str, target: Path) -> Path:
        """Save a result's file as ``target``, which appears only when it is complete. Sends no token."""
        async with self._request("GET", URL(url, encoded=True)) as response:
            if response.status >= 400:
                raise _error(response, await self._content(response))
            return await self._save(response, target)

    async def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        content: dict[str, Any] = await self._json(method, path, **options)
        return content

    def _check(self, response: aiohttp.ClientResponse, content: Any) -> None:
        if response.status >= 400 or not isinstance(content, dict):
            raise _error(response, content)


def contract_from_schema(model_id: str, schema: Mapping[str, Any]) -> ModelContract:
    """Return the contract of a model that only its server knows, from the ``input_schema`` that the server shows.

    Properties of a type that a parameter cannot have are left out.
    """
    required = schema.get("required") or ()
    parameters = tuple(
        Parameter(
            key=key,
            title=str(shown.get("title") or key),
            type=shown["type"],
            default=shown.get("default", ""),
            description=str(shown.get("description") or ""),
            enum=tuple(shown.get("enum") or ()),
            minimum=shown.get("minimum"),
            maximum=shown.get("maximum"),
            required=key in required,
            is_image=shown.get("format") == IMAGE_FORMAT,
        )
        for key, shown in (schema.get("properties") or {}).items()
        if shown.get("type") in get_args(ParameterType)
    )
    return ModelContract(model_id, model_id, "", parameters)


def _error(response: aiohttp.ClientResponse, content: Any) -> HostedApiError:
    if not isinstance(content, dict) or "error_message" not in content:
        return HostedApiError(
            f"{response.url.origin()} responded with {response.status}: it is not this API.", 0, response.status
        )
    lines = [str(content["error_message"])]
    if isinstance(content.get("detail"), list):
        lines = [str(item["msg"]) for item in content["detail"] if isinstance(item, dict) and "msg" in item] or lines
    return HostedApiError("\n".join(lines), int(content.get("error_code") or 0), response.status)
