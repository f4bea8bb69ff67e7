"""Counters of the API's HTTP requests and jobs, in Prometheus' text format."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import get_args

from ..jobs.records import Status, WorkerState, WorkerWord

_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """Counts responses by route and status, and their duration."""

    def __init__(self) -> None:
        self._started = time.time()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._seconds = 0.0

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one response; ``route`` is the path's pattern, so that the number of series is bounded."""
        self._requests[method, route, status] += 1
        self._seconds += seconds
        self._buckets[next((limit for limit in _BUCKETS_S if seconds <= limit), float("inf"))] += 1

    def render(
        self,
        jobs: Mapping[str, int],
        unfinished: Mapping[tuple[str, Status], int],
        *,
        comfyui_up: bool,
        workers: Sequence[WorkerState] = (),
    ) -> str:
        """Return everything as text: how many requests have each status, and of each model are ``unfinished``."""
        lines = [*self._jobs(jobs, comfyui_up), *self._unfinished(unfinished), *self._workers(workers), *self._http()]
        return "\n".join([*lines, ""])

    def _unfinished(self, unfinished: Mapping[tuple[str, Status], int]) -> Iterator[str]:
        yield "# HELP wan_flf2v_unfinished_requests Requests of each model that wait or run, for an autoscaler."
        yield "# TYPE wan_flf2v_unfinished_requests gauge"
        for (model, status), number in unfinished.items():
            yield f'wan_flf2v_unfinished_requests{{model="{model}",status="{status}"}} {number}'

    def _workers(self, workers: Sequence[WorkerState]) -> Iterator[str]:
        yield "# HELP wan_flf2v_worker_state What each ComfyUI does: 1 for its state, 0 for the others."
        yield "# TYPE wan_flf2v_worker_state gauge"
        for worker in workers:
            for state in get_args(WorkerWord):
                labels = f'worker="{worker.name}",state="{state}"'
                yield f"wan_flf2v_worker_state{{{labels}}} {int(worker.state == state)}"
        yield "# HELP wan_flf2v_worker_drained Whether each ComfyUI gets no more requests."
        yield "# TYPE wan_flf2v_worker_drained gauge"
        yield from (f'wan_flf2v_worker_drained{{worker="{each.name}"}} {int(each.drained)}' for each in workers)

    def _jobs(self, jobs: Mapping[str, int], comfyui_up: bool) -> Iterator[str]:
        yield "# HELP wan_flf2v_requests Accepted requests by status."
        yield "# TYPE wan_flf2v_requests gauge"
        yield from (f'wan_flf2v_requests{{status="{status}"}} {number}' for status, number in jobs.items())
        yield "# HELP wan_flf2v_comfyui_up Whether ComfyUI responds."
        yield "# TYPE wan_flf2v_comfyui_up gauge"
        yield f"wan_flf2v_comfyui_up {int(comfyui_up)}"
        yield "# HELP wan_flf2v_start_time_seconds When this process started."
        yield "# TYPE wan_flf2v_start_time_seconds gauge"
        yield f"wan_flf2v_start_time_seconds {self._started:.3f}"

    def _http(self) -> Iterator[str]:
        yield "# HELP wan_flf2v_http_requests_total HTTP requests by response."
        yield "# TYPE wan_flf2v_http_requests_total counter"
        for (method, route, status), number in sorted(self._requests.items()):
            labels = f'method="{method}",route="{route}",status="{status}"'
            yield f"wan_flf2v_http_requests_total{{{labels}}} {number}"
        yield "# HELP wan_flf2v_http_seconds Time until the response."
        yield "# TYPE wan_flf2v_http_seconds histogram"
        total = 0
        for limit in (*_BUCKETS_S, float("inf")):
            total += self._buckets[limit]
            label = "+Inf" if limit == float("inf") else f"{limit:g}"
            yield f'wan_flf2v_http_seconds_bucket{{le="{label}"}} {total}'
        yield f"wan_flf2v_http_seconds_sum {self._seconds:.6f}"
        yield f"wan_flf2v_http_seconds_count {total}"
