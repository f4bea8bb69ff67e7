"""Receives the webhooks of a bench's requests, and judges them: one id for each job, which is told how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping

from aiohttp import web

_TOLD_S = 150.0  # a message that was under way when its gateway was killed is due again after its lease of a minute


class Receiver:
    """What arrived at ``url``: the ids of each job's messages, and how each job ended as the last of them says."""

    def __init__(self) -> None:
        self.url = ""
        self._ids: defaultdict[str, set[str]] = defaultdict(set)
        self._ends: dict[str, str] = {}

    async def receive(self, request: web.Request) -> web.Response:
        """Take one message."""
        data = (await request.json())["data"]
        self._ids[data["request_id"]].add(request.headers["webhook-id"])
        self._ends[data["request_id"]] = data["status"]
        return web.Response()

    async def violations(self, ends: Mapping[str, str]) -> list[str]:
        """Wait until every job of ``ends`` is told; return what must not be."""
        deadline = time.monotonic() + _TOLD_S
        while ends.keys() - self._ends.keys() and time.monotonic() < deadline:
            await asyncio.sleep(0.5)
        found = []
        for job_id, end in ends.items():
            if len(self._ids[job_id]) != 1:
                found.append(f"{job_id} has the webhook ids {sorted(self._ids[job_id])}")
            elif self._ends[job_id] != end:
                found.append(f"{job_id} ended as {end}, but its webhook said {self._ends[job_id]}")
        return found


@contextlib.asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """Run a receiver on a free port of the loopback address."""
    it, app = Receiver(), web.Application()
    app.router.add_post("/", it.receive)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        it.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
        yield it
    finally:
        await runner.cleanup()
