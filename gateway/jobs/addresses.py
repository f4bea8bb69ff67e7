"""The addresses of the ComfyUIs that run jobs: those of the settings, each IP address of a name, those behind NATS."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from yarl import URL

from ...client.comfy import ComfyClient
from ...client.errors import ServerAddressError
from ..fetch import system_resolve
from ..settings import ConfigError, Settings

NO_WORKER = "No worker is connected: start `wan-flf2v worker` beside a ComfyUI. Requests wait until then."

LookUp = Callable[[str, int], Awaitable[Sequence[str]]]


@dataclass(frozen=True)
class Address:
    """Where one ComfyUI is: its URL, and of a name with several IP addresses one of these."""

    url: str
    token: str | None
    verify_tls: bool
    ip_address: str | None = None

    @property
    def name(self) -> str:
        """The URL without a password, and the IP address."""
        shown = str(URL(self.url).with_user(None)).rstrip("/")
        return shown if self.ip_address is None else f"{shown} ({self.ip_address})"

    @property
    def since(self) -> float:
        """Since when it could be heard, if it said something; of ``time.monotonic``."""
        return -math.inf

    @property
    def stopping(self) -> bool:
        """Whether it is about to end, and takes no more jobs."""
        return False

    async def dismiss(self) -> None:
        """Tell it, if it is ``stopping``, that it may end."""

    def client(self) -> ComfyClient:
        """Return a client; ``ServerAddressError`` if the URL is none."""
        return ComfyClient(self.url, verify_tls=self.verify_tls, token=self.token, ip_address=self.ip_address)


class Outward:
    """The outward workers, to which no gateway connects: none, unless NATS leads to them (``outward``)."""

    def addresses(self) -> list[Address]:
        """Return where their ComfyUIs are, also of one that fell silent not long ago."""
        return []

    def expect(self, names: Iterable[str]) -> None:
        """Take workers that another gateway knew, by these names of workers of any kind, for silent ones."""

    async def run(self) -> None:
        """Hear them until cancelled; meanwhile there are addresses."""


NO_OUTWARD = Outward()


def addresses_of(settings: Settings) -> list[Address]:
    """Return the addresses of the settings; ``ConfigError`` if they, or their tokens, cannot be used.

    With NATS there may be none.
    """
    urls, tokens = settings.comfyui_urls, settings.comfyui_tokens
    if len(tokens) not in (0, 1, len(urls)):
        raise ConfigError(
            f"comfyui_tokens has {len(tokens)} tokens for {len(urls)} addresses of ComfyUI. Give one token for all, "
            "or one for each address, in their order."
        )
    spread = tokens * len(urls) if len(tokens) == 1 else tokens or (None,) * len(urls)
    found = []
    for url, token in zip(urls, spread, strict=True):
        text = token.get_secret_value() if token is not None else None
        try:
            ComfyClient(url)
        except ServerAddressError as error:
            raise ConfigError(f"ComfyUI's address: {error}") from error
        if text is not None and URL(url).user is not None:
            raise ConfigError(f"{URL(url).with_user(None)} has a user name in it and a bearer token. Give one of both.")
        found.append(Address(url, text, settings.comfyui_verify_tls))
    if not found and settings.nats is None:
        raise ConfigError("comfyui_url is empty. Give the address of a ComfyUI, such as http://127.0.0.1:8188.")
    return found


async def resolve(address: Address, look_up: LookUp = system_resolve) -> list[Address]:
    """Return one address for each IP address of a name that has several; otherwise the address as it is.

    ``localhost`` is one machine. ``OSError`` if the name cannot be looked up.
    """
    url = URL(address.url)
    host = url.raw_host or ""
    if host == "localhost" or ":" in host or host.replace(".", "").isdigit():
        return [address]
    found = sorted(set(await look_up(host, url.port or 80)))
    return [replace(address, ip_address=ip_address) for ip_address in found] if len(found) > 1 else [address]


async def resolved(addresses: Iterable[Address], look_up: LookUp = system_resolve) -> list[Address]:
    """Return where these ComfyUIs are now; a name that cannot be looked up counts as one address."""

    async def one(address: Address) -> list[Address]:
        try:
            return await resolve(address, look_up)
        except (OSError, ValueError):
            return [address]

    return [each for found in await asyncio.gather(*map(one, addresses)) for each in found]
