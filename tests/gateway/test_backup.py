"""A backup of an API on each store, restored where there is none: what had not ended goes on there."""

import asyncio
import shutil
import stat
import subprocess
import sys

import pytest
from support.api_runs import put_inputs, submit
from support.nats_server import NatsServer, free_ports
from support.stores import Blocking
from wan_flf2v.benchmarks._stand_in import StandIn
from wan_flf2v.gateway.jobs.backup import back_up, restore
from wan_flf2v.gateway.jobs.dispatcher import Dispatcher
from wan_flf2v.gateway.jobs.opening import open_store
from wan_flf2v.gateway.jobs.records import Token
from wan_flf2v.gateway.jobs.results import Results
from wan_flf2v.gateway.jobs.store import StoreFileError
from wan_flf2v.gateway.settings import NatsAccess, Settings

VIDEO = bytes(range(256)) * 4096  # 1 MiB, of several parts
TOKEN = Token("laptop", "h", 1.0, "whsec_y", 60, None)


@pytest.fixture(params=["sqlite", "jetstream"])
def places(request, tmp_path):
    """Return (data folder, access to NATS) of an API, and of an empty place that it can be restored to."""
    (tmp_path / "old").mkdir()
    if request.param == "sqlite":
        yield (tmp_path / "old", None), (tmp_path / "new", None)
        return
    servers = [NatsServer(tmp_path / name, port).start() for name, port in zip("ab", free_ports(2), strict=True)]
    yield tuple(
        (tmp_path / name, NatsAccess(f"{server.url}/mine"))
        for name, server in zip(("old", "new"), servers, strict=True)
    )
    for server in servers:
        server.kill()


async def until_ended(store, *jobs):
    while not all([(await store.get(job.id)).finished for job in jobs]):
        await asyncio.sleep(0.05)


def test_what_had_not_ended_goes_on_where_a_backup_is_restored(tmp_path, places):
    old, new = places
    file = tmp_path / "backup"

    async def test():
        store = open_store(*old)
        Results(Settings(data=old[0]), store)  # makes the key of signed links
        await store.add_token(TOKEN)
        ended, running, waiting, done = [await submit(store, inputs=put_inputs(old[0])) for _ in range(4)]
        await store.assign(running.id, "a ComfyUI that is gone", name="http://gone")
        await store.cancel(ended.id)
        await store.assign(done.id)
        result = f"results/{done.id}/video.mp4"
        (old[0] / result).parent.mkdir(parents=True)
        (old[0] / result).write_bytes(VIDEO)
        await store.blobs.put(old[0], result)
        await store.end(done.id, "succeeded", output={"video": "video.mp4"})
        await store.lead("a gateway that is killed")
        if old[1] is not None:  # the images came in at another gateway
            for image in ended.inputs.values():
                await store.blobs.put(old[0], f"inputs/{image}")
            shutil.rmtree(old[0] / "inputs")
            (old[0] / result).write_bytes(b"that of an attempt which was given up")
        assert await back_up(file, *old) == {"inputs": 2, "results": 1}
        kept = [await store.get(job.id) for job in (ended, running, waiting, done)]
        await submit(store)  # after the backup
        await store.close()

        assert await restore(file, *new) == {"inputs": 2, "results": 1}
        store = open_store(*new)
        try:
            assert [await store.get(job.id) for job in (ended, running, waiting, done)] == kept
            assert (await store.tokens(), await store.count()) == ([TOKEN], 4)
            if new[1] is not None:  # it is asked for at another gateway
                shutil.rmtree(new[0] / "results")
            assert await store.blobs.find(new[0], result)
            assert (new[0] / result).read_bytes() == VIDEO
            assert len(await store.history(running.id)) == 2
            assert (new[0] / "signing.key").read_bytes() == (old[0] / "signing.key").read_bytes()
            with pytest.raises(StoreFileError, match="already"):
                await restore(file, *new)
            if new[1] is not None:  # they run at another one too
                shutil.rmtree(new[0] / "inputs")
            async with StandIn() as host:
                settings = Settings(data=new[0], comfyui_url=host.url, demo=True)
                dispatching = asyncio.create_task(Dispatcher(store, settings, Results(settings, store)).run())
                await until_ended(store, running, waiting)
                dispatching.cancel()
                await asyncio.wait([dispatching])
            ends = [await store.get(job.id) for job in (running, waiting)]
            assert [(end.status, end.attempt) for end in ends] == [("succeeded", 2), ("succeeded", 1)]
            later = await submit(store)
            assert later.number > waiting.number > running.number
        finally:
            await store.close()

    asyncio.run(asyncio.wait_for(test(), 120))
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_backup_goes_only_where_it_belongs(tmp_path, places):
    """The other store, another fleet, a place where a gateway runs, a file that is none."""
    (data, nats), _ = places
    asyncio.run(open_store(data, nats).close())
    file = tmp_path / "backup"
    asyncio.run(back_up(file, data, nats))
    if nats is None:
        with pytest.raises(StoreFileError, match="was made without --nats"):
            asyncio.run(restore(file, tmp_path / "b", NatsAccess("nats://127.0.0.1:1")))
    else:
        with pytest.raises(StoreFileError, match="was made with --nats"):
            asyncio.run(restore(file, tmp_path / "b", None))
        with pytest.raises(StoreFileError, match="one of the stream WF_mine, but this one is WF_other"):
            asyncio.run(restore(file, tmp_path / "b", NatsAccess(nats.url.replace("mine", "other"))))
        store = Blocking(open_store(data, nats))
        assert store.lead("a gateway")
        with pytest.raises(StoreFileError, match="Stop all gateways"):
            asyncio.run(restore(file, tmp_path / "b", nats))
        store.resign("a gateway")
        store.close()
        asyncio.run(restore(file, tmp_path / "b", nats))
    file.write_text("no archive")
    with pytest.raises(StoreFileError, match="is no backup of this API"):
        asyncio.run(restore(file, tmp_path / "c", None))


def test_one_command_backs_up_and_one_restores(tmp_path):
    def cli(*arguments):
        command = [sys.executable, "-I", "-m", "wan_flf2v", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={})

    assert cli("store", "backup", tmp_path / "file", "--data", tmp_path / "old").returncode == 2
    store = Blocking(open_store(tmp_path / "old", None))
    store.add_token(TOKEN)
    store.close()
    made = cli("store", "backup", tmp_path / "file", "--data", tmp_path / "old")
    assert made.returncode == 0 and "0 images and 0 files of results" in made.stderr, made.stderr
    done = cli("store", "restore", tmp_path / "file", "--data", tmp_path / "new")
    assert done.returncode == 0, done.stderr
    again = cli("store", "restore", tmp_path / "file", "--data", tmp_path / "new")
    assert again.returncode == 1 and "There is a store already" in again.stderr
