"""What the API makes of ComfyUI's responses about what its models need."""

import asyncio
import contextlib

import pytest
from aiohttp import web
from support.stores import chosen_store
from support.web_server import serve
from wan_flf2v.benchmarks._stand_in import StandIn
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.workflow import graph_for
from wan_flf2v.gateway.http import models
from wan_flf2v.gateway.http.models import Availability
from wan_flf2v.gateway.jobs.catalogue import Catalogue
from wan_flf2v.gateway.settings import Settings

STATS = {"system": {"comfyui_version": "0.30.0"}}
FILE = graph_for(HOSTED)["56"]["inputs"]["unet_name"]


def look(tmp_path, respond, use):
    """Return what ``use`` makes of the availability at a server whose responses about nodes come from ``respond``."""
    asked = []

    async def handler(request):
        asked.append(request.path)
        return web.json_response(STATS if request.path == "/system_stats" else await respond())

    async def go():
        async with serve(handler) as port:
            settings = Settings(data=tmp_path, comfyui_url=f"http://127.0.0.1:{port}")
            store = chosen_store(tmp_path)
            try:
                return await use(Availability(settings, Catalogue(store, {HOSTED.model_id: HOSTED})))
            finally:
                await store.close()

    return asyncio.run(go()), asked


def test_a_response_that_cannot_be_understood_is_no_readiness(tmp_path):
    async def respond():
        return ["nonsense"]

    async def use(availability):
        return await availability.problem(), await availability.lacking(HOSTED)

    (problem, lacking), _ = look(tmp_path, respond, use)
    assert problem == ("ComfyUI's response could not be understood. The API's log says more.", False)
    assert lacking == [], "nothing is known to be missing, so requests are queued"


def test_calls_at_the_same_time_share_a_look_and_nodes_can_be_missing_too(tmp_path):
    async def respond():
        return {}

    async def use(availability):
        return await asyncio.gather(*(availability.lacking(HOSTED) for _ in range(8)), availability.problem())

    (*lacking, problem), asked = look(tmp_path, respond, use)
    assert asked.count("/system_stats") == 1
    assert all("ComfyUI has no node WanFLF2VSampler." in " ".join(texts) for texts in lacking)
    assert problem.text.startswith("No model of this API can run")


def test_a_submit_does_not_wait_for_a_comfyui_that_hangs(tmp_path):
    async def respond():
        await asyncio.sleep(3600)

    async def use(availability):
        return await availability.lacking(HOSTED), availability._look.done()

    (lacking, responded), _ = look(tmp_path, respond, use)
    assert lacking == []
    assert not responded, "the look goes on without the submit"


async def of_two(tmp_path, first, second, use):
    """Return what ``use`` makes of the availability at two stand-ins."""
    return await of_several(tmp_path, [first, second], use)


async def of_several(tmp_path, hosts, use):
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            await stack.enter_async_context(host)
        store = chosen_store(tmp_path)
        settings = Settings(data=tmp_path, comfyui_url=[host.url for host in hosts])
        try:
            return await use(Availability(settings, Catalogue(store, {HOSTED.model_id: HOSTED})))
        finally:
            await store.close()


def at_once(monkeypatch):
    """Let each call look again, and a look end soon."""
    monkeypatch.setattr(models, "_FRESH_S", -1.0)
    monkeypatch.setattr(models, "_LOOK_S", 2.0)


def test_a_silent_comfyui_has_what_it_said_last(tmp_path, monkeypatch):
    at_once(monkeypatch)
    complete, without = StandIn(), StandIn(lacks=(FILE,))

    async def use(availability):
        assert await availability.problem() is None
        complete.stall()
        problem = await availability.problem()
        silent = await availability.lacking(HOSTED)
        complete.lacks = (FILE,)
        complete.go_on()
        await availability.problem()
        lacking_too = await availability.lacking(HOSTED)
        complete.stall()
        await availability.problem()
        return problem, silent, lacking_too, await availability.lacking(HOSTED)

    problem, silent, *lacking = asyncio.run(of_two(tmp_path, complete, without, use))
    assert silent == [], "it loads the model, and has it"
    assert problem.text.startswith("No model of this API can run"), "readiness is about those that respond"
    assert all(FILE in " ".join(texts) for texts in lacking), "also the silent one is known to lack it"


def test_a_comfyui_that_never_responded_may_have_all(tmp_path, monkeypatch):
    at_once(monkeypatch)
    unknown, without = StandIn(), StandIn(lacks=(FILE,))

    async def use(availability):
        unknown.stall()
        await availability.problem()
        silent = await availability.lacking(HOSTED)
        await unknown.kill()
        await availability.problem()
        return silent, await availability.lacking(HOSTED)

    assert asyncio.run(of_two(tmp_path, unknown, without, use)) == ([], [])


@pytest.mark.parametrize(("complete", "most", "looks"), [(range(20), 2, 50), ([13], 20, 3), ([], 20, 1)])
def test_of_many_comfyuis_no_more_are_asked_than_it_takes(tmp_path, monkeypatch, complete, most, looks):
    """Of 20, where all, one or none has the model: how many a look asks, and how many at a time."""
    monkeypatch.setattr(models, "_FRESH_S", -1.0)
    hosts, under_way, peaks, asked = [StandIn(lacks=() if n in complete else (FILE,)) for n in range(20)], set(), [], []
    find = models._find_lacking_on

    async def note(address, graphs):
        asked.append(address)
        under_way.add(address)
        peaks.append(len(under_way))
        try:
            return await find(address, graphs)
        finally:
            under_way.discard(address)

    async def use(availability):
        await availability.problem()
        first = len(asked)
        for _ in range(looks):
            lacking = await availability.lacking(HOSTED)
            await availability._look
        return lacking, first

    monkeypatch.setattr(models, "_find_lacking_on", note)
    lacking, first = asyncio.run(of_several(tmp_path, hosts, use))
    assert bool(lacking) == (not complete)
    assert first <= most
    assert max(peaks) <= models._AT_ONCE
    if complete:
        assert len(asked) <= first + looks * models._FIRST_AT_ONCE, "the one that has it is asked first"
    assert {address.url for address in asked} <= {host.url for host in hosts}
