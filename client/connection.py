"""A connection to one ComfyUI server: requests, their answers as JSON, and what is said when there are none."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from .errors import ServerAddressError, ServerAnswerError, ServerUnreachableError

_CONNECT_TIMEOUT_S = 10.0
_ANSWER_TIMEOUT_S = 60.0  # ComfyUI's event loop can stall for many seconds while a model loads
_Self = TypeVar("_Self", bound="Connection")


class Connection:
    """One server; use it with ``async with``."""

    def __init__(self, url: str, *, verify_tls: bool = True) -> None:
        self._verify_tls = verify_tls
        try:
            self._base = URL(url.rstrip("/"))
        except ValueError:
            self._base = URL()
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise ServerAddressError(f'"{url}" is not the address of a server. Give one like http://127.0.0.1:8188.')

    async def __aenter__(self: _Self) -> _Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_ANSWER_TIMEOUT_S)
        self._http = aiohttp.ClientSession(
            timeout=timeout, connector=connector(self._base, verify_tls=self._verify_tls)
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.close()

    @property
    def url(self) -> str:
        """The server's address, without a password that may be in it."""
        return str(self._base.with_user(None)).rstrip("/")

    async def _json(self, method: str, path: str, **options: Any) -> Any:
        async with self._request(method, path, **options) as response:
            body = await self._body(response)
        self._check_status(response, body)
        if body is None:
            raise ServerUnreachableError(f"The server at {self.url} is not a ComfyUI. Give the address of a ComfyUI.")
        return body

    @asynccontextmanager
    async def _request(self, method: str, path: str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self._http.request(method, self._base / path, **options) as response:
                yield response
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _body(self, response: aiohttp.ClientResponse) -> Any:
        """Return the JSON body, ``None`` if there is none."""
        try:
            return json.loads(await response.read())
        except ValueError:
            return None

    def _check_status(self, response: aiohttp.ClientResponse, body: Any) -> None:
        if response.status < 400:
            return
        reason = body.get("error") if isinstance(body, dict) else None
        text = f"ComfyUI at {self.url} answered {response.url.path} with {response.status} {reason or response.reason}."
        raise ServerAnswerError(text, response.status)

    def _unreachable(self, error: BaseException) -> ServerUnreachableError:
        if isinstance(error, asyncio.TimeoutError):
            return ServerUnreachableError(
                f"ComfyUI at {self.url} did not answer within {_ANSWER_TIMEOUT_S:.0f} s. "
                "Look at its log, and restart it if it hangs."
            )
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        reason = str(cause) or type(cause).__name__
        if isinstance(cause, ConnectionRefusedError):
            reason = "connection refused"
        return ServerUnreachableError(
            f"Cannot reach ComfyUI at {self.url} ({reason}). Start ComfyUI, or give the address where it runs."
        )


def connector(url: URL, *, verify_tls: bool = True) -> aiohttp.TCPConnector:
    """Return what connects to the ComfyUI at ``url``; on loopback its certificate is not checked in any case.

    A certificate names the host as others see it, not its loopback address, and nobody is between here and there.
    """
    return aiohttp.TCPConnector(ssl=verify_tls and not _is_loopback(url.host))


def _is_loopback(host: str | None) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False
