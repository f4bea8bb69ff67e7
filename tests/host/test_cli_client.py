"""The client library against a real ComfyUI: runs, refusals, failures, cancelling, broken connections."""

import asyncio
import contextlib
import hashlib
import uuid

import pytest
from PIL import Image
from wan_flf2v.client.comfy import UPLOAD_FOLDER, ComfyClient, OutputFile
from wan_flf2v.client.errors import (
    NoOutputError,
    OutOfMemoryError,
    PromptRejectedError,
    RunFailedError,
    RunInterruptedError,
    ServerAnswerError,
    ServerLostError,
    ServerUnreachableError,
)
from wan_flf2v.client.run import run_graph
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.workflow import load_graph


def empty_image():
    # A colour of its own, so that no test is served from the cache of another.
    colour = uuid.uuid4().int % 0xFFFFFF
    return {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": colour}}


def slow_graph(steps=3, seconds=0.05):
    slow = {"image": ["1", 0], "steps": steps, "seconds": seconds, "seed": 0}
    return {
        "1": empty_image(),
        "2": {"class_type": "WanFLF2VTestSlow", "inputs": slow, "_meta": {"title": "Slow"}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "client_test"}},
    }


def failing_graph(how):
    graph = slow_graph()
    graph["2"] = {"class_type": "WanFLF2VTestFail", "inputs": {"image": ["1", 0], "how": how}}
    return graph


def with_client(server, use):
    """Run ``use(client)`` and return its result."""

    async def go():
        async with ComfyClient(server.url) as client:
            return await use(client)

    return asyncio.run(go())


async def wait_until(condition):
    while not await condition():
        await asyncio.sleep(0.05)


async def queue_as_someone_else(client, graph):
    prompt_id = str(uuid.uuid4())
    await client.queue_prompt(graph, prompt_id=prompt_id, client_id="someone-else")
    return prompt_id


def runs(client, prompt_id):
    async def condition():
        return (await client.queue()).position(prompt_id) == 0

    return condition


def finished(client, prompt_id):
    async def condition():
        return await client.history(prompt_id) is not None

    return condition


def test_a_run_reports_its_file_its_time_and_every_step(comfy_server, tmp_path):
    moments = []

    async def use(client):
        assert (await client.system_stats())["system"]["comfyui_version"] == comfy_server.host_version
        graph = slow_graph(steps=4, seconds=0.2)
        result = await run_graph(client, graph, on_progress=moments.append, workflow={"nodes": []})
        return result, await client.download(result.files[0], tmp_path / "out.png")

    result, path = with_client(comfy_server, use)
    assert [(file.node_id, file.type) for file in result.files] == [("3", "output")]
    assert not result.cached
    assert result.seconds > 0.5
    steps = [moment.step for moment in moments if moment.node_id == "2" and moment.step]
    assert steps[:3] == [1, 2, 3], "the last step may arrive together with the end of the node"
    assert {moment.title for moment in moments if moment.step} == {"Slow"}
    assert [moment.fraction for moment in moments] == sorted(moment.fraction for moment in moments)
    assert (moments[-1].fraction, moments[-1].node_id) == (1.0, None)
    with Image.open(path) as image:
        assert image.size == (64, 64)
        assert image.text["workflow"] == '{"nodes": []}', "the UI form travels with the file"
    assert list(tmp_path.iterdir()) == [path], "no partial file stays"


def test_core_video_nodes_report_under_images(comfy_server):
    graph = slow_graph()
    graph["3"] = {"class_type": "CreateVideo", "inputs": {"images": ["2", 0], "fps": 8.0}}
    save = {"video": ["3", 0], "filename_prefix": "client_test", "format": "mp4", "codec": "h264"}
    graph["4"] = {"class_type": "SaveVideo", "inputs": save}
    result = with_client(comfy_server, lambda client: run_graph(client, graph))
    assert [(file.node_id, file.filename.endswith(".mp4")) for file in result.files] == [("4", True)]


