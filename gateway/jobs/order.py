"""Which job runs next, and each job's queue position: the order of the queue as one pure function."""

from __future__ import annotations

import heapq
import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from .records import PRIORITIES, Priority, Status

_NEVER = -math.inf
_NOBODY: Mapping[str, float] = MappingProxyType({})
_ALL_NORMAL: Mapping[str, Priority] = MappingProxyType({})


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
