"""A store's ``position`` and ``follow``, made from looks at all unfinished jobs that those who ask share."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import TypeAlias

from .order import QueuedJob, queue_position
from .records import Job
from .store import Store

_FOLLOW_S = 0.25  # how often a followed job is read: any process may have changed it

State: TypeAlias = tuple[int, int | None]  # a job's version and queue position


def states_of(ordered: Iterable[QueuedJob], versions: Mapping[str, int]) -> dict[str, State]:
    """Return the states of jobs that are in order; ``versions`` has each job's version."""
    waiting = [job.id for job in ordered if job.status == "in_queue"]
    positions = {job_id: position for position, job_id in enumerate(waiting)}
    return {job_id: (version, positions.get(job_id)) for job_id, version in versions.items()}


class FollowingStore(Store):
    """The part of a store that follows jobs; ``_read_states`` is all that it needs besides the protocol."""

    def __init__(self) -> None:
        self._known_states: Mapping[str, State] = {}
        self._states_at = self._moved_at = -math.inf
        self._look: asyncio.Future[None] | None = None

    async def _read_states(self) -> Mapping[str, State]:
        """Return the states of all unfinished jobs."""
        raise NotImplementedError

    def _moved(self) -> None:
        """Note that this process may have moved the queue: no earlier look counts from now on."""
        self._moved_at = time.monotonic()

    async def position(self, job_id: str) -> int | None:
        position = (await self._states()).get(job_id, (0, None))[1]
        if position is None:  # it is new, or has begun to wait again
            position = queue_position(job_id, await self.queue())
        return position

    async def follow(self, job_id: str) -> AsyncIterator[tuple[Job, int | None]]:
        seen: State | None = None
        job: Job | None = None
        while True:
            state = (await self._states()).get(job_id)
            if state is None or state != seen:
                if job is None or state is None or state[0] != job.version:
                    job = await self.get(job_id)
                if job is None or job.expired:
                    return
                position = None
                if job.status == "in_queue":
                    same = state is not None and state[0] == job.version
                    position = state[1] if state is not None and same else await self.position(job_id)
                if seen != (job.version, position):
                    seen = job.version, position
                    yield job, position
                if job.finished:
                    return
            await asyncio.sleep(_FOLLOW_S)

    async def _states(self) -> Mapping[str, State]:
        """Return the states of all unfinished jobs, not older than ``_FOLLOW_S``, nor than what this process moved.

        Those who ask share one look.
        """
        needed = max(time.monotonic() - _FOLLOW_S, self._moved_at)
        while self._states_at <= needed:
            if self._look is None or self._look.done():
                self._look = asyncio.ensure_future(self._look_at_states())
            await asyncio.shield(self._look)
        return self._known_states

    async def _look_at_states(self) -> None:
        began = time.monotonic()
        self._known_states, self._states_at = await self._read_states(), began
