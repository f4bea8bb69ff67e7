"""Requests survive kill -9 of ComfyUI, of the API's process, and of both; each has one result at most."""

import asyncio
import subprocess
import sys

import pytest
from support.api_runs import LONG, MIDDLING, MIDDLING_WARNINGS, Api, accepted, submit
from support.client_runs import queue_as_someone_else, runs, slow_graph, wait_until
from support.stores import nats_url
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.gateway.jobs.comfyui import request_graph
from wan_flf2v.gateway.jobs.records import Submission

_DISPATCHER = """
import asyncio, sys
from pathlib import Path
from wan_flf2v.gateway.jobs.dispatcher import Dispatcher
from wan_flf2v.gateway.jobs.results import Results
from wan_flf2v.gateway.settings import NatsAccess, Settings
from wan_flf2v.gateway.jobs.opening import open_store
settings = Settings(data=Path(sys.argv[1]), comfyui_url=sys.argv[2], demo=True)
store = open_store(settings.data, NatsAccess(sys.argv[3]) if sys.argv[3] else None)
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
    asyncio.run(api.store.close())


@pytest.fixture
def dispatcher(api):
    """Start a process that dispatches; it is killed at the end if it was not before."""
    command = [
        sys.executable,
        "-I",
        "-c",
        _DISPATCHER,
        str(api.settings.data),
        api.settings.comfyui_url,
        nats_url(api.settings.data) or "",
    ]
    child = subprocess.Popen(command)
    yield child
    child.kill()
    child.wait()


async def running(api, job):
    async with ComfyClient(api.settings.comfyui_url) as client:

        async def runs_there():  # each attempt has another prompt
            return (await client.queue()).position((await api.store.get(job.id)).prompt_id) == 0

        await wait_until(runs_there)
    while not (await api.store.get(job.id)).ran:  # it was seen that it runs
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
    job, waiting = accepted(api.store, **MIDDLING), accepted(api.store)
    end = end_of(api, job, killing=1, server=server)
    assert (end.status, end.attempt) == ("succeeded", 2), end.error
    assert [text.partition(" ended")[0].partition(",")[0] for text in end.detail["warnings"]] == [
        "ComfyUI",
        *MIDDLING_WARNINGS,
    ]
    assert api.files(job, server.base_dir) == [f"{job.id}-2_00001_.mp4"]
    waiting_end = end_of(api, waiting)
    assert (waiting_end.status, waiting_end.attempt) == ("succeeded", 1)


def test_comfyui_dies_twice_and_the_request_fails_with_the_reason(api, server):
    job = accepted(api.store, **LONG)
    end = end_of(api, job, killing=2, server=server)
    assert end.status == "failed"
    assert end.error.startswith("ComfyUI ended twice while it ran this request.")
    assert api.files(job, server.base_dir) == []


def test_only_deaths_under_a_running_request_count(api, server):
    """ComfyUI is restarted twice while someone else's prompt keeps the request waiting there, then once under it."""
    job = accepted(api.store, **MIDDLING)

    async def waits_there(client):
        await queue_as_someone_else(client, slow_graph(steps=1000))
        worker = await client.pack_instance()
        async with api.dispatching():
            while not ((current := await api.store.get(job.id)).worker == worker and current.progress):
                assert not current.finished, current.error
                await asyncio.sleep(0.02)
        assert not current.ran

    async def go():
        for _ in range(2):
            async with ComfyClient(server.url) as client:
                await waits_there(client)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    asyncio.run(go())
    end = end_of(api, job, killing=1, server=server)
    assert (end.status, end.attempt, end.deaths) == ("succeeded", 4, 1), end.error
    assert end.detail["warnings"][0] == "ComfyUI ended while it ran this request, which then ran again."


def test_a_request_that_ends_comfyui_before_that_can_tell_is_not_tried_for_ever(api, server):
    """It was sent to ComfyUI processes that are gone; the last of ten starts is the last."""
    job = accepted(api.store)
    for attempt in range(10):
        asyncio.run(api.store.assign(job.id, f"a ComfyUI that ended, number {attempt}"))
        asyncio.run(api.store.mark_sent(job.id))
        if attempt < 9:
            asyncio.run(api.store.requeue(job.id))
    end = end_of(api, job)
    assert (end.status, end.attempt) == ("failed", 10)
    assert end.error.startswith("ComfyUI ended or was silent 10 times before it ran this request to its end.")


def test_the_gateway_dies_and_the_run_is_taken_up_where_it_is(api, server, dispatcher):
    job = accepted(api.store, **MIDDLING)
    asyncio.run(running(api, job))
    dispatcher.kill()
    dispatcher.wait()
    assert asyncio.run(api.store.get(job.id)).status == "in_progress"
    end = end_of(api, job)
    assert (end.status, end.attempt) == ("succeeded", 1), end.error
    assert api.files(job, server.base_dir) == [f"{job.id}_00001_.mp4"]


