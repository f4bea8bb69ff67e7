"""The job store in one SQLite file that several processes share: its schema, its SQL and its threads."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import sqlite3
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from filelock import FileLock, Timeout

from ...contract.added import from_data, to_data
from ...contract.parameters import ModelContract
from ..durable import read_secret
from .blobs import NO_BLOBS, Blobs
from .queue import FollowingStore, State, in_order, states_of
from .records import (
    DEATHS,
    NUMBERS,
    UNFINISHED,
    Health,
    Job,
    Priority,
    QueuedJob,
    Status,
    StoredFile,
    Submission,
    Token,
    Transition,
    Unfinished,
    Webhook,
    WorkerState,
    transition,
)
from .store import (
    CANCEL_REASON,
    CancelOutcome,
    IdempotencyConflictError,
    QueueFullError,
    StoreError,
    StoreFileError,
    StoreFullError,
    remedy,
)

SCHEMA_VERSION = 4
# All of it runs at each start: a store that was made before a table or an index was thought of gets it then.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    token TEXT NOT NULL,
    model_id TEXT NOT NULL,
    "values" TEXT NOT NULL,
    inputs TEXT NOT NULL,
    status TEXT NOT NULL DEFAULT 'in_queue',
    cancel_requested INTEGER NOT NULL DEFAULT 0,
    attempt INTEGER NOT NULL DEFAULT 0,
    worker TEXT,
    sent INTEGER NOT NULL DEFAULT 0,
    dirty INTEGER NOT NULL DEFAULT 0,
    error TEXT,
    output TEXT,
    created_at REAL NOT NULL,
    started_at REAL,
    finished_at REAL,
    progress TEXT,
    detail TEXT NOT NULL DEFAULT '{}',
    version INTEGER NOT NULL DEFAULT 1,
    expired INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, number);
CREATE INDEX IF NOT EXISTS jobs_by_token ON jobs (token, status);
CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (expired, finished_at);
CREATE INDEX IF NOT EXISTS jobs_dirty ON jobs (dirty, finished_at);
CREATE TABLE IF NOT EXISTS idempotency (
    token TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash TEXT NOT NULL,
    job_id TEXT NOT NULL REFERENCES jobs (id),
    PRIMARY KEY (token, key)
);
CREATE INDEX IF NOT EXISTS idempotency_by_job ON idempotency (job_id);
CREATE TABLE IF NOT EXISTS webhooks (
    job_id TEXT PRIMARY KEY REFERENCES jobs (id),
    url TEXT NOT NULL,
    secret TEXT,
    base_url TEXT,
    every_status INTEGER NOT NULL,
    tells TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    first_at REAL,
    due_at REAL
);
CREATE INDEX IF NOT EXISTS webhooks_by_due ON webhooks (due_at);
CREATE TABLE IF NOT EXISTS tokens (
    name TEXT PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    created_at REAL NOT NULL,
    webhook_secret TEXT,
    rate_per_minute INTEGER,
    queue_limit INTEGER,
    id TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY,
    token TEXT NOT NULL,
    name TEXT NOT NULL,
    stored TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    created_at REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS health (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), health TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS jobs_by_start ON jobs (token, started_at);
CREATE INDEX IF NOT EXISTS jobs_by_age ON jobs (token, created_at, id);
CREATE INDEX IF NOT EXISTS jobs_by_status_and_age ON jobs (token, status, created_at, id);
CREATE INDEX IF NOT EXISTS jobs_unfinished ON jobs (
    number, id, status, token, created_at, model_id, worker, cancel_requested, version
) WHERE status IN ('in_queue', 'in_progress');
CREATE TABLE IF NOT EXISTS models (id TEXT PRIMARY KEY, added_at REAL NOT NULL, model TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS workers (name TEXT PRIMARY KEY, state TEXT NOT NULL, drained INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS transitions (
    job_id TEXT NOT NULL, at REAL NOT NULL, status TEXT NOT NULL, attempt INTEGER NOT NULL, worker TEXT, reason TEXT
);
CREATE INDEX IF NOT EXISTS transitions_by_job ON transitions (job_id);
CREATE TABLE IF NOT EXISTS priorities (token TEXT PRIMARY KEY, priority TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS operators (token TEXT PRIMARY KEY);
"""
_BUSY_TIMEOUT_S = 30.0  # how long a writer waits for a writer of another process
_FINDER_TIMEOUT_S = 1.0  # how long the event loop may wait, while another process recovers the file
_ORDER_S = 1.0  # how long the order of the queue is kept: a token's wait may become too long
_EXPIRED_AT_ONCE = 200  # jobs in a transaction of a few milliseconds: a submit waits for one, not for a whole purge
_JSON = ("values", "inputs", "output", "progress", "detail")
_FLAGS = ("cancel_requested", "sent", "dirty", "expired")

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _reads(
    work: Callable[Concatenate[SqliteStore, sqlite3.Connection, _P], _T],
    *,
    whole_queue: bool = False,
) -> Callable[Concatenate[SqliteStore, _P], Coroutine[Any, Any, _T]]:
    """Make a coroutine function of a method that only reads; no other read waits for one of the ``whole_queue``."""

    async def call(self: SqliteStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        reader = self._queue_reader if whole_queue else self._reader
        return await reader.run(lambda database: work(self, database, *args, **kwargs))

    return call


def _finds(
    work: Callable[Concatenate[SqliteStore, sqlite3.Connection, _P], _T],
) -> Callable[Concatenate[SqliteStore, _P], Coroutine[Any, Any, _T]]:
    """Make a coroutine function of a method that reads one record: it does so in the caller's thread."""

    async def call(self: SqliteStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return self._finder.run(lambda database: work(self, database, *args, **kwargs))

    return call


def _writes(
    work: Callable[Concatenate[SqliteStore, sqlite3.Connection, _P], _T],
    *,
    durable: bool = True,
    moves_queue: bool = False,
) -> Callable[Concatenate[SqliteStore, _P], Coroutine[Any, Any, _T]]:
    """Make a coroutine function of a method that writes: one transaction, rolled back if the method raises.

    With ``durable=False`` a power cut may lose it, but a crash of this process does not. ``moves_queue`` says that
    waiting jobs may have another position afterwards, which who asks is to see at once. Starts and ends are left
    out: there are many in a second, and half a second later is soon enough.
    """

    async def call(self: SqliteStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        def transaction(database: sqlite3.Connection) -> _T:
            database.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            database.execute("BEGIN IMMEDIATE")
            try:
                result = work(self, database, *args, **kwargs)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            return result

        try:
            return await self._writer.run(transaction)
        finally:
            if moves_queue:
                self._moved()

    return call


class SqliteStore(FollowingStore):
    """``Store`` in the file ``path``.

    Reads, reads of the whole queue, and writes have a thread and a connection each: no read waits for a write. One
    record is read in the caller's thread: that takes 0.03 ms, and to have it done by another thread 10 ms where the
    event loop is busy.

    ``max_wait_s`` is that of ``queue.in_order``. The constructor blocks. It raises ``StoreFileError`` and ``OSError``.
    """

    blobs: Blobs = NO_BLOBS  # all gateways on one file share its folder

    def __init__(self, path: Path, *, max_wait_s: float = math.inf) -> None:
        super().__init__()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_dir():
            raise StoreFileError(f"{path} is a folder, but the API's store must be a file. Move the folder away.")
        if path.exists() and path.stat().st_size == 0 and any(path.parent.glob("results/*")):
            raise StoreFileError(
                f"{path} is empty, although there are results of requests beside it: it was cut short. Put a copy of "
                "it there, or remove it: then a new one is made."
            )
        path.touch(mode=0o600)  # SQLite gives the files beside it the same mode
        try:
            _create(path)
            self._finder = _Finder(path)
            self._reader, self._queue_reader, self._writer = _Thread(path), _Thread(path), _Thread(path)
        except sqlite3.OperationalError as error:
            raise StoreFileError(f"{path} cannot be opened: {error}. Look at its disk and its permissions.") from error
        except sqlite3.DatabaseError as error:
            raise StoreFileError(
                f"{path} is damaged, or no store of this API ({error}). Put a copy of it there, or move it away, with "
                f"{path.name}-wal and {path.name}-shm if they are there: then a new, empty one is made."
            ) from error
        self._max_wait_s = max_wait_s
        # The file's version, when it was read, the queue, and the stamp of each of its jobs.
        self._queue: tuple[int, float, tuple[QueuedJob, ...], dict[str, int]] | None = None
        self._lead_lock = path.parent / "dispatcher.lock"
        self._leading: dict[str, FileLock] = {}

    async def close(self) -> None:
        await asyncio.to_thread(self._writer.close)
        await asyncio.to_thread(self._reader.close)
        await asyncio.to_thread(self._queue_reader.close)
        self._finder.close()

    def secret(self, path: Path, new: bytes) -> bytes:
        return read_secret(path, new)

    @functools.partial(_reads, whole_queue=True)
    def back_up(self, database: sqlite3.Connection, copy: Path) -> None:
        database.execute("VACUUM INTO ?", (str(copy),))

    @_writes
    def submit(self, database: sqlite3.Connection, new: Submission) -> Job:
        if new.idempotency is not None and (earlier := _submitted_before(database, new.token, new.idempotency)):
            return earlier
        if new.queue_limit is not None and _count(database, new.token, "in_queue") >= new.queue_limit:
            raise QueueFullError
        values, inputs = json.dumps(dict(new.values)), json.dumps(dict(new.inputs))
        database.execute(
            'INSERT INTO jobs (id, token, model_id, "values", inputs, created_at) VALUES (?, ?, ?, ?, ?, ?)',
            (new.id, new.token, new.model_id, values, inputs, time.time()),
        )
        if new.idempotency is not None:
            database.execute("INSERT INTO idempotency VALUES (?, ?, ?, ?)", (new.token, *new.idempotency, new.id))
        if new.webhook is not None:
            query = "INSERT INTO webhooks (job_id, url, secret, base_url, every_status) VALUES (?, ?, ?, ?, ?)"
            database.execute(query, (new.id, new.webhook, new.webhook_secret, new.base_url, new.webhook_every_status))
            _tell(database, new.id, "in_queue")
        _note(database, new.id)
        return _get(database, new.id)

    @_reads
    def submitted_before(self, database: sqlite3.Connection, token: str, idempotency: tuple[str, str]) -> Job | None:
        return _submitted_before(database, token, idempotency)

    @_finds
    def get(self, database: sqlite3.Connection, job_id: str) -> Job | None:
        return _find(database, job_id)

    @functools.partial(_reads, whole_queue=True)
    def queue(self, database: sqlite3.Connection) -> tuple[QueuedJob, ...]:
        return self._look_at_queue(database)[0]

    def _look_at_queue(self, database: sqlite3.Connection) -> tuple[tuple[QueuedJob, ...], dict[str, int]]:
        """Return what ``_ordered`` does; it is read again only if the file has changed."""
        version = database.execute("PRAGMA data_version").fetchone()[0]  # changes when another connection commits
        now = time.time()
        if self._queue is None or self._queue[0] != version or not 0 <= now - self._queue[1] < _ORDER_S:
            self._queue = version, now, *self._ordered(database, now)
        return self._queue[2:]

    @_reads
    def unfinished(self, database: sqlite3.Connection) -> list[Unfinished]:
        """Return all jobs that have not ended, oldest first, with all that belongs to them."""
        query = "SELECT * FROM jobs WHERE status IN ('in_queue', 'in_progress') ORDER BY number"
        found = []
        for job in [_job(row) for row in database.execute(query)]:
            query = "SELECT key, body_hash FROM idempotency WHERE job_id = ?"
            key = database.execute(query, (job.id,)).fetchone()
            query = (
                "SELECT url, secret, base_url, every_status, tells, attempts, first_at, due_at FROM webhooks "
                "WHERE job_id = ?"
            )
            row = database.execute(query, (job.id,)).fetchone()
            webhook = None
            if row is not None:
                fields = dict(row)
                changed = {"every_status": bool(fields["every_status"]), "tells": fields["tells"].split()}
                webhook = {**fields, **changed, "token": job.token}
            history = tuple(_history(database, job.id))
            found.append(Unfinished(job, tuple(key) if key is not None else None, webhook, history))
        return found

    @_reads
    def history(self, database: sqlite3.Connection, job_id: str) -> list[Transition]:
        return _history(database, job_id)

    @_reads
    def running(self, database: sqlite3.Connection) -> list[QueuedJob]:
        query = f"SELECT {', '.join(QueuedJob._fields)} FROM jobs WHERE status = 'in_progress' ORDER BY number"  # noqa: S608
        return [QueuedJob(*row) for row in database.execute(query)]

    def _ordered(self, database: sqlite3.Connection, now: float) -> tuple[tuple[QueuedJob, ...], dict[str, int]]:
        """Return all unfinished jobs in order, and the stamp of each."""
        columns = ", ".join(QueuedJob._fields)
        query = (
            f"SELECT version, {columns} FROM jobs INDEXED BY jobs_unfinished "  # noqa: S608
            "WHERE status IN ('in_queue', 'in_progress')"
        )
        cursor = database.cursor()
        cursor.row_factory = None  # plain tuples: there can be thousands of them
        rows = cursor.execute(query).fetchall()
        jobs = [QueuedJob._make(row[1:]) for row in rows]
        query = "SELECT started_at FROM jobs WHERE token = ? AND status != 'in_queue' ORDER BY started_at DESC LIMIT 1"
        served = {}
        for token in {job.token for job in jobs}:
            row = database.execute(query, (token,)).fetchone()
            if row is not None and row[0] is not None:
                served[token] = row[0]
        ordered = in_order(jobs, served, _priorities(database), now=now, max_wait_s=self._max_wait_s)
        return ordered, {job.id: row[0] * NUMBERS for job, row in zip(jobs, rows, strict=True)}

    @_reads
    def count(self, database: sqlite3.Connection, token: str | None = None, status: Status | None = None) -> int:
        return _count(database, token, status)

    @_reads
    def newest(
        self,
        database: sqlite3.Connection,
        token: str,
        limit: int,
        *,
        status: Status | None = None,
        before: Job | None = None,
    ) -> list[Job]:
        given: dict[str, tuple[str | float, ...]] = {"token = ?": (token,)}
        if status is not None:
            given["status = ?"] = (status,)
        if before is not None:
            given["(created_at, id) < (?, ?)"] = (before.created_at, before.id)
        query = (
            f"SELECT * FROM jobs WHERE expired = 0 AND {' AND '.join(given)} "  # noqa: S608
            "ORDER BY created_at DESC, id DESC LIMIT ?"
        )
        values = [value for part in given.values() for value in part]
        return [_job(row) for row in database.execute(query, (*values, limit))]

    @functools.partial(_reads, whole_queue=True)
    def _read_states(self, database: sqlite3.Connection) -> dict[str, State]:
        return states_of(*self._look_at_queue(database))

    @_writes
    def assign(
        self, database: sqlite3.Connection, job_id: str, worker: str | None = None, *, name: str | None = None
    ) -> bool:
        attempt = _get(database, job_id).attempt + 1
        started = {"status": "in_progress", "started_at": time.time(), "attempt": attempt, "worker": worker, "dirty": 1}
        assigned = _change(database, job_id, ("in_queue",), **started)
        if assigned:
            _note(database, job_id, worker=name or worker)
            _tell(database, job_id, "in_progress")
        return assigned

    @_writes
    def mark_sent(self, database: sqlite3.Connection, job_id: str, *, attempt: int | None = None) -> None:
        if not _superseded(database, job_id, attempt):
            _change(database, job_id, ("in_progress",), sent=1)

    @functools.partial(_writes, durable=False)
    def report(
        self, database: sqlite3.Connection, job_id: str, progress: Mapping[str, Any], *, attempt: int | None = None
    ) -> None:
        if not _superseded(database, job_id, attempt):
            _change(database, job_id, ("in_progress",), progress=json.dumps(dict(progress)))

    @functools.partial(_writes, moves_queue=True)
    def requeue(
        self,
        database: sqlite3.Connection,
        job_id: str,
        *,
        attempt: int | None = None,
        reason: str | None = None,
        died: bool = True,
    ) -> None:
        job = _get(database, job_id)
        if _superseded(database, job_id, attempt):
            return
        if job.cancel_requested:
            _end(database, job_id, "cancelled")
            return
        waits = {"status": "in_queue", "worker": None, "sent": 0, "progress": None}
        detail = {**job.detail, DEATHS: job.deaths + (died and job.ran)}
        if _change(database, job_id, ("in_progress",), **waits, detail=json.dumps(detail)):
            _note(database, job_id, reason=reason)

    @_writes
    def end(
        self,
        database: sqlite3.Connection,
        job_id: str,
        status: Status,
        *,
        error: str | None = None,
        output: Mapping[str, str] | None = None,
        detail: Mapping[str, Any] | None = None,
        attempt: int | None = None,
    ) -> bool:
        job = _get(database, job_id)
        if _superseded(database, job_id, attempt):
            return False
        if job.cancel_requested:
            status, error, output = "cancelled", None, None
        result = {"error": error, "output": json.dumps(dict(output)) if output is not None else None}
        return _end(database, job_id, status, **result, detail=json.dumps({**job.detail, **(detail or {})}))

    @functools.partial(_writes, moves_queue=True)
    def cancel(self, database: sqlite3.Connection, job_id: str) -> CancelOutcome:
        job = _get(database, job_id)
        if job.finished:
            return "finished"
        if job.status == "in_queue":
            _end(database, job_id, "cancelled", reason=CANCEL_REASON)
            return "cancelled"
        if not job.cancel_requested:
            _change(database, job_id, ("in_progress",), cancel_requested=1)
            _note(database, job_id, reason=CANCEL_REASON)
        return "cancelling"

    @_reads
    def leftovers(self, database: sqlite3.Connection) -> list[Job]:
        query = "SELECT * FROM jobs WHERE dirty = 1 AND finished_at IS NOT NULL ORDER BY finished_at"
        return [_job(row) for row in database.execute(query)]

    @_writes
    def mark_clean(self, database: sqlite3.Connection, job_id: str, *, attempt: int | None = None) -> None:
        query = "UPDATE jobs SET dirty = 0 WHERE id = ? AND finished_at IS NOT NULL AND attempt = ifnull(?, attempt)"
        database.execute(query, (job_id, attempt))

    @_reads
    def unexpired(self, database: sqlite3.Connection) -> list[tuple[str, float]]:
        query = "SELECT id, finished_at FROM jobs WHERE expired = 0 AND finished_at IS NOT NULL ORDER BY finished_at"
        return [(row[0], row[1]) for row in database.execute(query)]

    async def expire(self, job_ids: Iterable[str]) -> None:
        job_ids = list(job_ids)
        for first in range(0, len(job_ids), _EXPIRED_AT_ONCE):
            await self._expire(job_ids[first : first + _EXPIRED_AT_ONCE])

    @_writes
    def _expire(self, database: sqlite3.Connection, job_ids: list[str]) -> None:
        for job_id in job_ids:
            _get(database, job_id)
            blank = {"expired": 1, "output": None, "values": "{}", "inputs": "{}"}
            if _change(database, job_id, ("succeeded", "failed", "cancelled"), **blank):
                database.execute("DELETE FROM idempotency WHERE job_id = ?", (job_id,))

    @_reads
    def tokens(self, database: sqlite3.Connection) -> list[Token]:
        return _tokens(database, "ORDER BY created_at, name")

    @_finds
    def find_token(self, database: sqlite3.Connection, token_hash: str) -> Token | None:
        return next(iter(_tokens(database, "WHERE hash = ?", token_hash)), None)

    @_finds
    def find_token_by_id(self, database: sqlite3.Connection, token_id: str) -> Token | None:
        return next(iter(_tokens(database, "WHERE id = ?", token_id)), None)

    @_writes
    def add_token(self, database: sqlite3.Connection, token: Token) -> bool:
        query = "INSERT OR IGNORE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)"
        *row, operator = astuple(token)
        if database.execute(query, row).rowcount == 0:
            return False
        if operator:
            database.execute("INSERT INTO operators VALUES (?)", (token.id,))
        return True

    @_reads
    def priorities(self, database: sqlite3.Connection) -> dict[str, Priority]:
        return _priorities(database)

    @functools.partial(_writes, moves_queue=True)
    def set_priority(self, database: sqlite3.Connection, name: str, priority: Priority) -> bool:
        query = "INSERT OR REPLACE INTO priorities SELECT id, ? FROM tokens WHERE name = ?"
        return database.execute(query, (priority, name)).rowcount == 1

    @functools.partial(_writes, moves_queue=True)
    def revoke_token(self, database: sqlite3.Connection, name: str) -> bool:
        database.execute("DELETE FROM priorities WHERE token = (SELECT id FROM tokens WHERE name = ?)", (name,))
        database.execute("DELETE FROM operators WHERE token = (SELECT id FROM tokens WHERE name = ?)", (name,))
        return database.execute("DELETE FROM tokens WHERE name = ?", (name,)).rowcount == 1

    @_writes
    def add_file(self, database: sqlite3.Connection, file: StoredFile, max_bytes: int) -> float | None:
        query = "SELECT coalesce(sum(size), 0), coalesce(min(created_at), 0) FROM files WHERE token = ?"
        size, oldest = database.execute(query, (file.token,)).fetchone()
        if size + file.size > max_bytes:
            return float(oldest)
        database.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", astuple(file))
        return None

    @_reads
    def get_file(self, database: sqlite3.Connection, file_id: str) -> StoredFile | None:
        row = database.execute("SELECT * FROM files WHERE id = ?", (file_id,)).fetchone()
        return StoredFile(*row) if row is not None else None

    @_reads
    def files(self, database: sqlite3.Connection) -> list[StoredFile]:
        return [StoredFile(*row) for row in database.execute("SELECT * FROM files ORDER BY created_at, id")]

    @_writes
    def remove_file(self, database: sqlite3.Connection, file_id: str) -> None:
        database.execute("DELETE FROM files WHERE id = ?", (file_id,))

    @_reads
    def inputs_in_use(self, database: sqlite3.Connection) -> set[str]:
        rows = database.execute("SELECT inputs FROM jobs WHERE status IN ('in_queue', 'in_progress')")
        return {name for row in rows for name in json.loads(row[0]).values()}

    @_reads
    def models(self, database: sqlite3.Connection) -> list[ModelContract]:
        rows = database.execute("SELECT model FROM models ORDER BY added_at, id")
        return [from_data(json.loads(row[0])) for row in rows]

    @_writes
    def add_model(self, database: sqlite3.Connection, model: ModelContract) -> bool:
        row = model.model_id, model.added_at, json.dumps(to_data(model))
        return database.execute("INSERT OR IGNORE INTO models VALUES (?, ?, ?)", row).rowcount == 1

    @_writes
    def remove_model(self, database: sqlite3.Connection, model_id: str) -> bool:
        return database.execute("DELETE FROM models WHERE id = ?", (model_id,)).rowcount == 1

    @_writes
    def due_webhooks(
        self,
        database: sqlite3.Connection,
        now: float,
        *,
        lease_s: float = 60.0,
        wanted: Callable[[Webhook], bool] = lambda _: True,
    ) -> list[Webhook]:
        query = (
            "SELECT job_id, url, secret, base_url, attempts, first_at, token, "
            "substr(tells, 1, instr(tells || ' ', ' ') - 1) FROM webhooks "
            "JOIN jobs ON jobs.id = job_id WHERE due_at <= ? ORDER BY due_at"
        )
        webhooks = [webhook for row in database.execute(query, (now,)) if wanted(webhook := Webhook(*row))]
        for webhook in webhooks:
            database.execute("UPDATE webhooks SET due_at = ? WHERE job_id = ?", (now + lease_s, webhook.job_id))
        return webhooks

    @_writes
    def retry_webhook(self, database: sqlite3.Connection, job_id: str, due_at: float) -> None:
        database.execute("UPDATE webhooks SET attempts = attempts + 1, due_at = ? WHERE job_id = ?", (due_at, job_id))

    @_writes
    def next_webhook(self, database: sqlite3.Connection, job_id: str) -> None:
        query = "UPDATE webhooks SET tells = ltrim(substr(tells, instr(tells || ' ', ' '))) WHERE job_id = ?"
        database.execute(query, (job_id,))
        query = "UPDATE webhooks SET due_at = CASE tells WHEN '' THEN NULL ELSE ? END WHERE job_id = ?"
        database.execute(query, (time.time(), job_id))

    @_writes
    def remove_webhook(self, database: sqlite3.Connection, job_id: str) -> None:
        database.execute("DELETE FROM webhooks WHERE job_id = ?", (job_id,))

    @functools.partial(_writes, durable=False)
    def check(self, database: sqlite3.Connection) -> None:
        database.execute("SELECT count(*) FROM jobs WHERE status = 'in_progress'").fetchone()
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")  # writes a page, though it is the same

    @functools.partial(_writes, durable=False)
    def set_health(self, database: sqlite3.Connection, health: Health) -> None:
        database.execute("INSERT OR REPLACE INTO health VALUES (1, ?)", (json.dumps(asdict(health)),))

    @_finds
    def health(self, database: sqlite3.Connection) -> Health:
        row = database.execute("SELECT health FROM health").fetchone()
        return Health(**json.loads(row[0])) if row is not None else Health()

    @functools.partial(_writes, durable=False)
    def set_workers(self, database: sqlite3.Connection, workers: Iterable[WorkerState]) -> None:
        states = {worker.name: _worker_text(worker) for worker in workers}
        known = dict(map(tuple, database.execute("SELECT name, state FROM workers")))
        gone = [(name,) for name in known if name not in states]
        database.executemany("DELETE FROM workers WHERE name = ?", gone)
        query = (
            "INSERT INTO workers (name, state) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET state = excluded.state"
        )
        changed = [(name, state) for name, state in states.items() if known.get(name) != state]
        database.executemany(query, changed)

    @_reads
    def workers(self, database: sqlite3.Connection) -> list[WorkerState]:
        rows = database.execute("SELECT state, drained FROM workers ORDER BY rowid")
        return [_worker(state, bool(drained)) for state, drained in rows]

    async def lead(self, holder: str) -> bool:
        lock = self._leading.get(holder)
        if lock is None:
            lock = self._leading[holder] = FileLock(self._lead_lock, timeout=0, mode=0o600)
        if not lock.is_locked:
            try:
                lock.acquire()
            except Timeout:
                return False
        return True

    async def resign(self, holder: str) -> None:
        if (lock := self._leading.pop(holder, None)) is not None:
            lock.release()

    @_writes
    def drain(self, database: sqlite3.Connection, worker: str, *, drained: bool = True) -> bool:
        query = "UPDATE workers SET drained = ? WHERE name = ?"
        return database.execute(query, (drained, worker)).rowcount == 1


class _Thread:
    """One thread with one connection; does work in the order of the calls."""

    def __init__(self, path: Path) -> None:
        self._database = _connect(path)
        self._thread = ThreadPoolExecutor(1, "wan-flf2v-store")

    async def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do the work and return its result. A cancelled call waits until the work is done."""
        try:
            future = asyncio.wrap_future(self._thread.submit(work, self._database))
        except RuntimeError as error:
            raise StoreError("The store is closed.") from error
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            raise
        except sqlite3.Error as error:
            raise _store_error(error) from error

    def close(self) -> None:
        """Finish the work that was given and take no more."""
        self._thread.shutdown()
        self._database.close()


class _Finder:
    """One connection for work of microseconds, in whatever thread calls; it waits for no writer."""

    def __init__(self, path: Path) -> None:
        self._database = _connect(path, timeout_s=_FINDER_TIMEOUT_S)
        self._lock = threading.Lock()

    def run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do the work and return its result."""
        try:
            with self._lock:
                return work(self._database)
        except sqlite3.Error as error:
            raise _store_error(error) from error

    def close(self) -> None:
        """Take no more work."""
        with self._lock:
            self._database.close()


def _store_error(error: sqlite3.Error) -> StoreError:
    kind = StoreFullError if "disk is full" in str(error) else StoreError  # Python 3.10 tells no code
    return kind(f"The store cannot be used: {error}")


def _connect(path: Path, *, timeout_s: float = _BUSY_TIMEOUT_S) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=timeout_s, isolation_level=None, check_same_thread=False)
    database.row_factory = sqlite3.Row
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA foreign_keys=ON")
    database.execute("PRAGMA cache_size=-1024")  # KiB of four connections each: the system keeps the file in memory too
    return database


def _create(path: Path) -> None:
    """Create the tables if the file is new; raise ``StoreFileError`` if it has others."""
    database = _connect(path)
    try:
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]  # 0.3 s for 100,000 jobs
        if found != "ok":
            raise sqlite3.DatabaseError(found.splitlines()[-1])
        database.execute("BEGIN IMMEDIATE")
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, SCHEMA_VERSION):
            raise StoreFileError(
                f"{path} has schema {found}; this version of wan-flf2v knows schema {SCHEMA_VERSION} only. "
                f"{remedy(found, SCHEMA_VERSION)}, or use another data folder."
            )
        if found == 0 and database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise StoreFileError(f"{path} is a database of another program. Move it away, or use another data folder.")
        for statement in _SCHEMA.split(";"):  # executescript would commit the transaction
            database.execute(statement)
        database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        database.execute("COMMIT")
    finally:
        database.close()


