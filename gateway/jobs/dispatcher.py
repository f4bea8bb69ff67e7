"""Runs accepted requests on ComfyUI, one at a time, oldest first.

All state is in the store and on ComfyUI: every round of the loop asks both anew, so that it does not matter which of
the processes ended since.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ...client.comfy import ComfyClient, OutputFile
from ...client.errors import ComfyError, NoOutputError, PreflightError, ServerAnswerError, ServerLostError
from ...client.progress import Progress
from ...client.run import RunResult
from ..settings import Settings
from .comfyui import Host, Identity, is_lost, public_text, result_file
from .lock import exclusive
from .records import Health, Job
from .recovery import Found, find
from .results import ResultError, Results, StorageError
from .store import Store, StoreError

_LOOK_S = 0.25  # how often the store is read for new requests and cancellations of other processes
_CHECK_S = 5.0  # how often ComfyUI is asked whether it is there while nothing runs
_BACK_OFF_S = (0.5, 5.0)  # first and longest pause while ComfyUI is down
_TIDY_AGAIN_S = 60.0
_MAX_ATTEMPTS = 2

_DIED = (
    "ComfyUI ended twice while it ran this request. Its log says why; often it ran out of memory: choose a smaller "
    "size or fewer frames, and submit it again."
)
_REMOVED = "The request was removed from ComfyUI's queue or history by someone there. Submit it again."
_INTERNAL = "The API failed on this request. Its log says more, under the request's id."

_log = logging.getLogger(__name__)


class Dispatcher:
    """Takes requests from the store to ComfyUI and their results back."""

    def __init__(self, store: Store, settings: Settings, results: Results) -> None:
        self._store = store
        self._settings = settings
        self._results = results
        self._poked = asyncio.Event()
        self._checked = 0.0
        self._health = Health()
        self._tidy_at: dict[str, float] = {}  # when to try again for requests that left what cannot be removed yet

    def poke(self) -> None:
        """The store has news: a request, or a cancellation."""
        self._poked.set()

    async def run(self) -> None:
        """Run requests until cancelled; wait first while another process does so on the same store.

        When cancelled, what runs is left to ComfyUI; whoever dispatches next takes it up again.
        """
        data = self._settings.data
        client = ComfyClient(self._settings.comfyui_url, verify_tls=self._settings.comfyui_verify_tls)
        async with exclusive(data / "dispatcher.lock"), client:
            await self._loop(Host(client, data / "inputs"))

    async def _loop(self, host: Host) -> None:
        pause = _BACK_OFF_S[0]
        while True:
            try:
                await self._round(host)
                pause = _BACK_OFF_S[0]
                continue
            except ServerLostError as error:
                _log.warning("lost=%s", error)
                continue  # the next round asks anew what became of the prompt, and whether ComfyUI is there
            except ComfyError as error:
                await self._set_health(Health("down", reason=str(error)))
            except Exception:  # noqa: BLE001 -- a full disk, as a rule; the requests wait until it is over
                _log.exception("dispatching failed")
            await asyncio.sleep(pause)
            pause = min(pause * 2, _BACK_OFF_S[1])

    async def _round(self, host: Host) -> None:
        """Do one thing, or wait a moment if there is nothing to do."""
        queue, now = await self._store.queue(), time.monotonic()
        job = await self._store.get(queue[0].id) if queue else None
        if job is not None and job.status == "in_progress" and job.cancel_requested:
            await self._finish(job, "cancelled")
        elif left := [job for job in await self._store.leftovers() if self._tidy_at.get(job.id, 0.0) <= now]:
            await self._tidy(host, left[0])
        elif job is not None:
            identity = await self._identify(host)
            await self._serve(host, identity, job)
        else:
            if now - self._checked >= _CHECK_S:
                await self._identify(host)
            await self._wait()

    async def _tidy(self, host: Host, job: Job) -> None:
        try:
            tidied = await host.tidy(job)
        except ServerAnswerError as error:
            if is_lost(error):
                raise
            _log.warning("request=%s left something on ComfyUI: %s", job.id, error)
            self._tidy_at[job.id] = time.monotonic() + _TIDY_AGAIN_S
            return
        if tidied:
            self._tidy_at.pop(job.id, None)
            await self._store.mark_clean(job.id)

    async def _identify(self, host: Host) -> Identity:
        identity = await host.identify()
        await self._set_health(Health("up"))
        self._checked = time.monotonic()
        return identity

    async def _serve(self, host: Host, identity: Identity, job: Job) -> None:
        found: Found = "never_sent"
        if job.status == "in_queue":
            if not await self._store.assign(job.id, identity.instance):
                return  # cancelled meanwhile
            _log.info("request=%s state=started", job.id)
        else:
            found = await find(host, identity, job)
            _log.info("request=%s state=recovered found=%s", job.id, found)
        if found == "host_died":
            await self._host_died(job)
        elif found == "removed":
            await self._finish(job, "failed", error=_REMOVED)
        else:
            await self._complete(host, identity, await self._store.get(job.id) or job, found)

    async def _host_died(self, job: Job) -> None:
        if job.attempt >= _MAX_ATTEMPTS:
            await self._finish(job, "failed", error=_DIED)
        else:
            await self._store.requeue(job.id)

    async def _complete(self, host: Host, identity: Identity, job: Job, found: Found) -> None:
        """Bring a running request to its end from where it was found."""
        try:
            warnings = await _check(host, job, found)
            if found == "never_sent":
                await host.submit(job)
                await self._store.mark_sent(job.id)
            run = await self._watch(host, job) if found != "file" else None
            if run is None and found != "file":
                return  # cancelled: the next round ends it
            output = await self._results.collect(host.client, _video(run, job.id), job.id)
        except ComfyError as error:
            if is_lost(error):
                raise
            _log.warning("request=%s error=%s", job.id, error)
            await self._finish(job, "failed", error=public_text(error))
        except (StoreError, StorageError):
            raise  # the request waits; the next rounds find what it left on ComfyUI
        except ResultError as error:
            _log.warning("request=%s error=%s cause=%s", job.id, error, error.__cause__)
            await self._finish(job, "failed", error=str(error))
        except Exception:  # noqa: BLE001 -- whatever it is, the requests behind this one must not wait for ever
            _log.exception("request=%s state=broken", job.id)
            await self._finish(job, "failed", error=_INTERNAL)
        else:
            await self._finish(job, "succeeded", output=output, detail=_detail(job, identity, run, warnings))

    async def _watch(self, host: Host, job: Job) -> RunResult | None:
        """Follow the prompt and note its progress; ``None`` as soon as the request shall be cancelled."""
        shown: list[Progress] = []
        following = asyncio.create_task(host.follow(job, shown.append))
        try:
            while not following.done():
                await self._wait(following)
                if shown:
                    await self._store.report(job.id, _progress(shown[-1]))
                    shown.clear()
                current = await self._store.get(job.id)
                if current is not None and current.cancel_requested and not following.done():
                    return None
            return following.result()
        except NoOutputError:
            # A prompt that was queued twice, by a gateway that died meanwhile, comes from ComfyUI's cache.
            if await host.has_result(job.id):
                return RunResult(job.id, (result_file(job.id),), 0.0, cached=True)
            raise
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def _wait(self, *also: asyncio.Task[Any]) -> None:
        """Wait for news, or for a task, but not long."""
        poked = asyncio.create_task(self._poked.wait())
        try:
            await asyncio.wait([poked, *also], timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            poked.cancel()
            self._poked.clear()

    async def _finish(self, job: Job, status: Any, **end: Any) -> None:
        if await self._store.end(job.id, status, **end):
            _log.info("request=%s state=finished status=%s", job.id, status)

    async def _set_health(self, health: Health) -> None:
        if health != self._health:
            level = logging.INFO if health.comfyui == "up" else logging.WARNING
            _log.log(level, 'comfyui=%s reason="%s"', health.comfyui, health.reason or "")
            self._health = health
        if health != await self._store.health():
            await self._store.set_health(health)


async def _check(host: Host, job: Job, found: Found) -> list[str]:
    """Return the warnings about a request. They are not stored: a gateway that takes up a run asks for them anew."""
    try:
        return await host.check(job)
    except PreflightError:
        if found == "never_sent":
            raise
        return []  # it runs already, or is done


def _video(run: RunResult | None, job_id: str) -> OutputFile:
    """Return the file that the run reported; of a run that only left its file, that one."""
    return run.files[0] if run is not None else result_file(job_id)


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
    """Return what the result tells besides the files; times are seconds, ``running`` is ComfyUI's own measure."""
    started = job.started_at or job.created_at
    warnings = ["ComfyUI ended while it ran this request, which then ran again."] if job.attempt > 1 else []
    return {
        "seed": job.values["57_noise_seed"],
        "timings": {
            "queued": round(started - job.created_at, 3),
            "running": round(run.seconds, 3) if run is not None else None,
            "total": round(time.time() - job.created_at, 3),
        },
        "warnings": [*warnings, *found],
        "host_version": identity.version,
    }
