"""Kill -9 at random moments with several ComfyUIs, which are stand-ins: each accepted request has one right end.

Each round submits ten requests. Meanwhile it kills a gateway, a ComfyUI, both, or two ComfyUIs at once, or lets one
stand still for longer than ``worker_lost_after_s`` and go on. On JetStream, with two gateways and three nodes, it also
kills a node, a node and a gateway, or freezes the gateway that dispatches until the other one does, or that and a
ComfyUI until its job runs elsewhere. What was killed is started again. Every version of every job is kept (``_audit``)
and judged: only legal transitions, one end a job, attempts that rise, and the result that is kept is that of the
accepted attempt. Each job's webhook is told its end, under one id.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..client.hosted_api import HostedApi
from ..contract.parameters import END_IMAGE, START_IMAGE
from ..gateway.jobs.records import prompt_id
from ._audit import Audit, attempt_name
from ._figures import Figure, Figures, Options, summed
from ._gateway import GatewayProcess
from ._nats import Cluster, NatsServer, nodes_for
from ._receiver import receiver
from ._requests import submit, wait_for_end
from ._stand_in import StandIn, stand_ins

REQUESTS = 10
_ROUNDS, _WORKERS = 20, 3
_SECONDS = 1.0  # of a run
_LOST_AFTER_S = 3.0
_FROZEN_S = 10.0  # longer than a gateway keeps the right to dispatch
_WINDOW_S = 5.0  # the longest life of a round's first jobs
_END_S = 240.0  # a request that has not ended by then is lost
_SEED = 20261101
_SETTINGS = {
    "queue_limit": 1_000_000,
    "rate_per_minute": 1_000_000,
    "worker_lost_after_s": _LOST_AFTER_S,
    "allow_private_urls": True,
}


def run(options: Options) -> Figures:
    """Run the rounds, 20 with three ComfyUIs if not said otherwise."""
    count, workers = options.rounds or _ROUNDS, options.workers or _WORKERS
    with (
        tempfile.TemporaryDirectory(prefix="wan-flf2v-bench-", ignore_cleanup_errors=True) as folder,
        nodes_for(options.store, Path(folder)) as cluster,
    ):
        return asyncio.run(_run(Path(folder) / "gateway", count, workers, cluster))


async def _run(folder: Path, count: int, workers: int, cluster: Cluster | None) -> Figures:
    nats_url = cluster.ready() if cluster is not None else None
    async with stand_ins(workers, seconds=_SECONDS) as hosts, receiver() as hook:
        for host in hosts:
            for parameter in (START_IMAGE, END_IMAGE):
                host.files["input", "", str(parameter.default)] = b"a photograph"
        urls = [host.url for host in hosts]
        first = GatewayProcess(folder, urls, "--demo", config=_SETTINGS, nats_url=nats_url)
        gateways = [first] if cluster is None else [first, first.twin()]
        audit = await asyncio.to_thread(Audit, folder, nats_url)
        try:
            for gateway in gateways:
                await asyncio.to_thread(gateway.start)
            nodes = [] if cluster is None else list(cluster.nodes.values())
            ends = await _rounds(_Parts(hosts, gateways, nodes), count, hook.url)
            wrong = await hook.violations({job_id: end for job_id, end in ends if job_id})
            await _fetch(first, [job_id for job_id, end in ends if end == "succeeded"])
        finally:
            for gateway in gateways:
                await asyncio.to_thread(gateway.stop)
        violations, _ = await asyncio.to_thread(audit.violations, _is_of_attempt)
    violations += wrong
    for text in violations:
        print(f"audit: {text}", flush=True)
    right, lost = (sum(end == wanted for _, end in ends) for wanted in ("succeeded", "lost"))
    total = count * REQUESTS
    return {
        "accepted": summed([len(ends)], "requests", ("==", total)),
        "right_end": summed([right], "requests", ("==", total)),
        "lost": summed([lost], "requests", ("==", 0)),
        "audit_violations": Figure(len(violations), "violations", count, 0, len(violations), ("==", 0)),
    }


class _Parts(NamedTuple):
    """What can be harmed."""

    hosts: Sequence[StandIn]
    gateways: Sequence[GatewayProcess]
    nodes: Sequence[NatsServer]


async def _rounds(parts: _Parts, count: int, webhook: str) -> list[tuple[str, str]]:
    """Return id and end of every request; a lost one has no id."""
    dice = random.Random(_SEED)  # noqa: S311 -- the same moments in every run
    ends: list[tuple[str, str]] = []
    for number in range(count):
        name, harm = _harm(number, dice, parts)
        moment = dice.uniform(0.0, _WINDOW_S)
        harming = asyncio.create_task(_after(moment, harm))
        try:
            found = await _round(parts.gateways, webhook)
        finally:
            await harming
        ends += found
        print(f"round {number + 1} of {count}: {name} after {moment:.2f} s: {[end for _, end in found]}", flush=True)
    return ends


def _harm(number: int, dice: random.Random, parts: _Parts) -> tuple[str, Callable[[], Awaitable[None]]]:
    """Return what happens in a round, and what makes it happen."""
    hosts = parts.hosts
    one, other = dice.sample(range(len(hosts)), 2) if len(hosts) > 1 else (0, 0)
    gateway = dice.choice(parts.gateways)

    async def kill(*killed: GatewayProcess | NatsServer) -> None:
        for each in killed:
            await asyncio.to_thread(each.kill)
        for each in killed:
            await asyncio.to_thread(each.start)

    async def kill_workers(*killed: int) -> None:
        for each in killed:
            await hosts[each].kill()
        await asyncio.sleep(dice.uniform(0.0, 1.0))
        for each in killed:
            await hosts[each].start()

    async def kill_both() -> None:
        await asyncio.to_thread(gateway.kill)
        await kill_workers(one)
        await asyncio.to_thread(gateway.start)

    async def freeze() -> None:
        hosts[one].stall()
        await asyncio.sleep(_LOST_AFTER_S * 2)
        hosts[one].go_on()

    async def freeze_gateway() -> None:
        leader = next((each for each in parts.gateways if each.dispatches()), gateway)
        leader.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(_FROZEN_S)
        leader.process.send_signal(signal.SIGCONT)

    async def freeze_both() -> None:
        """Let a result come late: of a gateway and a ComfyUI that go on while the next attempt runs."""
        deadline = time.monotonic() + _FROZEN_S * 3
        while not (running := [host for host in hosts if host.ran and host.ran[-1].end is None]):
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(0.1)
        leader = next((each for each in parts.gateways if each.dispatches()), gateway)
        host, others = running[0], [host for host in hosts if host is not running[0]]
        leader.process.send_signal(signal.SIGSTOP)
        host.stall()
        for each in others:
            each.seconds = _SECONDS * 4
        again = prompt_id(host.ran[-1].prompt_id, 2)
        while time.monotonic() < deadline and not any(each.ran and each.ran[-1].prompt_id == again for each in others):
            await asyncio.sleep(0.1)
        host.go_on()
        leader.process.send_signal(signal.SIGCONT)
        await asyncio.sleep(_SECONDS * 4)
        for each in others:
            each.seconds = _SECONDS

    kinds: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("a gateway is killed", lambda: kill(gateway)),
        (f"worker {one} is killed", lambda: kill_workers(one)),
        (f"a gateway and worker {one} are killed", kill_both),
        (f"worker {one} stands still", freeze),
        (f"workers {one} and {other} are killed", lambda: kill_workers(*{one, other})),
    ]
    if parts.nodes:
        node = dice.choice(parts.nodes)
        kinds += [
            ("a node of NATS is killed", lambda: kill(node)),
            ("a node of NATS and a gateway are killed", lambda: kill(node, gateway)),
            ("the gateway that dispatches is frozen", freeze_gateway),
            ("the gateway that dispatches is frozen, and a worker stands still", freeze_both),
        ]
    return kinds[number % len(kinds)]


async def _after(moment: float, harm: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(moment)
    await harm()


async def _round(gateways: Sequence[GatewayProcess], webhook: str) -> list[tuple[str, str]]:
    """Return each request's id, empty if it was lost, and how it ended."""
    async with contextlib.AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(HostedApi(each.api, each.token)) for each in gateways]
        deadline = time.monotonic() + _END_S
        return await asyncio.gather(
            *(_request(apis[number % len(apis)], deadline, webhook) for number in range(REQUESTS))
        )


async def _request(api: HostedApi, deadline: float, webhook: str) -> tuple[str, str]:
    """Submit one request, wait for its end and return its id and how it ended."""
    request_id = await submit(api, {}, deadline, webhook)
    result = None if request_id is None else await wait_for_end(api, request_id, deadline)
    return ("", "lost") if request_id is None or result is None else (request_id, str(result["status"]))


async def _fetch(gateway: GatewayProcess, job_ids: Sequence[str]) -> None:
    """Ask a gateway for each video, whichever made it: then its folder, which is judged, has what clients get."""
    with tempfile.TemporaryDirectory() as folder:
        async with HostedApi(gateway.api, gateway.token) as api:
            for job_id in job_ids:
                output = (await api.result(job_id))["output"]
                await api.download(str(output["video"]), Path(folder) / "video.mp4")


def _is_of_attempt(job_id: str, attempt: int, video: Path) -> bool:
    return video.read_bytes().endswith(attempt_name(job_id, attempt).encode())
