"""Kill -9 at random moments with several ComfyUIs: each accepted request has one right end.

Each round submits ten requests. Meanwhile it kills a gateway, a ComfyUI, both, or two ComfyUIs at once, or lets one
stand still for longer than ``worker_lost_after_s`` and go on. On JetStream there are two gateways, three nodes, and an
outward worker beside each ComfyUI, which no gateway reaches. Then it also kills a worker, a worker and a gateway, a
node, a node and a gateway, or freezes a worker until its request runs elsewhere, or the gateway that dispatches until
the other one does. What was killed is started again. ComfyUIs are stand-ins; in the last quarter of the rounds they
are real ones with the demo's models. With stand-ins alone a result comes late too: from a gateway that was frozen until
the request ran elsewhere.

Every version of every job is kept (``_audit``) and judged: only legal transitions, one end a job, attempts that rise,
and the result that is kept is that of the accepted attempt. Each job's webhook is told its end, under one id.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from ..bootstrap.server import ComfyServer
from ..client.hosted_api import HostedApi
from ..contract.parameters import END_IMAGE, START_IMAGE, Value
from ..gateway.jobs.comfyui import FOLDER
from ..gateway.jobs.records import prompt_id
from ._audit import Audit, attempt_name
from ._figures import Figure, Figures, Options, summed
from ._gateway import GatewayProcess, Program, WorkerProcess, worker_processes
from ._nats import Cluster, NatsServer, nodes_for
from ._receiver import receiver
from ._requests import FAST, submit, wait_for_end
from ._stage import ONE_THREAD, several_comfyuis
from ._stand_in import StandIn, stand_ins

REQUESTS = 10
REAL_ONE_IN = 4  # rounds; of fewer rounds, none has real ComfyUIs
_ROUNDS, _WORKERS = 20, 3
_SECONDS = 1.0  # of a stand-in's run
_FROZEN_S = 10.0  # longer than a gateway keeps the right to dispatch
_SILENT_S = 12.0  # longer than an outward worker may say nothing before its connections are broken
_SUBMITTING_S = 0.3  # one harm in four falls into the first moments, while requests are accepted
_START_S = 600.0  # of a real ComfyUI beside others
_END_S = 900.0  # a request that has not ended by then is lost
_SEED = 20261101
_SETTINGS = {"queue_limit": 1_000_000, "rate_per_minute": 1_000_000, "allow_private_urls": True}


class _Host(Protocol):
    """A ComfyUI that can be harmed."""

    @property
    def url(self) -> str: ...
    async def kill(self) -> None: ...
    async def start(self) -> None: ...
    def stall(self) -> None: ...
    def go_on(self) -> None: ...


@dataclass(frozen=True)
class _Kind:
    """ComfyUIs of one kind: what requests to them ask for, and what suits the time that they take."""

    hosts: Sequence[_Host]
    values: Mapping[str, Value]
    lost_after_s: float
    window_s: float  # the longest life of a round's first jobs
    is_of_attempt: Callable[[str, int, Path], bool]


class _Found(NamedTuple):
    """What came of some rounds: id and end of every request, without an id if none was accepted."""

    ends: list[tuple[str, str]]
    violations: list[str]
    kept: int  # jobs in the store


def run(options: Options) -> Figures:
    """Run the rounds, 20 with three ComfyUIs if not said otherwise."""
    count, workers = options.rounds or _ROUNDS, options.workers or _WORKERS
    real = count // REAL_ONE_IN
    found = [asyncio.run(_run(range(count - real), count, _stand_ins(workers), options.store))]
    if real:
        found.append(asyncio.run(_run(range(count - real, count), count, _real(options, workers), options.store)))
    ends, violations = (
        [end for each in found for end in each.ends],
        [text for each in found for text in each.violations],
    )
    accepted = len({job_id for job_id, _ in ends if job_id})
    right, lost = (sum(end == wanted for _, end in ends) for wanted in ("succeeded", "lost"))
    total, extra = count * REQUESTS, sum(each.kept for each in found) - accepted
    return {
        "accepted": summed([accepted], "requests", ("==", total)),
        "right_end": summed([right], "requests", ("==", total)),
        "lost": summed([lost], "requests", ("==", 0)),
        "unasked": summed([extra], "requests", ("==", 0)),
        "audit_violations": Figure(len(violations), "violations", count, 0, len(violations), ("==", 0)),
    }


@contextlib.asynccontextmanager
async def _stand_ins(count: int) -> AsyncIterator[_Kind]:
    def is_of_attempt(job_id: str, attempt: int, video: Path) -> bool:
        return video.read_bytes().endswith(attempt_name(job_id, attempt).encode())

    async with stand_ins(count, seconds=_SECONDS) as hosts:
        for host in hosts:
            for parameter in (START_IMAGE, END_IMAGE):
                host.files["input", "", str(parameter.default)] = b"a photograph"
        yield _Kind(hosts, {}, 3.0, 5.0, is_of_attempt)


@contextlib.asynccontextmanager
async def _real(options: Options, count: int) -> AsyncIterator[_Kind]:
    with several_comfyuis(options, count, {**ONE_THREAD, "WAN_FLF2V_MOUNT": "false"}) as servers:

        def is_of_attempt(job_id: str, attempt: int, video: Path) -> bool:
            name = job_id if attempt <= 1 else f"{job_id}-{attempt}"
            made = [server.base_dir / "output" / FOLDER / f"{name}_00001_.mp4" for server in servers]
            return video.read_bytes() in [each.read_bytes() for each in made if each.exists()]

        yield _Kind([_Real(server) for server in servers], FAST, 10.0, 20.0, is_of_attempt)


class _Real:
    """A real ComfyUI that can be harmed as a stand-in can."""

    def __init__(self, server: ComfyServer) -> None:
        self._server, self.url = server, server.url

    async def kill(self) -> None:
        await asyncio.to_thread(self._server.kill)

    async def start(self) -> None:
        await asyncio.to_thread(self._server.start, _START_S)

    def stall(self) -> None:
        os.killpg(self._server.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self._server.pid, signal.SIGCONT)


class _Parts(NamedTuple):
    """What can be harmed. ``workers`` are outward ones, each beside the ComfyUI in the same place."""

    kind: _Kind
    workers: Sequence[WorkerProcess]
    gateways: Sequence[GatewayProcess]
    cluster: Cluster | None


async def _run(rounds: range, of: int, comfyuis: contextlib.AbstractAsyncContextManager[_Kind], store: str) -> _Found:
    """Run some of the bench's rounds with a new store and these ComfyUIs; print what must not be."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="wan-flf2v-bench-", ignore_cleanup_errors=True))
        )
        cluster = stack.enter_context(nodes_for(store, folder))
        nats_url = cluster.ready() if cluster is not None else None
        kind, hook = await stack.enter_async_context(comfyuis), await stack.enter_async_context(receiver())
        urls = [host.url for host in kind.hosts]
        workers = stack.enter_context(worker_processes(folder / "workers", nats_url, urls))
        settings = {**_SETTINGS, "worker_lost_after_s": kind.lost_after_s}
        first = GatewayProcess(
            folder / "gateway", [] if workers else urls, "--demo", config=settings, nats_url=nats_url
        )
        gateways = [first] if cluster is None else [first, first.twin()]
        audit = await asyncio.to_thread(Audit, first.data, nats_url)
        try:
            for gateway in gateways:
                await asyncio.to_thread(gateway.start)
            await asyncio.to_thread(first.wait_for_workers, len(urls))
            ends = await _rounds(_Parts(kind, workers, gateways, cluster), rounds, of, hook.url)
            wrong = await hook.violations({job_id: end for job_id, end in ends if end != "lost"})
            await _fetch(first, [job_id for job_id, end in ends if end == "succeeded"])
        finally:
            for gateway in gateways:
                await asyncio.to_thread(gateway.stop)
        violations, kept = await asyncio.to_thread(audit.violations, kind.is_of_attempt)
    violations += wrong
    print(f"audit: {len(violations)} violations in {kept} requests", *violations, sep="\naudit: ", flush=True)
    return _Found(ends, violations, kept)


