"""The records that a job store takes and keeps: job, token, uploaded file, webhook, health. Times are Unix seconds."""

from __future__ import annotations

import re
import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from ...contract.parameters import Value

WorkerWord = Literal["idle", "running", "busy", "stopping", "duplicate", "lost", "silent", "unknown"]
Status = Literal["in_queue", "in_progress", "succeeded", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = get_args(Status)
UNFINISHED: tuple[Status, ...] = ("in_queue", "in_progress")
Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)  # the first is served first
DEATHS = "deaths"  # in a job's detail
NUMBER = "number"  # in a job's progress, if it was told without a change of the job's version
NUMBERS = 10**6  # how many of them a version can have
REQUEST_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ATTEMPT_NAME = re.compile(REQUEST_ID.pattern + r"(-[0-9]{1,4})?")


def new_request_id() -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7): milliseconds first, so that later ids are greater, then random bits."""
    random = secrets.randbits(74)
    bits = time.time_ns() // 10**6 << 80 | 0x7 << 76 | random >> 62 << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return str(uuid.UUID(int=bits))


@dataclass(frozen=True)
class Submission:
    """What a job is made of; ``id``, ``token``, ``model_id``, ``values`` and ``inputs`` are those of ``Job``.

    ``idempotency`` is a key and a hash of the body. ``webhook`` is told about the end, if ``webhook_every_status`` also
    about in_queue and in_progress, signed with ``webhook_secret``, with links to ``base_url``. ``queue_limit`` is how
    many jobs of the token may wait (``None``: any number).
    """

    id: str
    token: str
    model_id: str
    values: Mapping[str, Value]
    inputs: Mapping[str, str]
    idempotency: tuple[str, str] | None = None
    webhook: str | None = None
    webhook_every_status: bool = False
    webhook_secret: str | None = None
    base_url: str | None = None
    queue_limit: int | None = None


@dataclass(frozen=True)
class Job:
    """One accepted request, from submission to expiry.

    ``number`` is greater for each later job. ``token`` is the id of the token that it was submitted with. ``values`` is
    the request, validated and complete. ``inputs`` maps an image parameter's key to the name of the file below
    ``<data>/inputs/`` that is uploaded to ComfyUI for the run; an image parameter that is not in it names a file in
    ComfyUI's input folder. ``attempt`` counts the starts: 1 is the first, 2 the one after its ComfyUI ended once.
    ``worker`` is the ComfyUI process of the present attempt (``None`` if it has no name) and ``sent`` tells whether
    that took the prompt. ``dirty`` tells whether a prompt or images may be left there. ``version`` grows with every
    change. ``expired`` tells that the result is gone. ``output`` maps ``video`` and ``image`` to file names in
    ``<data>/results/<id>/``. ``detail`` holds what the result says besides: seed, timings, warnings, host version.
    """

    id: str
    number: int
    token: str
    model_id: str
    values: dict[str, Value]
    inputs: dict[str, str]
    status: Status
    cancel_requested: bool
    attempt: int
    worker: str | None
    sent: bool
    dirty: bool
    error: str | None
    output: dict[str, str] | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    progress: dict[str, Any] | None
    detail: dict[str, Any]
    version: int
    expired: bool

    @property
    def attempt_name(self) -> str:
        """The name of the present attempt's folder and files on ComfyUI; workers may share their folders."""
        return attempt_name(self.id, self.attempt)

    @property
    def prompt_id(self) -> str:
        """The id of the present attempt's prompt: no worker takes one twice."""
        return prompt_id(self.id, self.attempt)

    @property
    def ran(self) -> bool:
        """Whether ComfyUI was seen at work on the job in the present attempt, not only holding it in its queue."""
        return shows_run(self.progress or {})

    @property
    def stamp(self) -> int:
        """A number that grows with every change and all progress, and is the same in every process."""
        return self.version * NUMBERS + int((self.progress or {}).get(NUMBER, 0)) % NUMBERS

    @property
    def deaths(self) -> int:
        """How often a ComfyUI ended while it ran the job, in the attempts before the present one."""
        return int(self.detail.get(DEATHS, 0))

    @property
    def finished(self) -> bool:
        """Whether the job has ended."""
        return self.status not in UNFINISHED