def test_the_same_run_again_comes_from_the_cache_with_its_file(comfy_server):
    graph = slow_graph()
    first = with_client(comfy_server, lambda client: run_graph(client, graph))
    second = with_client(comfy_server, lambda client: run_graph(client, graph))
    assert second.cached
    assert not first.cached
    assert second.files == first.files


def test_an_output_node_without_a_file_is_said(comfy_server):
    graph = {"1": {"class_type": "PrimitiveString", "inputs": {"value": str(uuid.uuid4())}}}
    graph["2"] = {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}}
    with pytest.raises(NoOutputError, match="The run finished, but no node reported a file"):
        with_client(comfy_server, lambda client: run_graph(client, graph))
    with pytest.raises(NoOutputError, match="had this exact run in its cache, ran nothing and reported no file"):
        with_client(comfy_server, lambda client: run_graph(client, graph))


def test_uploading_twice_changes_nothing_and_overwrites_nobody(comfy_server, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "Bild 1.PNG")

    async def use(client):
        return await client.upload_image(tmp_path / "Bild 1.PNG"), await client.upload_image(tmp_path / "Bild 1.PNG")

    name, again = with_client(comfy_server, use)
    content = (tmp_path / "Bild 1.PNG").read_bytes()
    assert name == again == f"{UPLOAD_FOLDER}/{hashlib.sha256(content).hexdigest()[:32]}.png"
    assert (comfy_server.base_dir / "input" / name).read_bytes() == content
    graph = slow_graph()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    assert with_client(comfy_server, lambda client: run_graph(client, graph)).files


def test_a_file_that_is_gone_is_said_and_leaves_nothing(comfy_server, tmp_path):
    file = OutputFile("none.mp4", "", "output", "3")
    with pytest.raises(ServerAnswerError, match=r'reported the file "none.mp4" but no longer has it'):
        with_client(comfy_server, lambda client: client.download(file, tmp_path / "out.mp4"))
    assert not list(tmp_path.iterdir())


def test_missing_model_files_name_their_folders(comfy_server):
    graph = load_graph(HOSTED.workflow)
    loaders = {node_id: graph[node_id] for node_id in ("37", "56", "39")}
    missing = {
        "37": 'Node 37 "High-noise expert" needs the model file "wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors", '
        "which this ComfyUI does not have. Put it in ComfyUI's models/diffusion_models folder and run again.",
        "56": 'Node 56 "Low-noise expert" needs the model file "wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors", '
        "which this ComfyUI does not have. Put it in ComfyUI's models/diffusion_models folder and run again.",
        "39": 'Node 39 "VAE" needs the model file "wan_2.1_vae.safetensors", which this ComfyUI does not have. '
        "Put it in ComfyUI's models/vae folder and run again.",
    }
    kinds = {"37": ("ModelSave", "model"), "56": ("ModelSave", "model"), "39": ("VAESave", "vae")}
    for node_id, loader in loaders.items():
        kind, name = kinds[node_id]
        save = {"class_type": kind, "inputs": {name: [node_id, 0], "filename_prefix": "x"}}
        small = {node_id: loader, "1": save}
        with pytest.raises(PromptRejectedError) as info:
            with_client(comfy_server, lambda client, small=small: run_graph(client, small))
        assert str(info.value).partition(" Files that are there: ")[0] == missing[node_id]
        assert info.value.node_id == node_id


def test_missing_node_and_missing_image(comfy_server):
    graph = slow_graph()
    graph["2"]["class_type"] = "WanFLF2VNothing"
    with pytest.raises(PromptRejectedError) as info:
        with_client(comfy_server, lambda client: run_graph(client, graph))
    assert str(info.value) == (
        'The type of node 2 "Slow", WanFLF2VNothing, is unknown to this ComfyUI. Install the wan-flf2v node pack in '
        "its custom_nodes folder (or update it) and restart ComfyUI."
    )
    graph = slow_graph()
    graph["1"] = {"class_type": "LoadImage", "inputs": {"image": "none.png"}, "_meta": {"title": "Start image"}}
    with pytest.raises(PromptRejectedError) as info:
        with_client(comfy_server, lambda client: run_graph(client, graph))
    assert str(info.value) == (
        'Node 1 "Start image": the image "none.png" is not in ComfyUI\'s input folder. Upload it, or choose another.'
    )


