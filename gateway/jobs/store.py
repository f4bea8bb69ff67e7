"""The protocol of every job store: each change of a job is one named async method.

``sqlite_store`` and ``jetstream_store`` implement it.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Literal, Protocol

from ...contract.parameters import ModelContract
from .blobs import Blobs
from .records import (
    Health,
    Job,
    Priority,
    QueuedJob,
    Status,
    StoredFile,
    Submission,
    Token,
    Transition,
    Webhook,
    WorkerState,
)

CancelOutcome = Literal["cancelled", "cancelling", "finished"]
_END: ContextVar[float] = ContextVar("end", default=math.inf)
CANCEL_REASON = "its client cancelled it"  # in a job's history


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Let the calls of a store inside the block wait no longer for other processes than this in all: ``StoreError``.

    What a call that gave up was to write may be written all the same. The store in a file takes no notice: it waits
    30 s at most for another process that writes.
    """
    token = _END.set(min(_END.get(), time.monotonic() + seconds))
    try:
        yield
    finally:
        _END.reset(token)


def left(seconds: float) -> float:
    """Return how long to wait: ``seconds``, or less inside a block of ``within``."""
    return max(min(seconds, _END.get() - time.monotonic()), 0.0)


class StoreError(Exception):
    """The store cannot be read or written now."""


class StoreFullError(StoreError):
    """The store's disk is full."""


class StoreFileError(RuntimeError):
    """The store cannot be opened: it is damaged, no store, or of another version. The text says what to do."""


def remedy(found: object, known: int) -> str:
    """Return what to do about records of schema ``found`` where this program knows only schema ``known``."""
    older = str(found).isdecimal() and int(str(found)) < known
    return "Go on with the older wan-flf2v that made it" if older else "Update wan-flf2v"


class QueueFullError(Exception):
    """The token already has as many jobs waiting as it may have."""


class IdempotencyConflictError(Exception):
    """The token used this idempotency key before, for another body."""


