"""The job store on NATS JetStream that the gateways of a fleet share: its subjects, its records and their transitions.

Each transition is one atomic batch, which is refused if a record in it was changed meanwhile (``jetstream.Stream``).
Below the prefix ``wf``, a record's subject is:

``now.job.TOKEN.open.ID``      a job that waits or runs, and
``done.job.TOKEN.STATUS.ID``   one that ended: never both, so that ``*.job.*.*.ID`` finds it in one read
``now.count.TOKEN``            how many of a token's jobs wait, and when one was started last
``now.hook.ID``                a webhook
``now.left.ID``                an ended job that may have left something on its worker
``now.token.HASH``             a token, and ``name.NAME`` its hash
``now.priority.TOKEN``         a token's priority
``now.model.ID``               a model that an operator added
``idem.TOKEN.SHA256``          an idempotency key
``file.TOKEN.ID``              an uploaded file, and ``uploads.TOKEN`` the sum of their sizes
``fact.NAME``                  health, workers, who dispatches, and the secrets that all gateways sign with

What lies below ``now`` is small and kept in memory (``jetstream.View``), and of each job that ended and has not expired
its id and its end (``jetstream_ended``). A job's number is the sequence number of its first record.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from ...contract.added import from_data, to_data
from ...contract.parameters import ModelContract
from ..durable import read_secret, write_durably
from ..settings import NatsAccess
from .jetstream import Record, Stream, Transaction, View
from .jetstream_blobs import JetStreamBlobs
from .jetstream_ended import EndedJobs
from .jetstream_progress import ProgressNews
from .queue import FollowingStore, State, in_order, states_of
from .records import (
    DEATHS,
    NUMBER,
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
)

_TELL_S = 0.25  # how long changes are gathered that follow each other
_LEAD_TTL_S = 6  # how long a dispatcher that fell silent keeps its right
_LEAD_KEPT_S = 2.0  # how long it relies on it without asking again
_EXPIRED_TTL_S = 7 * 86400  # how long an expired job is still known
_WORD = re.compile(r"[A-Za-z0-9_-]{1,100}")
_LOG = logging.getLogger("wan_flf2v.gateway")

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _on_stream(
    work: Callable[Concatenate[JetStreamStore, _P], Coroutine[Any, Any, _T]],
) -> Callable[Concatenate[JetStreamStore, _P], Coroutine[Any, Any, _T]]:
    """Make a method run on the stream's own loop, whichever loop calls it."""

    async def call(self: JetStreamStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await self._stream.run(lambda: work(self, *args, **kwargs))

    return call


def _transaction(
    work: Callable[Concatenate[JetStreamStore, Transaction, _P], Coroutine[Any, Any, _T]],
    *,
    waits: bool = True,
    moves_queue: bool = False,
) -> Callable[Concatenate[JetStreamStore, _P], Coroutine[Any, Any, _T]]:
    """Make a method one transaction on the stream's own loop; it is done again if another writer was faster.

    With ``waits=False`` it does not wait for the other transactions of this process. ``moves_queue`` says that waiting
    jobs may have another position afterwards, which who asks is to see at once. Starts and ends are left out:
    there are many in a second, and half a second later is soon enough.
    """

    async def call(self: JetStreamStore, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        async def go() -> _T:
            return await self._stream.transact(
                lambda transaction: work(self, transaction, *args, **kwargs), waits=waits
            )

        try:
            return await self._stream.run(go)
        finally:
            if moves_queue:
                self._moved()

    return call


class _Stored(NamedTuple):
    """A job as its record holds it, with its history, its idempotency key's subject, and whether there is a webhook."""

    job: Job
    idempotency: str | None
    has_webhook: bool
    history: tuple[Transition, ...] = ()

    def noted(self, worker: str | None = None, reason: str | None = None) -> _Stored:
        """Add the state that the job has now to its history."""
        before = self.history[-1] if self.history else None
        return self._replace(history=(*self.history, transition(self.job, before, worker, reason)))


class JetStreamStore(FollowingStore):
    """``Store`` on a stream of NATS (``jetstream.Stream``). ``max_wait_s`` is that of ``queue.in_order``.

    The constructor blocks. It raises ``StoreFileError``.
    """

    blobs: JetStreamBlobs
    look_s = 1.0

    def __init__(self, access: NatsAccess, *, max_wait_s: float = math.inf) -> None:
        super().__init__()
        self._stream = Stream(access)
        try:
            self.blobs = JetStreamBlobs(access)
        except BaseException:
            self._stream.close()
            raise
        self._prefix = self._stream.prefix
        self._now = View(self._stream, self._subject("now", ">"), self._decode)
        self._ended = EndedJobs(self._stream, self._subject("done", "job", ">"))
        self._max_wait_s = max_wait_s
        self._led: dict[str, float] = {}  # holder -> when it was last seen to have the right to dispatch
        self._listeners: list[tuple[asyncio.AbstractEventLoop, Callable[[], None]]] = []
        self._hears = False
        self._heard_at = self._ordered_at = self._spread_at = -math.inf
        self._order: tuple[tuple[QueuedJob, ...], dict[str, Job]] = (), {}
        self._progress = ProgressNews(self._stream, self._spread)
        self._telling: asyncio.TimerHandle | None = None

    async def close(self) -> None:
        await asyncio.to_thread(self.blobs.close)
        await asyncio.to_thread(self._stream.close)

    @contextlib.contextmanager
    def telling(self, told: Callable[[], None]) -> Iterator[None]:
        if not self._hears:
            self._hears = True
            self._stream.begin(lambda: self._stream.hear(self._subject("now", ">"), self._heard))
            self._stream.begin(self._progress.hear)
        listener = asyncio.get_running_loop(), told
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        self._spread()

    def _spread(self) -> None:
        """Tell that there is something new: at once, or a moment after it was told last."""
        if self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_at(max(loop.time(), self._spread_at + _TELL_S), self._tell_listeners)

    def _tell_listeners(self) -> None:
        self._telling, self._spread_at = None, asyncio.get_running_loop().time()
        self._told_at = time.monotonic()
        for loop, told in tuple(self._listeners):
            with contextlib.suppress(RuntimeError):  # that loop has ended
                loop.call_soon_threadsafe(told)

    def secret(self, path: Path, new: bytes) -> bytes:
        own = read_secret(path, new)
        shared = self._stream.wait(lambda: self._share_secret(path.stem, own))
        if shared != own:
            _LOG.info("the secret of the other gateways takes the place of the one in file=%s", path)
            write_durably(path, shared)
        return shared

    async def _share_secret(self, name: str, own: bytes) -> bytes:
        """Return a secret of the fleet: ``own``, unless another gateway was faster."""

        async def share(transaction: Transaction) -> str:
            subject = self._subject("fact", name)
            shared: str = await transaction.read(subject) or own.hex()
            transaction.write(subject, shared)
            return shared

        return bytes.fromhex(await self._stream.transact(share))

    @_on_stream
    async def back_up(self, copy: Path) -> None:
        await self._stream.back_up(copy)

    @_on_stream
    async def restore(self, copy: Path) -> None:
        """Put what ``back_up`` wrote in the place of an empty store; ``StoreFileError`` if it is not, or is used."""
        records = await self._stream.count(self._subject(">")) - await self._stream.count(self._subject("fact", ">"))
        if records:
            raise StoreFileError(
                f"The stream {self._stream.name} has {records} records already. Delete it with `nats stream rm "
                f"{self._stream.name}`, or give another --nats."
            )
        leader = await self._stream.last(self._subject("fact", "dispatcher"))
        if leader is not None and leader.data is not None:
            raise StoreFileError("A gateway runs with this store. Stop all gateways of the fleet first.")
        await self._stream.restore(copy)

    # Jobs

    async def submit(self, submission: Submission) -> Job:
        job = await self._submit(submission)
        stored: Job | None = job
        if job.number == 0:
            with contextlib.suppress(StoreError):  # it was accepted, though it cannot be read now
                stored = await self.get(job.id)
        return replace(job, number=stored.number) if stored is not None else job

    @_transaction
    async def _submit(self, transaction: Transaction, new: Submission) -> Job:
        key = None
        if new.idempotency is not None:
            key = self._idempotency_subject(new.token, new.idempotency[0])
            earlier = await self._submitted_before(transaction, key, new.idempotency[1])
            if earlier is not None:
                return earlier
        if await transaction.find(self._job_subject(new.id)) is not None:
            raise StoreError(f"There is already a request {new.id}.")
        count = await self._read_count(transaction, new.token)
        if new.queue_limit is not None and count["waiting"] >= new.queue_limit:
            raise QueueFullError
        job = Job(
            id=new.id, number=0, token=new.token, model_id=new.model_id, values=dict(new.values),
            inputs=dict(new.inputs), status="in_queue", cancel_requested=False, attempt=0, worker=None, sent=False,
            dirty=False, error=None, output=None, created_at=time.time(), started_at=None, finished_at=None,
            progress=None, detail={}, version=1, expired=False,
        )  # fmt: skip
        self._write_job(transaction, _Stored(job, key, new.webhook is not None).noted())
        self._write_count(transaction, new.token, count, 1)
        if key is not None and new.idempotency is not None:
            transaction.write(key, {"body_hash": new.idempotency[1], "job_id": new.id})
        if new.webhook is not None:
            hook: dict[str, Any] = {
                "url": new.webhook, "secret": new.webhook_secret, "base_url": new.base_url, "token": new.token,
                "every_status": new.webhook_every_status, "tells": [], "attempts": 0, "first_at": None, "due_at": None,
            }  # fmt: skip
            transaction.write(self._subject("now", "hook", new.id), _told(hook, "in_queue"))
        return job

    @_transaction
    async def adopt(self, transaction: Transaction, unfinished: Unfinished) -> bool:
        """Keep a job of another store as it is, but with a new number; ``False`` if it is here already."""
        job, hook, key = unfinished.job, unfinished.webhook, None
        if await transaction.find(self._job_subject(job.id)) is not None:
            return False
        if unfinished.idempotency is not None:
            subject = self._idempotency_subject(job.token, unfinished.idempotency[0])
            if await transaction.find(subject) is None:
                key = subject
                transaction.write(key, {"body_hash": unfinished.idempotency[1], "job_id": job.id})
        self._write_job(transaction, _Stored(replace(job, number=0), key, hook is not None, unfinished.history))
        if job.status == "in_queue":
            self._write_count(transaction, job.token, await self._read_count(transaction, job.token), 1)
        if hook is not None:
            transaction.write(self._subject("now", "hook", job.id), hook)
        return True

    @_transaction
    async def submitted_before(self, transaction: Transaction, token: str, idempotency: tuple[str, str]) -> Job | None:
        key, body_hash = idempotency
        return await self._submitted_before(transaction, self._idempotency_subject(token, key), body_hash)

    async def _submitted_before(self, transaction: Transaction, key: str, body_hash: str) -> Job | None:
        earlier = await transaction.read(key)
        if earlier is None:
            return None
        if earlier["body_hash"] != body_hash:
            raise IdempotencyConflictError
        return (await self._read_job(transaction, earlier["job_id"])).job

    @_on_stream
    async def get(self, job_id: str) -> Job | None:
        return await self._read(job_id)

    async def _read(self, job_id: str) -> Job | None:
        record = await self._stream.last(self._job_subject(job_id))
        return self._progress.newest(_stored(record).job) if record is not None and record.data is not None else None

    @_on_stream
    async def history(self, job_id: str) -> list[Transition]:
        record = await self._stream.last(self._job_subject(job_id))
        return list(_stored(record).history) if record is not None and record.data is not None else []

    @_on_stream
    async def queue(self) -> tuple[QueuedJob, ...]:
        return (await self._ordered())[0]

    @_on_stream
    async def running(self) -> list[QueuedJob]:
        jobs = [_queued(job) for job in await self._open_jobs() if job.status == "in_progress"]
        return sorted(jobs, key=lambda job: job.number)

    @_on_stream
    async def _read_states(self) -> Mapping[str, State]:
        began = time.monotonic()
        if self._ordered_at <= max(self._heard_at, self._moved_at, began - self.look_s):  # else only progress is new
            self._order, self._ordered_at = await self._ordered(), began
        queue, jobs = self._order
        return states_of(queue, {job_id: self._progress.newest(job).stamp for job_id, job in jobs.items()})

    @_on_stream
    async def _read_changed(self, job_id: str) -> Job | None:
        job = self._order[1].get(job_id)
        return self._progress.newest(job) if job is not None else await self._read(job_id)

    async def _ordered(self) -> tuple[tuple[QueuedJob, ...], dict[str, Job]]:
        """Return all unfinished jobs in order, and each by its id."""
        kept = await self._now.look()
        jobs, counts, priorities = (self._of_kind(kept, kind) for kind in ("job", "count", "priority"))
        served = {count["token"]: count["served_at"] for count in counts.values() if count["served_at"] is not None}
        now, queued = time.time(), map(_queued, jobs.values())
        ordered = in_order(queued, served, priorities, now=now, max_wait_s=self._max_wait_s)
        return ordered, {job.id: job for job in jobs.values()}

    @_on_stream
    async def count(self, token: str | None = None, status: Status | None = None) -> int:
        count = 0
        if status is None or status in UNFINISHED:
            jobs = await self._open_jobs()
            count += sum(token in (None, job.token) and status in (None, job.status) for job in jobs)
        if status not in UNFINISHED:
            of = "*" if token is None else _word(token)
            count += await self._stream.count(self._subject("done", "job", of, status or "*", "*"))
        return count

    @_on_stream
    async def newest(
        self, token: str, limit: int, *, status: Status | None = None, before: Job | None = None
    ) -> list[Job]:
        below = before.id if before is not None else None
        jobs = {job.id: job for job in await self._open_jobs() if job.token == token and status in (None, job.status)}
        ids = [job_id for job_id in jobs if below is None or job_id < below]
        if status not in UNFINISHED:  # read after the open ones: a job that ends in between is in both
            await self._ended.refresh()
            ids += self._ended.newest(_word(token), limit, status, below)
        page = sorted(set(ids), reverse=True)[:limit]
        ended = [job_id for job_id in page if job_id in self._ended.ended_at or job_id not in jobs]
        jobs |= {job.id: job for job in await asyncio.gather(*map(self._read, ended)) if job is not None}
        whole = [jobs.get(job_id) for job_id in page]
        return [job for job in whole if job is not None and not job.expired]  # it may expire meanwhile

    @_transaction
    async def assign(
        self, transaction: Transaction, job_id: str, worker: str | None = None, *, name: str | None = None
    ) -> bool:
        stored = await self._read_job(transaction, job_id)
        if stored.job.status != "in_queue":
            return False
        count, now = await self._read_count(transaction, stored.job.token), time.time()
        started = {"status": "in_progress", "started_at": now, "attempt": stored.job.attempt + 1}
        started_job = _changed(stored, **started, worker=worker, dirty=True)
        self._write_job(transaction, started_job.noted(name or worker))
        self._write_count(transaction, stored.job.token, count | {"served_at": now}, -1)
        await self._tell(transaction, stored, "in_progress")
        return True

    @_transaction
    async def mark_sent(self, transaction: Transaction, job_id: str, *, attempt: int | None = None) -> None:
        stored = await self._read_job(transaction, job_id)
        if stored.job.status == "in_progress" and attempt in (None, stored.job.attempt):
            self._write_job(transaction, _changed(stored, sent=True))

    @_on_stream
    async def report(self, job_id: str, progress: Mapping[str, Any], *, attempt: int | None = None) -> None:
        if attempt is not None and await self._progress.say(job_id, attempt, progress):
            return

        async def write(transaction: Transaction) -> Job | None:
            stored = await self._read_job(transaction, job_id)
            if stored.job.status != "in_progress" or attempt not in (None, stored.job.attempt):
                return None
            number = {NUMBER: (stored.job.version + 1) * NUMBERS} if attempt is not None else {}
            changed = _changed(stored, progress={**progress, **number})
            self._write_job(transaction, changed)
            return changed.job

        job = await self._stream.transact(write)
        if attempt is not None and job is not None:
            self._progress.written(job)

    @functools.partial(_transaction, moves_queue=True)
    async def requeue(
        self,
        transaction: Transaction,
        job_id: str,
        *,
        attempt: int | None = None,
        reason: str | None = None,
        died: bool = True,
    ) -> None:
        stored = await self._read_job(transaction, job_id)
        job = stored.job
        if job.status != "in_progress" or attempt not in (None, job.attempt):
            return
        if job.cancel_requested:
            await self._end(transaction, stored, "cancelled")
            return
        detail = {**job.detail, DEATHS: job.deaths + (died and job.ran)}
        waiting = _changed(stored, status="in_queue", worker=None, sent=False, progress=None, detail=detail)
        self._write_job(transaction, waiting.noted(reason=reason))
        self._write_count(transaction, job.token, await self._read_count(transaction, job.token), 1)

    @_transaction
    async def end(
        self,
        transaction: Transaction,
        job_id: str,
        status: Status,
        *,
        error: str | None = None,
        output: Mapping[str, str] | None = None,
        detail: Mapping[str, Any] | None = None,
        attempt: int | None = None,
    ) -> bool:
        stored = await self._read_job(transaction, job_id)
        if stored.job.finished or attempt not in (None, stored.job.attempt):
            return False
        if stored.job.cancel_requested:
            status, error, output = "cancelled", None, None
        result: dict[str, Any] = {"error": error, "output": dict(output) if output is not None else None}
        await self._end(transaction, stored, status, **result, detail={**stored.job.detail, **(detail or {})})
        return True

    @functools.partial(_transaction, moves_queue=True)
    async def cancel(self, transaction: Transaction, job_id: str) -> CancelOutcome:
        stored = await self._read_job(transaction, job_id)
        if stored.job.finished:
            return "finished"
        if stored.job.status == "in_queue":
            await self._end(transaction, stored, "cancelled", reason=CANCEL_REASON)
            return "cancelled"
        if not stored.job.cancel_requested:
            self._write_job(transaction, _changed(stored, cancel_requested=True).noted(reason=CANCEL_REASON))
        return "cancelling"

    @_on_stream
    async def leftovers(self) -> list[Job]:
        return sorted((await self._kept("left")).values(), key=lambda job: job.finished_at)

    @_transaction
    async def mark_clean(self, transaction: Transaction, job_id: str, *, attempt: int | None = None) -> None:
        with contextlib.suppress(KeyError):  # what it left may outlive the job's record
            stored = await self._read_job(transaction, job_id)
            if not stored.job.finished or attempt not in (None, stored.job.attempt):
                return
            self._write_job(transaction, stored._replace(job=replace(stored.job, dirty=False)))
        left = self._subject("now", "left", job_id)
        if await transaction.find(left) is not None:
            transaction.remove(left)

    @_on_stream
    async def unexpired(self) -> list[tuple[str, float]]:
        await self._ended.refresh()
        return sorted(self._ended.ended_at.items(), key=lambda job: job[1])

    async def expire(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            await self._expire(job_id)

    @_transaction
    async def _expire(self, transaction: Transaction, job_id: str) -> None:
        stored = await self._read_job(transaction, job_id)
        if not stored.job.finished:
            return
        blank: dict[str, Any] = {"expired": True, "output": None, "values": {}, "inputs": {}}
        self._write_job(transaction, _changed(stored, **blank)._replace(idempotency=None))
        if stored.idempotency is not None and await transaction.find(stored.idempotency) is not None:
            transaction.remove(stored.idempotency)

    # Parts of transitions

    async def _read_job(self, transaction: Transaction, job_id: str) -> _Stored:
        record = await transaction.find(self._job_subject(job_id))
        if record is None:
            raise KeyError(job_id)
        return _stored(record)

    def _write_job(self, transaction: Transaction, stored: _Stored) -> None:
        job = stored.job
        place = (
            ("done", "job", _word(job.token), job.status) if job.finished else ("now", "job", _word(job.token), "open")
        )
        ttl_s = _EXPIRED_TTL_S if job.expired else None
        transaction.write(self._subject(*place, _word(job.id)), _data(stored), ttl_s=ttl_s)

    async def _end(
        self, transaction: Transaction, before: _Stored, status: Status, *, reason: str | None = None, **fields: Any
    ) -> None:
        stored = _changed(before, status=status, finished_at=time.time(), **fields)
        stored, job = stored.noted(reason=reason or stored.job.error), stored.job
        transaction.remove(self._subject("now", "job", _word(job.token), "open", _word(job.id)))
        self._write_job(transaction, stored)
        if before.job.status == "in_queue":
            self._write_count(transaction, job.token, await self._read_count(transaction, job.token), -1)
        if job.dirty:
            transaction.write(self._subject("now", "left", job.id), _data(stored))
        await self._tell(transaction, stored, "end")

    async def _read_count(self, transaction: Transaction, token: str) -> dict[str, Any]:
        count = await transaction.read(self._subject("now", "count", _word(token)))
        return count or {"token": token, "waiting": 0, "served_at": None}

    def _write_count(self, transaction: Transaction, token: str, count: dict[str, Any], more: int) -> None:
        changed = {**count, "waiting": count["waiting"] + more}
        transaction.write(self._subject("now", "count", _word(token)), changed)

    async def _tell(self, transaction: Transaction, stored: _Stored, news: str) -> None:
        """Let a job's webhook tell these news after those that it has not told yet."""
        if not stored.has_webhook:
            return
        subject = self._subject("now", "hook", stored.job.id)
        hook = await transaction.read(subject)
        if hook is not None:
            transaction.write(subject, _told(hook, news))

    # Tokens

    @_on_stream
    async def tokens(self) -> list[Token]:
        return sorted((await self._kept("token")).values(), key=lambda token: (token.created_at, token.name))

    @_on_stream
    async def find_token(self, token_hash: str) -> Token | None:
        record = await self._stream.last(self._subject("now", "token", _word(token_hash)))
        return Token(**record.data) if record is not None and record.data is not None else None

    @_on_stream
    async def find_token_by_id(self, token_id: str) -> Token | None:
        return next((token for token in (await self._kept("token")).values() if token.id == token_id), None)

    @_transaction
    async def add_token(self, transaction: Transaction, token: Token) -> bool:
        by_hash, by_name = self._token_subjects(token.hash, token.name)
        if await transaction.find(by_hash) is not None or await transaction.find(by_name) is not None:
            return False
        data = asdict(token)
        if not token.operator:
            del data["operator"]  # an older gateway, which does not know the field, can read this token then
        transaction.write(by_hash, data)
        transaction.write(by_name, token.hash)
        return True

    @functools.partial(_transaction, moves_queue=True)
    async def revoke_token(self, transaction: Transaction, name: str) -> bool:
        token_hash = await transaction.read(self._token_subjects("", name)[1])
        if token_hash is None:
            return False
        by_hash, by_name = self._token_subjects(token_hash, name)
        token = await transaction.read(by_hash)
        await transaction.find(by_name)
        transaction.remove(by_hash)
        transaction.remove(by_name)
        priority = self._subject("now", "priority", _word(token["id"]))
        if await transaction.find(priority) is not None:
            transaction.remove(priority)
        return True

    @_on_stream
    async def priorities(self) -> dict[str, Priority]:
        return await self._kept("priority")

    @functools.partial(_transaction, moves_queue=True)
    async def set_priority(self, transaction: Transaction, name: str, priority: Priority) -> bool:
        token_hash = await transaction.read(self._token_subjects("", name)[1])
        if token_hash is None:
            return False
        token = await transaction.read(self._token_subjects(token_hash, name)[0])
        subject = self._subject("now", "priority", _word(token["id"]))
        await transaction.find(subject)
        transaction.write(subject, priority)
        return True

    # Uploaded files

    async def add_file(self, file: StoredFile, max_bytes: int) -> float | None:
        if await self._add_file(file, max_bytes):
            return None
        return min((other.created_at for other in await self.files() if other.token == file.token), default=0.0)

    @_transaction
    async def _add_file(self, transaction: Transaction, file: StoredFile, max_bytes: int) -> bool:
        subject, sum_subject = self._file_subjects(file.token, file.id)
        uploaded = (await transaction.read(sum_subject) or 0) + file.size
        if uploaded > max_bytes:
            return False
        transaction.write(subject, asdict(file))
        transaction.write(sum_subject, uploaded)
        return True

    @_on_stream
    async def get_file(self, file_id: str) -> StoredFile | None:
        record = await self._stream.last(self._file_subjects("*", file_id)[0])
        return StoredFile(**record.data) if record is not None and record.data is not None else None

    @_on_stream
    async def files(self) -> list[StoredFile]:
        found = View(self._stream, self._file_subjects("*", "*")[0], lambda record: StoredFile(**record.data))
        return sorted((await found.look()).values(), key=lambda file: (file.created_at, file.id))

    @_transaction
    async def remove_file(self, transaction: Transaction, file_id: str) -> None:
        record = await transaction.find(self._file_subjects("*", file_id)[0])
        if record is None:
            return
        sum_subject = self._file_subjects(record.data["token"], file_id)[1]
        transaction.write(sum_subject, (await transaction.read(sum_subject)) - record.data["size"])
        transaction.remove(record.subject)

    @_on_stream
    async def inputs_in_use(self) -> set[str]:
        return {name for job in await self._open_jobs() for name in job.inputs.values()}

    # Models

    @_on_stream
    async def models(self) -> list[ModelContract]:
        return sorted((await self._kept("model")).values(), key=lambda model: (model.added_at, model.model_id))

    @_transaction
    async def add_model(self, transaction: Transaction, model: ModelContract) -> bool:
        subject = self._subject("now", "model", _word(model.model_id))
        if await transaction.find(subject) is not None:
            return False
        transaction.write(subject, to_data(model))
        return True

    @_transaction
    async def remove_model(self, transaction: Transaction, model_id: str) -> bool:
        subject = self._subject("now", "model", _word(model_id))
        if await transaction.find(subject) is None:
            return False
        transaction.remove(subject)
        return True

    # Webhooks

    async def due_webhooks(
        self, now: float, *, lease_s: float = 60.0, wanted: Callable[[Webhook], bool] = lambda _: True
    ) -> list[Webhook]:
        due = await self._due(now, wanted)
        taken = await asyncio.gather(*(self._lease(hook.job_id, now, lease_s) for hook in due))
        return [hook for hook in taken if hook is not None]

    @_on_stream
    async def _due(self, now: float, wanted: Callable[[Webhook], bool]) -> list[Webhook]:
        hooks = await self._kept("hook")
        due = [(hook["due_at"], job_id) for job_id, hook in hooks.items() if _is_due(hook, now)]
        return [hook for _, job_id in sorted(due) if wanted(hook := _webhook(job_id, hooks[job_id]))]

    @_transaction
    async def _lease(self, transaction: Transaction, job_id: str, now: float, lease_s: float) -> Webhook | None:
        """Take one webhook; ``None`` if another process was faster."""
        subject = self._subject("now", "hook", job_id)
        hook = await transaction.read(subject)
        if hook is None or not _is_due(hook, now):
            return None
        transaction.write(subject, {**hook, "due_at": now + lease_s})
        return _webhook(job_id, hook)

    @_transaction
    async def retry_webhook(self, transaction: Transaction, job_id: str, due_at: float) -> None:
        subject = self._subject("now", "hook", job_id)
        hook = await transaction.read(subject)
        if hook is not None:
            transaction.write(subject, {**hook, "attempts": hook["attempts"] + 1, "due_at": due_at})

    @_transaction
    async def next_webhook(self, transaction: Transaction, job_id: str) -> None:
        subject = self._subject("now", "hook", job_id)
        hook = await transaction.read(subject)
        if hook is not None:
            tells = hook["tells"][1:]
            transaction.write(subject, {**hook, "tells": tells, "due_at": time.time() if tells else None})

    @_transaction
    async def remove_webhook(self, transaction: Transaction, job_id: str) -> None:
        subject = self._subject("now", "hook", job_id)
        if await transaction.find(subject) is not None:
            transaction.remove(subject)

    # Health

    @_transaction
    async def _check(self, transaction: Transaction) -> None:
        await self._set_fact(transaction, "check", time.time())

    async def check(self) -> None:
        await self._check()
        await self.blobs.check()

    @_transaction
    async def set_health(self, transaction: Transaction, health: Health) -> None:
        await self._set_fact(transaction, "health", asdict(health))

    @_on_stream
    async def health(self) -> Health:
        record = await self._stream.last(self._subject("fact", "health"))
        return Health(**record.data) if record is not None else Health()

    async def _set_fact(self, transaction: Transaction, name: str, data: Any) -> None:
        subject = self._subject("fact", name)
        await transaction.find(subject)
        transaction.write(subject, data)

    # The dispatcher

    async def lead(self, holder: str) -> bool:
        asked_at = time.monotonic()
        if asked_at - self._led.get(holder, -math.inf) < _LEAD_KEPT_S:
            return True
        leads = await self._lead(holder)
        self._led = {**self._led, holder: asked_at} if leads else {}
        return leads

    @functools.partial(_transaction, waits=False)  # however much is submitted, it must not lose its right
    async def _lead(self, transaction: Transaction, holder: str) -> bool:
        subject = self._subject("fact", "dispatcher")
        if await transaction.read(subject) not in (None, holder):
            return False
        transaction.write(subject, holder, ttl_s=_LEAD_TTL_S)
        return True

    async def resign(self, holder: str) -> None:
        self._led.pop(holder, None)
        await self._resign(holder)

    @_transaction
    async def _resign(self, transaction: Transaction, holder: str) -> None:
        subject = self._subject("fact", "dispatcher")
        if await transaction.read(subject) == holder:
            transaction.remove(subject)

    # Workers

    @_transaction
    async def set_workers(self, transaction: Transaction, workers: Iterable[WorkerState]) -> None:
        subject = self._subject("fact", "workers")
        before: dict[str, Any] = await transaction.read(subject) or {}
        told = {worker.name: asdict(worker) for worker in workers}
        names = [*(name for name in before if name in told), *(name for name in told if name not in before)]
        drained = {name: before.get(name, {}).get("drained", False) for name in names}
        transaction.write(subject, {name: {**told[name], "drained": drained[name]} for name in names})

    @_on_stream
    async def workers(self) -> list[WorkerState]:
        record = await self._stream.last(self._subject("fact", "workers"))
        return [WorkerState(**state) for state in record.data.values()] if record is not None else []

    @_transaction
    async def drain(self, transaction: Transaction, worker: str, *, drained: bool = True) -> bool:
        subject = self._subject("fact", "workers")
        workers = await transaction.read(subject) or {}
        if worker not in workers:
            return False
        transaction.write(subject, {**workers, worker: {**workers[worker], "drained": drained}})
        return True

    # Subjects and records

    def _subject(self, *words: str) -> str:
        return ".".join((self._prefix, *words))

    def _job_subject(self, job_id: str) -> str:
        return self._subject("*", "job", "*", "*", _word(job_id))

    def _idempotency_subject(self, token: str, key: str) -> str:
        return self._subject("idem", _word(token), hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest())

    def _token_subjects(self, token_hash: str, name: str) -> tuple[str, str]:
        return self._subject("now", "token", _word(token_hash)), self._subject("name", _word(name))

    def _file_subjects(self, token: str, file_id: str) -> tuple[str, str]:
        token, file_id = (text if text == "*" else _word(text) for text in (token, file_id))
        return self._subject("file", token, file_id), self._subject("uploads", token)

    def _decode(self, record: Record) -> Any:
        """Return what is kept in memory of a record below ``now``."""
        kind = record.subject.split(".")[2]
        if kind in ("job", "left"):
            return _stored(record).job
        if kind == "model":
            return from_data(record.data)
        return Token(**record.data) if kind == "token" else record.data

    async def _kept(self, kind: str) -> dict[str, Any]:
        """Return what is kept below ``now`` of one kind, by the last word of the subject."""
        return self._of_kind(await self._now.look(), kind)

    def _of_kind(self, kept: Mapping[str, Any], kind: str) -> dict[str, Any]:
        prefix = self._subject("now", kind, "")
        return {subject.rpartition(".")[2]: data for subject, data in kept.items() if subject.startswith(prefix)}

    async def _open_jobs(self) -> list[Job]:
        return list((await self._kept("job")).values())


def _word(text: str) -> str:
    """Return a text as a word of a subject: as it is, or hashed if NATS could not take it."""
    return text if _WORD.fullmatch(text) else hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _data(stored: _Stored) -> dict[str, Any]:
    return {**stored._asdict(), "job": asdict(stored.job)}


def _stored(record: Record) -> _Stored:
    fields = record.data["job"]
    job = Job(**{**fields, "number": fields["number"] or record.sequence})
    history = tuple(Transition(*entry) for entry in record.data["history"])
    return _Stored(job, record.data["idempotency"], record.data["has_webhook"], history)


def _changed(stored: _Stored, **fields: Any) -> _Stored:
    return stored._replace(job=replace(stored.job, version=stored.job.version + 1, **fields))


def _queued(job: Job) -> QueuedJob:
    return QueuedJob(*(getattr(job, name) for name in QueuedJob._fields))


def _told(hook: Mapping[str, Any], news: str) -> dict[str, Any]:
    """Return a webhook that tells these news too: now, if it has nothing else to tell."""
    if not hook["every_status"] and news != "end":
        return dict(hook)
    now, due_at = time.time(), hook["due_at"]
    return {**hook, "tells": [*hook["tells"], news], "first_at": now, "due_at": now if due_at is None else due_at}


def _is_due(hook: Mapping[str, Any], now: float) -> bool:
    return hook["due_at"] is not None and hook["due_at"] <= now


def _webhook(job_id: str, hook: Mapping[str, Any]) -> Webhook:
    fields = {name: hook[name] for name in ("url", "secret", "base_url", "attempts", "first_at", "token")}
    return Webhook(job_id, **fields, tells=hook["tells"][0])