async def _rounds(parts: _Parts, rounds: range, of: int, webhook: str) -> list[tuple[str, str]]:
    dice = random.Random(_SEED + rounds.start)  # noqa: S311 -- the same moments in every run
    ends: list[tuple[str, str]] = []
    for number in rounds:
        name, harm = _harm(number, dice, parts)
        moment = dice.uniform(0.0, _SUBMITTING_S if dice.random() < 0.25 else parts.kind.window_s)
        harming = asyncio.create_task(_after(moment, harm))
        try:
            found = await _round(parts, webhook)
        finally:
            await harming
        ends += found
        print(f"round {number + 1} of {of}: {name} after {moment:.2f} s: {[end for _, end in found]}", flush=True)
    return ends


def _harm(number: int, dice: random.Random, parts: _Parts) -> tuple[str, Callable[[], Awaitable[None]]]:
    """Return what happens in a round, and what makes it happen."""
    hosts, lost_after_s = parts.kind.hosts, parts.kind.lost_after_s
    one, other = dice.sample(range(len(hosts)), 2) if len(hosts) > 1 else (0, 0)
    gateway = dice.choice(parts.gateways)

    async def kill(*killed: Program | NatsServer, away_s: float = 0.0) -> None:
        for each in killed:
            await asyncio.to_thread(each.kill)
        await asyncio.sleep(away_s)
        for each in killed:
            await asyncio.to_thread(each.start)

    async def kill_comfyuis(*killed: int) -> None:
        for each in killed:
            await hosts[each].kill()
        await asyncio.sleep(dice.uniform(0.0, 1.0))
        for each in killed:
            await hosts[each].start()

    async def kill_both() -> None:
        await asyncio.to_thread(gateway.kill)
        await asyncio.gather(kill_comfyuis(one), asyncio.to_thread(gateway.start))

    async def stand_still() -> None:
        hosts[one].stall()
        await asyncio.sleep(lost_after_s * 2)
        hosts[one].go_on()

    async def freeze(program: Program, seconds: float) -> None:
        program.freeze()
        await asyncio.sleep(seconds)
        program.thaw()

    def leader() -> GatewayProcess:
        return next((each for each in parts.gateways if each.dispatches()), gateway)

    kinds: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("a gateway is killed", lambda: kill(gateway)),
        (f"ComfyUI {one} is killed", lambda: kill_comfyuis(one)),
        (f"a gateway and ComfyUI {one} are killed", kill_both),
        (f"ComfyUI {one} stands still", stand_still),
        (f"ComfyUIs {one} and {other} are killed", lambda: kill_comfyuis(*{one, other})),
    ]
    if (cluster := parts.cluster) is not None:
        worker, node = parts.workers[one], dice.choice(list(cluster.nodes.values()))
        away_s = dice.uniform(0.0, lost_after_s * 2)
        frozen_s = max(lost_after_s * 2, _SILENT_S)
        kinds += [
            (f"worker {one} is killed and comes back after {away_s:.1f} s", lambda: kill(worker, away_s=away_s)),
            (f"worker {one} is frozen", lambda: freeze(worker, frozen_s)),
            (f"worker {one} and a gateway are killed", lambda: kill(worker, gateway)),
            ("a node of NATS is killed", lambda: kill(node)),
            ("a node of NATS and a gateway are killed", lambda: kill(node, gateway)),
            ("the gateway that dispatches is frozen", lambda: freeze(leader(), _FROZEN_S)),
        ]
        if standing := [host for host in hosts if isinstance(host, StandIn)]:
            name = "the gateway that dispatches is frozen and a node of NATS killed, so that a result comes late"
            kinds.append((name, lambda: _let_a_result_come_late(leader(), standing, cluster)))
    return kinds[number % len(kinds)]


