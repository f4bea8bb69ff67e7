"""The stand-in for ComfyUI passes the client's own tests, and replays recorded runs of real ComfyUIs.

Left out are the client's tests of what only a ComfyUI can do: check a graph, fail at a node, keep a cache, write a PNG.
"""

import asyncio
import importlib.util
import json
import threading
import uuid
from pathlib import Path

import pytest
from support.client_runs import slow_graph, with_client
from wan_flf2v.benchmarks._stand_in import StandIn, small_video
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.comfy import ComfyClient, OutputFile
from wan_flf2v.client.errors import PromptRejectedError
from wan_flf2v.client.run import run_graph

_HOST = Path(__file__).parents[1] / "host"


def client_tests(stem):
    """Return the tests of a file for a real ComfyUI."""
    spec = importlib.util.spec_from_file_location(f"{stem}_on_the_stand_in", _HOST / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {name: test for name, test in vars(module).items() if name.startswith("test_")}


cancel, broken = client_tests("test_cli_cancel"), client_tests("test_cli_broken")
files = {
    name: test
    for name, test in client_tests("test_cli_client").items()
    if name in ("test_core_video_nodes_report_under_images", "test_a_file_that_is_gone_is_said_and_leaves_nothing")
}
globals().update(cancel | broken | files)


class InThread:
    """A stand-in in another thread, in the place of a real ComfyUI."""

    def __init__(self, version):
        self._loop, self.host, self.version = asyncio.new_event_loop(), StandIn(version=version), version
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._do(self.host.start())
        self.url = self.host.url

    def _do(self, step):
        asyncio.run_coroutine_threadsafe(step, self._loop).result()

    def kill(self):
        self._do(self.host.kill())

    def close(self):
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(params=["0.18.2", "0.30.0"])
def comfy_server(request):
    host = InThread(request.param)
    yield host
    host.close()


@pytest.fixture
def own_comfy_server(comfy_server):
    return comfy_server


def test_all_of_them_are_here():
    assert [len(each) for each in (cancel, broken, files)] == [6, 3, 2]


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


@pytest.fixture(params=["0.18.2", "0.30.0"])
def trace(request):
    """What a ComfyUI of this version sent while it ran the demo's graph on random models."""
    return json.loads((REPO / "tests" / "support" / "streams" / f"run_{request.param}.json").read_text("utf-8"))


class Hearing(ComfyClient):
    """A client that keeps the events that it got."""

    heard = ()

    async def events(self, client_id):
        async for event in super().events(client_id):
            self.heard = [*self.heard, event]
            yield event


def own(node_id):
    return f"1{node_id}"


def own_graph(trace):
    """Return the graph of the record with other node ids."""

    def relinked(value):
        return [own(value[0]), value[1]] if isinstance(value, list) else value

    nodes = trace["graph"].items()
    return {
        own(node_id): {**node, "inputs": {name: relinked(value) for name, value in node["inputs"].items()}}
        for node_id, node in nodes
    }


def told(trace):
    """Return which nodes the record says were running, each with its step and steps, 0 of 0 where it does not count."""
    moments = []
    for event in trace["events"]:
        for node_id, state in event["data"]["nodes"].items() if event["type"] == "progress_state" else ():
            if state["state"] == "running":
                counted = (state["value"], state["max"]) if state["max"] > 1 else (0, 0)
                moments.append((own(node_id), *counted))
    return each_once(moments)


def each_once(moments):
    return [moment for place, moment in enumerate(moments) if place == 0 or moments[place - 1] != moment]


def recorded_files(trace):
    return [
        OutputFile(file["filename"], file["subfolder"], file["type"], own(node_id))
        for node_id, output in trace["history"]["outputs"].items()
        for file in output["images"]
    ]


def beside(trace, use, **options):
    """Run ``use(host, client)`` in the event loop of a stand-in that replays the record."""

    async def go():
        async with StandIn(version=trace["comfyui"], trace=trace, **options) as host, Hearing(host.url) as client:
            return await use(host, client)

    return asyncio.run(asyncio.wait_for(go(), 120))


def test_a_recorded_run_is_reported_as_its_record_says(trace, tmp_path):
    moments, prompt_id = [], str(uuid.uuid4())

    async def use(host, client):
        graph = own_graph(trace)
        result = await run_graph(client, graph, prompt_id=prompt_id, on_progress=moments.append)
        await client.download(result.files[0], tmp_path / "video.mp4")
        return result, client.heard, await client.outputs(prompt_id, result.files[0].node_id)

    result, heard, shown = beside(trace, use)
    reports = [(moment.node_id, moment.step, moment.steps) for moment in moments if moment.node_id is not None]
    assert each_once(reports) == told(trace)
    assert [moment.fraction for moment in moments] == sorted(moment.fraction for moment in moments)
    assert (moments[-1].fraction, moments[-1].node_id) == (1.0, None)
    assert list(result.files) == recorded_files(trace)
    assert (tmp_path / "video.mp4").read_bytes() == small_video()
    (recorded,) = trace["history"]["outputs"].values()
    assert shown == recorded
    times = [data["timestamp"] for _, data in trace["history"]["status"]["messages"]]
    assert result.seconds == (times[-1] - times[0]) / 1000
    kinds = [event["type"] for event in trace["events"] if event["type"] != "text"]
    connected, *rest = [event.type for event in heard]
    assert connected == "status"
    assert rest[: kinds.index("execution_success") + 1] == kinds[: kinds.index("execution_success") + 1]
    assert {event.data.get("prompt_id", prompt_id) for event in heard} == {prompt_id}


def test_another_graph_than_the_recorded_one_is_refused(trace):
    async def use(host, client):
        await run_graph(client, slow_graph())

    with pytest.raises(PromptRejectedError, match="not the graph whose run was recorded"):
        beside(trace, use)


def test_a_run_whose_websocket_is_dropped_is_followed_to_its_end(trace):
    moments = []

    async def use(host, client):
        run = asyncio.create_task(run_graph(client, own_graph(trace), on_progress=moments.append))
        while not any(moment.step for moment in moments):
            await asyncio.sleep(0.01)
        before = len(moments)
        await host.drop_sockets()
        return await run, [moment for moment in moments[before:] if moment.step], len(host.ran)

    result, later, runs = beside(trace, use, seconds=8.0)
    assert list(result.files) == recorded_files(trace)
    assert runs == 1
    assert (later[-1].node_id, later[-1].step) == (result.files[0].node_id, later[-1].steps), "it connected again"
    assert moments[-1].fraction == 1.0


class Asked(StandIn):
    """One that counts how often it is asked for its queue."""

    queue_calls = 0

    async def _queue(self, request):
        self.queue_calls += 1
        return await super()._queue(request)


def queue_calls(telling):
    """Return how often the queue was asked for: at each step from the tenth on, and in all."""
    at_steps = []

    async def not_at_all(prompt, kind, **data):
        if kind == "execution_success":  # what the history keeps
            prompt.messages.append((kind, {"prompt_id": prompt.id, "timestamp": 0}))

    async def use():
        async with Asked() as host, ComfyClient(host.url) as client:
            if not telling:
                host._tell = host._message = not_at_all

            def note(moment):
                if 10 <= moment.step < 30:
                    at_steps.append(host.queue_calls)

            await run_graph(client, slow_graph(steps=30, seconds=0.3), on_progress=note)
            return host.queue_calls

    return asyncio.run(use()), at_steps


def test_the_queue_is_asked_for_seldom_while_the_websocket_tells_of_steps():
    """Every ten seconds: once at most between the tenth step, after three, and the last, after nine."""
    _, at_steps = queue_calls(telling=True)
    assert len(at_steps) > 1
    assert max(at_steps) - min(at_steps) <= 1


def test_the_queue_is_asked_for_often_while_the_websocket_is_silent():
    """Every two seconds of nine."""
    assert queue_calls(telling=False)[0] >= 4
