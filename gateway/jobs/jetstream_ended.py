"""An index of the finished jobs on a stream: their ids by token and status, and when each ended; no records."""

from __future__ import annotations

import bisect
from collections.abc import Iterable

from .jetstream import Heading, Record, Stream, View


class EndedJobs(View):
    """The jobs that ended and have not expired, of subjects that end with ``TOKEN.STATUS.ID``.

    Of the many that are there at its beginning, the server does not send the contents. A job's end is then when its
    record was written, which is later by the time until its worker was clean.
    """

    ended_at: dict[str, float]

    def __init__(self, stream: Stream, subject: str) -> None:
        super().__init__(stream, subject, lambda _: None, removals=False)
        self._forget()

    def newest(self, token: str, limit: int, status: str | None, below: str | None) -> Iterable[str]:
        """Yield a token's ``limit`` greatest ids of each status, or of the given one, that are less than ``below``."""
        for (owner, state), ids in self._ids.items():
            if owner == token and status in (None, state):
                end = len(ids) if below is None else bisect.bisect_left(ids, below)
                yield from ids[max(end - limit, 0) : end]

    def _forget(self) -> None:
        self.ended_at = {}
        self._ids: dict[tuple[str, str], list[str]] = {}  # sorted: a later job has a greater id

    async def _read_many(self) -> None:
        async for heading in self._stream.headings(self._subject, self.sequence):
            self._note(heading, None if heading.goes else heading.at)

    def _apply(self, record: Record) -> None:
        job = record.data["job"]
        self._note(record, None if job["expired"] else job["finished_at"])

    def _note(self, record: Record | Heading, ended_at: float | None) -> None:
        """Note when a job ended; ``None``: it has expired."""
        self.sequence = record.sequence
        *_, token, status, job_id = record.subject.split(".")
        if ended_at is not None and job_id not in self.ended_at:
            self.ended_at[job_id] = ended_at
            bisect.insort(self._ids.setdefault((token, status), []), job_id)
        elif ended_at is None and self.ended_at.pop(job_id, None) is not None:
            ids = self._ids[token, status]
            del ids[bisect.bisect_left(ids, job_id)]