async def _let_a_result_come_late(leader: GatewayProcess, hosts: Sequence[StandIn], cluster: Cluster) -> None:
    """Freeze the gateway that dispatches while it waits for a result, until the request runs elsewhere.

    It goes on as the stream has no leader: when that is there again, it stores the result before it can learn that it
    no longer dispatches.
    """
    deadline = time.monotonic() + _FROZEN_S * 4
    for each in hosts:
        each.hold_files()
    while not (holding := [host for host in hosts if host.held]) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    node = None
    if holding:
        host, others = holding[0], [host for host in hosts if host is not holding[0]]
        node = await cluster.leader_of_one("WF", "WFB")  # files of results are still taken
        again = prompt_id(next(run.prompt_id for run in reversed(host.ran) if run.end is not None), 2)
        leader.freeze()
        host.stall()
        for each in others:
            each.release_files()
        while time.monotonic() < deadline and not any(each.ran and each.ran[-1].prompt_id == again for each in others):
            await asyncio.sleep(0.05)
        for each in others:
            each.seconds = _SECONDS * 60  # it goes on running until this is set back
        await asyncio.to_thread(node.kill)
        host.go_on()
    for each in hosts:
        each.release_files()
    if node is not None:
        leader.thaw()
        await cluster.leader("WF")
        await asyncio.sleep(_SECONDS * 2)
        await asyncio.to_thread(node.start)
    for each in hosts:
        each.seconds = _SECONDS


async def _after(moment: float, harm: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(moment)
    await harm()


async def _round(parts: _Parts, webhook: str) -> list[tuple[str, str]]:
    async with contextlib.AsyncExitStack() as stack:
        apis = [await stack.enter_async_context(HostedApi(each.api, each.token)) for each in parts.gateways]
        deadline = time.monotonic() + _END_S
        return await asyncio.gather(
            *(_request(apis[number % len(apis)], parts.kind.values, deadline, webhook) for number in range(REQUESTS))
        )


async def _request(api: HostedApi, values: Mapping[str, Value], deadline: float, webhook: str) -> tuple[str, str]:
    """Submit one request, wait for its end and return its id and how it ended."""
    request_id = await submit(api, values, deadline, webhook)
    result = None if request_id is None else await wait_for_end(api, request_id, deadline)
    return request_id or "", "lost" if result is None else str(result["status"])


async def _fetch(gateway: GatewayProcess, job_ids: Sequence[str]) -> None:
    """Ask a gateway for each video, whichever made it: then its folder, which is judged, has what clients get."""
    with tempfile.TemporaryDirectory() as folder:
        async with HostedApi(gateway.api, gateway.token) as api:
            for job_id in job_ids:
                output = (await api.result(job_id))["output"]
                await api.download(str(output["video"]), Path(folder) / "video.mp4")
