"""Requests survive kill -9 of ComfyUI, of the API's process, and of both; each has one result at most."""

import asyncio
import subprocess
import sys

import pytest
from support.api_runs import LONG, MIDDLING, Api, submit
from support.client_runs import queue_as_someone_else, runs, slow_graph, wait_until
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.gateway.jobs.comfyui import request_graph

_GATEWAY = """
import asyncio, sys
from pathlib import Path
from wan_flf2v.gateway.jobs.dispatcher import Dispatcher
from wan_flf2v.gateway.jobs.results import Results
from wan_flf2v.gateway.settings import Settings
from wan_flf2v.gateway.jobs.store import Store
settings = Settings(data=Path(sys.argv[1]), comfyui_url=sys.argv[2], demo=True)
store = Store(settings.data / "store.sqlite3")
asyncio.run(Dispatcher(store, settings, Results(settings, store)).run())
"""


@pytest.fixture(scope="module")
def server(new_comfy_server):
    with new_comfy_server() as host:
        host.server._wanted_port = host.server._port  # it comes back where it was
        yield host


@pytest.fixture
def api(server, tmp_path):
    if not server.alive():
        server.start()
    api = Api(tmp_path, server.url)
    yield api
    api.store.close()


@pytest.fixture
def gateway(api):
    """Start a process that dispatches; it is killed at the end if it was not before."""
    command = [sys.executable, "-I", "-c", _GATEWAY, str(api.settings.data), api.settings.comfyui_url]
    child = subprocess.Popen(command)
    yield child
    child.kill()
    child.wait()


async def running(api, job):
    async with ComfyClient(api.settings.comfyui_url) as client:
        await wait_until(runs(client, job.id))
    while not api.store.get(job.id).submitted:
        await asyncio.sleep(0.02)


def end_of(api, job, *, killing=0, server=None):
    """Dispatch until the request ends; kill ComfyUI under it ``killing`` times."""

    async def go():
        async with api.dispatching():
            for _ in range(killing):
                await running(api, job)
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
            return await api.until(job)

    return asyncio.run(go())


def test_comfyui_dies_once_and_the_request_runs_again(api, server):
    job, waiting = submit(api.store, **MIDDLING), submit(api.store)
    end = end_of(api, job, killing=1, server=server)
    assert (end.status, end.host_deaths) == ("succeeded", 1), end.error
    assert [text.partition(" ended")[0].partition(",")[0] for text in end.detail["warnings"]] == [
        "ComfyUI",
        "steps is 8",
    ]
    assert api.files(job, server.base_dir) == [f"{job.id}_00001_.mp4"]
    waiting_end = end_of(api, waiting)
    assert (waiting_end.status, waiting_end.host_deaths) == ("succeeded", 0)


def test_comfyui_dies_twice_and_the_request_fails_with_the_reason(api, server):
    job = submit(api.store, **LONG)
    end = end_of(api, job, killing=2, server=server)
    assert end.status == "failed"
    assert end.error.startswith("ComfyUI ended twice while it ran this request.")
    assert api.files(job, server.base_dir) == []


def test_the_gateway_dies_and_the_run_is_taken_up_where_it_is(api, server, gateway):
    job = submit(api.store, **MIDDLING)
    asyncio.run(running(api, job))
    gateway.kill()
    gateway.wait()
    assert api.store.get(job.id).status == "in_progress"
    end = end_of(api, job)
    assert (end.status, end.host_deaths) == ("succeeded", 0), end.error
    assert api.files(job, server.base_dir) == [f"{job.id}_00001_.mp4"]


def test_both_die_and_the_request_runs_again(api, server, gateway):
    job = submit(api.store, **MIDDLING)
    asyncio.run(running(api, job))
    gateway.kill()
    server.kill()
    gateway.wait()
    server.start()
    end = end_of(api, job)
    assert (end.status, end.host_deaths) == ("succeeded", 1), end.error
    assert api.files(job, server.base_dir) == [f"{job.id}_00001_.mp4"]


def test_a_finished_file_is_found_by_its_name_and_nothing_runs_again(api, server, tmp_path):
    job = submit(api.store)
    assert end_of(api, job).status == "succeeded"
    server.kill()  # its history is gone, its files are not
    server.start()
    after = Api(tmp_path / "after", server.url)
    after.store.add(job.id, "test", DEMO.model_id, job.values, {})
    after.store.start(job.id, "the ComfyUI that died")
    after.store.mark_submitted(job.id)
    end = end_of(after, job)
    assert (end.status, end.host_deaths, end.detail["timings"]["running"]) == ("succeeded", 0, None)
    assert api.files(job, server.base_dir) == [f"{job.id}_00001_.mp4"]
    video = "results/" + job.id + "/video.mp4"
    assert (tmp_path / "after" / video).read_bytes() == (tmp_path / video).read_bytes()
    assert asyncio.run(history(server, job)) is None
    after.store.close()


async def history(server, job):
    async with ComfyClient(server.url) as client:
        return await client.history(job.id)


async def instance(server):
    async with ComfyClient(server.url) as client:
        return await client.pack_instance()


def test_a_request_that_never_reached_comfyui_is_sent_and_no_death_is_counted(api, server):
    job = submit(api.store)
    api.store.start(job.id, asyncio.run(instance(server)))
    end = end_of(api, job)
    assert (end.status, end.host_deaths) == ("succeeded", 0), end.error


def test_a_request_that_someone_removes_from_comfyuis_queue_fails_with_that_reason(api, server):
    async def go():
        async with ComfyClient(server.url) as client, api.dispatching():
            other = await queue_as_someone_else(client, slow_graph(steps=1000))
            await wait_until(runs(client, other))
            job = submit(api.store)
            while not api.store.get(job.id).submitted:
                await asyncio.sleep(0.02)
            await client.cancel(job.id)
            end = await api.until(job)
            await client.cancel(other)
            return end

    end = asyncio.run(go())
    assert end.status == "failed"
    assert end.error.startswith("The request was removed from ComfyUI's queue")


def test_a_cancelled_request_ends_while_comfyui_is_down_and_is_stopped_there_later(api, server):
    job = submit(api.store, **LONG)

    async def go():
        async with ComfyClient(server.url) as client:
            async with api.dispatching():
                await running(api, job)
            api.store.request_cancel(job.id)
            hidden = Api(api.settings.data, "http://127.0.0.1:9")
            async with hidden.dispatching():
                end = await api.until(job)
            hidden.store.close()
            still_runs = (await client.queue()).position(job.id) == 0
            async with api.dispatching():
                while api.store.left_on_host():
                    await asyncio.sleep(0.05)
            return end, still_runs, (await client.queue()).position(job.id)

    end, still_runs, position = asyncio.run(go())
    assert (end.status, still_runs, position) == ("cancelled", True, None)


def test_one_prompt_id_queued_twice_makes_one_file(api, server):
    """ComfyUI takes a prompt id twice, if a dead gateway's last words are late: the second comes from its cache."""
    job = submit(api.store)
    api.store.start(job.id, asyncio.run(instance(server)))
    api.store.mark_submitted(job.id)

    async def queue_twice():
        async with ComfyClient(server.url) as client:
            for _ in range(2):
                await client.queue_prompt(request_graph(job), prompt_id=job.id, client_id=job.id)
            await wait_until(empty(client))

    asyncio.run(queue_twice())
    end = end_of(api, job)
    assert (end.status, end.host_deaths) == ("succeeded", 0), end.error
    assert api.files(job, server.base_dir) == [f"{job.id}_00001_.mp4"]


def empty(client):
    async def condition():
        queue = await client.queue()
        return not queue.running and not queue.pending

    return condition
