"""A ComfyUI whose process stands still for a minute, as one that loads models: with the real time-outs."""

import asyncio
import contextlib
import subprocess
import sys

import psutil
import pytest
from support.api_runs import Api, submit, until
from support.outward_workers import Running, fleet
from wan_flf2v.benchmarks._stand_in import StandIn

STALL_S = 65.0  # longer than a gateway waits for a response, and for a websocket's heartbeat
PHOTOGRAPHS = {("input", "", name): b"a photograph" for name in ("start.jpg", "end.jpg")}
SERVE = f"""
import asyncio, sys
from wan_flf2v.benchmarks._stand_in import StandIn

async def serve():
    async with StandIn(seconds=4.0) as host:
        host.files.update({PHOTOGRAPHS!r})
        print(host.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)

asyncio.run(serve())
"""


@contextlib.contextmanager
def comfyui_process():
    """Run a stand-in in another process; yield that and the address."""
    command = [sys.executable, "-I", "-c", SERVE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield psutil.Process(process.pid), process.stdout.readline().strip()
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def reached(data, url, other_url):
    """Yield an API that reaches both ComfyUIs, and what it calls them."""
    api = Api(data, (url, other_url))
    async with api.dispatching():
        yield api, url, other_url
    await api.store.close()


@contextlib.asynccontextmanager
async def outward(data, url, other_url):
    """Yield an API with an outward worker before each ComfyUI, and their names."""
    async with fleet(data) as api, api.dispatching():
        workers = [Running(api.settings.nats, *named) for named in (("one", url), ("two", other_url))]
        yield api, "one", "two"
        for each in workers:
            each.task.cancel()
        await asyncio.wait([each.task for each in workers])


async def stall(kind, folder):
    """Let the ComfyUI that runs a request stand still, while another one is idle."""
    folder.mkdir()
    with comfyui_process() as (process, url):
        async with StandIn(files=dict(PHOTOGRAPHS)) as other, kind(folder, url, other.url) as (api, name, other_name):

            async def are_now(*states):
                return {each.name: each.state for each in await api.store.workers()} == dict(states)

            await until(lambda: are_now((name, "idle"), (other_name, "idle")))
            assert await api.store.drain(other_name)
            job = await submit(api.store)
            await until(lambda: has_begun(api, job))
            await api.store.drain(other_name, drained=False)
            process.suspend()
            await asyncio.sleep(STALL_S)
            assert await are_now((name, "silent"), (other_name, "idle"))
            process.resume()
            end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error
            assert other.ran == []


async def has_begun(api, job):
    return (await api.store.get(job.id)).ran


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="it is stopped by a signal")
def test_a_comfyui_that_stands_still_for_a_minute_has_its_request_still(tmp_path):
    """Both at once: the test waits."""

    async def test():
        await asyncio.gather(stall(reached, tmp_path / "reached"), stall(outward, tmp_path / "outward"))

    asyncio.run(asyncio.wait_for(test(), 280))
