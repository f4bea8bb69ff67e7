"""The dispatcher on a real ComfyUI with the demo's models: runs in order, cancels, tells what went wrong."""

import asyncio
import itertools
import uuid

import av
import pytest
from support.api_runs import LONG, MIDDLING, MIDDLING_WARNINGS, Api, accepted, put_inputs, submit
from support.client_runs import finished, queue_as_someone_else, runs, slow_graph, wait_until
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.run import follow_graph
from wan_flf2v.gateway.jobs.records import Health


async def span(client, job):
    """Return when ComfyUI began and ended a job's prompt: its next one starts while the result is copied."""
    times = [data["timestamp"] for _, data in (await client.history(job.id))["status"]["messages"]]
    return min(times), max(times)


def test_requests_run_in_order_and_their_results_are_kept(api, comfy_server):
    jobs = [accepted(api.store), accepted(api.store, **{"73_frame_rate": 12})]

    async def use(client, dispatcher):
        ends = [await api.until(job) for job in jobs]
        return ends, await api.store.health(), [await span(client, job) for job in jobs]

    ends, health, spans = api.run(use)
    assert [end.status for end in ends] == ["succeeded", "succeeded"], [end.error for end in ends]
    assert spans[0][1] <= spans[1][0]
    assert health == Health("up")
    for job, end in zip(jobs, ends, strict=True):
        assert api.files(job, comfy_server.base_dir) == [f"{job.id}_00001_.mp4"]
        assert sorted(end.output) == ["image", "video"]
        folder = api.settings.data / "results" / job.id
        assert sorted(path.name for path in folder.iterdir()) == sorted(end.output.values())
        with av.open(str(folder / end.output["video"])) as video:
            stream = video.streams.video[0]
            assert (stream.width, stream.height, stream.frames) == (96, 128, 17)
            assert stream.average_rate == job.values["73_frame_rate"]
        assert end.detail["seed"] == job.values["57_noise_seed"]
        assert end.detail["host_version"] == comfy_server.host_version
        assert 0 < end.detail["timings"]["running"] <= end.detail["timings"]["total"]


def test_progress_is_noted_while_a_request_runs(api):
    job = accepted(api.store, **LONG)

    async def use(client, dispatcher):
        seen = []
        while len([progress for progress in seen if progress["steps"] == 20]) < 2:
            current = await api.store.get(job.id)
            assert not current.finished, f"only {seen} seen"
            if current.progress and current.progress not in seen:
                seen.append(current.progress)
            await asyncio.sleep(0.05)
        await api.store.cancel(job.id)
        await api.until(job)
        return seen

    seen = api.run(use)
    assert seen[-1]["node"] == "Sampler (two experts, one schedule)"
    assert seen[-1]["host_queue_position"] == 0
    assert 0 < seen[-1]["step"] <= 20
    assert [progress["fraction"] for progress in seen] == sorted(progress["fraction"] for progress in seen)


def test_uploaded_images_are_used_and_removed(api, comfy_server):
    inputs = put_inputs(api.settings.data)
    job = accepted(api.store, inputs=inputs, **{"68_image": "no such file.png", "62_image": "no such file.png"})

    async def use(client, dispatcher):
        end = await api.until(job)
        while await api.store.leftovers():
            await asyncio.sleep(0.05)
        return end, await client.history(job.id)

    end, record = api.run(use)
    assert end.status == "succeeded", end.error
    names = {record["prompt"][2][node]["inputs"]["image"] for node in ("62", "68")}
    assert all(name.startswith(f"wan_flf2v_api/{job.id}/") for name in names)
    assert len(names) == 2
    assert not (comfy_server.base_dir / "input" / "wan_flf2v_api" / job.id).exists()


def test_a_request_that_comfyui_refuses_fails_with_the_reason_and_the_next_one_runs(api):
    bad, good = accepted(api.store, **{"62_image": "missing.png"}), accepted(api.store)

    async def use(client, dispatcher):
        return await api.until(bad), await api.until(good)

    bad_end, good_end = api.run(use)
    assert bad_end.status == "failed"
    assert 'the image "missing.png" is not in ComfyUI\'s input folder' in bad_end.error
    assert good_end.status == "succeeded"


def test_cancelling_a_running_request_stops_it_and_no_one_elses(api, comfy_server):
    job, following = accepted(api.store, **LONG), accepted(api.store)

    async def use(client, dispatcher):
        await api.until(job, "in_progress")
        await wait_until(runs(client, job.id))
        other = await queue_as_someone_else(client, slow_graph())
        assert await api.store.cancel(job.id) == "cancelling"
        dispatcher.poke()
        end = await api.until(job)
        next_end = await api.until(following)
        await wait_until(finished(client, other))
        return end, next_end, await client.history(job.id), await client.history(other)

    end, next_end, ours, other = api.run(use)
    assert (end.status, end.output, next_end.status) == ("cancelled", None, "succeeded")
    assert ours["status"]["messages"][-1][0] == "execution_interrupted"
    assert other["status"]["status_str"] == "success"
    assert api.files(job, comfy_server.base_dir) == []


