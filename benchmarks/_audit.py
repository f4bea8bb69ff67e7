"""Keeps every version of every job that a store holds, and judges them with no code of the product.

In SQLite's file a trigger fills a table. On JetStream a mirror without a limit for each subject keeps what the store's
own stream replaces; while a server is elected it may miss a version, but each record tells its job's history.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sqlite3
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import nats

_ENDS = ("succeeded", "failed", "cancelled")
_STREAM, _MIRROR = "WF", "AUDIT"
_CATCH_UP_S = 60.0
_TABLE = """
CREATE TABLE audit (number INTEGER PRIMARY KEY, id TEXT, version INTEGER, status TEXT, attempt INTEGER, output TEXT);
CREATE TRIGGER audit_insert AFTER INSERT ON jobs BEGIN
    INSERT INTO audit (id, version, status, attempt, output)
    VALUES (new.id, new.version, new.status, new.attempt, new.output); END;
CREATE TRIGGER audit_update AFTER UPDATE ON jobs BEGIN
    INSERT INTO audit (id, version, status, attempt, output)
    VALUES (new.id, new.version, new.status, new.attempt, new.output); END;
"""
_LEGAL = {
    ("in_queue", "in_queue"),
    ("in_queue", "in_progress"),
    ("in_progress", "in_progress"),
    ("in_progress", "in_queue"),
    *((before, end) for before in ("in_queue", "in_progress") for end in _ENDS),
}

State = tuple[str, int]  # status and attempt


class Version(NamedTuple):
    """A job as it was once. ``states`` are those that it has had, the last one now; on SQLite that one alone."""

    job_id: str
    number: int
    states: tuple[State, ...]
    output: Mapping[str, str] | None


class Audit:
    """Begins to keep the versions of a store's jobs: the one in a data folder, or on NATS. The store must exist."""

    def __init__(self, data: Path, nats_url: str | None) -> None:
        self._data, self._nats_url = data, nats_url
        self.broken = 0  # files of the store that are damaged, or replicas that lag behind, as ``violations`` found
        if nats_url is not None:
            mirror = {"name": _MIRROR, "mirror": {"name": _STREAM}, "storage": "file", "num_replicas": 3}
            asyncio.run(self._ask((f"STREAM.CREATE.{_MIRROR}", mirror)))
        else:
            with contextlib.closing(sqlite3.connect(data / "store.sqlite3")) as database:
                database.executescript(_TABLE)

    def violations(self, is_of_attempt: Callable[[str, int, Path], bool]) -> tuple[list[str], int]:
        """Return what the history, and the results that are kept, have in them that must not be, and count the jobs.

        ``is_of_attempt`` says whether a video is that of a job's attempt.
        """
        versions, found = self._on_nats() if self._nats_url is not None else self._in_file()
        last: dict[str, Version] = {}
        for version in versions:
            found += _step(last.get(version.job_id), version)
            last[version.job_id] = version
        for job_id, version in last.items():
            status, attempt = version.states[-1]
            if status not in _ENDS:
                found.append(f"{job_id} never ended: {status}")
            if status == "succeeded" and version.output is not None:
                video = self._data / "results" / job_id / version.output["video"]
                if not is_of_attempt(job_id, attempt, video):
                    found.append(f"{job_id} has the video of another attempt than {attempt}")
        return found, len(last)

    def _in_file(self) -> tuple[list[Version], list[str]]:
        with contextlib.closing(sqlite3.connect(self._data / "store.sqlite3")) as database:
            rows = database.execute("SELECT id, version, status, attempt, output FROM audit ORDER BY number").fetchall()
            verdict = database.execute("PRAGMA integrity_check").fetchone()[0]
        self.broken = int(verdict != "ok")
        versions = [
            Version(job_id, number, ((status, attempt),), json.loads(output) if output is not None else None)
            for job_id, number, status, attempt, output in rows
        ]
        return versions, [f"the store is damaged: {verdict}"] * self.broken

    def _on_nats(self) -> tuple[list[Version], list[str]]:
        versions: list[Version] = []
        counts: dict[str, int] = {}
        for subject, data in asyncio.run(self._mirrored()):
            place, kind = subject.split(".")[1:3]
            if data is None:
                continue
            if kind == "job":
                job = data["job"]
                states = tuple((status, attempt) for _, status, attempt, *_ in data["history"])
                versions.append(Version(job["id"], job["version"], states, job["output"]))
                if states[-1] != (job["status"], job["attempt"]):
                    versions[-1] = versions[-1]._replace(states=(*states, (job["status"], job["attempt"])))
            elif (place, kind) == ("now", "count"):
                counts[data["token"]] = data["waiting"]
        last = {version.job_id: version.states[-1][0] for version in versions}
        waiting = Counter(last.values())["in_queue"]
        wrong = sum(counts.values()) != waiting
        return versions, [f"{counts} are counted as waiting, but {waiting} wait"] if wrong else []

    async def _mirrored(self) -> list[tuple[str, Any]]:
        """Return subject and data of every record that was written, oldest first, once the mirror has all."""
        deadline = time.monotonic() + _CATCH_UP_S
        while True:
            own, mirror = await self._ask((f"STREAM.INFO.{_STREAM}", None), (f"STREAM.INFO.{_MIRROR}", None))
            self.broken = sum(not replica["current"] for replica in own["cluster"]["replicas"])
            if own["state"]["last_seq"] == mirror["state"]["last_seq"] and (
                not self.broken or time.monotonic() > deadline
            ):
                break
            if time.monotonic() > deadline:
                raise RuntimeError(f"the mirror did not catch up: {own['state']}, {mirror['state']}")
            await asyncio.sleep(0.5)
        client = await nats.connect(self._servers())
        try:
            jetstream, found = client.jetstream(), []
            subscription = await jetstream.subscribe("", stream=_MIRROR, ordered_consumer=True)
            for _ in range(mirror["state"]["messages"]):
                message = await subscription.next_msg(10)
                found.append((message.subject, json.loads(message.data)["data"]))
        finally:
            await client.close()
        return found

    async def _ask(self, *calls: tuple[str, Any]) -> list[dict[str, Any]]:
        """Ask JetStream's API, again while it has no leader."""
        client, replies = await nats.connect(self._servers()), []
        try:
            for call, query in calls:
                deadline = time.monotonic() + _CATCH_UP_S
                while True:
                    with contextlib.suppress(nats.errors.Error, asyncio.TimeoutError):
                        reply = await client.request(f"$JS.API.{call}", json.dumps(query).encode() if query else b"", 5)
                        replies.append(json.loads(reply.data))
                        if "error" not in replies[-1]:
                            break
                        if replies.pop()["error"]["code"] != 503:
                            raise RuntimeError(f"{call}: {reply.data.decode()}")
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"{call}: no reply")
                    await asyncio.sleep(0.5)
        finally:
            await client.close()
        return replies

    def _servers(self) -> list[str]:
        return (self._nats_url or "").split(",")


