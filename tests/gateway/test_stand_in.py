"""The stand-in for ComfyUI passes the client's own tests of the protocol: cancel, stop, what is lost."""

import asyncio
import importlib.util
import threading
import uuid
from pathlib import Path

import pytest
from support.client_runs import slow_graph, with_client
from wan_flf2v.benchmarks._stand_in import StandIn
from wan_flf2v.client.errors import PromptRejectedError
from wan_flf2v.client.run import run_graph

_HOST = Path(__file__).parents[1] / "host"


def client_tests(stem):
    """Return the tests of a file for a real ComfyUI."""
    spec = importlib.util.spec_from_file_location(f"{stem}_on_the_stand_in", _HOST / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: test for name, test in vars(module).items() if name.startswith("test_")}


cancel = client_tests("test_cli_cancel")
globals().update(cancel)


@pytest.fixture(params=["0.18.2", "0.30.0"])
def comfy_server(request):
    """A stand-in in another thread, in the place of the real ComfyUI."""
    loop, host = asyncio.new_event_loop(), StandIn(version=request.param)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(host.start(), loop).result()
    yield host
    asyncio.run_coroutine_threadsafe(host.kill(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_all_of_them_are_here():
    assert len(cancel) == 6


def test_a_run_counts_its_steps_and_names_its_file(comfy_server):
    moments = []
    graph = slow_graph(steps=8, seconds=0.1)
    result = with_client(comfy_server, lambda client: run_graph(client, graph, on_progress=moments.append))
    assert [(file.node_id, file.type) for file in result.files] == [("3", "output")]
    steps = [moment.step for moment in moments if moment.node_id == "2" and moment.step]
    assert len(set(steps)) > 1
    assert steps == sorted(steps)
    assert result.seconds >= 0.8


def test_prompt_ids_are_taken_as_each_version_takes_them(comfy_server):
    """As server.py of both versions: 0.30.0 asks for a canonical UUID, 0.18.2 takes any text."""

    async def use(client):
        await client.queue_prompt(slow_graph(), prompt_id=str(uuid.uuid4()).upper(), client_id="x")

    if comfy_server.version == "0.18.2":
        with_client(comfy_server, use)
    else:
        with pytest.raises(PromptRejectedError, match="valid UUID"):
            with_client(comfy_server, use)
