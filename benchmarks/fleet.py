"""How well one gateway keeps many ComfyUIs busy, each a stand-in that takes five seconds for a request.

First 4, then 16 of them get ten requests each, with two PNGs of 512x512 inside and a video of 2 MB as the result; on
JetStream then 64, and an outward worker is beside each. The throughput is compared with the ideal, one request in five
seconds each; how long each is idle between two of its requests is measured at the ComfyUIs, those of the 64 aside. Then
four of them get requests for two models in turn, two at a time: how many go where the model was used last?
``--workers N`` leaves out the numbers above N.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import uuid
from collections.abc import Sequence

from PIL import Image

from ..client.hosted_api import HostedApi
from ..contract.parameters import DEMO, END_IMAGE, HOSTED, PROMPT, SEED, START_IMAGE, Value
from ._figures import Figure, Figures, Options
from ._fleet import data_uri, gateway_before
from ._gateway import GatewayProcess
from ._stand_in import StandIn, free_box, small_video, stand_ins

_SECONDS, _EACH = 5.0, 10
_COUNTS = {4: 0.95, 16: 0.95}  # how many ComfyUIs, and what part of the ideal is wanted
_ON_NATS = {64: 0.9}
_VIDEO_BYTES = 2 << 20
_CORES = 4  # on fewer, the speed of the gateway is not measured
_WARM_SECONDS, _WARM_REQUESTS, _WARM_WORKERS = 0.5, 40, 4
_CALLS_PER_S = 40  # of all clients that wait for their results


def run(options: Options) -> Figures:
    """Measure once: each figure is over many requests."""
    video = small_video()
    video += free_box(bytes(_VIDEO_BYTES - len(video)))
    scaling: dict[str, Figure] = {}
    idle: list[float] = []
    counts = _COUNTS | (_ON_NATS if options.store == "jetstream" else {})
    for count, wanted in counts.items():
        if options.workers is not None and count > options.workers:
            continue
        hosts = asyncio.run(_fill(count, video, options.store))
        runs = [each for host in hosts for each in host.ran]
        elapsed = max(each.end or 0.0 for each in runs) - min(each.start for each in runs)
        share = len(runs) / elapsed / (count / _SECONDS)
        scaling[f"scaling_{count}"] = Figure(share, "of the ideal", 1, share, share, _limit(">=", wanted))
        idle += [gap for host in hosts for gap in _gaps(host)] if count in _COUNTS else []
        print(f"fleet: {count} workers, {len(runs)} requests in {elapsed:.1f} s", flush=True)
    hits = asyncio.run(_warm(options.store))
    p50, p99 = statistics.median(idle), statistics.quantiles(idle, n=100)[98]
    return {
        **scaling,
        "idle_worker_p50_s": Figure(p50, "s", len(idle), min(idle), max(idle), _limit("<=", 0.2)),
        "idle_worker_p99_s": Figure(p99, "s", len(idle), min(idle), max(idle), _limit("<=", 0.5)),
        "warm_hits": Figure(hits, "of the requests", _WARM_REQUESTS, hits, hits, (">=", 0.9)),
    }


def _limit(compare: str, value: float) -> tuple[str, float] | None:
    """Return a limit of speed; there is none where the stand-ins, the gateway and the clients share a few cores."""
    return (compare, value) if (os.cpu_count() or 1) >= _CORES else None


def _gaps(host: StandIn) -> list[float]:
    """Return the pauses of a stand-in between its runs, in seconds."""
    return [after.start - (before.end or after.start) for before, after in itertools.pairwise(host.ran)]


async def _fill(count: int, video: bytes, store: str) -> list[StandIn]:
    """Give ``count`` stand-ins ten requests each, all at once; return them when all have ended."""
    async with stand_ins(count, seconds=_SECONDS, video=video) as hosts:
        values: dict[str, Value] = {PROMPT.key: "circle", START_IMAGE.key: _picture(1), END_IMAGE.key: _picture(2)}
        await _run_all(hosts, [(DEMO.model_id, values)] * (count * _EACH), store, at_once=count * _EACH)
        return hosts


async def _warm(store: str) -> float:
    """Return the share of requests that ran where their model was used last, of those that could have."""
    async with stand_ins(_WARM_WORKERS, seconds=_WARM_SECONDS) as hosts:
        values: dict[str, Value] = {PROMPT.key: "circle", START_IMAGE.key: _picture(1), END_IMAGE.key: _picture(2)}
        models = [(model.model_id, values) for model in (DEMO, HOSTED)] * (_WARM_REQUESTS // 2)
        await _run_all(hosts, models, store, at_once=2)
        pairs = [pair for host in hosts for pair in itertools.pairwise(host.ran)]
        return sum(before.loaded == after.loaded for before, after in pairs) / len(pairs)


async def _run_all(
    hosts: Sequence[StandIn], requests: Sequence[tuple[str, dict[str, Value]]], store: str, *, at_once: int
) -> None:
    """Submit the requests through a new gateway, so many at a time, and wait until all have succeeded."""

    async def submit_all(gateway: GatewayProcess) -> None:
        async with HostedApi(gateway.api, gateway.token) as api:
            turns = asyncio.Semaphore(at_once)
            wait_s = at_once / _CALLS_PER_S
            await asyncio.gather(*(_request(api, turns, wait_s, *request) for request in requests))

    def run_all() -> None:
        with gateway_before([host.url for host in hosts], store) as gateway:
            asyncio.run(submit_all(gateway))

    await asyncio.to_thread(run_all)


async def _request(
    api: HostedApi, turns: asyncio.Semaphore, wait_s: float, model_id: str, values: dict[str, Value]
) -> None:
    async with turns:
        seed = uuid.uuid4().int % 2**32
        request = await api.submit(model_id, {**values, SEED.key: seed})
        while (result := await api.result(str(request["request_id"])))["status"] in ("in_queue", "in_progress"):
            await asyncio.sleep(wait_s)
        if result["status"] != "succeeded":
            raise RuntimeError(f"a request failed: {result}")


def _picture(seed: int) -> str:
    return data_uri(Image.effect_noise((512, 512), 20.0 * seed).convert("RGB"))
