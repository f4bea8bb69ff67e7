"""Outward workers on a real nats-server, before stand-ins for ComfyUI that no gateway reaches."""

import asyncio
import contextlib
import json

import nats
import pytest
from support.api_runs import put_inputs, submit, until
from support.nats_server import NatsServer, free_ports
from support.outward_workers import fleet, look_often, run, workers
from wan_flf2v.benchmarks._stand_in import StandIn, stand_ins
from wan_flf2v.client.comfy import OutputFile
from wan_flf2v.contract.parameters import MODELS
from wan_flf2v.gateway.http import models
from wan_flf2v.gateway.http.models import Availability
from wan_flf2v.gateway.jobs import dispatcher, outward, pipes
from wan_flf2v.gateway.jobs.catalogue import Catalogue
from wan_flf2v.gateway.jobs.opening import open_outward
from wan_flf2v.gateway.jobs.records import prompt_id
from wan_flf2v.gateway.settings import NatsAccess, Settings


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    look_often(monkeypatch)


def ids(host):
    return [prompt for prompt, *_ in host.ran]


def test_a_job_runs_on_a_comfyui_that_the_gateway_cannot_reach(tmp_path):
    """Its images go there, and its video comes back, byte for byte."""

    async def test():
        async with StandIn(seconds=20.0) as host, fleet(tmp_path) as api, api.dispatching():
            job = await submit(api.store, inputs=put_inputs(tmp_path), **{"57_steps": 10})
            async with workers(api, one=host):
                await until(lambda: is_seen_at_work(api, job))
                host.seconds = 0.0
                end = await api.until(job)
                assert (end.status, end.attempt, end.worker) == ("succeeded", 1, host.instance), end.error
                (video,) = [content for (kind, *_), content in host.files.items() if kind == "output"]
                assert (tmp_path / "results" / job.id / "video.mp4").read_bytes() == video
                await until(lambda: not any(folder for kind, folder, _ in host.files if kind == "input"))
                await until(lambda: api.is_now("one", "idle"))
            await until(lambda: api.is_now("one", "silent"))

    run(test())


def test_with_nats_no_address_of_a_comfyui_is_taken_for_granted(tmp_path):
    assert Settings(data=tmp_path).comfyui_urls == ("http://127.0.0.1:8188",)
    assert Settings(data=tmp_path, nats_url="nats://127.0.0.1").comfyui_urls == ()
    assert Settings(data=tmp_path, nats_url="nats://127.0.0.1", comfyui_url="http://h:1").comfyui_urls == (
        "http://h:1",
    )


def fraction(job):
    return (job.progress or {}).get("fraction", 0.0)


async def is_seen_at_work(api, job, since=0.0):
    current = await api.store.get(job.id)
    assert not current.finished, current.error
    return fraction(current) > since


async def on(job, hosts):
    """Wait until the job's first attempt runs on one of them; return the names, that one's first."""
    await until(lambda: any(job.id in ids(host) for host in hosts.values()))
    return sorted(hosts, key=lambda name: job.id not in ids(hosts[name]))


@contextlib.asynccontextmanager
async def two(data, seconds, **settings):
    """Yield an API, two stand-ins by name, their workers, a job, and the names: it runs on the first."""
    async with stand_ins(2, seconds=seconds) as started, fleet(data, **settings) as api:
        hosts = dict(zip(("one", "two"), started, strict=True))
        async with workers(api, **hosts) as running, api.dispatching():
            await until(lambda: api.is_now("one", "idle"))
            await until(lambda: api.is_now("two", "idle"))
            job = await submit(api.store, **{"57_steps": 10})  # so that progress is seen
            first, second = await on(job, hosts)
            yield api, hosts, running, job, first, second


@pytest.mark.slow
def test_a_worker_that_is_away_for_a_short_time_goes_on_with_its_job(tmp_path):
    async def test():
        async with two(tmp_path, 6.0) as (api, hosts, running, job, first, second):
            await running[first].cut()
            await until(lambda: api.is_now(first, "silent"))
            before = fraction(await api.store.get(job.id))
            running[first] = running[first].again()
            await until(lambda: api.is_now(first, "running"))
            await until(lambda: is_seen_at_work(api, job, since=before))
            end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error
            assert ids(hosts[second]) == []

    run(test())


