"""How quickly the API responds under load, while ComfyUI works on the same processor.

First an open loop: 100 calls a second for 50 s, submit and status in turn, each started on time whatever became of
those before it, and measured from that time. Then the same with 50 calls a second for 60 s, beside two uploads that
send a byte every five seconds and 200 open event streams of four tokens. Then 200 clients at once with 25 calls each.
Every response must be a success or 429, and the gateway must not grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import psutil

from ..contract.parameters import DEMO, END_IMAGE, PROMPT, SEED, START_IMAGE, STEPS, Value
from ._figures import Figure, Figures, Options, summed
from ._gateway import GatewayProcess
from ._stage import stage

RATE = 100  # calls a second
SECONDS = 50.0
STALLED_RATE, STALLED_SECONDS = 50, 60.0
STALLED_UPLOADS, STREAM_TOKENS, STREAMS = 2, 4, 200
CLIENTS, CALLS = 200, 25
_DRIP_S = 5.0
_AHEAD = 30  # requests of the same token before one that is followed: tokens take turns, and it must still wait
_LIMIT_MS = 100.0
_LIMIT_MB = 50.0
_WARM_CALLS = 500
_SETTINGS = {"queue_limit": 1_000_000, "rate_per_minute": 1_000_000}
_VALUES: dict[str, Value] = {
    PROMPT.key: PROMPT.default,
    START_IMAGE.key: START_IMAGE.default,
    END_IMAGE.key: END_IMAGE.default,
    STEPS.key: 20,  # long, so that something runs all the time
}


@dataclass
class Round:
    """What one round measured; latencies in seconds."""

    submit_s: list[float] = field(default_factory=list)
    status_s: list[float] = field(default_factory=list)
    stalled_submit_s: list[float] = field(default_factory=list)
    stalled_status_s: list[float] = field(default_factory=list)
    bad: int = 0
    growth_mb: float = 0.0


def run(options: Options) -> Figures:
    """Run the rounds, one if not said otherwise, each with a new ComfyUI and a new gateway."""
    rounds = []
    for _ in range(options.rounds or 1):
        with stage(options, **_SETTINGS) as (_, gateway):
            rounds.append(asyncio.run(_round(gateway)))
    growth = [round_.growth_mb for round_ in rounds]
    return {
        "p99_submit_ms": _p99([round_.submit_s for round_ in rounds]),
        "p99_status_ms": _p99([round_.status_s for round_ in rounds]),
        "p99_submit_stalled_ms": _p99([round_.stalled_submit_s for round_ in rounds]),
        "p99_status_stalled_ms": _p99([round_.stalled_status_s for round_ in rounds]),
        "not_2xx_or_429": summed([round_.bad for round_ in rounds], "responses", ("==", 0)),
        "rss_growth_mb": Figure(max(growth), "MB", len(growth), min(growth), max(growth), ("<", _LIMIT_MB)),
    }


async def _round(gateway: GatewayProcess) -> Round:
    round_ = Round()
    connector = aiohttp.TCPConnector(limit=0)
    headers = {"Authorization": f"Bearer {gateway.token}"}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
        calls = _Calls(http, gateway.api, round_)
        await calls.submit()
        await calls.until_running()
        await _open_loop(calls, RATE, SECONDS, round_.submit_s, round_.status_s)
        async with _stalled(http, gateway):
            await _open_loop(calls, STALLED_RATE, STALLED_SECONDS, round_.stalled_submit_s, round_.stalled_status_s)
        round_.growth_mb = await _crowd(calls, gateway)
    return round_


async def _open_loop(calls: _Calls, rate: int, seconds: float, submit_s: list[float], status_s: list[float]) -> None:
    start, tasks = time.perf_counter() + 0.5, []
    for number in range(int(rate * seconds)):
        due = start + number / rate
        await asyncio.sleep(due - time.perf_counter())
        call, latencies = (calls.submit, submit_s) if number % 2 else (calls.status, status_s)
        tasks.append(asyncio.create_task(_timed(call, due, latencies)))
    await asyncio.gather(*tasks)


@contextlib.asynccontextmanager
async def _stalled(http: aiohttp.ClientSession, gateway: GatewayProcess) -> AsyncIterator[None]:
    """Keep uploads that hardly move, and event streams of requests that wait, open until the block ends."""
    opened = asyncio.Semaphore(0)
    tasks: list[asyncio.Future[Any]] = []
    try:
        tasks += [asyncio.create_task(_drip(http, gateway.api)) for _ in range(STALLED_UPLOADS)]
        for number in range(STREAM_TOKENS):
            headers = {"Authorization": f"Bearer {await asyncio.to_thread(gateway.new_token, f'streams-{number}')}"}
            for seed in range(_AHEAD + 1):
                values = {**_VALUES, SEED.key: seed}
                async with http.post(f"{gateway.api}/models/{DEMO.model_id}", json=values, headers=headers) as response:
                    url = f"{gateway.api}/requests/{(await response.json())['request_id']}/events"
            follow = [_follow(http, url, headers, opened) for _ in range(STREAMS // STREAM_TOKENS)]
            tasks += [asyncio.create_task(coroutine) for coroutine in follow]
        everyone = asyncio.gather(*(opened.acquire() for _ in range(STREAMS)))
        await asyncio.wait((everyone, *tasks), return_when=asyncio.FIRST_COMPLETED)
        yield
        if ended := [task for task in tasks if task.done()]:
            raise RuntimeError(f"{len(ended)} of the uploads and event streams did not stay open: {ended[0]}")
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _drip(http: aiohttp.ClientSession, api: str) -> None:
    """Upload an image a byte now and then; begin again when the gateway has had enough."""

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        while True:
            yield b"x"
            await asyncio.sleep(_DRIP_S)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    while True:
        began = time.perf_counter()
        with contextlib.suppress(aiohttp.ClientError):
            async with http.post(f"{api}/files", data=body(), headers=headers) as response:
                text = await response.text()
                if time.perf_counter() - began < _DRIP_S:
                    raise RuntimeError(f"an upload was refused at once: {text}")


async def _follow(http: aiohttp.ClientSession, url: str, headers: dict[str, str], opened: asyncio.Semaphore) -> None:
    timeout = aiohttp.ClientTimeout(total=None)
    async with http.get(url, headers=headers, timeout=timeout) as response:
        response.raise_for_status()
        opened.release()
        async for _ in response.content:
            pass


async def _crowd(calls: _Calls, gateway: GatewayProcess) -> float:
    """Let all clients call at once; returns by how many MB the gateway grew, after a first few calls."""

    async def client(count: int) -> None:
        for number in range(count):
            await (calls.submit() if number % 2 else calls.status())

    gateway_process = psutil.Process(gateway.process.pid)
    await asyncio.gather(*(client(_WARM_CALLS // CLIENTS + 1) for _ in range(CLIENTS)))
    before = gateway_process.memory_info().rss
    await asyncio.gather(*(client(CALLS) for _ in range(CLIENTS)))
    return float((gateway_process.memory_info().rss - before) / 1e6)


async def _timed(call: Callable[[], Awaitable[None]], due: float, latencies: list[float]) -> None:
    await call()
    latencies.append(time.perf_counter() - due)


class _Calls:
    """The calls that are measured; every response that is neither a success nor 429 is counted."""

    def __init__(self, http: aiohttp.ClientSession, api: str, round_: Round) -> None:
        self._http = http
        self._api = api
        self._round = round_
        self._ids: list[str] = []
        self._asked = 0

    async def submit(self) -> None:
        """Submit a request with its own seed."""
        values = {**_VALUES, SEED.key: len(self._ids) + 1}
        found = await self._call("POST", f"{self._api}/models/{DEMO.model_id}", values)
        if found is not None and "request_id" in found:
            self._ids.append(str(found["request_id"]))

    async def status(self) -> None:
        """Ask for one of the requests, in turn."""
        self._asked += 1
        await self._call("GET", f"{self._api}/requests/{self._ids[self._asked % len(self._ids)]}/status", None)

    async def until_running(self) -> None:
        """Wait until the first request runs."""
        url = f"{self._api}/requests/{self._ids[0]}/status"
        while ((await self._call("GET", url, None)) or {}).get("status") == "in_queue":
            await asyncio.sleep(0.1)

    async def _call(self, method: str, url: str, values: dict[str, Value] | None) -> dict[str, object] | None:
        try:
            async with self._http.request(method, url, json=values) as response:
                if not (200 <= response.status < 300 or response.status == 429):
                    self._round.bad += 1
                found: dict[str, object] = await response.json()
                return found
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
            self._round.bad += 1
            return None


def _p99(rounds: list[list[float]]) -> Figure:
    values = [statistics.quantiles(latencies, n=100)[98] * 1000 for latencies in rounds]
    return Figure(max(values), "ms", len(values), min(values), max(values), ("<", _LIMIT_MS))
