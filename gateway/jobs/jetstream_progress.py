"""How far the running jobs of a fleet are: messages at ``wfr.JOB`` to all gateways, which no stream keeps.

A job's record has its progress too, but seldom the newest: to write it is a replicated transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from .jetstream import RECORDS, Stream
from .records import NUMBER, Job, shows_run

_SUBJECTS = "wfr"
_WRITE_S = 30.0  # how often the record gets the progress, for gateways that start later
_KEPT = 10_000  # jobs whose progress is remembered
_LOOK_S = 1.0  # how often to look whether there is another connection

_T = TypeVar("_T")


class _Said(NamedTuple):
    attempt: int
    progress: dict[str, Any]


class _Written(NamedTuple):
    """What a record got from this gateway: the attempt, whether its ComfyUI was seen at work, and when."""

    attempt: int
    ran: bool
    at: float


class ProgressNews:
    """The newest progress that was said of each running job; ``heard`` is called after each message.

    All is done on the stream's loop. Each has a ``NUMBER``, greater than those before: that of the version in which the
    record got some last times ``NUMBERS``, and one more for each message since.
    """

    def __init__(self, stream: Stream, heard: Callable[[], None]) -> None:
        self._stream = stream
        self._heard = heard
        self._said: dict[str, _Said] = {}
        self._written: dict[str, _Written] = {}

    async def say(self, job_id: str, attempt: int, progress: Mapping[str, Any]) -> bool:
        """Tell all gateways how far a job is; ``False`` if it must be ``written`` into its record instead.

        Of an attempt that is the first one, the first one with its ComfyUI at work, and then one now and then.
        """
        written, said = self._written.get(job_id), self._said.get(job_id)
        due = (
            written is None or written[:2] != (attempt, shows_run(progress)) or time.monotonic() > written.at + _WRITE_S
        )
        if due or said is None or said.attempt != attempt:
            return False
        self._keep(job_id, attempt, {**progress, NUMBER: said.progress[NUMBER] + 1})
        content = json.dumps(self._said[job_id]._asdict()).encode()
        with contextlib.suppress(nats.errors.Error, OSError):  # a later one will be heard
            await self._stream.client().publish(self._subject(job_id), content)
        self._heard()
        return True

    def written(self, job: Job) -> None:
        """Note that a job's record has its progress."""
        if job.progress is not None:
            _put(self._written, job.id, _Written(job.attempt, job.ran, time.monotonic()))
            self._keep(job.id, job.attempt, job.progress)

    def newest(self, job: Job) -> Job:
        """Return a job with the newest progress that is known."""
        said = self._said.get(job.id)
        if said is None or job.status != "in_progress" or said.attempt != job.attempt:
            return job
        return replace(job, progress=said.progress) if said.progress[NUMBER] > _number(job.progress) else job

    async def hear(self) -> None:
        """Hear what other gateways say; never returns."""
        heard_at: Client | None = None
        while True:
            with contextlib.suppress(nats.errors.Error, OSError):
                client = self._stream.client()
                if client is not heard_at:
                    await client.subscribe(self._subject("*"), cb=self._take)
                    heard_at = client
            await asyncio.sleep(_LOOK_S)

    async def _take(self, message: Msg) -> None:
        with contextlib.suppress(ValueError, TypeError, KeyError):  # of a later version of this program
            said = _Said(**json.loads(message.data))
            if self._keep(message.subject.rpartition(".")[2], said.attempt, said.progress):
                self._heard()

    def _keep(self, job_id: str, attempt: int, progress: dict[str, Any]) -> bool:
        """Remember progress, unless newer one is known."""
        before = self._said.get(job_id)
        if before is not None and (before.attempt, before.progress[NUMBER]) >= (attempt, progress[NUMBER]):
            return False
        _put(self._said, job_id, _Said(attempt, progress))
        return True

    def _subject(self, job_id: str) -> str:
        return f"{_SUBJECTS}{self._stream.prefix.removeprefix(RECORDS.prefix)}.{job_id}"


def _number(progress: Mapping[str, Any] | None) -> int:
    return int((progress or {}).get(NUMBER, 0))


def _put(kept: dict[str, _T], job_id: str, value: _T) -> None:
    """Put a value in, behind all others; the first one goes if there are too many."""
    kept.pop(job_id, None)
    kept[job_id] = value
    if len(kept) > _KEPT:
        del kept[next(iter(kept))]