@pytest.mark.slow
def test_after_a_long_silence_the_job_runs_elsewhere_and_the_late_result_is_refused(tmp_path):
    async def test():
        async with two(tmp_path, 3.0, worker_lost_after_s=1.5) as (api, hosts, running, job, first, second):
            hosts[second].seconds = 6.0
            await running[first].cut()
            await until(lambda: ids(hosts[second]))
            assert (await api.store.get(job.id)).attempt == 2
            await until(lambda: hosts[first].ran[0].end is not None)
            running[first] = running[first].again()
            await until(lambda: api.is_now(first, "idle"))
            end = await api.until(job)
            assert (end.status, end.attempt, end.worker) == ("succeeded", 2, hosts[second].instance), end.error
            assert (ids(hosts[first]), ids(hosts[second])) == ([job.id], [prompt_id(job.id, 2)])

    run(test())


@pytest.mark.slow
def test_while_nats_is_away_no_worker_is_lost(tmp_path, monkeypatch):
    """However long. A worker that comes back a little later than others has its job still."""
    monkeypatch.setattr(dispatcher, "_BACK_OFF_S", (0.05, 0.1))
    monkeypatch.setattr("wan_flf2v.gateway.jobs.jetstream._CALL_S", 0.5)
    server = NatsServer(tmp_path / "nats", free_ports(1)[0]).start()

    async def test():
        options = {"worker_lost_after_s": 12.0, "nats_url": server.url}
        async with two(tmp_path, 24.0, **options) as (api, hosts, running, job, first, second):
            server.kill()
            running[first].task.cancel()
            await asyncio.sleep(13)
            hosts[second].headers = {}
            server.start()
            await until(lambda: hosts[second].headers)  # the gateway has asked it
            await asyncio.sleep(1)
            running[first] = running[first].again()
            end = await api.until(job)
            assert (end.status, end.attempt, end.worker) == ("succeeded", 1, hosts[first].instance), end.error
            assert ids(hosts[second]) == []

    try:
        run(test())
    finally:
        server.kill()


def test_after_an_outage_a_worker_is_called_once_it_is_heard_again(tmp_path, monkeypatch):
    """It may connect again later than the gateway: what is sent to it before is lost, and waits for a response."""
    monkeypatch.setattr(outward, "_SILENT_S", 60.0)
    server = NatsServer(tmp_path / "nats", free_ports(1)[0]).start()

    async def hello():
        client = await nats.connect(server.url)
        await client.publish("wfw.from.one.run.hello", json.dumps({"v": pipes.PROTOCOL, "started": 1.0}).encode())
        await client.close()

    def is_connected(found):
        with contextlib.suppress(nats.errors.Error, AttributeError):  # before it begins there is no client
            return bool(found._nats.client())
        return False

    def connects(found):
        try:
            found.connect("one").close()
        except ConnectionError as error:
            return str(error)
        return True

    async def test():
        found = open_outward(NatsAccess(server.url))
        hearing = asyncio.create_task(found.run())
        await until(lambda: is_connected(found))
        await hello()
        await until(lambda: connects(found) is True)
        server.kill()
        await until(lambda: not is_connected(found))
        server.start()
        await until(lambda: is_connected(found))
        assert connects(found) == "its worker one is not connected to NATS"
        await hello()
        await until(lambda: connects(found) is True)
        hearing.cancel()
        await asyncio.wait([hearing])

    try:
        run(test())
    finally:
        server.kill()


@pytest.mark.slow
def test_a_comfyui_that_ends_behind_its_worker_is_dead_at_once(tmp_path, caplog):
    """Its job runs elsewhere, and the worker says why once. One that is back may get its own job a second time."""
    caplog.set_level("INFO", "wan_flf2v.gateway")

    def said(text, host):
        return caplog.text.count(f"ComfyUI {text} comfyui={host.url}")

    async def test():
        async with two(tmp_path, 2.0) as (api, hosts, _, job, first, second):
            await hosts[first].kill()
            end = await api.until(job)
            assert (end.status, end.attempt, end.worker) == ("succeeded", 2, hosts[second].instance), end.error
            assert await api.is_now(first, "lost")
            again = await submit(api.store)
            await until(lambda: again.id in ids(hosts[second]))
            await hosts[second].kill()
            await hosts[second].start()
            end = await api.until(again)
            assert (end.status, end.attempt, end.worker) == ("succeeded", 2, hosts[second].instance), end.error
            await hosts[first].start()
            await until(lambda: said("responds again", hosts[first]))
            assert said("does not respond, this worker gets no requests", hosts[first]) == 1

    run(test())


