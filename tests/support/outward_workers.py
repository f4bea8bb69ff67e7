"""Outward workers for tests: an API on NATS that has no address of a ComfyUI, and workers that can be cut off."""

import asyncio
import contextlib

from wan_flf2v.gateway.jobs import outward, worker
from wan_flf2v.gateway.jobs.addresses import Address
from wan_flf2v.gateway.jobs.dispatcher import Dispatcher
from wan_flf2v.gateway.jobs.opening import open_outward, open_store
from wan_flf2v.gateway.jobs.results import Results
from wan_flf2v.gateway.outward_worker import OutwardWorker

from support.api_runs import Api
from support.stores import fleet_url

WAIT_S = 300.0


def look_often(monkeypatch):
    """Let workers be looked at so often that a test need not wait for it."""
    monkeypatch.setattr(worker, "_CHECK_S", 0.1)
    monkeypatch.setattr(worker, "_BUSY_CHECK_S", 0.1)
    monkeypatch.setattr(worker, "_BACK_OFF_S", (0.05, 0.1))
    monkeypatch.setattr("wan_flf2v.gateway.outward_worker._HELLO_S", 0.2)
    monkeypatch.setattr(outward, "_SILENT_S", 1.0)
    monkeypatch.setattr(outward, "_LOOK_S", 0.1)


def run(test):
    """Run a test that never ends only for a while."""
    asyncio.run(asyncio.wait_for(test, WAIT_S))


class Fleet(Api):
    """An API on NATS that has no address of a ComfyUI."""

    def __init__(self, data, **settings):
        super().__init__(data, (), **{"nats_url": fleet_url(data), **settings})
        self.store = open_store(data, self.settings.nats)

    @contextlib.asynccontextmanager
    async def dispatching(self):
        found = open_outward(self.settings.nats)
        results = await asyncio.to_thread(Results, self.settings, self.store)  # it waits for NATS
        self.dispatcher = lambda: Dispatcher(self.store, self.settings, results, found)
        hearing = asyncio.create_task(found.run())
        try:
            async with super().dispatching():
                yield found
        finally:
            hearing.cancel()
            await asyncio.wait([hearing])

    async def states(self):
        return {state.name: state.state for state in await self.store.workers()}

    async def is_now(self, name, state):
        return (await self.states()).get(name) == state


@contextlib.asynccontextmanager
async def fleet(data, **settings):
    api = Fleet(data, **settings)
    try:
        yield api
    finally:
        await api.store.close()


class Running:
    """A worker's process; ``cut`` ends it as kill -9 does, without a word, and ``again`` starts another one."""

    def __init__(self, access, name, url):
        self.again = lambda: Running(access, name, url)
        self.worker = OutwardWorker(access, name, Address(url, None, verify_tls=True))
        self.task = asyncio.create_task(self.worker.run())

    async def cut(self):
        self.worker._nats.client()._transport.close()
        self.task.cancel()
        await asyncio.wait([self.task])


@contextlib.asynccontextmanager
async def workers(api, access=None, **hosts):
    """Run a worker before each of these stand-ins, which have the two photographs."""
    for host in hosts.values():
        for name in ("start.jpg", "end.jpg"):
            host.files.setdefault(("input", "", name), b"a photograph")
    running = {name: Running(access or api.settings.nats, name, host.url) for name, host in hosts.items()}
    try:
        yield running
    finally:
        for each in running.values():
            each.task.cancel()
        ends = await asyncio.gather(*(each.task for each in running.values()), return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends), ends