def test_a_cancellation_that_another_process_noted_is_seen(api):
    job = accepted(api.store, **LONG)

    async def use(client, dispatcher):
        await wait_until(runs(client, job.id))
        other_process = Api(api.settings.data, api.settings.comfyui_url)
        await other_process.store.cancel(job.id)
        await other_process.store.close()
        end = await api.until(job)
        await wait_until(finished(client, job.id))
        return end

    assert api.run(use).status == "cancelled"


def test_a_request_behind_someone_elses_prompt_is_cancelled_there(api):
    async def use(client, dispatcher):
        other = await queue_as_someone_else(client, slow_graph(steps=1000))
        await wait_until(runs(client, other))
        job = await submit(api.store)

        async def waits():
            return (await client.queue()).position(job.id) == 1

        await wait_until(waits)
        await api.store.cancel(job.id)
        dispatcher.poke()
        end = await api.until(job)
        while await api.store.leftovers():
            await asyncio.sleep(0.05)
        queue = await client.queue()
        await client.cancel(other)
        return end, queue.position(job.id), queue.position(other), await client.history(job.id)

    end, ours, other, record = api.run(use)
    assert (end.status, ours, other, record) == ("cancelled", None, 0, None)


def test_a_cancelled_request_in_the_queue_never_reaches_comfyui(api):
    running, waiting = accepted(api.store), accepted(api.store)
    assert asyncio.run(api.store.cancel(waiting.id)) == "cancelled"

    async def use(client, dispatcher):
        await api.until(running)
        return await client.history(waiting.id)

    assert api.run(use) is None
    assert asyncio.run(api.store.get(waiting.id)).status == "cancelled"


def test_a_run_that_someone_stops_in_comfyui_fails_with_that_reason(api):
    job = accepted(api.store, **LONG)

    async def use(client, dispatcher):
        await wait_until(runs(client, job.id))
        await client.cancel(job.id)
        return await api.until(job)

    end = api.run(use)
    assert end.status == "failed"
    assert end.error.startswith("The run was stopped on the server at node ")


def test_a_dispatcher_that_stops_leaves_its_run_to_the_next_one(api, comfy_server):
    job = accepted(api.store, **MIDDLING)

    async def first(client, dispatcher):
        await wait_until(runs(client, job.id))

    async def second(client, dispatcher):
        return await api.until(job)

    api.run(first)
    assert asyncio.run(api.store.get(job.id)).status == "in_progress"
    end = api.run(second)
    assert end.status == "succeeded"
    assert [text.partition(",")[0] for text in end.detail["warnings"]] == MIDDLING_WARNINGS, "preflight ran again"
    assert api.files(job, comfy_server.base_dir) == [f"{job.id}_00001_.mp4"]


def test_two_dispatchers_on_one_store_run_each_request_once(api, comfy_server):
    jobs = [accepted(api.store) for _ in range(4)]

    async def go():
        async with ComfyClient(comfy_server.url) as client, api.dispatching(), api.dispatching():
            return [await api.until(job) for job in jobs], [await span(client, job) for job in jobs]

    ends, spans = asyncio.run(go())
    assert [end.status for end in ends] == ["succeeded"] * 4
    assert all(len(api.files(job, comfy_server.base_dir)) == 1 for job in jobs)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


def test_while_comfyui_is_down_requests_wait_and_the_reason_is_told(tmp_path):
    api = Api(tmp_path, "http://127.0.0.1:9")
    job = accepted(api.store)

    async def use(client, dispatcher):
        while (health := await api.store.health()).comfyui == "unknown":
            await asyncio.sleep(0.05)
        return health

    health = api.run(use)
    assert (health.comfyui, health.dispatcher) == ("down", "up")
    assert health.reason.startswith("Cannot reach ComfyUI at http://127.0.0.1:9 (connection refused)")
    assert asyncio.run(api.store.get(job.id)).status == "in_queue"
    asyncio.run(api.store.close())


def test_following_a_prompt_that_nobody_queued_says_so(comfy_server):
    async def go():
        async with ComfyClient(comfy_server.url) as client:
            await follow_graph(client, slow_graph(), str(uuid.uuid4()))

    with pytest.raises(Exception, match="no longer knows the prompt"):
        asyncio.run(go())