def test_a_running_job_is_cancelled_and_the_next_one_starts(tmp_path):
    async def test():
        async with two(tmp_path, 60.0) as (api, hosts, _, job, first, second):
            others = [await submit(api.store) for _ in range(2)]
            await until(lambda: hosts[second].ran)
            await api.store.cancel(job.id)
            assert (await api.until(job)).status == "cancelled"
            await until(lambda: len(hosts[first].ran) == 2)
            assert hosts[first].ran[1].start - hosts[first].ran[0].end < 20.0, "the aim is 2 s; a machine may be busy"
            assert hosts[second].ran[0].end is None, "the other one goes on"
            for each in others:
                await api.store.cancel(each.id)
                await api.until(each)

    run(test())


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_ends_after_its_job_and_takes_no_other(tmp_path):
    """Told twice it ends at once; its job stays with its ComfyUI."""

    async def test():
        async with two(tmp_path, 2.0) as (api, hosts, running, job, first, second):
            running[first].worker.stop()
            await until(lambda: api.is_now(first, "stopping"))
            others = [await submit(api.store) for _ in range(2)]
            await running[first].task
            end = await api.store.get(job.id)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error
            assert [(await api.until(each)).worker for each in others] == [hosts[second].instance] * 2
            assert list(await api.states()) == [second]
            last = await submit(api.store)
            await until(lambda: last.id in ids(hosts[second]))
            running[second].worker.stop()
            running[second].worker.stop()
            await asyncio.wait_for(running[second].task, 5)
            await until(lambda: has_no_worker(api))
            assert (await api.store.get(last.id)).status == "in_progress"

    run(test())


def test_a_gateway_that_just_began_does_not_dismiss_a_worker_whose_comfyui_has_not_responded_yet(tmp_path):
    """It stops, and its ComfyUI may run what the gateway does not know of; that is not run a second time."""

    async def test():
        async with stand_ins(2, seconds=1.0) as started, fleet(tmp_path) as api:
            hosts = dict(zip(("one", "two"), started, strict=True))
            async with workers(api, **hosts) as running:
                async with api.dispatching():
                    await until(lambda: api.is_now("one", "idle"))
                    await until(lambda: api.is_now("two", "idle"))
                    job = await submit(api.store)
                    first, second = await on(job, hosts)
                hosts[first].stall()
                running[first].worker.stop()
                async with api.dispatching() as found:
                    await until(lambda: found.is_stopping(first))
                    other = await submit(api.store)
                    assert (await api.until(other)).worker == hosts[second].instance
                    assert not running[first].task.done()
                    hosts[first].go_on()
                    end = await api.until(job)
                    await running[first].task
            assert (end.status, end.attempt, end.worker) == ("succeeded", 1, hosts[first].instance), end.error
            assert (ids(hosts[first]), ids(hosts[second])) == ([job.id], [other.id])

    run(test())


def test_a_worker_that_is_told_to_stop_where_no_gateway_is_left_ends_and_its_request_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("wan_flf2v.gateway.outward_worker._NOBODY_S", 1.0)

    async def test():
        async with StandIn(seconds=3.0) as host, fleet(tmp_path) as api, workers(api, one=host) as running:
            async with api.dispatching():
                job = await submit(api.store)
                await until(lambda: job.id in ids(host))
            running["one"].worker.stop()
            await running["one"].task
            running["one"] = running["one"].again()
            async with api.dispatching():
                end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error
            assert ids(host) == [job.id]

    run(test())


async def has_no_worker(api):
    return not await api.states() and "No worker is connected" in str((await api.store.health()).reason)


def test_a_fleet_whose_only_comfyui_does_not_respond_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_FRESH_S", -1.0)
    monkeypatch.setattr(models, "_LOOK_S", 2.0)

    async def test():
        async with (
            StandIn() as host,
            fleet(tmp_path) as api,
            api.dispatching() as found,
            workers(api, one=host),
        ):
            await until(lambda: api.is_now("one", "idle"))
            availability = Availability(api.settings, Catalogue(api.store, MODELS), found)
            assert await availability.problem() is None
            host.stall()
            silent = await availability.problem()
            await host.kill()
            dead = await availability.problem()
            assert silent.text.startswith("ComfyUI did not respond")
            assert (silent.waits, dead.waits) == (True, True)

    run(test())


