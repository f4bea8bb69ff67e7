"""The dispatcher where something is in its way: no place for results, images that stay, a server that is down."""

import asyncio

import pytest
from support.api_runs import Api, accepted
from support.client_runs import finished, wait_until
from support.stores import sql
from wan_flf2v.client.errors import RunFailedError, ServerResponseError
from wan_flf2v.gateway.jobs.comfyui import public_text
from wan_flf2v.gateway.jobs.records import Health


def test_a_result_that_cannot_be_kept_now_waits_until_it_can(api, comfy_server):
    job = accepted(api.store)
    obstacle = api.settings.data / "results" / job.id

    async def use(client, dispatcher):
        obstacle.touch()
        await wait_until(finished(client, job.id))
        await asyncio.sleep(1)  # collecting fails meanwhile; the request must not
        current = await api.store.get(job.id)
        obstacle.unlink()
        return current, await api.until(job)

    current, end = api.run(use)
    assert current.status == "in_progress", current.error
    assert end.status == "succeeded", end.error
    assert api.files(job, comfy_server.base_dir) == [f"{job.id}_00001_.mp4"]


def test_images_that_cannot_be_removed_yet_are_removed_later(api, comfy_server, monkeypatch):
    monkeypatch.setattr("wan_flf2v.gateway.jobs.dispatcher._TIDY_AGAIN_S", 0.1)
    job, following = accepted(api.store), accepted(api.store)
    obstacle = comfy_server.base_dir / "input" / "wan_flf2v_api" / job.id
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.touch()  # not a folder, so that removing it fails

    async def use(client, dispatcher):
        ends = [await api.until(each) for each in (job, following)]
        left = [each.id for each in await api.store.leftovers()]
        obstacle.unlink()
        while await api.store.leftovers():
            await asyncio.sleep(0.05)
        return ends, left

    ends, left = api.run(use)
    assert [end.status for end in ends] == ["succeeded", "succeeded"]
    assert job.id in left


def test_the_state_is_written_only_when_it_changes(tmp_path, monkeypatch):
    monkeypatch.setattr("wan_flf2v.gateway.jobs.worker._BACK_OFF_S", (0.01, 0.01))
    api = Api(tmp_path, "http://127.0.0.1:9")

    async def use(client, dispatcher):
        while (await api.store.health()).comfyui == "unknown":
            await asyncio.sleep(0.01)
        writes = []
        with monkeypatch.context() as watching:
            watching.setattr(api.store, "set_health", writes.append)
            await asyncio.sleep(0.5)  # some fifty rounds
        await api.store.set_health(Health("down", reason="as another process saw it"))
        while (await api.store.health()).reason == "as another process saw it":
            await asyncio.sleep(0.01)
        return writes

    assert api.run(use) == []
    asyncio.run(api.store.close())


@pytest.mark.parametrize("set_by_s", [-86400, 86400])
def test_no_time_of_a_result_is_negative_after_the_clock_was_set(api, set_by_s):
    job = accepted(api.store)
    sql(api.store, "UPDATE jobs SET created_at = created_at - ? WHERE id = ?", set_by_s, job.id)

    async def use(client, dispatcher):
        return await api.until(job)

    times = api.run(use).detail["timings"]
    assert 0 <= times["queued"] + times["running"] <= times["total"] + 0.002, times  # each is rounded
    assert times["queued"] == 0 if set_by_s < 0 else times["queued"] >= set_by_s


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("No file '/home/a b/ComfyUI/models/x.safetensors'", "No file 'x.safetensors'"),
        (r"C:\Users\A B\input\a.png: broken", "a.png: broken"),
        ("path:/srv/comfy/in/a.png (OSError)", "path:a.png (OSError)"),
        ("put it in models/vae, 1/2 or 3 / 4", "put it in models/vae, 1/2 or 3 / 4"),
    ],
)
def test_clients_are_not_told_the_servers_folders(message, told):
    assert public_text(RunFailedError(message, "57")) == told
    answer = ServerResponseError("ComfyUI at http://10.0.0.1:8188 responded to /prompt with 500", 500)
    assert "10.0.0.1" not in public_text(answer)
