"""The queue: which job runs next (one pure function), each job's queue position, and following a job to its end."""

from __future__ import annotations

import asyncio
import heapq
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import TypeAlias

from ...client.run import wait_for
from .records import PRIORITIES, Job, Priority, QueuedJob
from .store import Store

_POSITION_S = 0.5  # how old a queue position may be
_FOLLOWERS_S = 0.001, 0.25  # between two who are told something, and between all: hundreds at once hold others up
_NEVER = -math.inf
_NOBODY: Mapping[str, float] = MappingProxyType({})
_ALL_NORMAL: Mapping[str, Priority] = MappingProxyType({})

State: TypeAlias = tuple[int, int | None]  # a job's stamp and queue position


def in_order(
    jobs: Iterable[QueuedJob],
    served: Mapping[str, float] = _NOBODY,
    priorities: Mapping[str, Priority] = _ALL_NORMAL,
    *,
    now: float = 0.0,
    max_wait_s: float = math.inf,
) -> tuple[QueuedJob, ...]:
    """Return the jobs in the order in which they run: the running ones, then those that wait, as if none ended.

    Next is the token of the highest priority (``priorities``, normal if it is not there); of several, the one with the
    fewest running jobs; of several, the one that was served the longest ago (``served``: when the latest job of each
    token started). But a token that was not served for ``max_wait_s`` although it had a job waiting comes before all
    others: nobody starves beside tokens that come and go, or behind those of a higher priority. Of one token, first
    come first served: a job that waits again because its ComfyUI ended keeps its number, and with it its place.
    """
    ordered = sorted(jobs, key=lambda job: (job.status != "in_progress", job.number))
    running = Counter(job.token for job in ordered if job.status == "in_progress")
    count = running.total()
    waiting: dict[str, deque[QueuedJob]] = {}
    for job in ordered[count:]:
        waiting.setdefault(job.token, deque()).append(job)
    if len(waiting) <= 1:
        return tuple(ordered)

    classes = {token: PRIORITIES.index(priorities.get(token, "normal")) for token in waiting}

    def rank(token: str) -> tuple[bool, float, int, tuple[bool, float], int]:
        last, first = served.get(token, _NEVER), waiting[token][0]
        since = max(last, first.created_at)
        if now - since > max_wait_s:
            return False, since, 0, (False, 0.0), first.number
        return True, classes[token], running[token], (False, last), first.number

    result = ordered[:count]
    heap = [(rank(token), token) for token in waiting]
    heapq.heapify(heap)
    while heap:
        _, token = heap[0]
        result.append(waiting[token].popleft())
        running[token] += 1
        if waiting[token]:  # it was served now, after all others
            last = True, float(len(result))
            later = True, classes[token], running[token], last, waiting[token][0].number
            heapq.heapreplace(heap, (later, token))
        else:
            heapq.heappop(heap)
    return tuple(result)


def queue_position(job_id: str, queue: Sequence[QueuedJob]) -> int | None:
    """Return how many jobs of an ordered queue wait before this one: 0 if it is next, ``None`` if it does not wait."""
    waiting = (job.id for job in queue if job.status == "in_queue")
    return next((position for position, waiting_id in enumerate(waiting) if waiting_id == job_id), None)


def states_of(ordered: Iterable[QueuedJob], stamps: Mapping[str, int]) -> dict[str, State]:
    """Return the states of jobs that are in order; ``stamps`` has each job's ``Job.stamp``."""
    waiting = [job.id for job in ordered if job.status == "in_queue"]
    positions = {job_id: position for position, job_id in enumerate(waiting)}
    return {job_id: (stamp, positions.get(job_id)) for job_id, stamp in stamps.items()}


class FollowingStore(Store):
    """The part of a store that follows jobs; ``_read_states`` is all that it needs besides the protocol.

    ``_told_at`` is when the latest wait for news ended.
    """

    look_s = 0.25

    def __init__(self) -> None:
        self._known_states: Mapping[str, State] = {}
        self._states_at = self._moved_at = self._told_at = -math.inf
        self._look: asyncio.Future[None] | None = None
        self._wait: asyncio.Future[None] | None = None
        self._turns = 0

    def telling(self, told: Callable[[], None]) -> AbstractContextManager[None]:
        return nullcontext()

    async def _read_states(self) -> Mapping[str, State]:
        """Return the states of all unfinished jobs."""
        raise NotImplementedError

    async def _read_changed(self, job_id: str) -> Job | None:
        """Return a job, at least as new as the states that were read last."""
        return await self.get(job_id)

    def _moved(self) -> None:
        """Note that the queue may have moved: no earlier look counts from now on."""
        self._moved_at = time.monotonic()

    async def position(self, job_id: str) -> int | None:
        now = time.monotonic()
        states = await self._states(max(now - 2 * self.look_s, min(self._told_at, now - _POSITION_S)))
        position = states.get(job_id, (0, None))[1]
        if position is None:  # it is new, or has begun to wait again
            position = queue_position(job_id, await self.queue())
        return position

    async def follow(self, job_id: str) -> AsyncIterator[tuple[Job, int | None]]:
        seen: State | None = None
        job: Job | None = None
        while True:
            state = (await self._states(max(time.monotonic() - self.look_s, self._told_at))).get(job_id)
            if state is None or state != seen:
                if job is None:
                    job = await self.get(job_id)  # as it is now; the states may be those of a moment ago
                else:
                    await self._turn()
                    if state is None or state[0] > job.stamp:
                        job = await self._read_changed(job_id)
                if job is None or job.expired:
                    return
                position = None
                if job.status == "in_queue":
                    same = state is not None and state[0] == job.stamp
                    position = state[1] if state is not None and same else await self.position(job_id)
                if seen != (job.stamp, position):
                    seen = job.stamp, position
                    yield job, position
                if job.finished:
                    return
            await self._news()

    async def _news(self) -> None:
        """Wait until there may be something new; those who follow jobs share one wait."""
        if self._wait is None or self._wait.done():
            self._wait = asyncio.ensure_future(self._wait_for_news())
        await asyncio.shield(self._wait)

    async def _turn(self) -> None:
        """Wait a moment if others who follow jobs were told something by the same look."""
        each_s, all_s = _FOLLOWERS_S
        turn, self._turns = self._turns, self._turns + 1
        await asyncio.sleep(min(turn * each_s, all_s))

    async def _wait_for_news(self) -> None:
        told = asyncio.Event()
        with self.telling(told.set):
            if self._told_at <= self._states_at:
                await wait_for(told, self.look_s)
        self._told_at = time.monotonic()  # all who waited share a new look

    async def _states(self, needed: float) -> Mapping[str, State]:
        """Return the states of all unfinished jobs as they were after ``needed``, and after the queue moved here.

        Those who ask share one look.
        """
        needed = max(needed, self._moved_at)
        while self._states_at <= needed:
            if self._look is None or self._look.done():
                self._look = asyncio.ensure_future(self._look_at_states())
            await asyncio.shield(self._look)
        return self._known_states

    async def _look_at_states(self) -> None:
        began = time.monotonic()
        self._known_states, self._states_at, self._turns = await self._read_states(), began, 0