@functools.lru_cache(1024)  # the dispatcher writes and reads those of all workers many times a second
def _worker_text(worker: WorkerState) -> str:
    return json.dumps(asdict(worker))


@functools.lru_cache(1024)
def _worker(state: str, drained: bool) -> WorkerState:
    return WorkerState(**(json.loads(state) | {"drained": drained}))


def _tokens(database: sqlite3.Connection, rest: str, *values: str) -> list[Token]:
    """Return tokens; ``rest`` is the query after the table's name."""
    query = f"SELECT tokens.*, id IN (SELECT token FROM operators) FROM tokens {rest}"  # noqa: S608
    return [replace(Token(*row), operator=bool(operator)) for *row, operator in database.execute(query, values)]


def _priorities(database: sqlite3.Connection) -> dict[str, Priority]:
    return dict(map(tuple, database.execute("SELECT token, priority FROM priorities")))


def _find(database: sqlite3.Connection, job_id: str) -> Job | None:
    row = database.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return _job(row) if row is not None else None


def _get(database: sqlite3.Connection, job_id: str) -> Job:
    job = _find(database, job_id)
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


def _submitted_before(database: sqlite3.Connection, token: str, idempotency: tuple[str, str]) -> Job | None:
    key, body_hash = idempotency
    query = "SELECT body_hash, job_id FROM idempotency WHERE token = ? AND key = ?"
    row = database.execute(query, (token, key)).fetchone()
    if row is None:
        return None
    if row["body_hash"] != body_hash:
        raise IdempotencyConflictError
    return _get(database, row["job_id"])


