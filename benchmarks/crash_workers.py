"""Kill -9 at random moments with several ComfyUIs, which are stand-ins: each accepted request has one right end.

Each round submits ten requests. Meanwhile it kills the gateway, a ComfyUI, both, or two ComfyUIs at once, or lets one
stand still for longer than ``worker_lost_after_s`` and go on. What was killed is started again. A table in the store's
file, filled by a trigger, keeps every version of every job. A check that shares no code with the product reads it: only
legal transitions, one end a job, attempts that rise, and the result that is kept is the file of the accepted attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import sqlite3
import tempfile
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from ..client.hosted_api import HostedApi
from ..contract.parameters import END_IMAGE, START_IMAGE
from ._figures import Figure, Figures, Options, summed
from ._gateway import GatewayProcess
from ._requests import ENDS, submit, wait_for_end
from ._stand_in import StandIn, stand_ins

REQUESTS = 10
_ROUNDS, _WORKERS = 20, 3
_SECONDS = 1.0  # of a run
_LOST_AFTER_S = 3.0
_WINDOW_S = 5.0  # the longest life of a round's first jobs
_END_S = 240.0  # a request that has not ended by then is lost
_SEED = 20261101
_SETTINGS = {"queue_limit": 1_000_000, "rate_per_minute": 1_000_000, "worker_lost_after_s": _LOST_AFTER_S}
_AUDIT = """
CREATE TABLE audit (version INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT, status TEXT, attempt INTEGER, output TEXT);
CREATE TRIGGER audit_insert AFTER INSERT ON jobs BEGIN
    INSERT INTO audit (id, status, attempt, output) VALUES (new.id, new.status, new.attempt, new.output); END;
CREATE TRIGGER audit_update AFTER UPDATE ON jobs BEGIN
    INSERT INTO audit (id, status, attempt, output) VALUES (new.id, new.status, new.attempt, new.output); END;
"""
_LEGAL = {
    ("in_queue", "in_queue"),
    ("in_queue", "in_progress"),
    ("in_progress", "in_progress"),
    ("in_progress", "in_queue"),
    *((before, end) for before in ("in_queue", "in_progress") for end in ENDS),
}


def run(options: Options) -> Figures:
    """Run the rounds, 20 with three ComfyUIs if not said otherwise."""
    count, workers = options.rounds or _ROUNDS, options.workers or _WORKERS
    with tempfile.TemporaryDirectory(prefix="wan-flf2v-bench-", ignore_cleanup_errors=True) as folder:
        return asyncio.run(_run(Path(folder), count, workers))


async def _run(folder: Path, count: int, workers: int) -> Figures:
    async with stand_ins(workers, seconds=_SECONDS) as hosts:
        for host in hosts:
            for parameter in (START_IMAGE, END_IMAGE):
                host.files["input", "", str(parameter.default)] = b"a photograph"
        gateway = GatewayProcess(folder, [host.url for host in hosts], "--demo", config=_SETTINGS)
        with contextlib.closing(sqlite3.connect(folder / "store.sqlite3")) as database:
            database.executescript(_AUDIT)
        await asyncio.to_thread(gateway.start)
        try:
            ends = await _rounds(hosts, gateway, count)
        finally:
            await asyncio.to_thread(gateway.stop)
        violations = await asyncio.to_thread(_audit, folder)
    for text in violations:
        print(f"audit: {text}", flush=True)
    right, lost = (sum(end == wanted for end in ends) for wanted in ("succeeded", "lost"))
    total = count * REQUESTS
    return {
        "accepted": summed([len(ends)], "requests", ("==", total)),
        "right_end": summed([right], "requests", ("==", total)),
        "lost": summed([lost], "requests", ("==", 0)),
        "audit_violations": Figure(len(violations), "violations", count, 0, len(violations), ("==", 0)),
    }


async def _rounds(hosts: Sequence[StandIn], gateway: GatewayProcess, count: int) -> list[str]:
    dice = random.Random(_SEED)  # noqa: S311 -- the same moments in every run
    ends: list[str] = []
    for number in range(count):
        name, harm = _harm(number, dice, hosts, gateway)
        moment = dice.uniform(0.0, _WINDOW_S)
        harming = asyncio.create_task(_after(moment, harm))
        try:
            found = await _round(gateway)
        finally:
            await harming
        ends += found
        print(f"round {number + 1} of {count}: {name} after {moment:.2f} s: {found}", flush=True)
    return ends


def _harm(
    number: int, dice: random.Random, hosts: Sequence[StandIn], gateway: GatewayProcess
) -> tuple[str, Callable[[], Awaitable[None]]]:
    """Return what happens in a round, and what makes it happen."""
    one, other = dice.sample(range(len(hosts)), 2) if len(hosts) > 1 else (0, 0)

    async def kill_gateway() -> None:
        await asyncio.to_thread(gateway.kill)
        await asyncio.to_thread(gateway.start)

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

    kinds: list[tuple[str, Callable[[], Awaitable[None]]]] = [
        ("the gateway is killed", kill_gateway),
        (f"worker {one} is killed", lambda: kill_workers(one)),
        (f"the gateway and worker {one} are killed", kill_both),
        (f"worker {one} stands still", freeze),
        (f"workers {one} and {other} are killed", lambda: kill_workers(*{one, other})),
    ]
    return kinds[number % len(kinds)]


async def _after(moment: float, harm: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(moment)
    await harm()


async def _round(gateway: GatewayProcess) -> list[str]:
    """Return how each request ended."""
    async with HostedApi(gateway.api, gateway.token) as api:
        deadline = time.monotonic() + _END_S
        return await asyncio.gather(*(_request(api, deadline) for _ in range(REQUESTS)))


async def _request(api: HostedApi, deadline: float) -> str:
    """Submit one request, wait for its end and return how it ended."""
    request_id = await submit(api, {}, deadline)
    result = None if request_id is None else await wait_for_end(api, request_id, deadline)
    return "lost" if result is None else str(result["status"])


def _audit(folder: Path) -> list[str]:
    """Return what the store's history, and the results that are kept, have in them that must not be."""
    found = []
    with contextlib.closing(sqlite3.connect(folder / "store.sqlite3")) as database:
        rows = database.execute("SELECT id, status, attempt, output FROM audit ORDER BY version").fetchall()
        if (verdict := database.execute("PRAGMA integrity_check").fetchone()[0]) != "ok":
            found.append(f"the store is damaged: {verdict}")
    last: dict[str, tuple[str, int]] = {}
    for job_id, status, attempt, output in rows:
        before, tried = last.get(job_id, (None, 0))
        last[job_id] = status, attempt
        if before is None:
            if status != "in_queue":
                found.append(f"{job_id} began as {status}")
            continue
        if before in ENDS and before == status:  # only what was left on ComfyUI changes, or it expires
            continue
        if (before, status) not in _LEGAL:
            found.append(f"{job_id} went from {before} to {status}")
        rises = status == "in_progress" and before == "in_queue"
        if attempt != tried + rises:
            found.append(f"{job_id} went from attempt {tried} to {attempt} as {status}")
        if status == "succeeded" and output is not None:
            video = folder / "results" / job_id / json.loads(output)["video"]
            name = job_id if attempt <= 1 else str(uuid.uuid5(uuid.UUID(job_id), str(attempt)))
            if not video.read_bytes().endswith(name.encode()):
                found.append(f"{job_id} has the video of another attempt than {attempt}")
    found += [f"{job_id} never ended: {status}" for job_id, (status, _) in last.items() if status not in ENDS]
    return found
