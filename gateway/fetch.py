"""The SSRF check and its HTTP client: fetches images and calls webhooks, at public addresses only.

It looks up a host name itself, checks every address that it gets, and connects to one of them. So a name that leads
elsewhere a moment later (DNS rebinding) does no harm, and neither does another spelling of an address. The target of a
redirect is checked in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar

import aiohttp
from yarl import URL

from .settings import Settings

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
_T = TypeVar("_T")
_MAX_URL_CHARACTERS = 8000
_MAX_REDIRECTS = 3
_REDIRECTS = (301, 302, 303, 307, 308)
_CONNECT_TIMEOUT_S = 10.0
_CHUNK_BYTES = 1 << 18
_USER_AGENT = "wan-flf2v"
# Separate threads: a slow name server delays only other fetches, not the whole process.
_LOOKUPS = ThreadPoolExecutor(8, "wan-flf2v-dns")

# Hosts of the Internet have IPv6 addresses in 2000::/3 (RFC 4291), but not in these parts of it: protocol assignments
# with Teredo (RFC 2928, 4380), documentation (RFC 3849, 9637), and 6to4 (RFC 7526), which passes packets on to the IPv4
# address inside.
_GLOBAL_V6 = ipaddress.IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(ipaddress.IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address
# Python's is_global is true for these: the 6to4 relays (RFC 7526), in older Pythons protocol assignments (RFC 6890),
# and the address of Azure's metadata.
_NOT_PUBLIC_V4 = tuple(ipaddress.IPv4Network(text) for text in ("192.88.99.0/24", "192.0.0.0/24", "168.63.129.16/32"))


class FetchError(Exception):
    """The address or its response cannot be used; the text says why and what to do."""


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to a host of the Internet: not private, loopback, link-local, ….

    An IPv6 address that holds an IPv4 address (mapped, NAT64) counts as that one. ``ValueError`` if the text is no IP
    address.
    """
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or (ipaddress.IPv4Address(ip.packed[12:]) if ip in _NAT64 else None)
        if inner is None:
            return ip in _GLOBAL_V6 and ip.is_global and not any(ip in network for network in _NOT_PUBLIC_V6)
        ip = inner
    ordinary = ip.is_global and not (ip.is_multicast or ip.is_reserved)
    return ordinary and not any(ip in network for network in _NOT_PUBLIC_V4)


async def system_resolve(host: str, port: int) -> list[str]:
    """Return the IP addresses of a host as the system sees them; ``OSError`` if there are none."""

    def look_up() -> list[str]:
        return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]

    return await asyncio.get_running_loop().run_in_executor(_LOOKUPS, look_up)


