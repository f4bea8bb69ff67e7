"""Two real ComfyUIs behind one dispatcher: one is killed under its request, one is cancelled, both are found again."""

import asyncio

import pytest
from support.api_runs import LONG, MIDDLING, Api, submit
from wan_flf2v.client.comfy import ComfyClient


@pytest.fixture
def servers(new_comfy_server):
    """Two ComfyUIs that come back where they were."""
    with new_comfy_server() as one, new_comfy_server() as two:
        for host in (one, two):
            host.server._wanted_port = host.server._port
        yield one, two


async def instances(servers):
    """Return the instance of each; they have no other name that the store knows."""
    found = []
    for server in servers:
        async with ComfyClient(server.url) as client:
            found.append(await client.pack_instance())
    return found


async def runs_on(api, job):
    """Wait until the job was seen at work; return its worker's instance."""
    while not (current := await api.store.get(job.id)).ran:
        assert not current.finished, current.error
        await asyncio.sleep(0.02)
    return current.worker


@pytest.mark.timeout(900)
def test_requests_survive_the_end_of_one_comfyui_and_of_the_dispatcher(servers, tmp_path):
    async def go():
        api = Api(tmp_path, tuple(server.url for server in servers))
        names = await instances(servers)
        async with api.dispatching() as dispatcher:
            jobs = [await submit(api.store, **LONG), await submit(api.store, **LONG)]
            where = {await runs_on(api, job): job for job in jobs}
            assert where.keys() == set(names), "both run at once"
            first, second = (where[name] for name in names)
            await api.store.cancel(second.id)
            dispatcher.poke()
            assert (await api.until(second)).status == "cancelled"
            following = await submit(api.store, **MIDDLING)
            end = await api.until(following)
            assert (end.status, end.worker) == ("succeeded", names[1]), end.error

            assert (await api.store.get(first.id)).status == "in_progress", "the other one went on"
            await asyncio.to_thread(servers[0].kill)
            end = await api.until(first)
            assert (end.status, end.attempt, end.worker) == ("succeeded", 2, names[1]), end.error
            assert api.files(first, servers[1].base_dir) == [f"{first.id}-2_00001_.mp4"]
            assert (tmp_path / "results" / first.id / end.output["video"]).stat().st_size > 1000

        await asyncio.to_thread(servers[0].start)
        async with api.dispatching():
            jobs = [await submit(api.store, **MIDDLING), await submit(api.store, **MIDDLING)]
            found = [await runs_on(api, job) for job in jobs]
        async with api.dispatching():
            ends = [await api.until(job) for job in jobs]
            while await api.store.leftovers():
                await asyncio.sleep(0.05)
        assert sorted(found) == sorted(await instances(servers))
        assert [(end.status, end.attempt, end.worker) for end in ends] == [("succeeded", 1, name) for name in found]
        await api.store.close()

    asyncio.run(go())