def test_a_partly_refused_workflow_does_not_run_in_part(comfy_server):
    """ComfyUI queues what is valid, answers 200 and mentions the rest."""
    graph = slow_graph(steps=1000)
    graph["9"] = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
    prompt_id = str(uuid.uuid4())

    async def use(client):
        with pytest.raises(PromptRejectedError, match='Node 9 "SaveImage": the required input "images" is missing'):
            await run_graph(client, graph, prompt_id=prompt_id)
        return (await client.queue()).position(prompt_id)

    assert with_client(comfy_server, use) is None


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        (
            "error",
            RunFailedError,
            'Node 2 "WanFLF2VTestFail" failed: the shift of the low-noise model is 5.0, that of the high-noise model '
            "is 8.0 (ValueError)",
        ),
        ("cpu memory", OutOfMemoryError, 'ComfyUI ran out of memory at node 2 "WanFLF2VTestFail". Choose a smaller'),
        ("gpu memory", OutOfMemoryError, 'ComfyUI ran out of memory at node 2 "WanFLF2VTestFail". Choose a smaller'),
    ],
)
def test_a_node_that_fails(comfy_server, how, kind, message):
    with pytest.raises(RunFailedError) as info:
        with_client(comfy_server, lambda client: run_graph(client, failing_graph(how)))
    assert type(info.value) is kind
    assert str(info.value).startswith(message)
    assert info.value.node_id == "2"


def test_cancelling_a_waiting_prompt_leaves_the_running_one(comfy_server):
    async def use(client):
        other = await queue_as_someone_else(client, slow_graph(steps=20, seconds=0.1))
        await wait_until(runs(client, other))
        prompt_id = str(uuid.uuid4())
        task = asyncio.create_task(run_graph(client, slow_graph(), prompt_id=prompt_id))

        async def waits():
            return (await client.queue()).position(prompt_id) == 1

        await wait_until(waits)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await client.queue()).position(prompt_id) is None
        await wait_until(finished(client, other))
        return await client.history(other), await client.history(prompt_id)

    other, ours = with_client(comfy_server, use)
    assert other["status"]["status_str"] == "success"
    assert ours is None, "it never ran"


def test_cancelling_the_running_prompt_leaves_the_waiting_one(comfy_server):
    async def use(client):
        prompt_id = str(uuid.uuid4())
        task = asyncio.create_task(run_graph(client, slow_graph(steps=1000), prompt_id=prompt_id))
        await wait_until(runs(client, prompt_id))
        other = await queue_as_someone_else(client, slow_graph())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wait_until(finished(client, other))
        return await client.history(other), await client.history(prompt_id)

    other, ours = with_client(comfy_server, use)
    assert other["status"]["status_str"] == "success"
    assert ours["status"]["messages"][-1][0] == "execution_interrupted"


def test_an_error_in_on_progress_does_not_leave_the_prompt_running(comfy_server):
    prompt_id = str(uuid.uuid4())

    def fail(progress):
        if progress.step:
            raise ZeroDivisionError

    async def use(client):
        with pytest.raises(ZeroDivisionError):
            await run_graph(client, slow_graph(steps=1000), prompt_id=prompt_id, on_progress=fail)
        return await client.queue()

    assert with_client(comfy_server, use).position(prompt_id) is None


def test_cancelling_what_is_finished_or_unknown_touches_nothing(comfy_server):
    async def use(client):
        other = await queue_as_someone_else(client, slow_graph(steps=20, seconds=0.1))
        await wait_until(runs(client, other))
        assert await client.cancel(str(uuid.uuid4()))
        await wait_until(finished(client, other))
        assert await client.cancel(other)
        return await client.history(other)

    assert with_client(comfy_server, use)["status"]["status_str"] == "success"


