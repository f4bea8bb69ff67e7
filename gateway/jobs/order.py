"""Which job runs next, and each job's queue position: the order of the queue as one pure function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from .records import Status


class QueuedJob(NamedTuple):
    """What the order of an unfinished job depends on; ``number`` counts accepted jobs."""

    id: str
    number: int
    status: Status


def in_order(jobs: Iterable[QueuedJob]) -> tuple[QueuedJob, ...]:
    """Return the jobs in the order in which they run: the running one, then those that wait, first come first served.

    A job that waits again because its ComfyUI ended keeps its number, and with it its place.
    """
    return tuple(sorted(jobs, key=lambda job: (job.status != "in_progress", job.number)))


def queue_position(job_id: str, queue: Sequence[QueuedJob]) -> int | None:
    """Return how many jobs of an ordered queue wait before this one: 0 if it is next, ``None`` if it does not wait."""
    waiting = (job.id for job in queue if job.status == "in_queue")
    return next((position for position, waiting_id in enumerate(waiting) if waiting_id == job_id), None)