def test_both_die_and_the_request_runs_again(api, server, dispatcher):
    job = accepted(api.store, **MIDDLING)
    asyncio.run(running(api, job))
    dispatcher.kill()
    server.kill()
    dispatcher.wait()
    server.start()
    end = end_of(api, job)
    assert (end.status, end.attempt) == ("succeeded", 2), end.error
    assert api.files(job, server.base_dir) == [f"{job.id}-2_00001_.mp4"]


def test_a_finished_file_is_found_by_its_name_and_nothing_runs_again(api, server, tmp_path):
    job = accepted(api.store)
    assert end_of(api, job).status == "succeeded"
    server.kill()  # its history is gone, its files are not
    server.start()
    after = Api(tmp_path / "after", server.url)
    asyncio.run(after.store.submit(Submission(job.id, "test", DEMO.model_id, job.values, {})))
    asyncio.run(after.store.assign(job.id, "the ComfyUI that died"))
    asyncio.run(after.store.mark_sent(job.id))
    end = end_of(after, job)
    assert (end.status, end.attempt, end.detail["timings"]["running"]) == ("succeeded", 1, None)
    assert api.files(job, server.base_dir) == [f"{job.id}_00001_.mp4"]
    video = "results/" + job.id + "/video.mp4"
    assert (tmp_path / "after" / video).read_bytes() == (tmp_path / video).read_bytes()
    assert asyncio.run(history(server, job)) is None
    asyncio.run(after.store.close())


def test_an_empty_file_that_a_dead_comfyui_left_is_no_result(api, server):
    """Node 73 reserves the video's name before it decodes."""
    job = accepted(api.store)
    asyncio.run(api.store.assign(job.id, "a ComfyUI that ended while it decoded"))
    asyncio.run(api.store.mark_sent(job.id))
    folder = server.base_dir / "output" / "wan_flf2v_api"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{job.id}_00001_.mp4").touch()
    end = end_of(api, job)
    assert (end.status, end.attempt) == ("succeeded", 2), end.error
    assert api.files(job, server.base_dir) == [f"{job.id}-2_00001_.mp4"]
    assert (folder / f"{job.id}-2_00001_.mp4").stat().st_size > 1000


async def history(server, job):
    async with ComfyClient(server.url) as client:
        return await client.history(job.id)


async def instance(server):
    async with ComfyClient(server.url) as client:
        return await client.pack_instance()


def test_a_request_that_never_reached_comfyui_is_sent_and_no_death_is_counted(api, server):
    job = accepted(api.store)
    asyncio.run(api.store.assign(job.id, asyncio.run(instance(server))))
    end = end_of(api, job)
    assert (end.status, end.attempt) == ("succeeded", 1), end.error


def test_a_request_that_someone_removes_from_comfyuis_queue_fails_with_that_reason(api, server):
    async def go():
        async with ComfyClient(server.url) as client, api.dispatching():
            other = await queue_as_someone_else(client, slow_graph(steps=1000))
            await wait_until(runs(client, other))
            job = await submit(api.store)
            while not (await api.store.get(job.id)).sent:
                await asyncio.sleep(0.02)
            await client.cancel(job.id)
            end = await api.until(job)
            await client.cancel(other)
            return end

    end = asyncio.run(go())
    assert end.status == "failed"
    assert end.error.startswith("The request was removed from ComfyUI's queue")


def test_a_cancelled_request_ends_while_comfyui_is_down_and_is_stopped_there_later(api, server):
    job = accepted(api.store, **LONG)

    async def go():
        async with ComfyClient(server.url) as client:
            async with api.dispatching():
                await running(api, job)
            await api.store.cancel(job.id)
            hidden = Api(api.settings.data, "http://127.0.0.1:9")
            async with hidden.dispatching():
                end = await api.until(job)
            await hidden.store.close()
            still_runs = (await client.queue()).position(job.id) == 0
            async with api.dispatching():
                while await api.store.leftovers():
                    await asyncio.sleep(0.05)
            return end, still_runs, (await client.queue()).position(job.id)

    end, still_runs, position = asyncio.run(go())
    assert (end.status, still_runs, position) == ("cancelled", True, None)


def test_one_prompt_id_queued_twice_makes_one_file(api, server):
    """ComfyUI takes a prompt id twice, if a dead gateway's last words are late: the second comes from its cache."""
    job = accepted(api.store)
    asyncio.run(api.store.assign(job.id, asyncio.run(instance(server))))
    asyncio.run(api.store.mark_sent(job.id))

    async def queue_twice():
        async with ComfyClient(server.url) as client:
            for _ in range(2):
                await client.queue_prompt(request_graph(DEMO, job), prompt_id=job.id, client_id=job.id)
            await wait_until(empty(client))

    asyncio.run(queue_twice())
    end = end_of(api, job)
    assert (end.status, end.attempt) == ("succeeded", 1), end.error
    assert api.files(job, server.base_dir) == [f"{job.id}_00001_.mp4"]


def empty(client):
    async def condition():
        queue = await client.queue()
        return not queue.running and not queue.pending

    return condition