def attempt_name(job_id: str, attempt: int) -> str:
    """Return the id of an attempt's prompt."""
    return job_id if attempt <= 1 else str(uuid.uuid5(uuid.UUID(job_id), str(attempt)))


def _step(before: Version | None, now: Version) -> Iterable[str]:
    """Yield what is wrong between two versions of a job that follow each other."""
    job_id, known = now.job_id, before.states if before is not None else ()
    if before is not None and now.number == before.number:
        if now.states[-1] != known[-1] or known[-1][0] not in _ENDS:  # only what was left on ComfyUI has changed
            yield f"{job_id} has two versions {now.number}: {known[-1]} and {now.states[-1]}"
        return
    if before is not None and now.number < before.number:
        yield f"{job_id} went back from version {before.number} to {now.number}"
    if len(now.states) == 1:  # it tells no more: SQLite's trigger misses nothing
        steps = (*known[-1:], *now.states)
    else:
        steps = now.states[max(len(known) - 1, 0) :]
        if now.states[: len(known)] != known:
            yield f"{job_id} has another history in version {now.number}: {now.states} after {known}"
    if not known and steps[0][0] != "in_queue":
        yield f"{job_id} began as {steps[0][0]}"
    for (earlier, tried), (status, attempt) in itertools.pairwise(steps):
        if earlier in _ENDS and earlier == status:  # it expires
            continue
        if (earlier, status) not in _LEGAL:
            yield f"{job_id} went from {earlier} to {status}"
        if attempt != tried + (earlier == "in_queue" and status == "in_progress"):
            yield f"{job_id} went from attempt {tried} to {attempt} as {status}"
