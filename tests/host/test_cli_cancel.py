"""Cancelling touches exactly one prompt, on a real ComfyUI whose queue others use too."""

import asyncio
import uuid

import pytest
from support.client_runs import finished, queue_as_someone_else, runs, slow_graph, wait_until, with_client
from wan_flf2v.client.errors import RunInterruptedError, ServerLostError
from wan_flf2v.client.run import run_graph


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
        # What cancel does when it saw a prompt run that has ended since, and another one runs now.
        await client._cancel_once(str(uuid.uuid4()), running=True)
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
