"""The connection to NATS: its address, its user and its certificates, and a client that connects again for ever."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
from nats.aio.client import Client

from ..settings import NatsAccess
from .store import StoreFileError

_SERVER = re.compile(  # scheme, user, host, fleet; a user's "," and "@" would look like another server's
    r"(?:(nats|tls)://)?"
    r"((?:[^\s/?#\[\]@]*|[^\s/?#\[\],]*)@)?"
    r"((?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?)"
    r"(?:/([A-Za-z0-9_-]{1,32})?)?"
)
_CREDENTIALS = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
_LOG = logging.getLogger("wan_flf2v.gateway")


class NatsConnection:
    """A connection to the servers of ``nats://host[:port][,host[:port]…][/fleet]``.

    With users it is ``nats://user:password@host[:port][,nats://user:password@host[:port]…][/fleet]``. ``where`` names
    the hosts alone, ``errors`` are those since it was connected: a server that refuses may also just break the
    connection. ``connected`` is called with each new client, ``broken`` when a connection broke.

    Raises ``StoreFileError`` if the address is not understood, or a file of the user or of certificates cannot be read.
    """

    def __init__(
        self,
        access: NatsAccess,
        *,
        connected: Callable[[Client], Awaitable[None]] | None = None,
        broken: Callable[[], None] | None = None,
    ) -> None:
        self._servers, hosts, self.fleet = _parse(access.url)
        self.where = ", ".join(hosts)
        self.errors: list[str] = []
        self._options = _secrets(access)
        self._connected, self._broken = connected, broken

    def begin(self) -> asyncio.Task[None]:
        """Connect; the task ends when that is done, and the client then connects again by itself."""
        self._client = Client()
        self._connecting = asyncio.create_task(self._connect(self._client))
        return self._connecting

    def client(self) -> Client:
        """Return the client if it is connected; ``nats.errors.ConnectionClosedError`` if not.

        The library closes a client for good after most errors that a server sends, such as that its user was removed.
        Its task that connects again may also end with an error, and leave a client that never will. Then another client
        connects.
        """
        client, again = self._client, self._client._reconnection_task  # the library does not tell in another way
        connects = client.is_connected or (again is not None and not again.done())
        if self._connecting.done() and (client.is_closed or not connects or self._connecting.exception() is not None):
            self._closing = asyncio.ensure_future(client.close())
            self.begin()
        if not self._client.is_connected or not self._connecting.done():
            raise nats.errors.ConnectionClosedError
        return self._client

    async def close(self) -> None:
        """Disconnect."""
        self._connecting.cancel()
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._client.close()

    async def _connect(self, client: Client) -> None:
        try:
            await client.connect(
                list(self._servers),
                name="wan-flf2v",
                error_cb=self._note,
                disconnected_cb=self._note_break,
                reconnected_cb=self._note_success,
                max_reconnect_attempts=-1,
                reconnect_time_wait=1,
                connect_timeout=2,
                ping_interval=5,
                max_outstanding_pings=2,
                pending_size=0,  # while there is no connection nothing is kept to be sent later
                **self._options,
            )
        except Exception as error:  # such as a key that is none
            await self._note(error)
            raise nats.errors.Error(str(error)) from error
        if self._connected is not None:
            await self._connected(client)
        await self._note_success()

    async def _note_success(self) -> None:
        self.errors = []
        _LOG.info("NATS connected servers=%s", self.where)

    async def _note_break(self) -> None:
        if self._broken is not None:
            self._broken()

    async def _note(self, error: Exception) -> None:
        text = str(error) or type(error).__name__
        if text not in self.errors:
            self.errors.append(text)
            _LOG.warning("NATS connection servers=%s: %s", self.where, text)


def _parse(url: str) -> tuple[list[str], list[str], str]:
    """Return the servers of an address, their hosts, and the fleet's name, ``""`` for the default one."""
    servers, hosts, fleet = [], [], ""
    comma = r",(?=\s*(?:nats|tls)://)" if "@" in url else ","  # another one may stand in a password
    for part in re.split(comma, url):
        match = _SERVER.fullmatch(part.strip())
        if match is None:  # it is not shown: there may be a password in it
            raise StoreFileError(
                "The address of NATS is not understood. Give nats://HOST:PORT, several separated by commas; behind the "
                "last one may stand /NAME, the fleet's name of letters, digits, - and _. With users, give each as "
                "nats://USER:PASSWORD@HOST:PORT; a password has no spaces and none of / ? # [ ], nor both , and @."
            )
        servers.append(f"{match[1] or 'nats'}://{match[2] or ''}{match[3]}")
        hosts.append(match[3])
        fleet = match[4] or fleet
    return servers, hosts, fleet


def _secrets(access: NatsAccess) -> dict[str, Any]:
    """Return the client's options for the files of the user and of certificates."""
    options: dict[str, Any] = {}
    try:
        if access.credentials is not None:
            content = access.credentials.read_bytes()  # the client reads it too, each time that it connects
            if not all(part in content for part in _CREDENTIALS):
                raise StoreFileError(f"{access.credentials} has no user of NATS: give a .creds file as nsc writes it.")
            options["user_credentials"] = str(access.credentials)
        if access.ca is not None or access.certificate is not None:
            context = ssl.create_default_context(cafile=access.ca)
            if access.certificate is not None:
                context.load_cert_chain(access.certificate, access.key)
            options["tls"] = context
    except OSError as error:
        raise StoreFileError(
            f"The files of nats_credentials, nats_ca, nats_certificate and nats_key cannot be used: {error}"
        ) from error
    return options
