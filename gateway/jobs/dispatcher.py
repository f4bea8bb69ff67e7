"""The dispatcher hands jobs to ComfyUIs in the queue's order: which one gets which, and what if one is lost.

All state is in the store and on the ComfyUIs. Every round of the loop asks the store, so that it does not matter which
of the processes ended in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace

from ...client.run import wait_for
from ...contract.parameters import MODELS, ModelContract
from ..settings import Settings
from .addresses import NO_OUTWARD, NO_WORKER, Address, Outward, addresses_of, resolve
from .catalogue import Catalogue
from .comfyui import loads
from .records import Health, Job, QueuedJob, WorkerState
from .results import Results
from .store import Store, StoreError, within
from .worker import Worker

_SHORTEST_ROUND_S = 0.05  # many requests may come at once, and a round looks at every worker
_RESOLVE_S = 30.0  # how often names are looked up again
_BACK_OFF_S = (0.5, 5.0)  # first and longest pause after an error
_LEAD_RETRY_S = 2.0
_RESIGN_S = 2.0
_KEEP_LEAD_S = 1.0  # how often the right is renewed, however long a round takes
_TIDY_AGAIN_S = 60.0

_LOG = logging.getLogger("wan_flf2v.gateway")


class Dispatcher:
    """Runs the jobs of a store on ComfyUIs; of all processes that share the store, one dispatches at a time."""

    def __init__(self, store: Store, settings: Settings, results: Results, outward: Outward = NO_OUTWARD) -> None:
        self._store = store
        self._settings = settings
        self._addresses = addresses_of(settings)
        self._outward = outward
        self._results = results
        self._catalogue = Catalogue(store, MODELS)
        self._models: Mapping[str, ModelContract] = MODELS
        self._name = uuid.uuid4().hex
        self._leads = False
        self._poked = asyncio.Event()
        self._workers: dict[Address, Worker] = {}
        self._tasks: dict[Address, asyncio.Task[None]] = {}
        self._known: dict[str, list[Address]] = {}  # URL -> what it led to when it was looked up last
        self._look_up: asyncio.Task[list[Address]] | None = None
        self._look_up_at = 0.0
        self._found: list[Address] | None = None  # what all names led to
        self._drained: set[str] = set()
        self._moved_drained: set[str | None] = set()  # drained instances whose address is no longer theirs
        self._health = Health()
        self._states: list[WorkerState] | None = None
        self._tidied: dict[str, set[str]] = {}  # job id -> the workers where nothing is left of it
        self._tidy_at: dict[str, float] = {}  # when to try again to remove what a job left on ComfyUI

    def poke(self) -> None:
        """Tell the dispatcher that the store has a new job or cancellation."""
        self._poked.set()

    async def run(self, ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """Run jobs until cancelled; go on after every error, and share what is down as the store's health.

        Nothing is dispatched before ``ready`` returns.

        When cancelled, running jobs are left to their ComfyUIs; the next dispatcher finds them there.
        """
        if ready is not None:
            await ready()
        keeping = asyncio.create_task(self._keep_lead())
        try:
            with self._store.telling(self.poke):
                await self._run_rounds()
        finally:
            keeping.cancel()
            await asyncio.gather(asyncio.wait((keeping,)), self._stop_all())  # a silent store keeps both waiting
            with contextlib.suppress(StoreError), within(_RESIGN_S):  # else its right ends by itself
                await self._store.resign(self._name)

    async def _run_rounds(self) -> None:
        pause = _BACK_OFF_S[0]
        while True:
            try:
                led, self._leads = self._leads, await self._store.lead(self._name)
                if self._leads != led:
                    _LOG.info("this gateway dispatches now" if self._leads else "another gateway dispatches now")
                if not self._leads:
                    await self._stop_all()
                    await asyncio.sleep(_LEAD_RETRY_S)
                    continue
                await self._round()
                pause = _BACK_OFF_S[0]
            except Exception as error:  # noqa: BLE001 -- accepted jobs wait until it is over
                _LOG.exception("dispatcher failed again_in_s=%.1f", pause)
                with contextlib.suppress(StoreError):
                    # A store that does not say who dispatches may have another gateway that does.
                    if self._leads or not isinstance(error, StoreError):
                        await self._set_health(replace(self._health, dispatcher="down", reason=str(error)))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _BACK_OFF_S[1])
            await asyncio.sleep(_SHORTEST_ROUND_S)
            await wait_for(self._poked, self._store.look_s)
            self._poked.clear()

    async def _keep_lead(self) -> None:
        """Keep the right to dispatch while a round waits for a store with much to write."""
        while True:
            await asyncio.sleep(_KEEP_LEAD_S)
            if self._leads:
                with contextlib.suppress(StoreError):  # the next round meets it too
                    await self._store.lead(self._name)

    async def _round(self) -> None:
        """Look at everything once."""
        known = await self._store.workers()
        if self._states is None:  # it just began to dispatch: a worker may be silent now and run something
            self._outward.expect(worker.name for worker in known)
        await self._watch_all()
        await self._note_drained(known)
        running = await self._store.running()
        holders = self._holders()
        for job in running:
            if job.cancel_requested:
                await self._cancel(job, holders.get(job.id))
            else:
                await self._find_again(job, holders.get(job.id))
        await self._tidy()
        workers = self._workers.values()
        if any(worker.late or (worker.free and not self._is_drained(worker)) for worker in workers):
            queue = await self._store.queue()
            self._take_up(queue)
            if any(job.model_id not in MODELS for job in queue):
                self._models = await self._catalogue.all()
            self._hand_out(queue)
        await self._dismiss(running)
        await self._tell()

    # Workers

    async def _watch_all(self) -> None:
        """Watch every ComfyUI of the settings, and outward workers, and no other."""
        wanted = [*await self._named(), *self._outward.addresses()]
        if wanted == list(self._workers):
            return
        await self._stop([address for address in self._workers if address not in wanted])
        workers = {}
        for address in wanted:
            workers[address] = self._workers.get(address) or Worker(
                address, self._store, self._settings, self._results, self._catalogue, self.poke
            )
            workers[address].alone = len(wanted) == 1
            if address not in self._tasks:
                self._tasks[address] = asyncio.create_task(workers[address].run())
        self._workers = workers

    async def _note_drained(self, known: list[WorkerState]) -> None:
        """Note which workers get no more jobs. One whose address has changed is told by its instance."""
        names = {worker.name for worker in self._workers.values()}
        drained = [worker for worker in known if worker.drained]
        self._drained = {worker.name for worker in drained}
        self._drained |= {address.name for address in self._workers if address.stopping}
        self._moved_drained |= {each.instance for each in drained if each.instance and each.name not in names}
        for worker in self._workers.values():
            instance = worker.identity.instance if worker.identity is not None else None
            if instance in self._moved_drained and await self._store.drain(worker.name):  # the store knows it by now
                self._drained.add(worker.name)
                self._moved_drained.discard(instance)

    def _is_drained(self, worker: Worker) -> bool:
        moved = worker.identity is not None and worker.identity.instance in self._moved_drained
        return moved or worker.name in self._drained

    async def _named(self) -> list[Address]:
        """Return where the addresses of the settings lead; of a name, to more or fewer ComfyUIs than before."""
        now = time.monotonic()
        if self._look_up is None and now >= self._look_up_at:
            self._look_up_at = now + _RESOLVE_S
            self._look_up = asyncio.create_task(self._find_addresses())
        if self._look_up is not None and (self._found is None or self._look_up.done()):  # a name server can be slow
            looking, self._look_up = self._look_up, None
            self._found = await looking
        return self._found or []

    async def _find_addresses(self) -> list[Address]:
        wanted: list[Address] = []
        for address in self._addresses:
            try:
                self._known[address.url] = await resolve(address)
            except (OSError, ValueError) as error:
                if address.url in self._known:
                    _LOG.warning("name of ComfyUI not found, it counts as before worker=%s: %s", address.name, error)
            wanted += self._known.get(address.url, [address])
        return wanted

    async def _stop(self, no_longer: list[Address]) -> None:
        tasks = [task for address in no_longer if (task := self._tasks.pop(address, None)) is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _stop_all(self) -> None:
        """Forget every ComfyUI; a later round begins as a new process does."""
        await self._stop(list(self._tasks))
        self._workers, self._states, self._found, self._look_up_at = {}, None, None, 0.0

    def _there(self) -> Iterator[Worker]:
        """Yield the ComfyUIs that are up, each once, whatever number of addresses lead to it."""
        seen = set()
        for worker in self._workers.values():
            instance = worker.identity.instance if worker.identity is not None else None
            if worker.up and instance not in seen:
                if instance is not None:
                    seen.add(instance)
                yield worker

    def _able(self, job: QueuedJob, there: list[Worker]) -> list[Worker]:
        """Return the workers that may be given the job, now or later. If none has all of it, it fails on any."""
        able = [worker for worker in there if worker.can_run(job.id, job.model_id)]
        if not able and all(worker.up for worker in self._workers.values()):
            able = there
        return [worker for worker in able if not self._is_drained(worker)]

    # Jobs

    def _holders(self) -> dict[str, Worker]:
        """Return which worker runs each job or brings its result; of two that do, the first."""
        return {job_id: worker for worker in reversed(self._workers.values()) for job_id in worker.held()}

    async def _cancel(self, job: QueuedJob, holder: Worker | None) -> None:
        if holder is not None:
            holder.abandon(job.id)
        if await self._store.end(job.id, "cancelled"):
            told = await self._told(job, holder)
            _LOG.info("job ended request_id=%s attempt=%d worker=%s status=cancelled", *told)

    async def _find_again(self, job: QueuedJob, holder: Worker | None) -> None:
        """Let a running job that no worker has, or a lost one, go on where it is, or else on another worker."""
        if holder is not None and not holder.lost:
            return
        heir = self._heir(job, holder)
        if heir is None:
            return
        died = await self._died(job, holder)
        if holder is not None:
            told = await self._told(job, holder)
            _LOG.warning("worker is lost request_id=%s attempt=%d worker=%s: %s", *told, holder.error)
            elsewhere = heir.identity is None or heir.identity.instance != job.worker
            await holder.drop(job.id, given_up=elsewhere)
        heir.start(job, died=died)

    async def _died(self, job: QueuedJob, holder: Worker | None) -> bool:
        """Return whether the ComfyUI of a running job has ended: nothing listens there, or another process does.

        Silence is no sign of it; nor is that its address is no longer listed.
        """
        if holder is not None:
            return holder.gone
        history = await self._store.history(job.id)
        name = history[-1].worker if history else None
        return any(worker.name == name and (worker.gone or worker.up) for worker in self._workers.values())

    async def _told(self, job: QueuedJob, holder: Worker | None) -> tuple[str, int, str | None]:
        """Return what log lines about a running job tell: its id, its attempt and its worker."""
        found = await self._store.get(job.id)
        return job.id, found.attempt if found is not None else 0, holder.name if holder is not None else job.worker

    def _heir(self, job: QueuedJob, holder: Worker | None) -> Worker | None:
        """Return the free worker that goes on with a running job; ``None`` if there is none yet."""
        for worker in self._there():
            identity = worker.identity
            if identity is not None and identity.instance is not None and identity.instance == job.worker:
                return worker if worker.free else None
        if holder is None and any(not worker.up and not worker.lost for worker in self._workers.values()):
            return None  # it may be on one that has not responded yet
        able = self._able(job, list(self._there()))
        return next((worker for worker in able if worker.free and worker is not holder), None)

    def _take_up(self, queue: tuple[QueuedJob, ...]) -> None:
        """Let the lost attempts of waiting jobs end whose ComfyUI is back; stop that where it is of no use any more."""
        waiting = {job.id for job in queue if job.status == "in_queue"}
        for worker in self._workers.values():
            if worker.late and worker.late not in waiting:
                worker.abandon(worker.late)
            elif worker.free and (jobs := worker.given_up() & waiting):
                worker.take_up(jobs.pop())

    def _hand_out(self, queue: tuple[QueuedJob, ...]) -> None:
        """Give the waiting jobs, in their order, to the free workers that can run them.

        Thousands may wait while a free worker can run none of them, so each costs little.
        """
        there = list(self._there())
        free = [worker for worker in there if worker.free and not self._is_drained(worker)]
        held = set().union(*(worker.held() for worker in there))
        refused = set().union(*(worker.refused() for worker in there))
        able_to_run: dict[str, list[Worker]] = {}  # model id -> who has it
        for job in queue:
            if not free:
                return
            if job.status != "in_queue" or job.id in held:
                continue
            if job.id in refused:
                able = self._able(job, there)
            else:
                if job.model_id not in able_to_run:
                    able_to_run[job.model_id] = self._able(job, there)
                able = able_to_run[job.model_id]
            worker = self._choose(job, free, able)
            if worker is not None:
                for other in self._workers.values():
                    if job.id in other.held():  # a lost attempt that it has taken up; it is silent again
                        other.abandon(job.id)
                free.remove(worker)
                worker.start(job)

    def _choose(self, job: QueuedJob, free: list[Worker], able: list[Worker]) -> Worker | None:
        """Return an idle worker: one that has the job's models in memory, else an empty one, else the longest idle.

        One whose queue holds prompts of others is taken if no other worker can ever run the job, or if the job has
        waited for too long.
        """
        overdue = time.time() - job.created_at > self._settings.max_wait_s
        among = [worker for worker in free if worker in able and (not worker.foreign or len(able) == 1 or overdue)]
        if not among:
            return None
        files = loads(self._models.get(job.model_id))
        return min(
            among,
            key=lambda worker: (worker.foreign, worker.warm != files, bool(worker.warm), worker.idle_since),
        )

    async def _dismiss(self, running: list[QueuedJob]) -> None:
        """Tell the workers that want to end, and have nothing left to do, that they may."""
        for address, worker in self._workers.items():
            if address.stopping and worker.at_rest and not any(self._may_have(worker, job) for job in running):
                await address.dismiss()

    def _may_have(self, worker: Worker, job: QueuedJob) -> bool:
        """Return whether a running job may be on a worker: of one that never said who it is, any that is nowhere else.

        A gateway that has just begun to dispatch knows nobody yet.
        """
        if worker.identity is not None:
            return worker.identity.instance == job.worker
        known = {other.identity.instance for other in self._workers.values() if other.identity is not None}
        return not worker.gone and job.worker not in known

    # Tidying

    async def _tidy(self) -> None:
        """Remove what ended jobs left on workers, before these get another job."""
        now, leftovers = time.monotonic(), await self._store.leftovers()
        holders = self._holders()
        self._tidied = {job.id: self._tidied.get(job.id, set()) for job in leftovers}
        self._tidy_at = {job_id: at for job_id, at in self._tidy_at.items() if job_id in self._tidied}
        for job in leftovers:
            if job.id in holders or self._tidy_at.get(job.id, 0.0) > now:
                continue
            places, done = self._places(job), self._tidied[job.id]
            for worker in places:
                if worker.name not in done and worker.free:
                    worker.tidy(job, functools.partial(self._tidied_on, worker, job))
            if places and all(worker.name in done for worker in places):
                await self._store.mark_clean(job.id)

    def _places(self, job: Job) -> list[Worker]:
        """Return the workers that may have something of an ended job: its own, or after several attempts all.

        None while one that may have it is silent: its prompt may still run.
        """
        workers = list(self._workers.values())
        own = [w for w in workers if w.identity is not None and w.identity.instance == job.worker is not None]
        if own and job.attempt <= 1:
            return [worker for worker in own if worker.up][:1]
        return [] if any(not worker.up and not worker.lost for worker in workers) else list(self._there())

    async def _tidied_on(self, worker: Worker, job: Job, clean: bool | None) -> None:
        if clean:
            self._tidied.setdefault(job.id, set()).add(worker.name)
            self._tidy_at.pop(job.id, None)
        elif clean is None:
            self._tidy_at[job.id] = time.monotonic() + _TIDY_AGAIN_S

    # What others are told

    async def _tell(self) -> None:
        workers, there = list(self._workers.values()), set(self._there())
        trouble = next((worker.trouble for worker in workers if worker.trouble), None)
        if trouble is not None:
            await self._set_health(replace(self._health, dispatcher="down", reason=trouble))
        elif there:
            await self._set_health(Health("up"))
        elif all(worker.asked for worker in workers):
            reason = " ".join(str(worker.error) for worker in workers) or NO_WORKER
            await self._set_health(Health("down", reason=reason))
        states = [worker.state(duplicate=worker.up and worker not in there) for worker in workers]
        if states != self._states:
            await self._store.set_workers(states)
            self._states = states

    async def _set_health(self, health: Health) -> None:
        if health != self._health:
            level = logging.INFO if health == Health("up") else logging.WARNING
            told = health.comfyui, health.dispatcher, "all is well" if level == logging.INFO else health.reason
            _LOG.log(level, "health changed comfyui=%s dispatcher=%s: %s", *told)
            self._health = health
        if health != await self._store.health():
            await self._store.set_health(health)
