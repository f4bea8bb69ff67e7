"""How quickly the API responds beside 200 busy ComfyUIs, and what many finished requests change about it.

ComfyUIs are stand-ins in a process beside this one, 60 s a run, whose starts are spread over 60 s as in a fleet that
has long been at work; on JetStream an outward worker is beside each. An open loop makes 100 calls a second for 120 s:
10 submits with two images of 64x64 inside, 70 status, 20 result, beside 200 event streams, each of another request, of
four tokens. Then a gateway whose store holds 100,000 finished requests takes turns with one whose store holds none.
Last, one gateway runs 20,000 requests, and its memory is read after 2,000 and after all.
``--workers N``: N busy ComfyUIs in place of 200.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

import aiohttp
import psutil
from PIL import Image

from ..contract.parameters import END_IMAGE, PROMPT, SEED, START_IMAGE, Value
from ._figures import Figure, Figures, Options, summed
from ._fleet import data_uri, gateway_before, put_cancelled
from ._gateway import GatewayProcess
from ._load import Calls, open_loop, open_streams, p99_ms, unlimited_session
from ._stand_in import stand_ins

_COMFYUIS, _RUN_S = 200, 60.0
_RATE, _SECONDS = 100, 120.0
_ORDER = ("submit", *["status"] * 7, *["result"] * 2)
_TOKENS, _STREAMS = 4, 200
_ROUNDS_AHEAD = 5  # of runs on every ComfyUI before a request that is followed: it must still wait at the end
_FINISHED, _PAIRS, _PAIR_SECONDS = 100_000, 3, 20.0
_FEW, _MANY = 2_000, 20_000
_AT_ONCE = 64


def run(options: Options) -> Figures:
    """Measure each part once."""
    return {**_busy(options.store, options.workers or _COMFYUIS), **_finished(options.store), **_memory(options.store)}


@contextlib.contextmanager
def _comfyuis(count: int, seconds: float) -> Iterator[list[str]]:
    """Run stand-ins in another process: this one's event loop is for the calls; yield their addresses."""
    here, there = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there, count, seconds))
    process.start()
    try:
        yield here.recv()
    finally:
        here.send(None)
        process.join()


def _serve(pipe: Connection, count: int, seconds: float) -> None:
    async def serve() -> None:
        async with stand_ins(count, seconds=seconds) as hosts:
            pipe.send([host.url for host in hosts])
            await asyncio.to_thread(pipe.recv)

    asyncio.run(serve())


def _values(number: int) -> dict[str, Value]:
    """Return a request with two images that no other has."""
    images = {key: _picture(2 * number + end) for end, key in enumerate((START_IMAGE.key, END_IMAGE.key))}
    return {PROMPT.key: "circle", SEED.key: number, **images}


def _picture(number: int) -> str:
    return data_uri(Image.new("RGB", (64, 64), (number & 255, number >> 8 & 255, number >> 16 & 255)))


def _check(calls: Calls) -> None:
    if calls.bad:
        raise RuntimeError(f"{calls.bad} calls were refused")


def _busy(store: str, comfyuis: int) -> Figures:
    async def measure(gateway: GatewayProcess) -> tuple[dict[str, list[float]], int]:
        async with unlimited_session() as http:
            each = [Calls(http, gateway.api, gateway.token, _values)]
            for number in range(1, _TOKENS):
                token = await asyncio.to_thread(gateway.new_token, f"token-{number}")
                each.append(Calls(http, gateway.api, token, _values))
            begun = time.monotonic()
            for number in range(_ROUNDS_AHEAD * comfyuis):
                await each[number % _TOKENS].submit()
                if number < comfyuis:
                    await asyncio.sleep(begun + number * _RUN_S / comfyuis - time.monotonic())
            follow = [(calls, -1 - number) for calls in each for number in range(_STREAMS // _TOKENS)]
            async with open_streams(follow):
                latencies = await open_loop(each[0], _RATE, _SECONDS, _ORDER)
            return latencies, sum(calls.bad for calls in each)

    with _comfyuis(comfyuis, _RUN_S) as urls, gateway_before(urls, store) as gateway:
        latencies, bad = asyncio.run(measure(gateway))
    return {
        "p99_submit_ms": p99_ms([latencies["submit"]], 100.0),
        "p99_status_ms": p99_ms([latencies["status"]], 50.0),
        "p99_result_ms": p99_ms([latencies["result"]], None),
        "not_2xx": summed([bad], "responses", ("==", 0)),
    }


def _finished(store: str) -> Figures:
    async def measure(gateway: GatewayProcess) -> float:
        async with unlimited_session() as http:
            calls = Calls(http, gateway.api, gateway.token, _values)
            await calls.submit()
            latencies = await open_loop(calls, _RATE // 2, _PAIR_SECONDS, ("submit", "status"))
            _check(calls)
        return p99_ms([latencies["submit"] + latencies["status"]], None).value

    with (
        _comfyuis(2, _RUN_S) as urls,
        gateway_before(urls[:1], store) as empty,
        gateway_before(urls[1:], store, lambda gateway: put_cancelled(gateway, _FINISHED, _values)) as full,
    ):
        pairs = [[asyncio.run(measure(gateway)) for gateway in (empty, full)] for _ in range(_PAIRS)]
    ratios = [of_full / of_empty for of_empty, of_full in pairs]
    figure = Figure(statistics.median(ratios), "x", _PAIRS, min(ratios), max(ratios), ("<=", 1.2))
    return {"p99_ratio_100k_finished": figure}


def _memory(store: str) -> Figures:
    async def run_all(gateway: GatewayProcess, count: int) -> None:
        async def client(http: aiohttp.ClientSession) -> None:
            calls = Calls(http, gateway.api, gateway.token, _values)
            for number in range(count // _AT_ONCE):
                await calls.submit()
                await calls.until(number, "completed")
            _check(calls)
            if not await calls.succeeded():
                raise RuntimeError(f"the request {calls.ids[-1]} failed")

        async with unlimited_session() as http:
            await asyncio.gather(*(client(http) for _ in range(_AT_ONCE)))

    with _comfyuis(4, 0.0) as urls, gateway_before(urls, store) as gateway:
        process = psutil.Process(gateway.process.pid)
        asyncio.run(run_all(gateway, _FEW))
        few = process.memory_info().rss
        asyncio.run(run_all(gateway, _MANY - _FEW))
        ratio = process.memory_info().rss / few
    return {"rss_ratio_20000_over_2000": Figure(ratio, "x", 1, ratio, ratio, ("<=", 1.1))}