@pytest.mark.slow
def test_who_dispatches_next_waits_for_a_worker_that_is_silent_just_now(tmp_path):
    async def test():
        async with stand_ins(2, seconds=5.0) as started, fleet(tmp_path) as api:
            hosts = dict(zip(("one", "two"), started, strict=True))
            async with workers(api, **hosts) as running:
                async with api.dispatching():
                    job = await submit(api.store)
                    first, second = await on(job, hosts)
                    await running[first].cut()
                async with api.dispatching():
                    await until(lambda: api.is_now(second, "idle"))
                    await until(lambda: api.is_now(first, "silent"))
                    running[first] = running[first].again()
                    end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error
            assert ids(hosts[second]) == []

    run(test())


def test_of_two_workers_with_one_name_the_one_that_started_later_gets_the_jobs(tmp_path, caplog):
    async def test():
        async with stand_ins(2) as (older, newer), fleet(tmp_path) as api, api.dispatching(), workers(api, one=older):
            await until(lambda: api.is_now("one", "idle"))
            async with workers(api, one=newer):
                await until(lambda: "started later" in caplog.text)
                jobs = [await submit(api.store) for _ in range(2)]
                assert [(await api.until(job)).worker for job in jobs] == [newer.instance] * 2
        assert "a gateway refused this worker: Another worker named one started later" in caplog.text

    run(test())


def test_versions_that_do_not_know_each_other_say_so(tmp_path, caplog, monkeypatch):
    async def test():
        async with StandIn() as host, fleet(tmp_path) as api, api.dispatching() as found:
            monkeypatch.setattr("wan_flf2v.gateway.outward_worker.PROTOCOL", 2)
            async with workers(api, one=host):
                text = "version 1 of the protocol between gateways and workers, the worker one version 2"
                await until(lambda: f"a gateway refused this worker: This gateway speaks {text}" in caplog.text)
            assert found.addresses() == []
        assert caplog.text.count("worker refused worker=one") == 1

    run(test())


def test_only_calls_that_a_job_needs_are_passed_on(tmp_path):
    async def test():
        async with StandIn() as host, fleet(tmp_path) as api, workers(api, one=host):
            found = open_outward(api.settings.nats)
            hearing = asyncio.create_task(found.run())
            await until(found.addresses)
            async with found.addresses()[0].client() as client:
                assert await client.pack_instance() == host.instance
                host.headers = {}
                for method, path in (("GET", "/manager/reboot"), ("GET", "/"), ("POST", "/free"), ("GET", "/queue/x")):
                    async with client.relay(method, path) as response:
                        assert response.status == 404
                assert host.headers == {}, "ComfyUI has seen no request"
            hearing.cancel()

    run(test())


@pytest.mark.slow
def test_large_files_pass_whole_both_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(outward, "_SILENT_S", 30.0)  # all of this has one event loop
    content = bytes(range(256)) * (50 << 12)  # 50 MiB
    back = content[: 10 << 20]

    async def test():
        async with StandIn() as host, fleet(tmp_path) as api, api.dispatching() as found, workers(api, one=host):
            await until(found.addresses)
            (tmp_path / "large.png").write_bytes(content)
            async with found.addresses()[0].client() as client:
                folder, _, name = (await client.upload_image(tmp_path / "large.png", "there")).rpartition("/")
                assert host.files["input", folder, name] == content
                host.files["output", "", "large.mp4"] = back
                file = OutputFile("large.mp4", "", "output", "")
                assert (await client.download(file, tmp_path / "copy.mp4")).read_bytes() == back

    run(test())


def test_a_message_that_nats_lost_breaks_the_pipe(monkeypatch):
    """No wrong byte arrives."""

    async def test():
        sent = []

        async def publish(_, message):
            sent.append(message)
            if len(sent) != 3:
                await far.take("key", message)

        async def answer(_, message):
            await near.take("key", message)

        near, far = pipes.Pipes(publish), pipes.Pipes(answer)
        there, here = [await asyncio.open_connection(sock=each.open("key")) for each in (far, near)]
        data = bytes(range(100))
        here[1].write(data)
        assert await there[0].read() == data[:20]

    monkeypatch.setattr(pipes, "_CHUNK_BYTES", 10)
    run(test())
