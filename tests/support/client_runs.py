"""Small graphs and waits for tests of the client on a real ComfyUI."""

import asyncio
import uuid

from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.run import run_graph


def empty_image():
    # Another colour for each, so that no test is served from the cache of another.
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


def cancelled_graph(server, graph, node_id, step):
    """Cancel the run once the node has counted to ``step``; returns what it had counted to.

    ComfyUI's own record must say that this node was interrupted: a node that goes on to its end fails here.
    """

    async def use(client):
        reached, steps, prompt_id = asyncio.Event(), [], str(uuid.uuid4())

        def on_progress(progress):
            if progress.node_id == node_id:
                steps.append(progress.step)
                if progress.step >= step:
                    reached.set()

        run = asyncio.create_task(run_graph(client, graph, prompt_id=prompt_id, on_progress=on_progress))
        await asyncio.wait_for(reached.wait(), 60)
        run.cancel()
        await asyncio.wait([run])
        assert run.cancelled()
        await wait_until(finished(client, prompt_id))
        messages = dict((await client.history(prompt_id))["status"]["messages"])
        assert messages["execution_interrupted"]["node_id"] == node_id
        return steps[-1]

    return with_client(server, use)
