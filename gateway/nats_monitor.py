"""What NATS's monitoring port tells and a client cannot see: whether JetStream replies only once a write is on disk."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import aiohttp
from yarl import URL

from .jobs.store import StoreFileError
from .settings import ConfigError, Settings

_RESPONSE_S = 5.0
_LOG = logging.getLogger("wan_flf2v.gateway")


async def check_sync(settings: Settings) -> None:
    """Look at ``sync_always`` of each server whose monitoring port is named; log what cannot be seen.

    ``StoreFileError`` if a server replies before a write is on its disk, ``ConfigError`` if an address is none.
    """
    urls = [_monitor(text) for text in settings.nats_monitor_urls]
    if not urls:
        _LOG.info(
            "NATS is not asked for its sync_interval: only its monitoring port tells. --nats-monitor http://HOST:8222 "
            "names it; without `sync_interval: always` a power cut loses requests that were accepted"
        )
        return
    seen, servers = set(), len(urls)
    for url in urls:
        shown = url.with_user(None)
        try:
            facts = await _ask(url)
            server, config = facts["server_id"], facts["config"]
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError, KeyError, TypeError) as error:
            _LOG.warning("sync_interval of NATS cannot be seen monitor=%s: %s", shown, error or "no response")
            continue
        if not config.get("sync_always"):
            raise StoreFileError(
                f"The nats-server whose monitoring port is {shown} replies before a write is on its disk: a power cut "
                "loses requests that were accepted. Put `sync_interval: always` into the jetstream block of its "
                "configuration, as docs/nats-server.conf has it, and restart it; or leave out --nats-monitor."
            )
        seen.add(server)
        servers = max(servers, facts.get("meta_cluster", {}).get("cluster_size", 1))
    level = logging.INFO if len(seen) == servers else logging.WARNING
    _LOG.log(level, "sync_interval of NATS is always, as seen of servers=%d of=%d", len(seen), servers)


def _monitor(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigError("The address of NATS's monitoring port is not understood. Give http://HOST:8222.")
    return url


async def _ask(url: URL) -> dict[str, Any]:
    timeout = aiohttp.ClientTimeout(total=_RESPONSE_S)
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
        session.get(url / "jsz", params={"config": "1"}) as response,
    ):
        found: dict[str, Any] = await response.json(content_type=None)
        return found
