"""The HTTP connection of every client here: requests, JSON, timeouts, TLS, downloads, and what an error says."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.client_proto import ResponseHandler
from yarl import URL

from .errors import ServerAddressError, ServerRefusedError, ServerUnreachableError

_CONNECT_TIMEOUT_S = 10.0
_READ_TIMEOUT_S = 60.0  # ComfyUI's event loop can stall for many seconds while a model loads
_CHUNK_BYTES = 1 << 20
_Self = TypeVar("_Self", bound="Connection")


class _OneAddress(AbstractResolver):
    """Resolves every name to one IP address; the name stays in the Host header and in the TLS check."""

    def __init__(self, ip_address: str) -> None:
        self._ip_address = ip_address

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        family = socket.AF_INET6 if ":" in self._ip_address else socket.AF_INET
        flags = socket.AI_NUMERICHOST
        return [ResolveResult(hostname=host, host=self._ip_address, port=port, family=family, proto=0, flags=flags)]

    async def close(self) -> None:
        pass


class _Dialling(aiohttp.BaseConnector):
    """Connects by a function that returns a connected socket."""

    def __init__(self, dial: Callable[[], socket.socket]) -> None:
        super().__init__()
        self._dial = dial

    async def _create_connection(self, req: aiohttp.ClientRequest, *_: Any) -> ResponseHandler:
        try:
            connected = await self._loop.create_connection(self._factory, sock=self._dial())
        except OSError as error:
            raise aiohttp.ClientConnectorError(req.connection_key, error) from error
        return connected[1]


class Connection:
    """One server; use it with ``async with``."""

    name = "ComfyUI"  # what messages call the server
    kind = "a server"
    example = "http://127.0.0.1:8188"

    def __init__(
        self,
        url: str,
        *,
        check_certificate: bool = True,
        token: str | None = None,
        ip_address: str | None = None,
        dial: Callable[[], socket.socket] | None = None,
    ) -> None:
        """``token`` is sent as a bearer token; ``ip_address`` is used in place of what the host's name resolves to.

        ``dial`` returns a socket that is connected with the server, in place of TCP's, or raises ``OSError``.
        """
        self._check_certificate = check_certificate
        self._headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        self._ip_address = ip_address
        self._dial = dial
        try:
            self._base = URL(url.rstrip("/"))
        except ValueError:
            self._base = URL()
        if self._base.scheme not in ("http", "https") or not self._base.host:
            raise ServerAddressError(f'"{url}" is not the address of {self.kind}. Give one like {self.example}.')

    async def __aenter__(self: _Self) -> _Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_READ_TIMEOUT_S)
        self._http = aiohttp.ClientSession(timeout=timeout, connector=self._connector(), headers=self._headers)
        return self

    def _connector(self) -> aiohttp.BaseConnector:
        if self._dial is not None:
            return _Dialling(self._dial)
        resolver = _OneAddress(self._ip_address) if self._ip_address is not None else None
        return aiohttp.TCPConnector(ssl=self._check_certificate, resolver=resolver)

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
                f"{self.name} at {self.url} did not respond within {_READ_TIMEOUT_S:.0f} s. "
                "Look at its log, and restart it if it hangs."
            )
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        reason = str(cause) or type(cause).__name__
        kind = ServerUnreachableError
        if isinstance(cause, ConnectionRefusedError):
            reason, kind = "connection refused", ServerRefusedError
        return kind(
            f"Cannot reach {self.name} at {self.url} ({reason}). Start {self.name}, or give the address where it runs."
        )
