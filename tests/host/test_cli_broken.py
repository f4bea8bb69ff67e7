"""Connections that break and a server that dies: a clear error or the result, and never a hang."""

import asyncio
import contextlib
import uuid

import pytest
from support.client_runs import slow_graph, with_client
from wan_flf2v.client import run
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.errors import ServerLostError, ServerUnreachableError
from wan_flf2v.client.run import run_graph


class Proxy:
    """A TCP proxy that spoils one thing.

    ``silent`` ignores websockets, ``drop`` cuts the first one off, ``short`` cuts off a download's last bytes.
    """

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
        state = {"websocket": False, "download": False}

        async def up():
            while chunk := await reader.read(65536):
                state["download"] = chunk.startswith(b"GET /view")
                if chunk.startswith(b"GET /ws"):
                    self.websockets += 1
                    state["websocket"] = True
                    if self._mode == "silent":
                        continue
                upstream_writer.write(chunk)

        async def down():
            while chunk := await upstream_reader.read(65536):
                if self._mode == "short" and state["download"]:
                    headers_only = chunk.endswith(b"\r\n\r\n")
                    writer.write(chunk if headers_only else chunk[:-10])
                    if not headers_only:
                        return
                    continue
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


@pytest.mark.parametrize(("mode", "run_steps"), [("silent", 20), ("drop", 50)])
def test_a_broken_websocket_hides_nothing_but_progress(comfy_server, mode, run_steps):
    moments = []

    async def use():
        async with Proxy(comfy_server.url, mode) as proxy, ComfyClient(proxy.url) as client:
            result = await run_graph(client, slow_graph(steps=run_steps, seconds=0.1), on_progress=moments.append)
            return result, proxy.websockets

    result, websockets = asyncio.run(use())
    assert [file.node_id for file in result.files] == ["3"]
    steps = [moment.step for moment in moments if moment.step]
    if mode == "silent":
        assert not steps
    else:
        assert websockets > 1, "it connected again"
        assert max(steps) > 5, "and saw the rest"


def test_a_download_that_breaks_off_leaves_the_old_file(comfy_server, tmp_path):
    target = tmp_path / "out.png"
    target.write_text("old")
    file = with_client(comfy_server, lambda client: run_graph(client, slow_graph())).files[0]

    async def use():
        async with Proxy(comfy_server.url, "short") as proxy, ComfyClient(proxy.url) as client:
            await client.download(file, target)

    with pytest.raises(ServerUnreachableError):
        asyncio.run(use())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.png", "old")]


def test_a_server_that_dies_during_a_run(own_comfy_server, monkeypatch):
    monkeypatch.setattr(run, "_LOST_AFTER_S", 2.0)
    prompt_id = str(uuid.uuid4())

    async def use(client):
        def kill_in_the_middle(progress):
            if progress.step:
                own_comfy_server.kill()

        await run_graph(client, slow_graph(steps=1000), prompt_id=prompt_id, on_progress=kill_in_the_middle)

    with pytest.raises(ServerLostError) as info:
        with_client(own_comfy_server, use)
    lost = f'Prompt {prompt_id} was lost. It was at node 2 "Slow". Cannot reach ComfyUI at {own_comfy_server.url} '
    assert str(info.value).startswith(lost)
    assert str(info.value).endswith(
        " ComfyUI may have crashed (its log says why; often it ran out of memory) or been restarted, or the prompt was "
        "removed from its queue. Run it again."
    )
    with pytest.raises(ServerUnreachableError):
        with_client(own_comfy_server, lambda client: run_graph(client, slow_graph()))
