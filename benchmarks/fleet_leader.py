"""How long a fleet accepts nothing after nodes of NATS were killed, and whether it goes on responding.

Three nodes of NATS, one gateway, one outward worker. Each round kills -9 the node that leads the stream, submits a
request every tenth of a second until one is accepted, asks for the status of an earlier one all the while, and starts
the node again. Then, three times, a second node is killed with it, and started 12 s later: from then on there is a
quorum again. A submit may wait up to ten seconds and is then told when to try again, as is who asks for a status while
there is no quorum; what was accepted must still be there at the end.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from ..contract.parameters import DEMO, END_IMAGE, PROMPT, SEED, START_IMAGE
from ._figures import Figure, Figures, Options, median, summed
from ._gateway import GatewayProcess, worker_processes
from ._load import unlimited_session
from ._nats import Cluster, NatsServer
from ._stand_in import stand_ins

_ROUNDS, _QUORUM_ROUNDS = 12, 3
_NO_QUORUM_S = 12.0
_PAUSE_S = 0.1
_LONGEST_S = 10.0  # of a submit
_STREAM = "WF"
_SETTINGS = {"queue_limit": 1_000_000, "rate_per_minute": 1_000_000}


@dataclass
class _Seen:
    """What the clients saw; times in seconds."""

    gaps: list[float] = field(default_factory=list)
    quorum_gaps: list[float] = field(default_factory=list)
    submits: list[float] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def run(options: Options) -> Figures:
    """Kill the leader 12 times if not said otherwise."""
    with (
        tempfile.TemporaryDirectory(prefix="wan-flf2v-bench-", ignore_cleanup_errors=True) as folder,
        Cluster(Path(folder) / "nats") as cluster,
    ):
        cluster.ready()
        seen = asyncio.run(_run(Path(folder), cluster, options.rounds or _ROUNDS))
    for text in seen.wrong:
        print(f"fleet_leader: {text}", flush=True)
    return {
        "leader_write_gap_p50_s": median(seen.gaps, "s", ("<=", 6.0)),
        "leader_write_gap_max_s": _longest(seen.gaps, 12.0),
        "quorum_write_gap_max_s": _longest(seen.quorum_gaps, 10.0),
        "longest_submit_s": _longest(seen.submits, _LONGEST_S),
        "wrong_responses": summed([len(seen.wrong)], "responses", ("==", 0)),
    }


def _longest(seconds: Sequence[float], limit: float) -> Figure:
    return Figure(max(seconds), "s", len(seconds), min(seconds), max(seconds), ("<=", limit))


async def _run(folder: Path, cluster: Cluster, rounds: int) -> _Seen:
    seen = _Seen()
    async with stand_ins(1, seconds=0.2) as hosts, unlimited_session() as http:
        for parameter in (START_IMAGE, END_IMAGE):
            hosts[0].files["input", "", str(parameter.default)] = b"a photograph"
        with worker_processes(folder / "workers", cluster.url, [hosts[0].url]):
            gateway = GatewayProcess(folder / "gateway", [], "--demo", config=_SETTINGS, nats_url=cluster.url)
            try:
                await asyncio.to_thread(gateway.start)
                api = _Api(http, gateway, seen)
                while not seen.accepted:
                    await api.submit()
                for number in range(rounds):
                    seen.gaps.append(await _outage(cluster, api, [await cluster.leader(_STREAM)]))
                    print(f"fleet_leader: round {number + 1} of {rounds}: {seen.gaps[-1]:.1f} s", flush=True)
                for number in range(_QUORUM_ROUNDS):
                    leader = await cluster.leader(_STREAM)
                    other = next(node for node in cluster.nodes.values() if node is not leader)
                    seen.quorum_gaps.append(await _outage(cluster, api, [leader, other]))
                    print(f"fleet_leader: no quorum, round {number + 1}: {seen.quorum_gaps[-1]:.1f} s", flush=True)
                for request_id in seen.accepted:
                    await api.status(request_id)
            finally:
                await asyncio.to_thread(gateway.stop)
    return seen


async def _outage(cluster: Cluster, api: _Api, nodes: Sequence[NatsServer]) -> float:
    """Kill one node or two; return how long nothing was accepted once there was a quorum, in seconds."""
    for node in nodes:
        node.kill()
    quorum_at, before = time.monotonic(), len(api.seen.accepted)
    submits: list[asyncio.Task[None]] = []
    api.quorum = len(nodes) == 1
    asking = asyncio.create_task(api.keep_asking(api.seen.accepted[0]))
    try:
        while len(api.seen.accepted) == before:
            if not api.quorum and time.monotonic() - quorum_at > _NO_QUORUM_S:
                await asyncio.to_thread(nodes[-1].start)
                quorum_at, api.quorum = time.monotonic(), True
            submits.append(asyncio.create_task(api.submit()))
            await asyncio.sleep(_PAUSE_S)
        gap = time.monotonic() - quorum_at
        await asyncio.gather(*submits)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    for node in nodes:
        if node.process.poll() is not None:
            await asyncio.to_thread(node.start)
    await _whole(cluster)
    return gap


class _Api:
    """A client that notes what it is told."""

    def __init__(self, http: aiohttp.ClientSession, gateway: GatewayProcess, seen: _Seen) -> None:
        self._http, self._api, self.seen = http, gateway.api, seen
        self.quorum = True
        self._headers = {"Authorization": f"Bearer {gateway.token}"}

    async def submit(self) -> None:
        """Submit a request once: it is accepted, or told when to try again."""
        values = {parameter.key: parameter.default for parameter in (PROMPT, START_IMAGE, END_IMAGE)}
        values[SEED.key] = uuid.uuid4().int % 2**32
        began = time.monotonic()
        async with self._http.post(
            f"{self._api}/models/{DEMO.model_id}", json=values, headers=self._headers
        ) as response:
            content = await response.json()
            self.seen.submits.append(time.monotonic() - began)
            if response.status == 200:
                self.seen.accepted.append(str(content["request_id"]))
            elif response.status != 503 or "Retry-After" not in response.headers:
                self.seen.wrong.append(f"submit: {response.status} {content}")

    async def status(self, request_id: str) -> None:
        """Ask for the status of a request that was accepted."""
        quorum = self.quorum
        async with self._http.get(f"{self._api}/requests/{request_id}/status", headers=self._headers) as response:
            told_when = response.status == 503 and "Retry-After" in response.headers
            if response.status != 200 and (quorum or not told_when):
                self.seen.wrong.append(f"status of {request_id}: {response.status} {await response.text()}")

    async def keep_asking(self, request_id: str) -> None:
        """Ask for the status again and again."""
        while True:
            await self.status(request_id)
            await asyncio.sleep(_PAUSE_S)


async def _whole(cluster: Cluster) -> None:
    """Wait until every node has all of the stream."""
    replicas: Sequence[dict[str, Any]] = ()
    while len(replicas) < len(cluster.nodes) - 1 or not all(each["current"] for each in replicas):
        await asyncio.sleep(_PAUSE_S)
        replicas = (await cluster.info(_STREAM) or {}).get("replicas", ())