def shows_run(progress: Mapping[str, Any]) -> bool:
    """Return whether ComfyUI was at work on a job that was so far."""
    return progress.get("host_queue_position") == 0


def attempt_name(job_id: str, attempt: int) -> str:
    """Return ``Job.attempt_name`` of any attempt."""
    return job_id if attempt <= 1 else f"{job_id}-{attempt}"


def prompt_id(job_id: str, attempt: int) -> str:
    """Return ``Job.prompt_id`` of any attempt: the job's id for the first, a UUID made from both for each later one."""
    return job_id if attempt <= 1 else str(uuid.uuid5(uuid.UUID(job_id), str(attempt)))


class Transition(NamedTuple):
    """An entry of a job's history: when it got which status, in which attempt, on which worker, and why."""

    at: float
    status: Status
    attempt: int
    worker: str | None
    reason: str | None


def transition(job: Job, before: Transition | None, worker: str | None = None, reason: str | None = None) -> Transition:
    """Return the entry for a job as it is now; what follows a start happens on the worker of that."""
    if worker is None and before is not None and before.status == "in_progress":
        worker = before.worker
    return Transition(time.time(), job.status, job.attempt, worker, reason)


class QueuedJob(NamedTuple):
    """What the order and the dispatcher need of an unfinished job; the fields are those of ``Job``."""

    id: str
    number: int
    status: Status
    token: str = ""
    created_at: float = 0.0
    model_id: str = ""
    worker: str | None = None
    cancel_requested: bool = False


@dataclass(frozen=True)
class Unfinished:
    """A job that has not ended, as one store gives it to another.

    ``idempotency`` is its key and the hash of the body. ``webhook`` has what ``Webhook`` has, except ``job_id``, and
    ``every_status``, the list ``tells`` of what it is to be told next, and ``due_at``.
    """

    job: Job
    idempotency: tuple[str, str] | None
    webhook: dict[str, Any] | None
    history: tuple[Transition, ...]


@dataclass(frozen=True)
class Token:
    """A bearer token: its name and the hash of its text. A limit of ``None`` is that of the settings.

    Jobs and files belong to the token's ``id``: a later token with the same name has another one. An ``operator``'s
    also sees the workers' addresses and errors, and which jobs of other tokens run on them.
    """

    name: str
    hash: str
    created_at: float
    webhook_secret: str | None
    rate_per_minute: int | None
    queue_limit: int | None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    operator: bool = False


@dataclass(frozen=True)
class StoredFile:
    """An image uploaded with the token whose id is ``token``; ``stored`` is its name below ``<data>/inputs/``."""

    id: str
    token: str
    name: str
    stored: str
    content_type: str
    size: int
    created_at: float


@dataclass(frozen=True)
class Webhook:
    """A message about a job that has not been delivered: that it is ``in_queue``, ``in_progress``, or at its ``end``.

    ``first_at`` is when it was, ``token`` the id of the job's token. ``secret`` signs it (``None``: the server's own
    does) and its links lead to ``base_url``, both as they were when the job was submitted.
    """

    job_id: str
    url: str
    secret: str | None
    base_url: str | None
    attempts: int
    first_at: float
    token: str
    tells: Literal["in_queue", "in_progress", "end"] = "end"


@dataclass(frozen=True)
class Health:
    """How ComfyUI and the dispatcher are doing; ``reason`` is the error text of what is down."""

    comfyui: Literal["up", "down", "unknown"] = "unknown"
    dispatcher: Literal["up", "down"] = "up"
    reason: str | None = None


@dataclass(frozen=True)
class WorkerState:
    """How one worker is doing; ``name`` is its address, or an outward worker's name.

    ``state``: ``idle``, ``running`` a job of this API, ``busy`` with prompts of others, ``stopping`` (it gets no more
    jobs and ends after the one that it has), ``duplicate`` (another address leads to the same ComfyUI), ``lost``
    (nothing listens there, or it was silent for too long), ``silent``, or ``unknown`` before the first response.
    ``version`` and ``instance`` are those of its latest response, ``error`` is the latest error. A ``drained`` one gets
    no more jobs.
    """

    name: str
    state: WorkerWord = "unknown"
    version: str | None = None
    instance: str | None = None
    request_id: str | None = None
    attempt: int | None = None
    error: str | None = None
    drained: bool = False
