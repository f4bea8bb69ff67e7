"""Calls to a gateway that are started on time, whatever became of those before them, and open event streams."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import aiohttp

from ..contract.parameters import DEMO, Value
from ._figures import Figure

_LOOK_S = 0.5  # how often a client that waits for a request asks for its status


@contextlib.asynccontextmanager
async def unlimited_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session that opens as many connections as there are calls."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        yield http


class Calls:
    """The calls that are measured, of one token; ``bad`` counts those with neither a success nor 429.

    ``values`` makes the values of the request with this number.
    """

    def __init__(
        self, http: aiohttp.ClientSession, api: str, token: str, values: Callable[[int], Mapping[str, Value]]
    ) -> None:
        self.bad = 0
        self.ids: list[str] = []
        self._http, self._api, self._values = http, api, values
        self._headers = {"Authorization": f"Bearer {token}"}
        self._numbers = itertools.count(1)
        self._asked = itertools.count(1)

    async def submit(self) -> None:
        """Submit the next request."""
        url = f"{self._api}/models/{DEMO.model_id}"
        response = await self._call("POST", url, self._values(next(self._numbers)))
        if response is not None and "request_id" in response:
            self.ids.append(str(response["request_id"]))

    async def status(self) -> None:
        """Ask for the status of one of the requests, in turn."""
        await self._call("GET", f"{self._next()}/status")

    async def result(self) -> None:
        """Ask for the result of one of the requests, in turn."""
        await self._call("GET", f"{self._next()}/result")

    async def succeeded(self) -> bool:
        """Ask for the result of the last request: whether it has one."""
        result = await self._call("GET", f"{self._request(-1)}/result") or {}
        return result.get("status") == "succeeded"

    async def until(self, number: int, status: str) -> None:
        """Wait until the request with this number, from 0, has this status; ``RuntimeError`` if it ends before."""
        while (now := (await self._call("GET", f"{self._request(number)}/status") or {}).get("status")) != status:
            if now not in (None, "in_queue", "in_progress"):
                raise RuntimeError(f"the request {self.ids[number]} is {now} and not {status}")
            await asyncio.sleep(_LOOK_S)

    async def follow(self, number: int, opened: asyncio.Semaphore) -> None:
        """Read the events of the request with this number until the stream ends."""
        timeout = aiohttp.ClientTimeout(total=None)
        url = f"{self._request(number)}/events"
        async with self._http.get(url, headers=self._headers, timeout=timeout) as response:
            response.raise_for_status()
            opened.release()
            async for _ in response.content:
                pass

    def _request(self, number: int) -> str:
        return f"{self._api}/requests/{self.ids[number]}"

    def _next(self) -> str:
        return self._request(next(self._asked) % len(self.ids))

    async def _call(self, method: str, url: str, values: Mapping[str, Value] | None = None) -> dict[str, Any] | None:
        try:
            async with self._http.request(method, url, json=values, headers=self._headers) as response:
                if not (200 <= response.status < 300 or response.status == 429):
                    self.bad += 1
                content: dict[str, Any] = await response.json()
                return content
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
            self.bad += 1
            return None


async def open_loop(calls: Calls, rate: int, seconds: float, order: Sequence[str]) -> dict[str, list[float]]:
    """Make ``rate`` calls a second, by the names in ``order`` again and again; return their latencies in seconds."""
    start, tasks = time.perf_counter() + 0.5, []
    latencies: dict[str, list[float]] = {name: [] for name in order}

    async def timed(name: str, due: float) -> None:
        await getattr(calls, name)()
        latencies[name].append(time.perf_counter() - due)

    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(due - time.perf_counter())
        tasks.append(asyncio.create_task(timed(order[number % len(order)], due)))
    await asyncio.gather(*tasks)
    return latencies


@contextlib.asynccontextmanager
async def open_streams(
    follow: Sequence[tuple[Calls, int]], beside: Sequence[asyncio.Task[None]] = ()
) -> AsyncIterator[None]:
    """Keep event streams open until the block ends, and the tasks ``beside`` them; ``RuntimeError`` if one ends."""
    opened = asyncio.Semaphore(0)
    tasks = [*beside, *(asyncio.create_task(calls.follow(number, opened)) for calls, number in follow)]
    try:
        everyone = asyncio.gather(*(opened.acquire() for _ in follow))
        await asyncio.wait((everyone, *tasks), return_when=asyncio.FIRST_COMPLETED)
        yield
        if ended := [task for task in tasks if task.done()]:
            raise RuntimeError(f"{len(ended)} of the uploads and event streams did not stay open: {ended[0]}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def p99_ms(rounds: Sequence[Sequence[float]], limit: float | None) -> Figure:
    """Return the 99th percentile of each round's latencies, the largest as the figure."""
    values = [statistics.quantiles(latencies, n=100)[98] * 1000 for latencies in rounds]
    return Figure(max(values), "ms", len(values), min(values), max(values), None if limit is None else ("<", limit))
