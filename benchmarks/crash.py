"""Kill -9 at random moments: every accepted request reaches its end, once.

Each round submits ten requests and kills the gateway, ComfyUI or both while they are in flight, or while they are
being submitted; a client whose connection breaks submits again with the same idempotency key. What was killed is
started again, and all ten must end as succeeded, with a whole video, one output file on ComfyUI and one request in the
store. With the store on JetStream, a node of its three is killed too, alone or with the gateway. Every version of every
job is kept and judged (``_audit``).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import av

from ..bootstrap.server import ComfyServer
from ..client.hosted_api import HostedApi
from ..gateway.jobs.comfyui import FOLDER
from ._audit import Audit
from ._figures import Figure, Figures, Options, summed
from ._gateway import GatewayProcess
from ._nats import Cluster, nodes_for
from ._requests import FAST, FRAMES, submit, wait_for_end
from ._stage import stage

REQUESTS = 10
_ROUNDS = 40
_SUBMITTING_S = 0.3  # one kill in four falls into the first moments, while requests are accepted
_FIRST_WINDOW_S = 10.0
_END_S = 600.0  # a request that has not ended by then is lost
_SEED = 20260101


class _Part(Protocol):
    def kill(self) -> None: ...
    def start(self) -> object: ...


@dataclass
class Round:
    """What came of one round's requests."""

    accepted: int = 0
    succeeded: int = 0
    right_end: int = 0
    duplicates: int = 0
    lost: int = 0


def run(options: Options) -> Figures:
    """Run the rounds, 40 if not said otherwise."""
    count = options.rounds or _ROUNDS
    with (
        tempfile.TemporaryDirectory(prefix="wan-flf2v-bench-") as folder,
        nodes_for(options.store, Path(folder)) as nodes,
    ):
        nats_url = nodes.ready() if nodes is not None else None
        with stage(options, nats_url) as (comfyui, gateway):
            audit = Audit(gateway.data, nats_url)
            rounds = asyncio.run(_rounds(comfyui, gateway, nodes, count))
            gateway.stop()
            outputs = comfyui.base_dir / "output" / FOLDER

            def is_of_attempt(job_id: str, attempt: int, video: Path) -> bool:
                name = job_id if attempt <= 1 else f"{job_id}-{attempt}"
                return video.read_bytes() == (outputs / f"{name}_00001_.mp4").read_bytes()

            violations, kept = audit.violations(is_of_attempt)
    for text in violations:
        print(f"audit: {text}", flush=True)
    total, found = count * REQUESTS, len(violations)
    extra = kept - sum(round_.accepted for round_ in rounds)

    def column(name: str, *limit: Any) -> Figure:
        return summed([getattr(round_, name) for round_ in rounds], "requests", limit)

    return {
        "accepted": column("accepted", "==", total),
        "succeeded": column("succeeded", ">=", 0.95 * total),
        "right_end": column("right_end", "==", total),
        "duplicates": column("duplicates", "==", 0),
        "lost": column("lost", "==", 0),
        "unasked": Figure(extra, "requests", count, extra, extra, ("==", 0)),
        "broken_store": Figure(audit.broken, "files", count, audit.broken, audit.broken, ("==", 0)),
        "audit_violations": Figure(found, "violations", count, 0, found, ("==", 0)),
    }


async def _rounds(comfyui: ComfyServer, gateway: GatewayProcess, nodes: Cluster | None, count: int) -> list[Round]:
    dice = random.Random(_SEED)  # noqa: S311 -- the same moments in every run
    window, rounds = _FIRST_WINDOW_S, []
    for number in range(count):
        moment = dice.uniform(0, _SUBMITTING_S if dice.random() < 0.25 else window)
        targets: list[dict[str, _Part]] = [
            {"gateway": gateway},
            {"ComfyUI": comfyui},
            {"gateway": gateway, "ComfyUI": comfyui},
            {"ComfyUI": comfyui, "gateway": gateway},
        ]
        if nodes is not None:
            node: dict[str, _Part] = {"a node": dice.choice(list(nodes.nodes.values()))}
            targets += [node, {**node, "gateway": gateway}]
        killed = targets[number % len(targets)]
        started = time.monotonic()
        killing = asyncio.create_task(_kill(moment, list(killed.values())))
        try:
            round_ = await _round(comfyui, gateway)
        finally:
            down_s = await killing
        window = max(1.0, min(time.monotonic() - started - down_s, 3 * _FIRST_WINDOW_S))
        rounds.append(round_)
        print(
            f"round {number + 1} of {count}: killed {' and '.join(killed)} after {moment:.2f} s: {round_}", flush=True
        )
    return rounds


async def _kill(moment: float, parts: Sequence[_Part]) -> float:
    """Kill after ``moment`` seconds and start again what was killed; returns the seconds until all was back."""
    await asyncio.sleep(moment)
    started = time.monotonic()
    for part in parts:
        await asyncio.to_thread(part.kill)
    await asyncio.gather(*(asyncio.to_thread(part.start) for part in parts))
    return time.monotonic() - started


async def _round(comfyui: ComfyServer, gateway: GatewayProcess) -> Round:
    async with HostedApi(gateway.api, gateway.token) as api:
        deadline = time.monotonic() + _END_S
        ids = await asyncio.gather(*(submit(api, FAST, deadline) for _ in range(REQUESTS)))
        accepted = [request_id for request_id in ids if request_id is not None]
        ends = await asyncio.gather(*(wait_for_end(api, request_id, deadline) for request_id in accepted))
        round_ = Round(accepted=len(set(accepted)))
        for request_id, end in zip(accepted, ends, strict=True):
            await _judge(round_, api, comfyui, request_id, end)
        return round_


async def _judge(
    round_: Round, api: HostedApi, comfyui: ComfyServer, request_id: str, end: dict[str, Any] | None
) -> None:
    """Count one request. One kill of ComfyUI in a round is no reason to fail, and nobody cancelled anything."""
    files = list((comfyui.base_dir / "output" / FOLDER).glob(f"{request_id}*.mp4"))
    round_.duplicates += len(files) > 1
    round_.lost += end is None
    if end is None or end["status"] != "succeeded":
        print(f"request {request_id}: {end}", flush=True)
        return
    round_.succeeded += 1
    with tempfile.TemporaryDirectory() as folder:
        video = await api.download(str(end["output"]["video"]), Path(folder) / "video.mp4")
        round_.right_end += len(files) == 1 and await asyncio.to_thread(_is_whole, video)


def _is_whole(video: Path) -> bool:
    with contextlib.suppress(av.error.FFmpegError), av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0)) == FRAMES
    return False
