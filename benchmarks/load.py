"""How quickly the API responds under load, while ComfyUI works on the same processor.

First an open loop: 100 calls a second for 50 s, submit and status in turn, each started on time whatever became of
those before it, and measured from that time. Then the same with 50 calls a second for 60 s, beside two uploads that
send a byte every five seconds and 200 open event streams of four tokens. Then 200 clients at once with 25 calls each.
Every response must be a success or 429, and the gateway must not grow.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiohttp
import psutil

from ..contract.parameters import END_IMAGE, PROMPT, SEED, START_IMAGE, STEPS, Value
from ._figures import Figure, Figures, Options, summed
from ._gateway import GatewayProcess
from ._load import Calls, open_loop, open_streams, p99_ms, unlimited_session
from ._stage import stage

RATE = 100  # calls a second
SECONDS = 50.0
STALLED_RATE, STALLED_SECONDS = 50, 60.0
STALLED_UPLOADS, STREAM_TOKENS, STREAMS = 2, 4, 200
CLIENTS, CALLS = 200, 25
_ORDER = ("status", "submit")
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
    """What one round measured; latencies in seconds, by the name of the call."""

    free: dict[str, list[float]] = field(default_factory=dict)
    stalled: dict[str, list[float]] = field(default_factory=dict)
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
        **{f"p99_{call}_ms": p99_ms([round_.free[call] for round_ in rounds], _LIMIT_MS) for call in _ORDER},
        **{f"p99_{call}_stalled_ms": p99_ms([round_.stalled[call] for round_ in rounds], _LIMIT_MS) for call in _ORDER},
        "not_2xx_or_429": summed([round_.bad for round_ in rounds], "responses", ("==", 0)),
        "rss_growth_mb": Figure(max(growth), "MB", len(growth), min(growth), max(growth), ("<", _LIMIT_MB)),
    }


def _values(number: int) -> dict[str, Value]:
    return {**_VALUES, SEED.key: number}


async def _round(gateway: GatewayProcess) -> Round:
    round_ = Round()
    async with unlimited_session() as http:
        calls = Calls(http, gateway.api, gateway.token, _values)
        await calls.submit()
        await calls.until(0, "in_progress")
        round_.free = await open_loop(calls, RATE, SECONDS, _ORDER)
        async with _stalled(http, gateway):
            round_.stalled = await open_loop(calls, STALLED_RATE, STALLED_SECONDS, _ORDER)
        round_.growth_mb = await _crowd(calls, gateway)
        round_.bad = calls.bad
    return round_


@contextlib.asynccontextmanager
async def _stalled(http: aiohttp.ClientSession, gateway: GatewayProcess) -> AsyncIterator[None]:
    """Keep uploads that hardly move, and event streams of requests that wait, open until the block ends."""
    follow = []
    for number in range(STREAM_TOKENS):
        token = await asyncio.to_thread(gateway.new_token, f"streams-{number}")
        calls = Calls(http, gateway.api, token, _values)
        for _ in range(_AHEAD + 1):
            await calls.submit()
        follow += [(calls, _AHEAD)] * (STREAMS // STREAM_TOKENS)
    headers = {"Authorization": f"Bearer {gateway.token}"}
    uploads = [asyncio.create_task(_drip(http, gateway.api, headers)) for _ in range(STALLED_UPLOADS)]
    async with open_streams(follow, beside=uploads):
        yield


async def _drip(http: aiohttp.ClientSession, api: str, headers: dict[str, str]) -> None:
    """Upload an image a byte now and then; begin again when the gateway has had enough."""

    async def body() -> AsyncIterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        while True:
            yield b"x"
            await asyncio.sleep(_DRIP_S)

    headers = {**headers, "Content-Type": "multipart/form-data; boundary=b"}
    while True:
        began = time.perf_counter()
        with contextlib.suppress(aiohttp.ClientError):
            async with http.post(f"{api}/files", data=body(), headers=headers) as response:
                text = await response.text()
                if time.perf_counter() - began < _DRIP_S:
                    raise RuntimeError(f"an upload was refused at once: {text}")


async def _crowd(calls: Calls, gateway: GatewayProcess) -> float:
    """Let all clients call at once; returns by how many MB the gateway grew, after a first few calls."""

    async def client(count: int) -> None:
        for number in range(count):
            await (calls.submit() if number % 2 else calls.status())

    gateway_process = psutil.Process(gateway.process.pid)
    await asyncio.gather(*(client(_WARM_CALLS // CLIENTS + 1) for _ in range(CLIENTS)))
    before = gateway_process.memory_info().rss
    await asyncio.gather(*(client(CALLS) for _ in range(CLIENTS)))
    return float((gateway_process.memory_info().rss - before) / 1e6)
