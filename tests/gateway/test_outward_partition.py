"""Packets that are dropped between a worker and NATS, or a gateway and NATS: both ways, and one way alone."""

import asyncio
import contextlib
import time
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from support.api_runs import submit, until
from support.nats_server import shared_server
from support.outward_workers import Fleet, look_often, run, workers
from support.stores import fleet_url
from support.wire import WAYS, Wire
from wan_flf2v.benchmarks._stand_in import stand_ins
from wan_flf2v.gateway.jobs.records import prompt_id
from wan_flf2v.gateway.jobs.store import StoreError
from wan_flf2v.gateway.settings import NatsAccess

pytestmark = pytest.mark.slow
LONG_S, STEPS = 150.0, {"57_steps": 20}  # a run that a test ends
CUTS = pytest.mark.parametrize("ways", [WAYS[:1], WAYS[1:], WAYS], ids="+".join)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    look_often(monkeypatch)
    monkeypatch.setattr("wan_flf2v.client.connection._READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr("wan_flf2v.gateway.jobs.jetstream._CALL_S", 1.0)


def wire_to_nats():
    """Return a wire that leads to the tests' nats-server."""
    return Wire(SimpleNamespace(port=urlsplit(shared_server()).port, files=None))


def over(wire, folder):
    """Return the address of the fleet of a data folder, over a wire."""
    return fleet_url(folder).replace(shared_server(), wire.url.replace("http", "nats"))


def ids(host):
    return [run.prompt_id for run in host.ran]


def fraction(job):
    return (job.progress or {}).get("fraction", 0.0)


@contextlib.asynccontextmanager
async def partitioned(tmp_path, **settings):
    """Yield an API, a job, the stand-in where it runs with the wire of its worker, and the other stand-in."""
    async with stand_ins(2, seconds=LONG_S) as hosts, wire_to_nats() as one, wire_to_nats() as two:
        api = Fleet(tmp_path, **settings)
        access = [NatsAccess(over(wire, tmp_path)) for wire in (one, two)]
        async with (
            contextlib.aclosing(SimpleNamespace(aclose=api.store.close)),
            workers(api, access[0], one=hosts[0]),
            workers(api, access[1], two=hosts[1]),
            api.dispatching(),
        ):
            await until(lambda: api.is_now("one", "idle"))
            await until(lambda: api.is_now("two", "idle"))
            job = await submit(api.store, **STEPS)
            await until(lambda: is_at_work(api, job, 0.0))
            yield api, job, *((hosts[0], one, hosts[1]) if ids(hosts[0]) else (hosts[1], two, hosts[0]))


@CUTS
def test_a_worker_that_nats_does_not_hear_for_a_short_time_goes_on_with_its_job(tmp_path, ways):
    async def test():
        async with partitioned(tmp_path) as (api, job, first, wire, second):
            wire.cut(*ways)
            await asyncio.sleep(2.5)  # its connections break
            before = await api.store.get(job.id)
            wire.mend()
            await until(lambda: is_at_work(api, job, fraction(before)))
            first.seconds = 0.0
            end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error
            assert (ids(first), ids(second)) == ([job.id], [])

    run(test())


async def all_heard(api):
    return sorted((await api.states()).values()) == ["idle", "running"]


async def is_at_work(api, job, since):
    current = await api.store.get(job.id)
    assert not current.finished and current.attempt <= 1, current.error
    return fraction(current) > since


@CUTS
def test_the_job_of_a_worker_that_nats_does_not_hear_for_long_runs_once_elsewhere(tmp_path, ways):
    """What the worker's ComfyUI has made meanwhile is refused."""

    async def test():
        async with partitioned(tmp_path, worker_lost_after_s=2.0) as (api, job, first, wire, second):
            wire.cut(*ways)
            await until(lambda: ids(second))
            first.seconds = 0.0
            await until(lambda: first.ran[0].end is not None)
            wire.mend()
            await until(lambda: all_heard(api))
            second.seconds = 0.0
            end = await api.until(job)
            assert (end.status, end.attempt, end.worker) == ("succeeded", 2, second.instance), end.error
            assert (ids(first), ids(second)) == ([job.id], [prompt_id(job.id, 2)])

    run(test())


class Leads:
    """What a gateway was told each time it asked for the right to dispatch."""

    def __init__(self, api, monkeypatch):
        self.told, lead = [], api.store.lead

        async def ask(holder):
            leads = await lead(holder)
            self.told.append((time.monotonic(), leads))
            return leads

        monkeypatch.setattr(api.store, "lead", ask)

    def times(self, *, leads):
        """Return when it was told that it dispatches, or that another one does."""
        return [at for at, told in self.told if told is leads]


@pytest.mark.parametrize("ways", [WAYS[:1], WAYS], ids="+".join)
def test_a_gateway_that_nats_does_not_hear_is_followed_by_another_and_no_job_runs_twice(tmp_path, monkeypatch, ways):
    """Longer than a worker may be silent, as seen by that gateway; what it does when it is back changes nothing.

    At no time do both have the right to dispatch. A job that is accepted meanwhile is given out by the second one.
    """

    async def test():
        settings = {"worker_lost_after_s": 3.0}
        async with stand_ins(2, seconds=LONG_S) as hosts, wire_to_nats() as wire:
            first = await asyncio.to_thread(Fleet, tmp_path / "first", nats_url=over(wire, tmp_path), **settings)
            second = Fleet(tmp_path / "second", nats_url=fleet_url(tmp_path), **settings)
            one, two = Leads(first, monkeypatch), Leads(second, monkeypatch)
            async with contextlib.AsyncExitStack() as stack:
                stack.push_async_callback(second.store.close)
                stack.push_async_callback(first.store.close)
                await stack.enter_async_context(
                    workers(first, second.settings.nats, **dict(zip(("one", "two"), hosts, strict=True)))
                )
                await stack.enter_async_context(first.dispatching())
                job = await submit(second.store, **STEPS)
                await until(lambda: is_at_work(second, job, 0.0))
                await stack.enter_async_context(second.dispatching())
                await until(lambda: two.told)
                assert not two.times(leads=True)
                wire.cut(*ways)
                meanwhile = await submit(second.store, **STEPS)
                await until(lambda: two.times(leads=True))
                took_over = two.times(leads=True)[0]
                assert one.times(leads=True)[-1] < took_over
                before = await second.store.get(job.id)
                await until(lambda: is_at_work(second, job, fraction(before)))
                await until(lambda: is_at_work(second, meanwhile, 0.0))
                wire.mend()
                await until(lambda: one.times(leads=False))
                await until(lambda: hears_again(first))
                await asyncio.sleep(1.0)  # it might do something
                assert one.times(leads=True)[-1] < took_over, "it asks first"
                assert not [at for at in two.times(leads=False) if at > took_over]
                for host in hosts:
                    host.seconds = 0.0
                for each in (job, meanwhile):
                    end = await second.until(each)
                    assert (end.status, end.attempt) == ("succeeded", 1), end.error
            ran = sorted(prompt for host in hosts for prompt in ids(host))
            assert ran == sorted([job.id, meanwhile.id])

    run(test())


async def hears_again(api):
    try:
        await api.store.check()
    except StoreError:
        return False
    return True