class Fetcher:
    """Makes requests to public HTTPS addresses only, unless the settings allow private ones (and then HTTP too).

    It uses no proxy or password of this machine and keeps no cookie: every request has its own session.
    """

    def __init__(self, settings: Settings, resolve: Resolve = system_resolve) -> None:
        self._allow_private = settings.allow_private_urls
        self._timeout_s = settings.fetch_timeout_s
        self._resolve = resolve
        self._tls = ssl.create_default_context()

    async def check(self, url: str) -> None:
        """Raise ``FetchError`` if this address must not be used."""
        await self._timed(self._addresses(self._parse(url)))

    async def save(self, url: str, stream: BinaryIO, max_bytes: int) -> None:
        """Write the file at the address to ``stream``, piece by piece, and follow at most three redirects.

        Raises ``FetchError``, and what ``stream.write`` raises.
        """
        await self._timed(self._save(url, stream, max_bytes))

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """Send ``body`` and return the response's status; follow no redirect. ``FetchError`` if there is none."""
        return await self._timed(self._post(url, body, headers))

    async def _timed(self, work: Awaitable[_T]) -> _T:
        try:
            return await asyncio.wait_for(work, self._timeout_s)
        except asyncio.TimeoutError as error:
            raise FetchError(f"The address did not give all of its response within {self._timeout_s:g} s.") from error

    async def _save(self, text: str, stream: BinaryIO, max_bytes: int) -> None:
        url = self._parse(text)
        # No compression: a small compressed response can unpack to a huge one.
        headers = {"Accept": "image/*", "Accept-Encoding": "identity"}
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._open("GET", url, headers=headers) as response:
                if response.status not in _REDIRECTS:
                    return await _copy(response, url, stream, max_bytes)
                location = response.headers.get("Location", "")
            try:
                url = self._parse(str(url.join(URL(location))))
            except ValueError as error:
                raise FetchError(f'"{url.host}" redirects to something that is not an address.') from error
        raise FetchError(f"The address redirects more than {_MAX_REDIRECTS} times. Give the file's own address.")

    async def _post(self, text: str, body: bytes, headers: Mapping[str, str]) -> int:
        async with self._open("POST", self._parse(text), headers=headers, data=body) as response:
            return response.status

    def _parse(self, text: str) -> URL:
        schemes = ("https", "http") if self._allow_private else ("https",)
        if len(text) > _MAX_URL_CHARACTERS:
            raise FetchError(f"The address is longer than {_MAX_URL_CHARACTERS} characters. Give a shorter one.")
        if not text.isprintable() or " " in text:
            raise FetchError("The address has blanks or control characters in it. Give it percent-encoded.")
        try:
            url = URL(text)
        except ValueError as error:
            raise FetchError("This is not an address that can be used. Give one like https://host/path.") from error
        if url.scheme not in schemes or not url.host:
            raise FetchError(f"The address must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}.")
        if url.user is not None or url.password is not None:
            raise FetchError("The address has a user name or password in it. Give one that needs none.")
        return url

    async def _addresses(self, url: URL) -> list[str]:
        """Return the host's addresses; ``FetchError`` if any is not public."""
        host = url.raw_host or ""
        try:
            addresses = list(await self._resolve(host, url.port or 443))
            public = self._allow_private or all(is_public(address) for address in addresses)
        except (OSError, ValueError) as error:  # UnicodeError, for a name that DNS cannot have, is a ValueError
            raise FetchError(f'There is no host "{host}". Check the address.') from error
        if not addresses:
            raise FetchError(f'There is no host "{host}". Check the address.')
        if not public:
            raise FetchError(f'"{host}" is not on the public Internet. Give an address that everyone can reach.')
        return addresses

    @contextlib.asynccontextmanager
    async def _open(
        self, method: str, url: URL, *, headers: Mapping[str, str], data: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        addresses = await self._addresses(url)
        # aiohttp gets URLs with IP addresses, so it looks nothing up. The name goes into the Host header and the TLS
        # check.
        headers = {**headers, "Host": url.host_port_subcomponent or "", "User-Agent": _USER_AGENT}
        options: dict[str, Any] = {"headers": headers, "data": data, "allow_redirects": False}
        if url.scheme == "https":
            options["server_hostname"] = url.raw_host
        urls = [url.with_host(address) for address in addresses]
        async with self._session() as session:
            try:
                async with await _connect(session, method, urls, options) as response:
                    yield response
            except (aiohttp.ClientError, asyncio.TimeoutError, ConnectionError, ssl.SSLError) as error:
                raise FetchError(
                    f'"{url.host}" cannot be reached, or the connection broke: {_reason(error)}.'
                ) from error

    def _session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S),  # _timed limits the whole
            auto_decompress=False,
            read_bufsize=_CHUNK_BYTES,
            trust_env=False,
        )


async def _connect(
    session: aiohttp.ClientSession, method: str, urls: list[URL], options: dict[str, Any]
) -> aiohttp.ClientResponse:
    """Send the request to the first address that accepts a connection."""
    for url in urls[:-1]:
        with contextlib.suppress(aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            return await session.request(method, url, **options)
    return await session.request(method, urls[-1], **options)


async def _copy(response: aiohttp.ClientResponse, url: URL, stream: BinaryIO, max_bytes: int) -> None:
    too_large = FetchError(f'"{url.host}" sends more than {max_bytes >> 20} MB. Give a smaller file.')
    if response.status != 200:
        raise FetchError(f'"{url.host}" responded with status {response.status}. The file must be there for everyone.')
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise FetchError(f'"{url.host}" sends the file compressed although it was not asked to.')
    if (response.content_length or 0) > max_bytes:
        raise too_large
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        await asyncio.to_thread(stream.write, chunk)


def _reason(error: BaseException) -> str:
    """Say what went wrong, without the IP address: it may tell the caller about this network."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not valid ({getattr(error.certificate_error, 'verify_message', 'unknown reason')})"
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    if isinstance(cause, asyncio.TimeoutError):
        return "it does not respond"
    return type(cause).__name__
