"""The HTTP connection of every client here: requests, JSON, timeouts, TLS, downloads, and what an error says."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from .errors import ServerAddressError, ServerUnreachableError

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0  # ComfyUI's event loop can stall for many seconds while a model loads
_CHUNK_BYTES = 1 << 20
_Self = TypeVar("_Self", bound="Connection")


class Connection:
    """One server; use it with ``async with``."""

    name = "ComfyUI"  # what messages call the server
    kind = "a server"
    example = "http://127.0.0.1:8188"

    def __init__(self, url: str, *, check_certificate: bool = True) -> None:
        self._check_certificate = check_certificate
        try:
            self._base = URL(url.rstrip("/"))
        except ValueError:
            self._base = URL()
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise ServerAddressError(f'"{url}" is not the address of {self.kind}. Give one like {self.example}.')

    async def __aenter__(self: _Self) -> _Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(ssl=self._check_certificate))
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
        """Return the JSON of a response; ``_check`` judges its status."""
        async with self._request(method, path, **options) as response:
            content = await self._content(response)
        self._check(response, content)
        return content

    @asynccontextmanager
    async def _request(self, method: str, url: URL | str, **options: Any) -> AsyncIterator[aiohttp.ClientResponse]:
        """Make a request to a path of this server, or to a whole address."""
        try:
            address = self._base / url if isinstance(url, str) else url
            async with self._http.request(method, address, **options) as response:
                yield response
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            raise self._unreachable(error) from error

    async def _content(self, response: aiohttp.ClientResponse) -> Any:
        """Return what the JSON of a response says, ``None`` if it is not JSON."""
        try:
            return json.loads(await response.read())
        except ValueError:
            return None

    async def _save(self, response: aiohttp.ClientResponse, target: Path) -> Path:
        """Save the file of a response as ``target``, which appears only when it is complete. Replaces a file there."""
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            with partial.open("wb") as stream:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    await asyncio.to_thread(stream.write, chunk)
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def _check(self, response: aiohttp.ClientResponse, content: Any) -> None:
        """Raise this server's error for a response that cannot be used."""
        raise NotImplementedError

    def _unreachable(self, error: BaseException) -> ServerUnreachableError:
        if isinstance(error, asyncio.TimeoutError):
            return ServerUnreachableError(
                f"{self.name} at {self.url} did not answer within {_READ_TIMEOUT_S:.0f} s. "
                "Look at its log, and restart it if it hangs."
            )
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        reason = str(cause) or type(cause).__name__
        if isinstance(cause, ConnectionRefusedError):
            reason = "connection refused"
        return ServerUnreachableError(
            f"Cannot reach {self.name} at {self.url} ({reason}). Start {self.name}, or give the address where it runs."
        )
