"""What a client waits for that should take a moment: the next run after a cancel, a webhook, a turn behind many.

ComfyUIs are stand-ins, on JetStream with an outward worker beside each.

- A running request is cancelled 20 times, on two ComfyUIs: how long after its step's end does the next one start there?
- 2,000 webhooks are owed to a receiver that never responds, then to one that refuses connections: how long do 20
  webhooks to a receiver that is well take, half of them of the same token?
- Ten tokens are revoked: how long do their event streams go on, on JetStream at two gateways?
- 500 requests of a token wait for two ComfyUIs, and single ones of another token come, one after the other, ten for the
  models that are loaded and ten for others: how many of the 500 start before one of these, on a ComfyUI that becomes
  free after it was accepted?
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import math
import operator
import time
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import web
from PIL import Image

from ..client.hosted_api import HostedApi
from ..contract.parameters import DEMO, END_IMAGE, HOSTED, PROMPT, SEED, START_IMAGE, Value
from ._figures import Figure, Figures, Options, summed
from ._fleet import data_uri, gateway_before, put_cancelled
from ._gateway import GatewayProcess
from ._load import Calls, unlimited_session
from ._nats import free_ports
from ._stand_in import Run, StandIn, stand_ins

_LOOK_S = 0.01
_CANCELS, _CANCELLED_RUN_S, _CANCEL_AFTER_S = 20, 600.0, 0.3
_DEAD, _LIVE, _LIVE_EVERY_S = 2_000, 20, 0.37
_REVOKED = 10
_MANY, _SINGLES, _RUN_S = 500, 20, 1.5


def run(options: Options) -> Figures:
    """Measure each part once."""
    return {
        **_with_stand_ins(_cancel, _CANCELLED_RUN_S, options.store),
        **asyncio.run(_webhooks(options.store)),
        **asyncio.run(_revoked(options.store)),
        **_with_stand_ins(_wait_for_a_turn, _RUN_S, options.store),
    }


def _with_stand_ins(
    measure: Callable[[HostedApi, HostedApi, list[StandIn]], Coroutine[Any, Any, Figures]], seconds: float, store: str
) -> Figures:
    """Measure with two tokens on a gateway before two stand-ins."""

    async def with_gateway(gateway: GatewayProcess, hosts: list[StandIn]) -> Figures:
        other = await asyncio.to_thread(gateway.new_token, "other")
        async with HostedApi(gateway.api, gateway.token) as api, HostedApi(gateway.api, other) as single:
            return await measure(api, single, hosts)

    def beside(hosts: list[StandIn]) -> Figures:
        with gateway_before([host.url for host in hosts], store) as gateway:
            return asyncio.run(with_gateway(gateway, hosts))

    async def run_all() -> Figures:
        async with stand_ins(2, seconds=seconds) as hosts:
            return await asyncio.to_thread(beside, hosts)

    return asyncio.run(run_all())


async def _submit(api: HostedApi, model_id: str = DEMO.model_id, webhook: str | None = None) -> str:
    """Submit a request that no other is like; return its id."""
    request = await api.submit(model_id, _values(uuid.uuid4().int % 2**32), webhook=webhook)
    return str(request["request_id"])


def _values(seed: int) -> dict[str, Value]:
    return {PROMPT.key: "circle", START_IMAGE.key: _picture("red"), END_IMAGE.key: _picture("blue"), SEED.key: seed}


@functools.cache
def _picture(colour: str) -> str:
    return data_uri(Image.new("RGB", (64, 64), colour))


def _most(values: list[float], unit: str, limit: tuple[str, float] | None = None) -> Figure:
    return Figure(max(values), unit, len(values), min(values), max(values), limit)


# Cancel


async def _cancel(api: HostedApi, _: HostedApi, hosts: list[StandIn]) -> Figures:
    pauses, waiting = [], []
    for _ in range(_CANCELS + len(hosts)):
        await _submit(api)
    for number in range(_CANCELS):
        host = hosts[number % len(hosts)]
        place = max(len(host.ran) - 1, 0)
        running = await _run_of(host, place)
        await asyncio.sleep(_CANCEL_AFTER_S)
        await api.cancel(running.prompt_id)
        after = await _run_of(host, place + 1)
        pauses.append(after.start - (host.ran[place].end or after.start))
    for _ in range(_CANCELS):
        request_id = await _submit(api)
        begun = time.monotonic()
        await api.cancel(request_id)
        if (status := (await api.status(request_id))["status"]) != "cancelled":
            raise RuntimeError(f"a request that waited is {status} after its cancel")
        waiting.append(time.monotonic() - begun)
    return {
        "cancel_next_start_max_s": _most(pauses, "s", ("<=", 2.0)),
        "cancel_waiting_max_s": _most(waiting, "s"),
    }


async def _run_of(host: StandIn, place: int) -> Run:
    """Return the run with this number, from 0, once it has begun."""
    while len(host.ran) <= place:
        await asyncio.sleep(_LOOK_S)
    return host.ran[place]


# Webhooks


class _Receiver:
    """``/live`` notes when it was called last, ``/dead`` never responds."""

    def __init__(self) -> None:
        self.port = 0
        self.called = -math.inf

    async def __aenter__(self) -> _Receiver:
        app = web.Application()
        app.add_routes([web.post("/live", self._note), web.post("/dead", self._hang)])
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _note(self, _: web.Request) -> web.Response:
        self.called = time.monotonic()
        return web.Response()

    async def _hang(self, _: web.Request) -> web.Response:
        await asyncio.sleep(3600)
        return web.Response()


async def _webhooks(store: str) -> Figures:
    async with _Receiver() as receiver, stand_ins(1) as hosts:
        harms = {"hanging": receiver.port, "refusing": free_ports(1)[0]}
        return {
            f"webhook_behind_{harm}_max_s": await asyncio.to_thread(_behind_dead, receiver, port, hosts[0].url, store)
            for harm, port in harms.items()
        }


def _behind_dead(receiver: _Receiver, dead_port: int, comfyui_url: str, store: str) -> Figure:
    """Return how long webhooks take from the end of their request, while others are owed to the dead port."""

    async def send(gateway: GatewayProcess) -> Figure:
        other = await asyncio.to_thread(gateway.new_token, "other")
        delays = []
        async with HostedApi(gateway.api, gateway.token) as api, HostedApi(gateway.api, other) as api_of_other:
            for number in range(_LIVE):
                await asyncio.sleep(_LIVE_EVERY_S)
                # The token that owes the others goes to another host name, of which the sender knows nothing bad.
                sender, host = ((api_of_other, "127.0.0.1"), (api, "localhost"))[number % 2]
                request_id = await _submit(sender, webhook=f"http://{host}:{receiver.port}/live")
                await sender.cancel(request_id)
                begun, before = time.monotonic(), receiver.called
                while receiver.called == before:
                    await asyncio.sleep(_LOOK_S)
                delays.append(max(receiver.called - begun, 0.0))
        return _most(delays, "s", ("<", 2.0))

    def fill(gateway: GatewayProcess) -> None:
        put_cancelled(gateway, _DEAD, _values, webhook=f"http://127.0.0.1:{dead_port}/dead")

    with gateway_before([comfyui_url], store, fill, allow_private_urls=True) as gateway:
        return asyncio.run(send(gateway))


# A token


async def _revoked(store: str) -> Figures:
    async with stand_ins(1, seconds=_CANCELLED_RUN_S) as hosts:
        return await asyncio.to_thread(_revoke_at, hosts[0].url, store)


def _revoke_at(comfyui_url: str, store: str) -> Figures:
    """Revoke tokens that have an event stream at each gateway of a fleet of two; on SQLite there is one gateway."""

    async def revoke(gateways: list[GatewayProcess]) -> Figures:
        delays = []
        async with unlimited_session() as http:
            for number in range(_REVOKED):
                name = f"guest-{number}"
                token = await asyncio.to_thread(gateways[0].new_token, name)
                each = [Calls(http, gateway.api, token, _values) for gateway in gateways]
                await each[0].submit()
                each[-1].ids = each[0].ids
                opened = asyncio.Semaphore(0)
                streams = [asyncio.create_task(calls.follow(0, opened)) for calls in each]
                for _ in streams:
                    await opened.acquire()
                await asyncio.to_thread(gateways[0].with_store, operator.methodcaller("revoke_token", name))
                begun = time.monotonic()
                await asyncio.gather(*streams)
                delays.append(time.monotonic() - begun)
        return {"revoked_streams_end_max_s": _most(delays, "s", ("<=", 2.0))}

    with gateway_before([comfyui_url], store) as gateway, contextlib.ExitStack() as stack:
        gateways = [gateway]
        if store == "jetstream":
            gateways.append(gateway.twin())
            stack.callback(gateways[1].stop)
            gateways[1].start()
        return asyncio.run(revoke(gateways))


# A turn


async def _wait_for_a_turn(many: HostedApi, single: HostedApi, hosts: list[StandIn]) -> Figures:
    """Measure how many start before a single request, on a ComfyUI that became free after that was accepted."""
    for _ in range(_MANY):
        await _submit(many)
    for place, host in enumerate(hosts):
        await _run_of(host, 0)
        host.seconds *= 1 + place / 4  # no two become free in the same moment again and again
    before: dict[str, list[int]] = {"warm": [], "cold": []}
    for number in range(_SINGLES):
        kind, model_id = (("warm", DEMO.model_id), ("cold", HOSTED.model_id))[number % 2]
        request_id = await _submit(single, model_id)
        accepted = time.monotonic()
        while (await single.status(request_id))["status"] != "completed":  # its token has nothing that runs then
            await asyncio.sleep(_LOOK_S)
        pairs = [pair for host in hosts for pair in itertools.pairwise(host.ran)]
        (found,) = [(free.end or 0.0, after.start) for free, after in pairs if after.prompt_id == request_id]
        freed = [(free.end or 0.0, after.start) for free, after in pairs]
        before[kind].append(sum(accepted < free < found[0] and start < found[1] for free, start in freed))
        await asyncio.sleep(_RUN_S * number / _SINGLES)
    return {f"before_a_single_{kind}": summed(counts, "runs", ("==", 0)) for kind, counts in before.items()}