def _count(database: sqlite3.Connection, token: str | None, status: Status | None) -> int:
    given = {name: value for name, value in (("token", token), ("status", status)) if value is not None}
    condition = " AND ".join(f"{name} = ?" for name in given) or "1"
    query = f"SELECT count(*) FROM jobs WHERE {condition}"  # noqa: S608
    return int(database.execute(query, tuple(given.values())).fetchone()[0])


def _superseded(database: sqlite3.Connection, job_id: str, attempt: int | None) -> bool:
    """Return whether a job's present attempt is another one."""
    return attempt not in (None, _get(database, job_id).attempt)


def _change(database: sqlite3.Connection, job_id: str, statuses: tuple[str, ...], **columns: Any) -> bool:
    """Set columns of a job that is in one of ``statuses``; returns whether it was."""
    setting = ", ".join(f'"{name}" = ?' for name in columns)
    marks = ", ".join("?" for _ in statuses)
    query = f"UPDATE jobs SET {setting}, version = version + 1 WHERE id = ? AND status IN ({marks})"  # noqa: S608
    return database.execute(query, (*columns.values(), job_id, *statuses)).rowcount == 1


def _end(
    database: sqlite3.Connection, job_id: str, status: Status, *, reason: str | None = None, **columns: Any
) -> bool:
    ended = _change(database, job_id, UNFINISHED, status=status, finished_at=time.time(), **columns)
    if ended:
        _note(database, job_id, reason=reason or columns.get("error"))
        _tell(database, job_id, "end")
    return ended


def _history(database: sqlite3.Connection, job_id: str) -> list[Transition]:
    query = "SELECT at, status, attempt, worker, reason FROM transitions WHERE job_id = ? ORDER BY rowid"
    return [Transition(*row) for row in database.execute(query, (job_id,))]


def _note(database: sqlite3.Connection, job_id: str, *, worker: str | None = None, reason: str | None = None) -> None:
    """Add the state that a job has now to its history."""
    before = _history(database, job_id)
    entry = transition(_get(database, job_id), before[-1] if before else None, worker, reason)
    database.execute("INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?)", (job_id, *entry))


def _tell(database: sqlite3.Connection, job_id: str, news: str) -> None:
    """Let a job's webhook tell these news after those that it has not told yet: now, if there are none."""
    now = time.time()
    query = (
        "UPDATE webhooks SET tells = ltrim(tells || ' ' || ?), first_at = ?, due_at = coalesce(due_at, ?) "
        "WHERE job_id = ? AND (every_status = 1 OR ? = 'end')"
    )
    database.execute(query, (news, now, now, job_id, news))
