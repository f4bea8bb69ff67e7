"""One ComfyUI under watch: whether it is there and free, the job that it runs, and the results that are copied from it.

What a worker knows is in memory alone. After an error it asks the store and ComfyUI again, so that it does not matter
which of the processes ended in between.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from ...client.comfy import OutputFile
from ...client.errors import (
    ComfyError,
    PreflightError,
    ServerLostError,
    ServerRefusedError,
    ServerResponseError,
    ServerUnreachableError,
)
from ...client.progress import Progress
from ...client.run import RunResult, wait_for
from ...contract.parameters import seed_in
from ..settings import Settings
from .addresses import Address
from .catalogue import Catalogue
from .comfyui import ComfyBackend, Found, Identity, NoModelError, is_lost, loads, public_text
from .records import Job, QueuedJob, WorkerState, WorkerWord, prompt_id
from .results import ResultError, Results, StorageError
from .store import Store, StoreError

_CHECK_S = 5.0  # how often ComfyUI is asked whether it is there
_BUSY_CHECK_S = 1.0  # the same while its queue holds prompts of others
_BACK_OFF_S = (0.5, 5.0)  # first and longest pause after an error
_REPORT_S = 0.25  # how often progress is written
_PREVIEW_EVERY_S = 0.5
_OFFERS_S = 60.0  # how long what a ComfyUI lacks counts as known
_REFUSED_S = 30.0  # how long a job whose images or LoRAs a worker lacks is not offered to it again
_PATIENCE_S = 5.0  # for a ComfyUI that is given a waiting job
_SUBMIT_WAIT_S = 5.0  # for a prompt that is on its way when its job is dropped
_MAX_DEATHS = 2  # of ComfyUI while it ran a job
_MAX_ATTEMPTS = 10  # also if no death was seen to be the job's: it may end ComfyUI before that can tell that it runs

_WORKER_ENDED = (
    "ComfyUI ended twice while it ran this request. Its log says why. If it was restarted, submit the request again; "
    "often it ran out of memory: choose a smaller size or fewer frames."
)
_NEVER_RAN = (
    f"ComfyUI ended or was silent {_MAX_ATTEMPTS} times before it ran this request to its end. Its log says why. "
    "Submit it again when ComfyUI stays up."
)
_REMOVED = "The request was removed from ComfyUI's queue or history by someone there. Submit it again."
_INTERNAL = "The API failed on this request. Its log says more, under the request's id."
_REQUEUED = "the ComfyUI that had it ended, or was silent for too long"  # in a job's history

_LOG = logging.getLogger("wan_flf2v.gateway")


class Worker:
    """One ComfyUI. ``alone`` says that there is no other, so that nothing need be compared.

    ``changed`` is called when the dispatcher may have something to do.
    """

    def __init__(
        self,
        address: Address,
        store: Store,
        settings: Settings,
        results: Results,
        models: Catalogue,
        changed: Callable[[], None],
    ) -> None:
        self.address = address
        self.name = address.name
        self.identity: Identity | None = None
        self.alone = True
        self.error: str | None = None  # the last one, while ComfyUI is not there
        self.trouble: str | None = None  # an error of this side, such as a full disk, while it lasts
        self.foreign = False  # whether prompts of others wait or run there
        self.warm: frozenset[str] = frozenset()  # the model files that the last prompt loaded
        self.idle_since = 0.0
        self.lacking: dict[str, list[str]] = {}  # model id -> what it lacks there
        self._store = store
        self._settings = settings
        self._results = results
        self._models = models
        self._changed = changed
        self._backend: ComfyBackend
        self._up = asyncio.Event()
        self._look_now = asyncio.Event()
        self._heard = time.monotonic()
        self._told_at = -math.inf  # when there was news of the job that it runs
        self._gone = False  # nothing listens there
        self._lacking_at: dict[str, float] = {}
        self._refused: dict[str, float] = {}  # job id -> until when it is not offered again
        self._given_up: dict[str, tuple[str, int]] = {}  # prompt id -> job and attempt, which was lost here
        self._task: asyncio.Task[None] | None = None
        self._job: tuple[str, int] | None = None  # id and attempt of the job that has ComfyUI
        self._abandoned = False  # whether that was dropped, and only what is on its way is finished
        self._late = False  # whether that waits for another attempt, and this is the one that was lost here
        self._copies: dict[str, asyncio.Task[None]] = {}  # job id -> the task that brings its result

    # What the dispatcher asks

    @property
    def up(self) -> bool:
        """Whether ComfyUI responded to the last request, or may still do so."""
        return self._up.is_set() and not self.lost

    @property
    def free(self) -> bool:
        """Whether it could be given a job now."""
        return self.up and self._task is None

    @property
    def gone(self) -> bool:
        """Whether nothing listens there."""
        return self._gone

    @property
    def lost(self) -> bool:
        """Whether ComfyUI is gone, or was silent for so long that its job is run elsewhere."""
        heard = max(self._heard, self.address.since)
        return self._gone or time.monotonic() - heard > self._settings.worker_lost_after_s

    @property
    def asked(self) -> bool:
        """Whether it is known if ComfyUI is there."""
        return self.up or self.error is not None

    @property
    def at_rest(self) -> bool:
        """Whether it has no job, and brings no result."""
        return self._task is None and not self._copies

    def held(self) -> set[str]:
        """Return the ids of the jobs that it runs, or whose results it brings."""
        runs = {self._job[0]} if self._job is not None and not self._abandoned else set()
        return runs | self._copies.keys()

    @property
    def late(self) -> str | None:
        """The id of the job that it has taken up again, ``None`` if it has not."""
        return self._job[0] if self._late and self._job is not None and not self._abandoned else None

    def given_up(self) -> set[str]:
        """Return the ids of the jobs of which it has lost an attempt, whose prompt or file may be there still."""
        return {job_id for job_id, _ in self._given_up.values()}

    def refused(self) -> set[str]:
        """Return the ids of the jobs whose images or LoRAs it lacks, as far as is known."""
        now = time.monotonic()
        return {job_id for job_id, until in self._refused.items() if until > now}

    def can_run(self, job_id: str, model_id: str) -> bool:
        """Return whether ComfyUI has what the job needs, as far as is known."""
        return self.alone or not (self.lacking.get(model_id) or self._refused.get(job_id, 0.0) > time.monotonic())

    def state(self, *, duplicate: bool) -> WorkerState:
        """Return what operators are told."""
        state: WorkerWord
        if not self.up:
            state = "lost" if self.lost else "silent" if self.asked else "unknown"
        elif duplicate:
            state = "duplicate"
        elif self.address.stopping:
            state = "stopping"
        else:
            state = "running" if self._job else "busy" if self.foreign else "idle"
        version, instance = (self.identity.version, self.identity.instance) if self.identity else (None, None)
        job_id, attempt = self._job or (None, None)
        return WorkerState(self.name, state, version, instance, job_id, attempt, self.trouble or self.error)

    # What the dispatcher tells

    def start(self, job: QueuedJob, *, died: bool = True) -> None:
        """Bring a job to its end: a waiting one from its start, a running one from where it is found.

        ``died`` tells whether the ComfyUI of its attempt, if it is another one, has ended, or is only silent.
        """
        lacks = not self.can_run(job.id, job.model_id)  # known now: the dispatcher gives it the job all the same
        self._occupy((job.id, 0), self._serve(job.id, waiting=job.status == "in_queue", lacks=lacks, died=died))

    def take_up(self, job_id: str) -> None:
        """Bring a waiting job to its end, without another attempt, if that which was lost here has left something."""
        self._occupy((job_id, 0), self._again_and_again(lambda: self._end_late(job_id)))
        self._late = True

    def tidy(self, job: Job, told: Callable[[bool | None], Awaitable[None]]) -> None:
        """Remove what an ended job left, before the next one starts.

        ``told`` gets ``True`` if all is gone, ``False`` if its prompt still runs, ``None`` if something cannot be
        removed now.
        """
        self._occupy((job.id, job.attempt), self._tidy(job, told))

    def abandon(self, job_id: str) -> asyncio.Task[None] | None:
        """Stop working on a job. Until the task that is returned has ended, a prompt may be on its way to ComfyUI."""
        task = self._copies.pop(job_id, None)
        if task is None and job_id in self.held():
            task, self._abandoned = self._task, True
        if task is not None:
            task.cancel()
            self.trouble = None  # it was that of this job
        return task

    async def drop(self, job_id: str, *, given_up: bool = False) -> None:
        """Stop working on a job and wait until nothing is on its way.

        If it is ``given_up``, its prompt is removed once ComfyUI is there again and another attempt was assigned.
        """
        if given_up and (job := await self._store.get(job_id)) is not None:
            self._given_up[job.prompt_id] = job.id, job.attempt
        if (task := self.abandon(job_id)) is not None:
            await asyncio.wait([task])
            self.trouble = None

    def look(self) -> None:
        """Ask ComfyUI soon whether it is there."""
        self._told_at = -math.inf
        self._look_now.set()

    # Watching

    async def run(self) -> None:
        """Watch ComfyUI until cancelled. A running job is left to it then; the next dispatcher finds it there."""
        pause = _BACK_OFF_S[0]
        async with self.address.client() as client:
            self._backend = ComfyBackend(client, self._settings.data, self._store.blobs, self._models, self.name)
            try:
                while True:
                    try:
                        await self._look()
                        pause, wait_s = _BACK_OFF_S[0], _BUSY_CHECK_S if self.foreign else _CHECK_S
                        wait_s = min(wait_s, self._settings.worker_lost_after_s / 4)
                    except ComfyError as error:
                        self._not_there(error)
                        wait_s, pause = pause, min(pause * 2, _BACK_OFF_S[1])
                    except Exception as error:  # noqa: BLE001 -- the watch goes on whatever ComfyUI says
                        _LOG.exception("watch of ComfyUI failed worker=%s", self.name)
                        self.error, wait_s = str(error), _CHECK_S
                    await wait_for(self._look_now, wait_s)
                    self._look_now.clear()
            finally:  # first, as a closed client would look like an error of the job
                tasks = [*self._copies.values(), *([self._task] if self._task is not None else [])]
                for task in tasks:
                    task.cancel()
                if tasks:
                    await asyncio.wait(tasks)

    async def _look(self) -> None:
        told_s = min(_CHECK_S, self._settings.worker_lost_after_s / 4)
        if not self.up or self.error is not None or time.monotonic() - self._told_at > told_s:
            await self._identify()
        if not self.alone:  # else a job is given to it whatever it does
            await self._look_at_queue()
        for model_id, known_at in list(self._lacking_at.items()):
            if time.monotonic() - known_at > _OFFERS_S:
                await self._learn(model_id)

    async def _look_at_queue(self) -> None:
        """See whether prompts of others are there, and remove those of which a later attempt was assigned."""
        own = self._own_prompts()
        queue = await self._backend.client.queue()
        own |= self._own_prompts()
        there = {*queue.running, *queue.pending}
        for stale, (job_id, attempt) in list(self._given_up.items()):
            job = await self._store.get(job_id)
            may_count = job is not None and not job.finished and job.attempt == attempt
            if not may_count and (stale not in there or await self._backend.client.cancel(stale)):
                self._given_up.pop(stale, None)
        foreign = bool(there - own)
        if foreign != self.foreign:
            self.foreign = foreign
            self._changed()
        if foreign:
            self.warm = frozenset()

    def _own_prompts(self) -> set[str]:
        return set() if self._job is None else {prompt_id(*self._job)}

    async def _learn(self, model_id: str) -> None:
        """Ask ComfyUI what a model lacks there; if it does not respond, the next look asks again and takes its time."""
        self._lacking_at[model_id] = -math.inf
        self.lacking[model_id] = await self._backend.lacking(model_id)
        self._lacking_at[model_id] = time.monotonic()

    async def _identify(self) -> Identity:
        """Ask ComfyUI who it is; after a restart its memory is empty."""
        identity = await self._backend.identify()
        if self.identity is None or identity.instance != self.identity.instance:
            self.warm, self.idle_since = frozenset(), time.monotonic()
            self._lacking_at.clear()
            self.lacking.clear()
        self.identity, self.error, self._gone, self._heard = identity, None, False, time.monotonic()
        if not self._up.is_set():
            _LOG.info("ComfyUI is up worker=%s version=%s", self.name, identity.version)
            self._up.set()
            self._changed()
        return identity

    def _not_there(self, error: ComfyError) -> None:
        if self._up.is_set() or self.error is None:
            _LOG.warning("ComfyUI is down worker=%s: %s", self.name, error)
        self.error, self._gone = str(error), isinstance(error, ServerRefusedError)
        self._up.clear()
        self._changed()

    # A job

    def _occupy(self, job: tuple[str, int], work: Coroutine[Any, Any, None]) -> None:
        self._job, self._abandoned, self._late = job, False, False
        task = self._task = asyncio.create_task(work)

        def free(_: asyncio.Task[None]) -> None:
            reached = self._job or job
            self._task, self._job, self.idle_since = None, None, time.monotonic()
            if not task.cancelled() and (error := task.exception()) is not None:
                told = *reached, self.name
                _LOG.error("work on a job broke off request_id=%s attempt=%d worker=%s", *told, exc_info=error)
                self.trouble = str(error)
            self._changed()

        task.add_done_callback(free)

    async def _serve(self, job_id: str, *, waiting: bool, lacks: bool, died: bool) -> None:
        if waiting and not await self._assign(job_id, lacks=lacks):
            return
        found: list[Found] = ["never_sent"] if waiting else []  # later it may be anywhere
        await self._again_and_again(lambda: self._bring_to_end(job_id, found.pop() if found else None, died))

    async def _assign(self, job_id: str, *, lacks: bool) -> bool:
        """Start a waiting job's next attempt here; ``False`` if it goes on waiting, or was cancelled."""
        try:
            job = await self._store.get(job_id)
            if job is None:
                return False
            self._job = job_id, job.attempt + 1
            # With others there, a waiting job need not wait for a ComfyUI that stalls.
            identity = await asyncio.wait_for(self._ready_for(job, lacks=lacks), None if self.alone else _PATIENCE_S)
            if identity is None or not await self._store.assign(job_id, identity.instance, name=self.name):
                return False
        except asyncio.TimeoutError:
            text = f"ComfyUI at {self.name} did not respond within {_PATIENCE_S:g} s. It may be loading a model."
            self._not_there(ServerUnreachableError(text))
            return False
        except ComfyError as error:
            self._not_there(error)
            return False
        except StoreError as error:
            _LOG.warning("job not started request_id=%s attempt=%d worker=%s: %s", *self._told(), error)
            self.trouble = str(error)
            await asyncio.sleep(_BACK_OFF_S[0])
            return False
        self.trouble = None
        _LOG.info("job started request_id=%s attempt=%d worker=%s", *self._told())
        return True

    def _told(self, job: Job | None = None) -> tuple[str, int, str]:
        """Return what log lines about a job tell, by default about that which has ComfyUI: id, attempt and worker."""
        job_id, attempt = (job.id, job.attempt) if job is not None else self._job or ("", 0)
        return job_id, attempt, self.name

    async def _again_and_again(self, work: Callable[[], Awaitable[None]], job: Job | None = None) -> None:
        """Do the work once ComfyUI is there; after an error that passes, do it again. ``job`` is that of ``_told``."""
        pause = _BACK_OFF_S[0]
        while True:
            await self._up.wait()
            try:
                await work()
                self.trouble = None
                return
            except ServerLostError as error:
                told = self._told(job)
                _LOG.warning("connection to ComfyUI lost request_id=%s attempt=%d worker=%s: %s", *told, error)
                self.look()  # is ComfyUI there, and what became of the prompt?
            except ComfyError as error:
                self._not_there(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BACK_OFF_S[1])
            except Exception as error:  # noqa: BLE001 -- often a full disk; accepted jobs wait until it is over
                told = self._told(job)
                _LOG.exception("job is held up request_id=%s attempt=%d worker=%s again_in_s=%.1f", *told, pause)
                self.trouble = str(error)
                self._changed()
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BACK_OFF_S[1])

    async def _bring_to_end(self, job_id: str, found: Found | None, died: bool) -> None:
        """Run a job to the end of its prompt, from where it was found; ``None``: it must be looked for."""
        identity = self.identity if found is not None and self.identity is not None else await self._identify()
        job = await self._store.get(job_id)
        if job is None or job.status != "in_progress":
            return
        self._job = job.id, job.attempt
        if found is None:
            found = await self._backend.find(identity, job)
            _LOG.info("job recovered request_id=%s attempt=%d worker=%s found=%s", *self._told(job), found)
        if found == "removed":
            await self._end(job, "failed", error=_REMOVED)
        elif found != "worker_ended":
            await self._run_prompt(identity, job, found)
        elif job.deaths + (died and job.ran) >= _MAX_DEATHS:
            await self._end(job, "failed", error=_WORKER_ENDED)
        elif job.attempt >= _MAX_ATTEMPTS:
            await self._end(job, "failed", error=_NEVER_RAN)
        else:
            await self._store.requeue(job.id, attempt=job.attempt, reason=_REQUEUED, died=died)

    async def _end_late(self, job_id: str) -> None:
        """Take the result of a waiting job's attempt that was lost here, once there is one."""
        identity, job = await self._identify(), await self._store.get(job_id)
        if job is None or job.status != "in_queue" or job.prompt_id not in self._given_up:
            await self._look_at_queue()  # there it is of no use
            return
        self._job = job.id, job.attempt
        found = await self._backend.find(identity, job)
        _LOG.info("lost attempt looked for request_id=%s attempt=%d worker=%s found=%s", *self._told(job), found)
        if found in ("known", "file"):
            await self._run_prompt(identity, job, found)
        self._given_up.pop(job.prompt_id, None)

    async def _ready_for(self, job: Job, *, lacks: bool) -> Identity | None:
        """Return which ComfyUI is there, ``None`` if it lacks what a waiting job needs, or has become busy.

        The dispatcher gives it a job that it is known to lack something for only if all others do too: then the job
        is to fail here, with the reason.
        """
        identity = await self._identify()
        if self.alone or lacks:
            return identity
        if job.model_id not in self.lacking:
            await self._learn(job.model_id)
        if not await self._backend.has_inputs(job):
            self._refused[job.id] = time.monotonic() + _REFUSED_S
        was_busy = self.foreign  # then the dispatcher has chosen it all the same
        await self._look_at_queue()
        ready = self.can_run(job.id, job.model_id) and (was_busy or not self.foreign)
        return identity if ready else None

    async def _run_prompt(self, identity: Identity, job: Job, found: Found) -> None:
        """Bring a running job to the end of its prompt from where it was found; its result is copied meanwhile."""
        try:
            # Warnings are not stored: a gateway that finds a running job asks for them again.
            try:
                warnings = await self._backend.check(job)
            except (PreflightError, NoModelError):
                if found == "never_sent":
                    raise
                warnings = []
            if found == "never_sent":
                await self._submit(job)
                self.warm = loads(await self._models.find(job.model_id))
            run = await self._follow(job) if found != "file" else None
        except Exception as error:  # noqa: BLE001 -- the jobs behind this one must not wait for ever
            await self._fail(job, error)
            return
        file = run.files[0] if run is not None else await self._backend.result_file(job)

        async def collect() -> None:
            await self._again_and_again(lambda: self._collect(identity, job, run, file, warnings), job)
            await self._tidy_after(job)

        task = self._copies[job.id] = asyncio.create_task(collect())
        task.add_done_callback(lambda task: self._forget_copy(job.id, task))

    def _forget_copy(self, job_id: str, task: asyncio.Task[None]) -> None:
        if self._copies.get(job_id) is task:
            del self._copies[job_id]
        self._changed()

    async def _submit(self, job: Job) -> None:
        """Queue the job's prompt. What is on its way is finished even if the job is dropped meanwhile."""

        async def submit() -> None:
            await self._backend.submit(job)
            await self._store.mark_sent(job.id, attempt=job.attempt)

        await _finish_anyway(submit())

    async def _follow(self, job: Job) -> RunResult:
        """Follow the prompt and report its progress."""
        shown: list[Progress] = []
        previews: deque[bytes] = deque(maxlen=1)
        preview_at = 0.0
        following = asyncio.create_task(self._backend.follow(job, shown.append, previews.append))
        try:
            while not following.done():
                await asyncio.wait([following], timeout=_REPORT_S)
                if shown:
                    await self._store.report(job.id, _progress(shown[-1]), attempt=job.attempt)
                    shown.clear()
                    self._heard = self._told_at = time.monotonic()
                if previews and time.monotonic() - preview_at >= _PREVIEW_EVERY_S:
                    preview_at = time.monotonic()
                    await self._results.keep_preview(job.id, previews.pop())
            return following.result()
        finally:
            following.cancel()
            await asyncio.wait([following])
            await self._results.drop_preview(job.id)

    async def _collect(
        self, identity: Identity, job: Job, run: RunResult | None, file: OutputFile, warnings: list[str]
    ) -> None:
        """Copy the result of a prompt that has ended, and end its job."""
        try:
            output = await self._results.collect(self._backend.client, file, job)
        except Exception as error:  # noqa: BLE001 -- as above
            await self._fail(job, error)
        else:
            if not await self._end(job, "succeeded", output=output, detail=_detail(job, identity, run, warnings)):
                await self._results.drop(job, output)

    async def _fail(self, job: Job, error: Exception) -> None:
        """End a job on an error that is its own; raise all others again: they pass."""
        told = self._told(job)
        if isinstance(error, (StoreError, StorageError)) or (isinstance(error, ComfyError) and is_lost(error)):
            raise error  # the job waits; what it left on ComfyUI is found again
        if isinstance(error, ComfyError):
            _LOG.warning("job failed request_id=%s attempt=%d worker=%s: %s", *told, error)
            await self._end(job, "failed", error=public_text(error))
        elif isinstance(error, ResultError):
            cause = error.__cause__
            _LOG.warning("job failed request_id=%s attempt=%d worker=%s: %s Cause: %s", *told, error, cause)
            await self._end(job, "failed", error=str(error))
        else:
            _LOG.error("job failed on an error of the API request_id=%s attempt=%d worker=%s", *told, exc_info=error)
            await self._end(job, "failed", error=_INTERNAL)

    async def _end(self, job: Job, status: Any, **end: Any) -> bool:
        """End a job; ``False`` if it had ended, or runs elsewhere."""
        told = *self._told(job), status
        ended = await self._store.end(job.id, status, **end, attempt=job.attempt)
        if ended:
            _LOG.info("job ended request_id=%s attempt=%d worker=%s status=%s", *told)
        else:
            _LOG.info("job had ended or runs elsewhere request_id=%s attempt=%d worker=%s refused=%s", *told)
        return ended

    # Tidying

    async def _tidy_after(self, job: Job) -> None:
        """Remove the images of a job that has ended; if that fails, the dispatcher asks for it again."""
        try:
            if (
                await self._backend.tidy(job) and job.attempt <= 1
            ):  # of earlier attempts the dispatcher looks everywhere
                await self._store.mark_clean(job.id, attempt=job.attempt)
        except (ComfyError, StoreError) as error:
            _LOG.warning("clean-up on ComfyUI failed request_id=%s attempt=%d worker=%s: %s", *self._told(job), error)

    async def _tidy(self, job: Job, told: Callable[[bool | None], Awaitable[None]]) -> None:
        try:
            await told(await self._backend.tidy(job))
        except ComfyError as error:
            if isinstance(error, ServerResponseError) and not is_lost(error):
                where = self._told(job)
                _LOG.warning("clean-up on ComfyUI failed request_id=%s attempt=%d worker=%s: %s", *where, error)
                await told(None)
            else:
                self._not_there(error)


async def _finish_anyway(work: Coroutine[Any, Any, None]) -> None:
    """Do the work; if this is cancelled meanwhile, give it a moment to finish."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=_SUBMIT_WAIT_S)
        task.cancel()
        raise


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
        "seed": seed_in(job.values),
        "timings": {
            "queued": round(queued, 3),
            "running": round(running, 3) if running is not None else None,
            "total": round(total, 3),
        },
        "warnings": [*warnings, *found],
        "host_version": identity.version,
    }
