"""The dispatcher takes jobs to ComfyUI, one at a time in the queue's order, and brings their results back.

All state is in the store and on ComfyUI. Every round of the loop asks both, so that it does not matter which of the
processes ended in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from filelock import FileLock, Timeout

from ...client.comfy import ComfyClient
from ...client.errors import ComfyError, PreflightError, ServerAnswerError, ServerLostError
from ...client.progress import Progress
from ...client.run import RunResult
from ...contract.parameters import SEED
from ..settings import Settings
from .comfyui import ComfyBackend, Found, Identity, is_lost, public_text, result_file
from .records import Health, Job
from .results import ResultError, Results, StorageError
from .store import Store, StoreError

_LOOK_S = 0.25  # how often the store is read for new jobs and cancellations of other processes
_CHECK_S = 5.0  # how often ComfyUI is asked whether it is there while nothing runs
_BACK_OFF_S = (0.5, 5.0)  # first and longest pause after an error
_LOCK_RETRY_S = 2.0
_PREVIEW_EVERY_S = 0.5
_TIDY_AGAIN_S = 60.0
_MAX_DEATHS = 2  # of ComfyUI while it ran a job
_MAX_ATTEMPTS = 10  # also if no death was seen to be the job's: it may end ComfyUI before that can tell that it runs

_WORKER_ENDED = (
    "ComfyUI ended twice while it ran this request. Its log says why. If it was restarted, submit the request again; "
    "often it ran out of memory: choose a smaller size or fewer frames."
)
_NEVER_RAN = (
    f"ComfyUI ended {_MAX_ATTEMPTS} times before it ran this request to its end. Its log says why. Submit it again "
    "when ComfyUI stays up."
)
_REMOVED = "The request was removed from ComfyUI's queue or history by someone there. Submit it again."
_INTERNAL = "The API failed on this request. Its log says more, under the request's id."

_LOG = logging.getLogger("wan_flf2v.gateway")


class Dispatcher:
    """Runs the jobs of a store on one ComfyUI; of all processes that share the store, one dispatches at a time."""

    def __init__(self, store: Store, settings: Settings, results: Results) -> None:
        self._store = store
        self._settings = settings
        self._results = results
        self._poked = asyncio.Event()
        self._checked = 0.0
        self._health = Health()
        self._tidy_at: dict[str, float] = {}  # when to try again to remove what a job left on ComfyUI

    def poke(self) -> None:
        """Tell the dispatcher that the store has a new job or cancellation."""
        self._poked.set()

    async def run(self) -> None:
        """Run jobs until cancelled; go on after every error, and share what is down as the store's health.

        When cancelled, a running job is left to ComfyUI; the next dispatcher finds it there.
        """
        pause = _BACK_OFF_S[0]
        async with contextlib.AsyncExitStack() as stack:
            backend: ComfyBackend | None = None
            while True:
                try:
                    if backend is None:
                        backend = await stack.enter_async_context(self._open())
                    await self._round(backend)
                    pause = _BACK_OFF_S[0]
                    continue
                except ServerLostError as error:
                    _LOG.warning("connection to ComfyUI lost: %s", error)
                    continue  # the next round asks whether ComfyUI is there, and what became of the prompt
                except ComfyError as error:
                    health = Health("down", reason=str(error))
                except Exception as error:  # noqa: BLE001 -- often a full disk; accepted jobs wait until it is over
                    _LOG.exception("dispatcher failed again_in_s=%.1f", pause)
                    health = replace(self._health, dispatcher="down", reason=str(error))
                with contextlib.suppress(StoreError):
                    await self._set_health(health)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BACK_OFF_S[1])

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[ComfyBackend]:
        """Connect to ComfyUI once no other process dispatches; its lock is free however that process ends."""
        settings = self._settings
        lock = FileLock(settings.data / "dispatcher.lock", timeout=0, mode=0o600)
        while not lock.is_locked:
            try:
                lock.acquire()
            except Timeout:
                await asyncio.sleep(_LOCK_RETRY_S)
        try:
            async with ComfyClient(settings.comfyui_url, verify_tls=settings.comfyui_verify_tls) as client:
                yield ComfyBackend(client, settings.data / "inputs")
        finally:
            lock.release()

    async def _round(self, backend: ComfyBackend) -> None:
        """Do one thing, or wait a moment if there is nothing to do."""
        queue, now = await self._store.queue(), time.monotonic()
        job = await self._store.get(queue[0].id) if queue else None
        if job is not None and job.status == "in_progress" and job.cancel_requested:
            await self._end(job, "cancelled")
        elif left := [job for job in await self._store.leftovers() if self._tidy_at.get(job.id, 0.0) <= now]:
            await self._tidy(backend, left[0])
        elif job is not None:
            identity = await self._identify(backend)
            await self._serve(backend, identity, job)
        else:
            if now - self._checked >= _CHECK_S:
                await self._identify(backend)
            await self._wait()

    async def _tidy(self, backend: ComfyBackend, job: Job) -> None:
        try:
            tidied = await backend.tidy(job)
        except ServerAnswerError as error:
            if is_lost(error):
                raise
            _LOG.warning("clean-up on ComfyUI failed request_id=%s again_in_s=%.0f: %s", job.id, _TIDY_AGAIN_S, error)
            self._tidy_at[job.id] = time.monotonic() + _TIDY_AGAIN_S
            return
        if tidied:
            self._tidy_at.pop(job.id, None)
            await self._store.mark_clean(job.id)

    async def _identify(self, backend: ComfyBackend) -> Identity:
        identity = await backend.identify()
        await self._set_health(Health("up"))
        self._checked = time.monotonic()
        return identity

    async def _serve(self, backend: ComfyBackend, identity: Identity, job: Job) -> None:
        """Start a waiting job, or find a running one again; bring it to its end."""
        found: Found = "never_sent"
        if job.status == "in_queue":
            if not await self._store.assign(job.id, identity.instance):
                return  # cancelled meanwhile
            _LOG.info("job started request_id=%s attempt=%d", job.id, job.attempt + 1)
        else:
            found = await backend.find(identity, job)
            _LOG.info("job recovered request_id=%s found=%s", job.id, found)
        if found == "removed":
            await self._end(job, "failed", error=_REMOVED)
        elif found != "worker_ended":
            await self._complete(backend, identity, await self._store.get(job.id) or job, found)
        elif job.deaths + job.ran >= _MAX_DEATHS:
            await self._end(job, "failed", error=_WORKER_ENDED)
        elif job.attempt >= _MAX_ATTEMPTS:
            await self._end(job, "failed", error=_NEVER_RAN)
        else:
            await self._store.requeue(job.id)

    async def _complete(self, backend: ComfyBackend, identity: Identity, job: Job, found: Found) -> None:
        """Bring a running job to its end from where it was found."""
        try:
            # Warnings are not stored: a gateway that finds a running job asks for them again.
            try:
                warnings = await backend.check(job)
            except PreflightError:
                if found == "never_sent":
                    raise
                warnings = []
            if found == "never_sent":
                await backend.submit(job)
                await self._store.mark_sent(job.id)
            run = await self._watch(backend, job) if found != "file" else None
            if run is None and found != "file":
                return  # cancelled: the next round ends it
            file = run.files[0] if run is not None else result_file(job.id)
            output = await self._results.collect(backend.client, file, job.id)
        except ComfyError as error:
            if is_lost(error):
                raise
            _LOG.warning("job failed request_id=%s: %s", job.id, error)
            await self._end(job, "failed", error=public_text(error))
        except (StoreError, StorageError):
            raise  # the job waits; the next rounds find what it left on ComfyUI
        except ResultError as error:
            _LOG.warning("job failed request_id=%s: %s Cause: %s", job.id, error, error.__cause__)
            await self._end(job, "failed", error=str(error))
        except Exception:  # noqa: BLE001 -- the jobs behind this one must not wait for ever
            _LOG.exception("job failed on an error of the API request_id=%s", job.id)
            await self._end(job, "failed", error=_INTERNAL)
        else:
            await self._end(job, "succeeded", output=output, detail=_detail(job, identity, run, warnings))

    async def _watch(self, backend: ComfyBackend, job: Job) -> RunResult | None:
        """Follow the prompt and report its progress; ``None`` as soon as the job has a cancel request."""
        shown: list[Progress] = []
        previews: deque[bytes] = deque(maxlen=1)
        preview_at = 0.0
        following = asyncio.create_task(backend.follow(job, shown.append, previews.append))
        try:
            while not following.done():
                await self._wait(following)
                if shown:
                    await self._store.report(job.id, _progress(shown[-1]))
                    shown.clear()
                if previews and time.monotonic() - preview_at >= _PREVIEW_EVERY_S:
                    preview_at = time.monotonic()
                    await self._results.keep_preview(job.id, previews.pop())
                current = await self._store.get(job.id)
                if current is not None and current.cancel_requested and not following.done():
                    return None
            return following.result()
        finally:
            following.cancel()
            await asyncio.wait([following])
            self._results.drop_preview(job.id)

    async def _wait(self, *also: asyncio.Task[Any]) -> None:
        """Wait for a poke, or for a task, but not long."""
        poked = asyncio.create_task(self._poked.wait())
        try:
            await asyncio.wait([poked, *also], timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            poked.cancel()
            self._poked.clear()

    async def _end(self, job: Job, status: Any, **end: Any) -> None:
        if await self._store.end(job.id, status, **end):
            _LOG.info("job ended request_id=%s status=%s", job.id, status)

    async def _set_health(self, health: Health) -> None:
        if health != self._health:
            level = logging.INFO if health == Health("up") else logging.WARNING
            told = health.comfyui, health.dispatcher, "all is well" if level == logging.INFO else health.reason
            _LOG.log(level, "health changed comfyui=%s dispatcher=%s: %s", *told)
            self._health = health
        if health != await self._store.health():
            await self._store.set_health(health)


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "fraction": round(progress.fraction, 4),
        "step": progress.step,
        "steps": progress.steps,
        "node": progress.title,
        "eta_seconds": None if progress.eta_s is None else round(progress.eta_s, 1),
        "host_queue_position": progress.queue_position,
    }


def _detail(job: Job, identity: Identity, run: RunResult | None, found: list[str]) -> dict[str, Any]:
    """Return what the result tells besides the files; times are seconds, ``running`` is ComfyUI's own measure.

    The clock may have been set meanwhile: no time is below 0, and the total not below its parts.
    """
    queued = max((job.started_at or job.created_at) - job.created_at, 0.0)
    running = run.seconds if run is not None else None
    total = max(time.time() - job.created_at, queued + (running or 0.0))
    warnings = ["ComfyUI ended while it ran this request, which then ran again."] if job.deaths else []
    return {
        "seed": job.values[SEED.key],
        "timings": {
            "queued": round(queued, 3),
            "running": round(running, 3) if running is not None else None,
            "total": round(total, 3),
        },
        "warnings": [*warnings, *found],
        "host_version": identity.version,
    }