def test_a_run_that_someone_stops_is_said(comfy_server):
    async def use(client):
        prompt_id = str(uuid.uuid4())
        task = asyncio.create_task(run_graph(client, slow_graph(steps=1000), prompt_id=prompt_id))
        await wait_until(runs(client, prompt_id))
        assert await client.cancel(prompt_id)
        await task

    with pytest.raises(RunInterruptedError) as info:
        with_client(comfy_server, use)
    assert str(info.value).startswith("The run was stopped on the server at node ")


def test_a_prompt_that_someone_removes_from_the_queue_is_said(comfy_server):
    async def use(client):
        other = await queue_as_someone_else(client, slow_graph(steps=1000))
        prompt_id = str(uuid.uuid4())
        task = asyncio.create_task(run_graph(client, slow_graph(), prompt_id=prompt_id))

        async def waits():
            return (await client.queue()).position(prompt_id) == 1

        await wait_until(waits)
        await client.cancel(prompt_id)
        try:
            await task
        finally:
            await client.cancel(other)

    with pytest.raises(ServerLostError, match=r"was lost\. It had not started\. .* no longer knows the prompt"):
        with_client(comfy_server, use)


class Proxy:
    """A TCP proxy that spoils websockets: ``silent`` never answers them, ``drop`` cuts the first one off."""

    def __init__(self, url, mode):
        self._host, _, self._port = url.removeprefix("http://").partition(":")
        self._mode = mode
        self.websockets = 0

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_):
        self._server.close()

    async def _serve(self, reader, writer):
        upstream_reader, upstream_writer = await asyncio.open_connection(self._host, int(self._port))
        state = {"websocket": False}

        async def up():
            while chunk := await reader.read(65536):
                if chunk.startswith(b"GET /ws"):
                    self.websockets += 1
                    state["websocket"] = True
                    if self._mode == "silent":
                        continue
                upstream_writer.write(chunk)

        async def down():
            while chunk := await upstream_reader.read(65536):
                writer.write(chunk)
                if state["websocket"] and self.websockets == 1 and b"progress_state" in chunk:
                    return

        tasks = [asyncio.create_task(up()), asyncio.create_task(down())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for each in (writer, upstream_writer):
            with contextlib.suppress(ConnectionError):
                each.close()


@pytest.mark.parametrize("mode", ["silent", "drop"])
def test_a_broken_websocket_hides_nothing_but_progress(comfy_server, mode):
    moments = []

    async def use():
        async with Proxy(comfy_server.url, mode) as proxy, ComfyClient(proxy.url) as client:
            result = await run_graph(client, slow_graph(steps=30, seconds=0.1), on_progress=moments.append)
            return result, proxy.websockets

    result, websockets = asyncio.run(use())
    assert [file.node_id for file in result.files] == ["3"]
    steps = [moment.step for moment in moments if moment.step]
    if mode == "silent":
        assert not steps
    else:
        assert websockets > 1, "it connected again"
        assert max(steps) > 20, "and saw the rest"


def test_a_server_that_dies_during_a_run(own_comfy_server):
    prompt_id = str(uuid.uuid4())

    async def use(client):
        def kill_in_the_middle(progress):
            if progress.step:
                own_comfy_server.kill()

        await run_graph(client, slow_graph(steps=1000), prompt_id=prompt_id, on_progress=kill_in_the_middle)

    with pytest.raises(ServerLostError) as info:
        with_client(own_comfy_server, use)
    assert str(info.value) == (
        f'Prompt {prompt_id} was lost. It was at node 2 "Slow". Cannot reach ComfyUI at {own_comfy_server.url} '
        "(connection refused). Start ComfyUI, or give the address where it runs. ComfyUI may have crashed (its log "
        "says why; often it ran out of memory) or been restarted, or the prompt was removed from its queue. "
        "Run it again."
    )
    with pytest.raises(ServerUnreachableError):
        with_client(own_comfy_server, lambda client: run_graph(client, slow_graph()))