class Store(Protocol):
    """Jobs, and what belongs to them. Any number of processes share one store; each call but ``expire`` is atomic.

    When a method returns, its change survives a power cut (``set_health`` only a crash of the process, and ``report``
    not always that: what it said last may be lost). A call that is cancelled is completed first. Every method may raise
    ``StoreError``. Methods that change a job raise ``KeyError`` for an unknown id.

    A job's states: ``submit`` → in_queue, ``assign`` → in_progress, ``requeue`` → in_queue, ``end`` → succeeded, failed
    or cancelled. Every change raises the job's ``version``; a job that has ended no longer changes, it only expires.
    """

    blobs: Blobs
    """The files of the gateways that share the store."""

    look_s: float
    """How often to look for what other processes changed, even if nothing was told (``telling``)."""

    async def close(self) -> None:
        """Finish the running calls and close the store. Later calls raise ``StoreError``."""

    async def back_up(self, copy: Path) -> None:
        """Write all that the store holds at one moment into the new file ``copy``."""

    def secret(self, path: Path, new: bytes) -> bytes:
        """Return the secret in a file of the data folder, the same for all gateways that share the store; blocks.

        If there is none it is ``new``. Gateways with a folder each share that of the first one, by the file's name.
        """

    def telling(self, told: Callable[[], None]) -> AbstractContextManager[None]:
        """Call ``told`` on this event loop soon after changes of any process, while the block runs.

        It is called four times a second at most, and a change may not be told at all: look every ``look_s`` too.
        """

    # Jobs

    async def submit(self, submission: Submission) -> Job:
        """Accept a job. If its token used the idempotency key before, return the job of then, which has another id.

        ``IdempotencyConflictError`` if the body was another; ``QueueFullError`` if ``queue_limit`` jobs of the token
        wait.
        """

    async def submitted_before(self, token: str, idempotency: tuple[str, str]) -> Job | None:
        """Return the job that ``token`` submitted with this idempotency key; raises what ``submit`` raises."""

    async def get(self, job_id: str) -> Job | None:
        """Return a job, also one that expired lately; ``None`` if it is unknown. The caller checks whose it is."""

    async def queue(self) -> tuple[QueuedJob, ...]:
        """Return all unfinished jobs in the order in which they run (``queue.in_order``)."""

    async def position(self, job_id: str) -> int | None:
        """Return how many jobs wait before this one, 0 if it is next; ``None`` if it does not wait.

        What happened in the last half second (at another gateway, if it was not told: in twice ``look_s``) may not
        count yet, except a cancellation, a job that waits again and a new priority of this process.
        """

    async def running(self) -> list[QueuedJob]:
        """Return the jobs that are in progress, oldest first."""

    async def count(self, token: str | None = None, status: Status | None = None) -> int:
        """Count jobs, of one token and in one status if given; expired ones count."""

    async def newest(
        self, token: str, limit: int, *, status: Status | None = None, before: Job | None = None
    ) -> list[Job]:
        """Return up to ``limit`` jobs of a token that have not expired, newest first.

        They are in the order of ``created_at`` and id; on JetStream of the id alone, which begins with that time. With
        ``before``, only jobs behind that one in this order: what is submitted meanwhile moves none of them.
        """

    def follow(self, job_id: str) -> AsyncIterator[tuple[Job, int | None]]:
        """Yield a job and its queue position now and after every change of either, until it has ended or expired."""

    async def history(self, job_id: str) -> list[Transition]:
        """Return a job's transitions, oldest first; none if it is unknown."""

    async def assign(self, job_id: str, worker: str | None = None, *, name: str | None = None) -> bool:
        """Start the next attempt of a waiting job on the ComfyUI process ``worker``; ``False`` if it does not wait.

        ``name`` is what the job's history calls that worker.
        """

    # What is said of an earlier ``attempt`` than the job's present one changes nothing: its worker was given up.

    async def mark_sent(self, job_id: str, *, attempt: int | None = None) -> None:
        """Note that the worker took the running job's prompt."""

    async def report(self, job_id: str, progress: Mapping[str, Any], *, attempt: int | None = None) -> None:
        """Note how far the running job is."""

    async def requeue(
        self, job_id: str, *, attempt: int | None = None, reason: str | None = None, died: bool = True
    ) -> None:
        """Let a job whose worker is lost wait again at its old place.

        If the worker ``died``, that counts as a death if it ran the job. One with a cancel request ends as cancelled.
        The job's history tells the ``reason``.
        """

    async def end(
        self,
        job_id: str,
        status: Status,
        *,
        error: str | None = None,
        output: Mapping[str, str] | None = None,
        detail: Mapping[str, Any] | None = None,
        attempt: int | None = None,
    ) -> bool:
        """End a job; its webhook is due. One with a cancel request ends as cancelled.

        ``False`` if it had ended, or if another attempt than ``attempt`` is the present one.
        """

    async def cancel(self, job_id: str) -> CancelOutcome:
        """End a waiting job as cancelled, or note that a running one must end as cancelled (``"cancelling"``).

        Returns ``"finished"`` if it had ended.
        """

    async def leftovers(self) -> list[Job]:
        """Return the ended jobs that may have left something on their worker, oldest first."""

    async def mark_clean(self, job_id: str, *, attempt: int | None = None) -> None:
        """Note that nothing of an ended job is left on its worker; of one that has not ended it changes nothing."""

    async def unexpired(self) -> list[tuple[str, float]]:
        """Return id and end time of every ended job that has not expired, oldest first."""

    async def expire(self, job_ids: Iterable[str]) -> None:
        """Forget what ended jobs asked for, their output and their idempotency keys.

        Of many jobs, a few at a time: other calls come in between, and an error leaves the first ones expired.
        """

    # Tokens

    async def tokens(self) -> list[Token]:
        """Return all tokens, oldest first."""

    async def find_token(self, token_hash: str) -> Token | None:
        """Return the token with this hash; ``None`` if it is unknown or revoked."""

    async def find_token_by_id(self, token_id: str) -> Token | None:
        """Return the token with this id; ``None`` if it is unknown or revoked."""

    async def add_token(self, token: Token) -> bool:
        """Keep a token; ``False`` if there is one with that name or hash."""

    async def revoke_token(self, name: str) -> bool:
        """Forget a token; ``False`` if there is none with that name. Its jobs go on; its name may be used again."""

    async def priorities(self) -> dict[str, Priority]:
        """Return the priority of each token, by its id; one that is not there has the normal one."""

    async def set_priority(self, name: str, priority: Priority) -> bool:
        """Give a token a priority, also for its jobs that wait; ``False`` if there is none with that name."""

    # Uploaded files

    async def add_file(self, file: StoredFile, max_bytes: int) -> float | None:
        """Keep the record of an uploaded file, unless its token would then have more than ``max_bytes``.

        Returns ``None`` if the record was kept, else when the token's oldest file was uploaded (0 without a file).
        """

    async def get_file(self, file_id: str) -> StoredFile | None:
        """Return the record of an uploaded file. The caller checks whose it is."""

    async def files(self) -> list[StoredFile]:
        """Return the records of all uploaded files, oldest first."""

    async def remove_file(self, file_id: str) -> None:
        """Forget an uploaded file, if there is one."""

    async def inputs_in_use(self) -> set[str]:
        """Return the names below ``<data>/inputs/`` that unfinished jobs need."""

    # Models

    async def models(self) -> list[ModelContract]:
        """Return the models that operators added, oldest first."""

    async def add_model(self, model: ModelContract) -> bool:
        """Keep a model; ``False`` if there is one with that id."""

    async def remove_model(self, model_id: str) -> bool:
        """Forget a model; ``False`` if there is none with that id. Jobs that ended stay; the others will fail."""

    # Webhooks

    async def due_webhooks(
        self, now: float, *, lease_s: float = 60.0, wanted: Callable[[Webhook], bool] = lambda _: True
    ) -> list[Webhook]:
        """Take the webhooks that are due and ``wanted``; no other process gets them for ``lease_s``.

        ``wanted`` is asked about each due one, oldest first, in another thread. If this process dies before it removes
        or retries one, that is due again when the lease ends.
        """

    async def retry_webhook(self, job_id: str, due_at: float) -> None:
        """Note that an attempt failed; the next is due at ``due_at``."""

    async def next_webhook(self, job_id: str) -> None:
        """Forget a message that was delivered or given up, and go on to what the job's webhook is to be told next."""

    async def remove_webhook(self, job_id: str) -> None:
        """Forget a job's webhook: it was told about the end, or wants no more."""

    # Health

    async def check(self) -> None:
        """Raise ``StoreError`` unless the store can be read and written."""

    async def set_health(self, health: Health) -> None:
        """Share how ComfyUI and the dispatcher are doing."""

    async def health(self) -> Health:
        """Return what the dispatching process last said."""

    # The dispatcher

    async def lead(self, holder: str) -> bool:
        """Take or keep the right to dispatch; ``False`` if another holder has it. The holder asks again and again.

        The right ends with the holder's process, however that ends.
        """

    async def resign(self, holder: str) -> None:
        """Give up the right to dispatch, if this holder has it."""

    # Workers

    async def set_workers(self, workers: Iterable[WorkerState]) -> None:
        """Share how each worker is doing, in place of what was shared before; ``drained`` is left as it is."""

    async def workers(self) -> list[WorkerState]:
        """Return what the dispatching process last said of each worker."""

    async def drain(self, worker: str, *, drained: bool = True) -> bool:
        """Let the worker of this name get no more jobs, or jobs again; ``False`` if there is none."""
