"""A client of the hosted API: of this project's server, or of the hosted service that has the same contract."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from yarl import URL

from ..contract.parameters import Value

_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=60.0)
_POLL_S = 1.0
_LOST_AFTER = 30  # tries in a row: a server that restarts is back by then
_CHUNK_BYTES = 1 << 20
_END = ("completed", "cancelled")


class HostedApiError(Exception):
    """The API refused a call, or did not answer; ``code`` is the contract's, 0 if there was no answer."""

    def __init__(self, message: str, code: int = 0, status: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class HostedApi:
    """One API, as ``async with HostedApi(base, token) as api``. ``base`` ends in ``/v1``.

    Every method raises ``HostedApiError``.
    """

    def __init__(self, base: str, token: str | None = None) -> None:
        try:
            self._base = URL(base.rstrip("/"))
        except ValueError:
            self._base = URL()
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise HostedApiError(f'"{base}" is not the address of an API. Give one like http://127.0.0.1:8189/v1.')
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    async def __aenter__(self) -> HostedApi:
        self._http = aiohttp.ClientSession(timeout=_TIMEOUT)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    async def submit(
        self,
        model_id: str,
        values: Mapping[str, Value],
        *,
        idempotency_key: str | None = None,
        webhook: str | None = None,
    ) -> dict[str, Any]:
        """Submit a request; returns its id and addresses."""
        url = self._base / "models" / model_id
        if webhook is not None:
            url = url.with_query(webhook=webhook)
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        return await self._json("POST", url, json=dict(values), headers=headers)

    async def status(self, request_id: str) -> dict[str, Any]:
        """Return where a request stands."""
        return await self._json("GET", self._request_url(request_id, "status"))

    async def result(self, request_id: str) -> dict[str, Any]:
        """Return a request's result, or its present state."""
        return await self._json("GET", self._request_url(request_id, "result"))

    async def cancel(self, request_id: str) -> dict[str, Any]:
        """Cancel a request; ``outcome`` says whether that was possible."""
        return await self._json("POST", self._request_url(request_id, "cancel"))

    async def watch(self, request_id: str) -> AsyncIterator[dict[str, Any]]:
        """Yield the request's status whenever it changed, until it has ended; a server that restarts is waited for."""
        shown: dict[str, Any] | None = None
        failures = 0
        while shown is None or shown["status"] not in _END:
            if shown is not None:
                await asyncio.sleep(_POLL_S)
            try:
                status, failures = await self.status(request_id), 0
            except HostedApiError as error:
                failures += 1
                if (0 < error.status < 500 and error.status != 429) or failures >= _LOST_AFTER:
                    raise
                await asyncio.sleep(_POLL_S)
                continue
            if status != shown:
                yield status
            shown = status

    async def download(self, url: str, target: Path) -> Path:
        """Save a result's file as ``target``, which appears only when it is complete. Sends no token."""
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            async with self._answer("GET", URL(url, encoded=True), {}) as response:
                if response.status >= 400:
                    raise _error(response, await _body(response))
                with partial.open("wb") as stream:
                    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                        stream.write(chunk)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def _request_url(self, request_id: str, call: str) -> URL:
        return self._base / "requests" / request_id / call

    async def _json(self, method: str, url: URL, **options: Any) -> dict[str, Any]:
        headers = {**self._headers, **options.pop("headers", {})}
        async with self._answer(method, url, headers, **options) as response:
            body = await _body(response)
        if response.status >= 400 or not isinstance(body, dict):
            raise _error(response, body)
        return body

    @asynccontextmanager
    async def _answer(
        self, method: str, url: URL, headers: Mapping[str, str], **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._http.request(method, url, headers=headers, **options) as response:
                yield response
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            reason = str(error) or type(error).__name__
            raise HostedApiError(f"Cannot reach the API at {url.origin()} ({reason}). Is it running?") from error


async def _body(response: aiohttp.ClientResponse) -> Any:
    try:
        return json.loads(await response.read())
    except ValueError:
        return None


def _error(response: aiohttp.ClientResponse, body: Any) -> HostedApiError:
    if not isinstance(body, dict) or "error_message" not in body:
        return HostedApiError(f"{response.url.origin()} answered {response.status}: not this API.", 0, response.status)
    lines = [str(body["error_message"])]
    if isinstance(body.get("detail"), list):
        lines = [str(item["msg"]) for item in body["detail"] if isinstance(item, dict) and "msg" in item] or lines
    return HostedApiError("\n".join(lines), int(body.get("error_code") or 0), response.status)
