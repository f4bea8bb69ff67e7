"""Requests that survive: the truth about each lies in one SQLite file, where whoever serves the API reads it."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ...contract.parameters import Value
from .records import CancelOutcome, IdempotencyConflictError, Job, QueueFullError, Status
from .store_side import SideTables

_JSON = ("values", "inputs", "output", "progress", "detail")
_FLAGS = ("cancel_requested", "submitted", "on_host", "expired")


class Store(SideTables):
    """Requests in a file. Every method may be called from any thread, and blocks for a disk write at most.

    What a method changed is on the disk when it returns (progress and the host's state excepted).
    """

    def add(
        self,
        job_id: str,
        token: str,
        model_id: str,
        values: Mapping[str, Value],
        inputs: Mapping[str, str],
        *,
        idempotency: tuple[str, str] | None = None,
        webhook: str | None = None,
        webhook_secret: str | None = None,
        base_url: str | None = None,
        queue_limit: int | None = None,
    ) -> Job:
        """Accept a request, at the end of the queue. ``token`` is the id of the token it is made with.

        ``idempotency`` is a key and a hash of the body. If ``token`` used the key before, the job of then is returned
        (its id is not ``job_id``), or ``IdempotencyConflictError`` raised if the body was another.
        ``QueueFullError`` if ``token`` has ``queue_limit`` requests waiting. ``webhook`` is told about the end, signed
        with ``webhook_secret``, with links to ``base_url``.
        """
        with self.write() as connection:
            if idempotency is not None and (earlier := _earlier(connection, token, idempotency)):
                return earlier
            if queue_limit is not None and _count(connection, token, "in_queue") >= queue_limit:
                raise QueueFullError
            connection.execute(
                'INSERT INTO jobs (id, token, model_id, "values", inputs, created_at) VALUES (?, ?, ?, ?, ?, ?)',
                (job_id, token, model_id, json.dumps(dict(values)), json.dumps(dict(inputs)), time.time()),
            )
            if idempotency is not None:
                connection.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?)", (token, *idempotency, job_id))
            if webhook is not None:
                connection.execute(
                    "INSERT INTO webhooks (job_id, url, secret, base_url) VALUES (?, ?, ?, ?)",
                    (job_id, webhook, webhook_secret, base_url),
                )
            return _one(connection, job_id)

    def earlier(self, token: str, idempotency: tuple[str, str]) -> Job | None:
        """Return the request that ``token`` made with this idempotency key; ``add`` says what it raises."""
        return _earlier(self.read(), token, idempotency)

    def get(self, job_id: str) -> Job | None:
        """Return a request, also an expired one; ``None`` if it is unknown. Whose it is, is the caller's to check."""
        return _get(self.read(), job_id)

    def position(self, job: Job) -> int:
        """Return how many requests wait before this one: 0 if it is the next."""
        query = "SELECT count(*) FROM jobs WHERE status = 'in_queue' AND position_key < ?"
        return int(self.read().execute(query, (job.position_key,)).fetchone()[0])

    def count(self, token: str | None = None, status: Status | None = None) -> int:
        """Count requests, of one token and in one status if given; expired ones count."""
        return _count(self.read(), token, status)

    def next(self) -> Job | None:
        """Return the request that runs, else the one that waits longest."""
        query = "SELECT * FROM jobs WHERE status = ? ORDER BY position_key LIMIT 1"
        for status in ("in_progress", "in_queue"):
            row = self.read().execute(query, (status,)).fetchone()
            if row is not None:
                return _job(row)
        return None

    def start(self, job_id: str, host: str | None = None) -> bool:
        """Let a waiting request run on the ComfyUI process ``host``; ``False`` if it no longer waits."""
        started = {"status": "in_progress", "started_at": time.time(), "host": host, "on_host": 1}
        with self.write() as connection:
            return _change(connection, job_id, ("in_queue",), **started)

    def mark_submitted(self, job_id: str) -> None:
        """ComfyUI took the running request's prompt."""
        with self.write() as connection:
            _change(connection, job_id, ("in_progress",), submitted=1)

    def requeue_after_death(self, job_id: str) -> int:
        """Let a request whose host died wait again, at its old place; one that shall be cancelled is cancelled.

        Returns how often its host died under it so far.
        """
        with self.write() as connection:
            job = _one(connection, job_id)
            deaths = job.host_deaths + 1
            if job.cancel_requested:
                _end(connection, job, "cancelled")
            else:
                again = {"status": "in_queue", "submitted": 0, "host": None, "progress": None, "host_deaths": deaths}
                _change(connection, job_id, ("in_progress",), **again)
            return deaths

    def finish(
        self,
        job_id: str,
        status: Status,
        *,
        error: str | None = None,
        output: Mapping[str, str] | None = None,
        detail: Mapping[str, Any] | None = None,
    ) -> bool:
        """End a request, with its webhook due; ``False`` if it had ended. One that shall be cancelled is cancelled."""
        with self.write() as connection:
            return _end(connection, _one(connection, job_id), status, error=error, output=output, detail=detail)

    def request_cancel(self, job_id: str) -> CancelOutcome:
        """Cancel a waiting request at once, or note that a running one shall end as ``cancelled`` whatever happens.

        Returns ``"finished"`` if it had ended. ``KeyError`` if it is unknown.
        """
        with self.write() as connection:
            job = _one(connection, job_id)
            if job.finished:
                return "finished"
            if job.status == "in_queue":
                _end(connection, job, "cancelled")
                return "cancelled"
            if not job.cancel_requested:
                _change(connection, job_id, ("in_progress",), cancel_requested=1)
            return "cancelling"

    def set_progress(self, job_id: str, progress: Mapping[str, Any]) -> None:
        """Note how far the running request is."""
        with self.write(durable=False) as connection:
            _change(connection, job_id, ("in_progress",), progress=json.dumps(dict(progress)))

    def left_on_host(self) -> list[Job]:
        """Return the finished requests that may have left something on ComfyUI, oldest first."""
        query = "SELECT * FROM jobs WHERE on_host = 1 AND finished_at IS NOT NULL ORDER BY finished_at"
        return [_job(row) for row in self.read().execute(query)]

    def mark_tidied(self, job_id: str) -> None:
        """Nothing of a finished request is left on ComfyUI."""
        with self.write() as connection:
            connection.execute("UPDATE jobs SET on_host = 0 WHERE id = ?", (job_id,))

    def unexpired(self) -> list[tuple[str, float]]:
        """Return id and end time of every finished request that has not expired, oldest first."""
        query = "SELECT id, finished_at FROM jobs WHERE expired = 0 AND finished_at IS NOT NULL ORDER BY finished_at"
        return [(row[0], row[1]) for row in self.read().execute(query)]

    def expire(self, job_ids: Iterable[str]) -> None:
        """Finished requests' results are gone: forget what they asked for and their idempotency keys."""
        with self.write() as connection:
            for job_id in job_ids:
                job = _one(connection, job_id)
                blank = {"expired": 1, "output": None, "values": "{}", "inputs": "{}"}
                if _change(connection, job_id, ("succeeded", "failed", "cancelled"), **blank):
                    connection.execute("DELETE FROM idempotency WHERE job_id = ?", (job.id,))

    def inputs_in_use(self) -> set[str]:
        """Return the names below ``<data>/inputs/`` that unfinished requests need."""
        query = "SELECT inputs FROM jobs WHERE status IN ('in_queue', 'in_progress')"
        return {name for row in self.read().execute(query) for name in json.loads(row[0]).values()}


def _get(connection: sqlite3.Connection, job_id: str) -> Job | None:
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return _job(row) if row is not None else None


def _one(connection: sqlite3.Connection, job_id: str) -> Job:
    job = _get(connection, job_id)
    if job is None:
        raise KeyError(job_id)
    return job


def _job(row: sqlite3.Row) -> Job:
    fields: dict[str, Any] = dict(row)
    for name in _JSON:
        fields[name] = json.loads(fields[name]) if fields[name] is not None else None
    for name in _FLAGS:
        fields[name] = bool(fields[name])
    return Job(**fields)


def _earlier(connection: sqlite3.Connection, token: str, idempotency: tuple[str, str]) -> Job | None:
    key, body_hash = idempotency
    query = "SELECT body_hash, job_id FROM idempotency WHERE token = ? AND key = ?"
    row = connection.execute(query, (token, key)).fetchone()
    if row is None:
        return None
    if row["body_hash"] != body_hash:
        raise IdempotencyConflictError
    return _one(connection, row["job_id"])


def _count(connection: sqlite3.Connection, token: str | None, status: Status | None) -> int:
    query = "SELECT count(*) FROM jobs WHERE (?1 IS NULL OR token = ?1) AND (?2 IS NULL OR status = ?2)"
    if token is None and status is not None:
        query = "SELECT count(*) FROM jobs WHERE status = ?2 AND ?1 IS NULL"
    elif token is not None and status is not None:
        query = "SELECT count(*) FROM jobs WHERE token = ?1 AND status = ?2"
    return int(connection.execute(query, (token, status)).fetchone()[0])


def _change(connection: sqlite3.Connection, job_id: str, statuses: tuple[str, ...], **columns: Any) -> bool:
    """Set columns of a request that is in one of ``statuses``; returns whether it was."""
    setting = ", ".join(f'"{name}" = ?' for name in columns)
    marks = ", ".join("?" for _ in statuses)
    query = f"UPDATE jobs SET {setting}, version = version + 1 WHERE id = ? AND status IN ({marks})"  # noqa: S608
    return connection.execute(query, (*columns.values(), job_id, *statuses)).rowcount == 1


def _end(
    connection: sqlite3.Connection,
    job: Job,
    status: Status,
    *,
    error: str | None = None,
    output: Mapping[str, str] | None = None,
    detail: Mapping[str, Any] | None = None,
) -> bool:
    if job.cancel_requested and status != "cancelled":
        status, error, output = "cancelled", None, None
    now = time.time()
    ended = _change(
        connection,
        job.id,
        ("in_queue", "in_progress"),
        status=status,
        error=error,
        output=json.dumps(dict(output)) if output is not None else None,
        detail=json.dumps({**job.detail, **(detail or {})}),
        finished_at=now,
    )
    if ended:
        connection.execute("UPDATE webhooks SET first_at = ?, due_at = ? WHERE job_id = ?", (now, now, job.id))
    return ended
