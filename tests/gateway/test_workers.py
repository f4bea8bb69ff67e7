"""Several ComfyUIs, as stand-ins: which gets a job, and what becomes of a job whose ComfyUI is lost."""

import asyncio
import contextlib
import functools
import inspect
import json
import math
import re
import time
import uuid
from dataclasses import replace

import pytest
from support.api_runs import Api, put_inputs, submit, until
from support.stores import CHOSEN, STORES
from support.wire import WAYS, Wire
from wan_flf2v.benchmarks._stand_in import StandIn, stand_ins
from wan_flf2v.client import comfy
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.errors import ServerUnreachableError
from wan_flf2v.contract.parameters import DEMO, LOOP, STEPS
from wan_flf2v.contract.workflow import graph_for
from wan_flf2v.gateway.jobs import comfyui, dispatcher, worker
from wan_flf2v.gateway.jobs.addresses import addresses_of, resolve
from wan_flf2v.gateway.jobs.comfyui import ComfyBackend
from wan_flf2v.gateway.jobs.records import Submission, Token, prompt_id
from wan_flf2v.gateway.jobs.results import Results, StorageError
from wan_flf2v.gateway.settings import ConfigError, Settings

WAIT_S = 120.0
GENEROUS_S = 20.0  # the aim is 2 s; a busy machine must not fail a test
MANY = 60  # it is the same with 500


@pytest.fixture(autouse=True)
def often(monkeypatch):
    """Workers are looked at so often that a test need not wait for it."""
    monkeypatch.setattr(worker, "_CHECK_S", 0.1)
    monkeypatch.setattr(worker, "_BUSY_CHECK_S", 0.1)
    monkeypatch.setattr(worker, "_BACK_OFF_S", (0.05, 0.1))


@pytest.fixture
def short_timeouts(monkeypatch):
    monkeypatch.setattr("wan_flf2v.client.connection._READ_TIMEOUT_S", 0.3)


def run(test):
    """Run a test that never ends only for a while."""
    asyncio.run(asyncio.wait_for(test, WAIT_S))


@contextlib.asynccontextmanager
async def api_of(data, hosts, **settings):
    """Yield an API in front of these stand-ins, which have the two photographs, and its dispatcher."""
    for host in hosts:
        for name in ("start.jpg", "end.jpg"):
            host.files.setdefault(("input", "", name), b"a photograph")
    api = Api(data, tuple(host.url for host in hosts), **settings)
    try:
        yield api
    finally:
        await api.store.close()


def ids(host):
    return [prompt for prompt, *_ in host.ran]


async def on(job, hosts):
    """Wait until the job's first attempt runs on one of them; return that one first, then the others."""
    await until(lambda: any(job.id in ids(host) for host in hosts))
    return sorted(hosts, key=lambda host: job.id not in ids(host))


def test_the_right_to_dispatch_is_kept_while_a_round_waits_for_the_store(tmp_path, monkeypatch):
    async def test():
        async with stand_ins(1) as hosts, api_of(tmp_path, hosts) as api:
            lead, asked = api.store.lead, []
            monkeypatch.setattr(api.store, "lead", lambda holder: asked.append(holder) or lead(holder))
            monkeypatch.setattr(api.store, "workers", asyncio.Event().wait)
            async with api.dispatching():
                await until(lambda: len(asked) > 3)

    monkeypatch.setattr(dispatcher, "_KEEP_LEAD_S", 0.02)
    run(test())


def test_jobs_run_on_all_of_them_at_once_and_each_once(tmp_path):
    async def test():
        async with stand_ins(3, seconds=1.0) as hosts, api_of(tmp_path, hosts) as api:
            jobs = [await submit(api.store) for _ in range(6)]
            async with api.dispatching():
                ends = [await api.until(job) for job in jobs]
            assert [end.status for end in ends] == ["succeeded"] * 6, [end.error for end in ends]
            assert sorted(prompt for host in hosts for prompt in ids(host)) == sorted(job.id for job in jobs)
            assert all(len(host.ran) == 2 for host in hosts)
            assert not any(kind == "input" and folder for host in hosts for kind, folder, _ in host.files)

    run(test())


class Showing(StandIn):
    """One that sends another picture with each step."""

    async def _progress(self, prompt, step):
        await super()._progress(prompt, step)
        metadata = json.dumps({"prompt_id": prompt.id}).encode()
        header = comfy._PREVIEW_WITH_METADATA.to_bytes(4, "big") + len(metadata).to_bytes(4, "big")
        if prompt.client in self._sockets:  # the worker follows soon after it has submitted
            await self._sockets[prompt.client].send_bytes(header + metadata + b"\xff\xd8\xff" + uuid.uuid4().bytes)


def test_two_previews_a_second_are_kept_each_the_newest(tmp_path, monkeypatch):
    came, kept = [], []  # when, and which
    follow, keep_preview = ComfyBackend.follow, Results.keep_preview

    def follow_and_note(self, job, on_progress, on_preview):
        def note(picture):
            came.append((time.monotonic(), picture))
            on_preview(picture)

        return follow(self, job, on_progress, note)

    async def keep_and_note(self, job_id, picture):
        assert picture == came[-1][1]
        kept.append((time.monotonic(), picture))
        await keep_preview(self, job_id, picture)

    async def test():
        async with Showing(seconds=3.0) as host, api_of(tmp_path, [host]) as api, api.dispatching():
            end = await api.until(await submit(api.store, **{STEPS.key: 20}))
            assert end.status == "succeeded", end.error

    monkeypatch.setattr(ComfyBackend, "follow", follow_and_note)
    monkeypatch.setattr(Results, "keep_preview", keep_and_note)
    run(test())
    assert len(came) > len(kept) > 1
    assert len(kept) <= 1 + 2 * (kept[-1][0] - came[0][0])


def test_one_that_dies_is_dead_at_once_and_its_job_ends_on_another(tmp_path, caplog):
    async def test():
        async with stand_ins(2, seconds=2.0) as hosts, api_of(tmp_path, hosts) as api:
            job = await submit(api.store, inputs=put_inputs(tmp_path))
            async with api.dispatching():
                first, second = await on(job, hosts)
                await first.kill()
                end = await api.until(job)
                assert (end.status, end.attempt) == ("succeeded", 2), end.error
                assert ids(second) == [prompt_id(job.id, 2)] == [str(uuid.uuid5(uuid.UUID(job.id), "2"))]
                files = [name for kind, folder, name in second.files if kind == "output"]
                assert files == [f"{job.id}-2_00001_.mp4"]
                states = await api.store.workers()
                assert {state.name: state.state for state in states}[first.url] == "lost"
                history = [(entry.status, entry.attempt, entry.worker) for entry in await api.store.history(job.id)]
                assert history == [
                    ("in_queue", 0, None),
                    ("in_progress", 1, first.url),
                    ("in_queue", 1, first.url),
                    ("in_progress", 2, second.url),
                    ("succeeded", 2, second.url),
                ]
                await until(lambda: not any(folder for kind, folder, _ in second.files if kind == "input"))
                for line in (
                    f"worker is lost request_id={job.id} attempt=1 worker={first.url}: ",
                    f"job recovered request_id={job.id} attempt=1 worker={second.url} found=worker_ended",
                    f"job ended request_id={job.id} attempt=2 worker={second.url} status=succeeded",
                ):
                    assert line in caplog.text

    with caplog.at_level("INFO"):
        run(test())


@pytest.mark.parametrize("module", [comfyui, dispatcher, worker])
def test_each_log_line_about_a_job_has_its_attempt_and_its_worker(module):
    lines = re.findall(r'_LOG\.\w+\(\s*"([^"]*request_id=[^"]*)"', inspect.getsource(module))
    assert lines
    assert [line for line in lines if not re.search(r"request_id=%s attempt=%d worker=%s", line)] == []


def test_a_restart_that_nobody_saw_is_a_death_too(tmp_path, monkeypatch):
    """The port responds all the time, but it is another process: the instance tells."""

    async def test():
        async with stand_ins(2, seconds=2.0) as hosts, api_of(tmp_path, hosts) as api:
            job = await submit(api.store)
            async with api.dispatching():
                first, _ = await on(job, hosts)
                await first.kill()
                await first.start()
                end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 2), end.error
            assert sum(prompt == job.id for host in hosts for prompt in ids(host)) == 1

    run(test())


def test_a_short_silence_changes_nothing_and_progress_goes_on(tmp_path, short_timeouts):
    async def test():
        async with stand_ins(2, seconds=1.0) as hosts, api_of(tmp_path, hosts) as api:
            job = await submit(api.store)
            async with api.dispatching():
                first, second = await on(job, hosts)
                first.stall()
                await asyncio.sleep(1.5)
                assert (await api.store.get(job.id)).status == "in_progress"
                first.go_on()
                end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error
            assert ids(second) == []

    run(test())


def test_one_whose_steps_take_longer_than_a_loss_is_asked_meanwhile_and_keeps_its_job(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_CHECK_S", 5.0)  # as it is elsewhere

    async def test():
        async with (
            stand_ins(2, seconds=12.0) as hosts,
            api_of(tmp_path, hosts, worker_lost_after_s=3.0) as api,
            api.dispatching(),
        ):
            end = await api.until(await submit(api.store, **{STEPS.key: 2}))
            assert (end.status, end.attempt) == ("succeeded", 1), end.error

    run(test())


def test_after_a_long_silence_the_job_runs_elsewhere_and_the_late_result_is_refused(tmp_path, short_timeouts):
    async def test():
        hosts = [StandIn(seconds=1.0), StandIn(seconds=1.0)]
        async with hosts[0], hosts[1], api_of(tmp_path, hosts, worker_lost_after_s=1.0) as api:
            job = await submit(api.store)
            async with api.dispatching():
                first, second = await on(job, hosts)
                second.seconds = 3.0
                first.stall()
                await until(lambda: ids(second))
                assert (await api.store.get(job.id)).attempt == 2
                first.go_on()  # it writes its file and says that it has succeeded
                await until(lambda: first.ran[0][2] is not None)
                end = await api.until(job)
                assert (end.status, end.attempt, end.worker) == ("succeeded", 2, second.instance), end.error
                assert ids(second) == [prompt_id(job.id, 2)]
                assert ids(first) == [job.id]
                await until(lambda: not hosts[0]._pending)

    run(test())


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("harm", [StandIn.kill, StandIn.stall])
def test_two_deaths_under_a_job_fail_it_and_two_silences_do_not(tmp_path, short_timeouts, harm, seen):
    """Who dispatches sees it, or the next one finds it so."""

    async def test():
        async with (
            stand_ins(3, seconds=60.0) as hosts,
            api_of(tmp_path, hosts, worker_lost_after_s=1.0) as api,
            contextlib.AsyncExitStack() as dispatching,
        ):
            job = await submit(api.store)
            for attempt in (1, 2):
                if attempt == 1 or not seen:
                    await dispatching.enter_async_context(api.dispatching())
                await until(functools.partial(ran, api, job, attempt))
                holder = next(host for host in hosts if prompt_id(job.id, attempt) in ids(host))
                for other in hosts:
                    if attempt == 2 and other is not holder:
                        other.seconds = 0.1
                if not seen:
                    await dispatching.aclose()
                harmed = harm(holder)
                if inspect.isawaitable(harmed):
                    await harmed
            if not seen:
                await dispatching.enter_async_context(api.dispatching())
            end = await api.until(job)
            if harm is StandIn.kill:
                assert (end.status, end.attempt) == ("failed", 2)
                assert end.error.startswith("ComfyUI ended twice while it ran this request.")
            else:
                assert (end.status, end.attempt, end.deaths) == ("succeeded", 3, 0), end.error
                assert end.detail["warnings"] == []

    run(test())


async def ran(api, job, attempt):
    """Whether this attempt of the job was seen at work."""
    found = await api.store.get(job.id)
    return found.ran and found.attempt == attempt


CUTS = pytest.mark.parametrize("ways", [WAYS[:1], WAYS[1:], WAYS], ids="+".join)


@contextlib.asynccontextmanager
async def wired(tmp_path, **settings):
    """Yield two ComfyUIs whose packets can be dropped, and an API that reaches them over the same network."""
    async with (
        stand_ins(2, seconds=1.0) as hosts,
        Wire(hosts[0]) as one,
        Wire(hosts[1]) as other,
        api_of(tmp_path, (one, other), **settings) as api,
    ):
        yield api, hosts, {id(wire.host): wire for wire in (one, other)}


@CUTS
def test_packets_that_are_dropped_for_a_short_time_change_nothing(tmp_path, short_timeouts, ways):
    async def test():
        async with wired(tmp_path) as (api, hosts, wires):
            job = await submit(api.store)
            async with api.dispatching():
                first, second = await on(job, hosts)
                wires[id(first)].cut(*ways)
                await asyncio.sleep(1.5)
                assert (await api.store.get(job.id)).status == "in_progress"
                wires[id(first)].mend()
                end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error
            assert ids(second) == []

    run(test())


@CUTS
def test_packets_that_are_dropped_for_long_run_the_job_once_elsewhere(tmp_path, short_timeouts, ways):
    async def test():
        async with wired(tmp_path, worker_lost_after_s=1.0) as (api, hosts, wires):
            job = await submit(api.store)
            async with api.dispatching():
                first, second = await on(job, hosts)
                second.seconds = 3.0
                wires[id(first)].cut(*ways)
                await until(lambda: ids(second))
                wires[id(first)].mend()
                end = await api.until(job)
                assert (end.status, end.attempt, end.worker) == ("succeeded", 2, second.instance), end.error
            assert ids(second) == [prompt_id(job.id, 2)]
            assert ids(first) == [job.id]

    run(test())


def test_a_prompt_that_was_given_up_is_removed_when_its_comfyui_comes_back(tmp_path, short_timeouts):
    async def test():
        async with stand_ins(2, seconds=30.0) as hosts, api_of(tmp_path, hosts, worker_lost_after_s=0.5) as api:
            job = await submit(api.store)
            async with api.dispatching():
                first, second = await on(job, hosts)
                first.stall()
                await until(lambda: ids(second))
                first.go_on()
                await until(lambda: first.ran[0][2] is not None)
                assert first._history[job.id].interrupted
                await api.store.cancel(job.id)
                await api.until(job)

    run(test())


@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("then", ["ends", "is cancelled", "runs elsewhere", "is copied, and silent again"])
def test_a_late_result_counts_while_its_job_waits_again(tmp_path, monkeypatch, short_timeouts, kind, then):
    """Jobs of a higher priority run in between. Its prompt is removed only once another attempt was assigned."""
    monkeypatch.setenv(CHOSEN, kind)

    async def test():
        async with stand_ins(2, seconds=60.0) as hosts, api_of(tmp_path, hosts, worker_lost_after_s=0.5) as api:
            token = Token("hurry", "h", 1.0, None, None, None)
            await api.store.add_token(token)
            await api.store.set_priority("hurry", "high")
            job = await submit(api.store)
            async with api.dispatching():
                first, second = await on(job, hosts)
                others = [await submit(api.store, token=token.id) for _ in range(2)]
                await until(lambda: second.ran)
                first.stall()
                await until(lambda: states(api, first.url, "lost"))
                await api.store.cancel(others[0].id)
                await api.until(job, "in_queue")
                await until(lambda: len(second.ran) == 2)
                if then != "runs elsewhere":
                    first.go_on()
                    await until(lambda: states(api, first.url, "running"))
                    assert first.ran[0].end is None, "nobody has removed it"
                if then == "ends":
                    first.seconds = 0.0
                    end = await api.until(job)
                    assert (end.status, end.attempt) == ("succeeded", 1), end.error
                    assert end.output["video"] == "video.mp4"
                elif then == "is cancelled":
                    await api.store.cancel(job.id)
                    await until(lambda: first.ran[0].end is not None)
                    assert first._history[job.id].interrupted
                elif then == "is copied, and silent again":
                    first.hold_files()
                    first.seconds = 0.0
                    await until(lambda: first.held)
                    first.stall()
                    await until(lambda: states(api, first.url, "lost"))
                    await api.store.cancel(others[1].id)
                    await until(lambda: prompt_id(job.id, 2) in ids(second))
                    await api.store.cancel(job.id)
                    await until(lambda: second.ran[-1].end is not None)
                    assert second._history[prompt_id(job.id, 2)].interrupted
                    assert (await api.until(job)).status == "cancelled"
                else:
                    await api.store.cancel(others[1].id)
                    await until(lambda: prompt_id(job.id, 2) in ids(second))
                    first.go_on()
                    await until(lambda: first.ran[0].end is not None)
                    assert first._history[job.id].interrupted
                    second.seconds = 0.0
                    end = await api.until(job)
                    assert (end.status, end.attempt) == ("succeeded", 2), end.error
                for other in others:
                    await api.store.cancel(other.id)
            assert ids(first).count(job.id) == 1
            assert (prompt_id(job.id, 2) in ids(second)) == (then in ("runs elsewhere", "is copied, and silent again"))

    run(test())


def test_with_one_comfyui_a_silent_one_keeps_its_job_however_long_it_takes(tmp_path, short_timeouts):
    async def test():
        async with stand_ins(1, seconds=1.0) as hosts, api_of(tmp_path, hosts, worker_lost_after_s=0.2) as api:
            job = await submit(api.store)
            async with api.dispatching():
                await on(job, hosts)
                hosts[0].stall()
                await asyncio.sleep(2)
                hosts[0].go_on()
                end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 1), end.error

    run(test())


def test_what_an_attempt_says_that_was_given_up_changes_nothing(tmp_path):
    async def test():
        async with api_of(tmp_path, []) as api:
            job = await submit(api.store)
            await api.store.assign(job.id, "one")
            await api.store.requeue(job.id, attempt=1)
            await api.store.assign(job.id, "another")
            before = await api.store.get(job.id)
            await api.store.mark_sent(job.id, attempt=1)
            await api.store.report(job.id, {"host_queue_position": 0}, attempt=1)
            await api.store.requeue(job.id, attempt=1)
            assert not await api.store.end(job.id, "failed", error="late", attempt=1)
            assert await api.store.get(job.id) == before
            assert await api.store.end(job.id, "succeeded", output={}, attempt=2)

    run(test())


def test_a_late_result_counts_while_no_other_attempt_was_handed_out(tmp_path):
    async def test():
        async with api_of(tmp_path, []) as api:
            job = await submit(api.store)
            await api.store.assign(job.id, "one")
            await api.store.requeue(job.id, attempt=1)
            assert await api.store.end(job.id, "succeeded", output={}, attempt=1)

    run(test())


def test_one_that_is_busy_with_prompts_of_others_gets_no_job(tmp_path):
    async def test():
        async with stand_ins(2, seconds=0.3) as hosts, api_of(tmp_path, hosts) as api:
            hosts[0].seconds = 60.0
            async with ComfyClient(hosts[0].url) as client:
                await client.queue_prompt(graph_for(DEMO), prompt_id=str(uuid.uuid4()), client_id="someone else")
            async with api.dispatching():
                await until(lambda: states(api, hosts[0].url, "busy"))
                jobs = [await submit(api.store) for _ in range(3)]
                ends = [await api.until(job) for job in jobs]
            assert [end.status for end in ends] == ["succeeded"] * 3
            assert ids(hosts[1]) == [job.id for job in jobs]

    run(test())


def test_prompts_of_others_are_seen_before_a_job_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_CHECK_S", 30.0)

    async def test():
        async with stand_ins(2, seconds=0.1) as hosts, api_of(tmp_path, hosts) as api, api.dispatching():
            await until(lambda: all_idle(api, hosts))
            hosts[0].seconds = 60.0
            async with ComfyClient(hosts[0].url) as client:
                await client.queue_prompt(graph_for(DEMO), prompt_id=str(uuid.uuid4()), client_id="someone else")
            jobs = [await submit(api.store) for _ in range(3)]
            assert [(await api.until(job)).status for job in jobs] == ["succeeded"] * 3
            assert len(hosts[0].ran) == 1

    run(test())


async def worker_states(api):
    return {state.name: state for state in await api.store.workers()}


def test_a_job_that_waited_too_long_is_queued_behind_others(tmp_path):
    async def test():
        async with stand_ins(2, seconds=60.0) as hosts, api_of(tmp_path, hosts, max_wait_s=1.0) as api:
            for host in hosts:
                async with ComfyClient(host.url) as client:
                    await client.queue_prompt(graph_for(DEMO), prompt_id=str(uuid.uuid4()), client_id="someone else")
            async with api.dispatching():
                job = await submit(api.store)
                await until(lambda: any(each.id == job.id for host in hosts for each in host._pending))

    run(test())


def test_jobs_go_only_where_their_models_and_images_are(tmp_path):
    low = graph_for(DEMO)["56"]["inputs"]["unet_name"]

    async def test():
        async with (
            StandIn(lacks=(low,)) as one,
            StandIn() as two,
            StandIn() as three,
            api_of(tmp_path, [one, two]) as api,
        ):
            three.files["input", "", "start.jpg"] = b"a photograph"  # but not the other one
            urls = (one.url, three.url, two.url)
            api.settings = api.settings.model_copy(update={"comfyui_url": urls})
            async with api.dispatching():
                jobs = [await submit(api.store) for _ in range(4)]
                ends = [await api.until(job) for job in jobs]
            assert [end.status for end in ends] == ["succeeded"] * 4, [end.error for end in ends]
            assert (ids(one), ids(three), len(ids(two))) == ([], [], 4)

    run(test())


def test_a_job_goes_only_where_the_files_of_the_slots_it_fills_are(tmp_path):
    (lora,) = LOOP.slots["92"].values()
    prompt = {"6_text": "x", "68_image": "start.jpg"}

    async def test():
        async with (
            StandIn(lacks=(lora,)) as without,
            StandIn() as complete,
            api_of(tmp_path, [without, complete]) as api,
        ):

            async def ends(count, **values):
                jobs = [
                    Submission(str(uuid.uuid4()), "test", LOOP.model_id, {**prompt, **values}, {}) for _ in range(count)
                ]
                waiting = [await api.store.submit(job) for job in jobs]
                return [(await api.until(job)).status for job in waiting]

            async with api.dispatching():
                assert await ends(4, **{"91_strength_model": 1.0, "92_strength_model": 0.5}) == ["succeeded"] * 4
                assert (len(without.ran), len(complete.ran)) == (0, 4)
                await api.store.drain(complete.url)
                assert await ends(1, **{"91_strength_model": 1.0, "92_strength_model": 0.0}) == ["succeeded"]
                assert len(without.ran) == 1, "it has the file of that slot"

    run(test())


def test_a_job_whose_images_are_nowhere_is_not_offered_for_ever(tmp_path):
    async def test():
        async with stand_ins(2) as hosts, api_of(tmp_path, hosts) as api, api.dispatching():
            job = await submit(api.store, **{"62_image": "gone.jpg"})
            end = await api.until(job)  # a real ComfyUI refuses it then, with the reason
            assert end.attempt == 1
            assert sum(len(host.ran) for host in hosts) == 1

    run(test())


def test_a_waiting_job_does_not_wait_for_one_that_stalls(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(worker, "_CHECK_S", 30.0)  # nobody notices it before

    async def test():
        async with stand_ins(2) as hosts, api_of(tmp_path, hosts) as api, api.dispatching():
            await until(lambda: all_idle(api, hosts))
            hosts[0].stall()
            jobs = [await submit(api.store) for _ in range(3)]
            assert [(await api.until(job)).status for job in jobs] == ["succeeded"] * 3
            assert ids(hosts[0]) == []

    run(test())


def test_the_last_models_choose_between_idle_ones(tmp_path):
    async def test():
        async with stand_ins(3, seconds=0.2) as hosts, api_of(tmp_path, hosts) as api, api.dispatching():
            used = []
            for _ in range(4):
                job = await submit(api.store)
                await api.until(job)
                warm = next(host for host in hosts if job.id in ids(host))
                used.append(warm.url)
                await until(functools.partial(states, api, warm.url, "idle"))
            assert len(set(used)) == 1, "it has the models in memory"
            await warm.kill()
            await warm.start()
            await until(lambda: states(api, warm.url, "idle", warm.instance))
            await api.until(job := await submit(api.store))
            first = [host for host in hosts if job.id in ids(host)]
            await api.until(job := await submit(api.store))
            assert first == [host for host in hosts if job.id in ids(host)]

    run(test())


async def all_idle(api, hosts):
    return all([await states(api, host.url, "idle") for host in hosts])


async def states(api, url, state, instance=None):
    """Whether a worker is in a state, as the store says."""
    told = [(each.name, each.state, each.instance or "") for each in await api.store.workers()]
    return any(name == url and word == state and (instance or "") in start for name, word, start in told)


def test_a_running_job_is_cancelled_wherever_it_runs_and_the_next_one_starts(tmp_path):
    async def test():
        async with stand_ins(2, seconds=30.0) as hosts, api_of(tmp_path, hosts) as api, api.dispatching() as dispatcher:
            jobs = [await submit(api.store) for _ in range(3)]
            await until(lambda: all(host.ran for host in hosts))
            second = next(job for job in jobs if job.id in ids(hosts[1]))
            assert await api.store.cancel(second.id) == "cancelling"
            dispatcher.poke()
            assert (await api.until(second)).status == "cancelled"
            await until(lambda: jobs[2].id in ids(hosts[1]))
            assert hosts[1].ran[1].start - hosts[1].ran[0].end < GENEROUS_S
            assert hosts[1]._history[second.id].interrupted
            assert hosts[0].ran[0][2] is None, "the other one goes on"

    run(test())


def test_the_next_dispatcher_finds_each_job_where_it_is(tmp_path):
    async def test():
        async with stand_ins(2, seconds=2.0) as hosts, api_of(tmp_path, hosts) as api:
            jobs = [await submit(api.store) for _ in range(2)]
            async with api.dispatching():
                await until(lambda: all(host.ran for host in hosts))
            async with api.dispatching():
                ends = [await api.until(job) for job in jobs]
            assert [(end.status, end.attempt) for end in ends] == [("succeeded", 1)] * 2
            assert [len(host.ran) for host in hosts] == [1, 1]

    run(test())


def test_a_dispatcher_that_ends_leaves_its_jobs_and_logs_no_error(tmp_path, monkeypatch, caplog):
    """Its connections close with it, which can take a moment, and must not look like an error of a job."""
    close = ComfyClient.__aexit__

    async def close_slowly(self, *error):
        await close(self, *error)
        await asyncio.sleep(0.5)

    async def test():
        async with stand_ins(3, seconds=60.0) as hosts, api_of(tmp_path, hosts) as api:
            jobs = [await submit(api.store) for _ in range(3)]
            async with api.dispatching():
                while not all([(await api.store.get(job.id)).progress for job in jobs]):
                    await asyncio.sleep(0.05)
            assert {(await api.store.get(job.id)).status for job in jobs} == {"in_progress"}

    monkeypatch.setattr(ComfyClient, "__aexit__", close_slowly)
    run(test())
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


@pytest.mark.parametrize("gone_too", [False, True])
def test_the_job_of_one_that_is_no_longer_listed_is_run_again(tmp_path, gone_too):
    async def test():
        async with stand_ins(3, seconds=2.0) as hosts, api_of(tmp_path, hosts) as api:
            job = await submit(api.store)
            async with api.dispatching():
                first, *others = await on(job, hosts)
            if gone_too:
                await first.kill()
            api.settings = api.settings.model_copy(update={"comfyui_url": tuple(host.url for host in others)})
            async with api.dispatching():
                end = await api.until(job)
            assert (end.status, end.attempt) == ("succeeded", 2), end.error

    run(test())


def noted(monkeypatch, *names):
    """Return a list that gets the name of each of these methods of the dispatcher when it is called."""
    calls = []

    def note(name):
        method = getattr(dispatcher.Dispatcher, name)

        @functools.wraps(method)
        def call(*arguments):
            calls.append(name)
            return method(*arguments)

        monkeypatch.setattr(dispatcher.Dispatcher, name, call)

    for name in names:
        note(name)
    return calls


def test_a_drained_one_is_not_free_whatever_waits(tmp_path, monkeypatch):
    async def test():
        async with stand_ins(2, seconds=60.0) as hosts, api_of(tmp_path, hosts) as api, api.dispatching():
            await until(lambda: all_idle(api, hosts))
            await api.store.drain(hosts[0].url)
            jobs = [await submit(api.store) for _ in range(3)]
            await until(lambda: hosts[1].ran)
            calls = noted(monkeypatch, "_hand_out", "_tell")
            await until(lambda: calls.count("_tell") > 3)
            assert "_hand_out" not in calls, "nothing can be handed out"
            await api.store.drain(hosts[0].url, drained=False)
            await until(lambda: hosts[0].ran)
            assert ids(hosts[0]) + ids(hosts[1]) == [jobs[1].id, jobs[0].id]

    run(test())


def test_who_has_a_model_is_looked_up_once_in_a_round_whatever_number_waits(tmp_path, monkeypatch):
    low = graph_for(DEMO)["56"]["inputs"]["unet_name"]

    async def test():
        async with StandIn(lacks=(low,)) as idle, StandIn(seconds=60.0) as busy, api_of(tmp_path, [idle, busy]) as api:
            for _ in range(20):
                await submit(api.store)
            async with api.dispatching() as running:
                await until(lambda: busy.ran and any(each.lacking.get(DEMO.model_id) for each in workers(running)))
                calls = noted(monkeypatch, "_hand_out", "_able")
                await until(lambda: calls.count("_hand_out") > 3)
            last = len(calls) - calls[::-1].index("_hand_out") - 1
            assert calls[:last].count("_able") == calls[:last].count("_hand_out")
            assert ids(idle) == []

    run(test())


def workers(running):
    return running._workers.values()


def test_a_comfyui_is_told_by_its_instance_not_by_its_address(tmp_path):
    async def test():
        async with stand_ins(1, seconds=1.0) as hosts, api_of(tmp_path, hosts) as api:
            other = hosts[0].url.replace("127.0.0.1", "localhost")
            jobs = [await submit(api.store) for _ in range(2)]
            async with api.dispatching():
                await on(jobs[0], hosts)
            api.settings = api.settings.model_copy(update={"comfyui_url": (other, hosts[0].url)})
            async with api.dispatching():
                ends = [await api.until(job) for job in jobs]
                found = await worker_states(api)
            assert [(end.status, end.attempt) for end in ends] == [("succeeded", 1)] * 2
            assert ids(hosts[0]) == [job.id for job in jobs], "one after the other, and none twice"
            assert found[hosts[0].url].state == "duplicate"

    run(test())


def test_a_drained_one_ends_its_job_and_gets_no_more(tmp_path):
    async def test():
        async with stand_ins(2, seconds=1.0) as hosts, api_of(tmp_path, hosts) as api, api.dispatching():
            jobs = [await submit(api.store) for _ in range(4)]
            await until(lambda: all(host.ran for host in hosts))
            assert await api.store.drain(hosts[0].url)
            assert not await api.store.drain("http://127.0.0.1:9")
            ends = [await api.until(job) for job in jobs]
            assert [end.status for end in ends] == ["succeeded"] * 4
            assert (len(hosts[0].ran), len(hosts[1].ran)) == (1, 3)
            assert await api.store.drain(hosts[0].url, drained=False)
            more = [await submit(api.store) for _ in range(2)]
            await until(lambda: len(hosts[0].ran) == 2)
            assert [(await api.until(job)).status for job in more] == ["succeeded"] * 2

    run(test())


def test_a_drained_one_stays_drained_when_its_address_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(dispatcher, "_RESOLVE_S", 0.05)

    async def test():
        async with stand_ins(2) as hosts, api_of(tmp_path, hosts) as api:
            first, several = hosts[0].url, [True]

            async def resolve(address):
                both = several and address.url == first
                return [replace(address, ip_address="127.0.0.1")] if both else [address]

            monkeypatch.setattr(dispatcher, "resolve", resolve)
            async with api.dispatching():
                await until(lambda: states(api, f"{first} (127.0.0.1)", "idle"))
                assert await api.store.drain(f"{first} (127.0.0.1)")
                several.clear()
                await until(lambda: states(api, first, "idle"))
                for _ in range(3):
                    assert (await api.until(await submit(api.store))).status == "succeeded"
                assert (len(hosts[0].ran), len(hosts[1].ran)) == (0, 3)
                assert {each.name: each.drained for each in await api.store.workers()}[first]
                assert await api.store.drain(first, drained=False)
                while not hosts[0].ran:
                    jobs = [await submit(api.store) for _ in range(2)]
                    assert [(await api.until(job)).status for job in jobs] == ["succeeded"] * 2

    run(test())


def test_a_cancel_holds_up_no_other_job(tmp_path, monkeypatch):
    """One is cancelled while its prompt is on its way to a ComfyUI that stalls."""
    released, held = asyncio.Event(), []
    monkeypatch.setattr(worker, "_SUBMIT_WAIT_S", 1000)

    async def hold(_, job):
        held.append(job.id)
        await released.wait()

    async def test():
        async with stand_ins(2) as hosts, api_of(tmp_path, hosts) as api:
            with monkeypatch.context() as patch:
                patch.setattr(ComfyBackend, "submit", hold)
                async with api.dispatching() as dispatcher:
                    job = await submit(api.store)
                    await until(lambda: held)
                    patch.undo()
                    await api.store.cancel(job.id)
                    dispatcher.poke()
                    others = [await submit(api.store) for _ in range(2)]
                    assert [(await api.until(each)).status for each in (job, *others)] == ["cancelled"] + 2 * [
                        "succeeded"
                    ]
                    assert sorted(len(host.ran) for host in hosts) == [0, 2], "the other one is still busy with it"
                    released.set()
                    await until(lambda: all_idle(api, hosts))

    run(test())


def test_the_next_job_starts_while_the_last_result_is_copied(tmp_path):
    async def test():
        async with stand_ins(1, seconds=0.2) as hosts, api_of(tmp_path, hosts) as api:
            jobs = [await submit(api.store) for _ in range(2)]
            hosts[0].hold_files()
            async with api.dispatching():
                await until(lambda: len(hosts[0].ran) == 2 and hosts[0].ran[1][2] is not None)
                assert (await api.store.get(jobs[0].id)).status == "in_progress"
                hosts[0].release_files()
                assert [(await api.until(job)).status for job in jobs] == ["succeeded"] * 2

    run(test())


def test_two_that_share_their_folders_do_not_disturb_each_other(tmp_path):
    async def test():
        shared = {}
        async with stand_ins(2, seconds=1.0, files=shared) as hosts, api_of(tmp_path, hosts) as api:
            jobs = [await submit(api.store, inputs=put_inputs(tmp_path)) for _ in range(4)]
            async with api.dispatching():
                first, _ = await on(jobs[0], hosts)
                await first.kill()
                await first.start()
                ends = [await api.until(job) for job in jobs]
            assert [end.status for end in ends] == ["succeeded"] * 4, [end.error for end in ends]
            names = [name for kind, _, name in shared if kind == "output"]
            assert len(names) == len(set(names)) == 4
            assert all(name.endswith("_00001_.mp4") for name in names)

    run(test())


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES)
@pytest.mark.parametrize("cold", [False, True])
def test_a_single_job_behind_many_of_another_token_starts_on_the_first_one_that_is_free(
    tmp_path, monkeypatch, kind, cold
):
    """Although no ComfyUI has its models in memory, if it is ``cold``, and the others' are everywhere."""
    monkeypatch.setenv(CHOSEN, kind)

    async def test():
        async with stand_ins(2, seconds=math.inf) as hosts, api_of(tmp_path, hosts) as api:
            await asyncio.gather(*(submit(api.store, token="many") for _ in range(MANY)))
            values = {"6_text": "x", "68_image": "start.jpg"}
            async with api.dispatching():
                await until(lambda: all(host.ran for host in hosts))
                if cold:
                    submission = Submission(str(uuid.uuid4()), "single", LOOP.model_id, values, {})
                    single = await api.store.submit(submission)
                else:
                    single = await submit(api.store, token="single")
                hosts[0].seconds = 0.1
                end = await api.until(single)
            assert end.status == "succeeded", end.error
            assert hosts[0].ran[1].prompt_id == single.id, "the first one that is free runs it next"
            (loaded,) = [run.loaded for host in hosts for run in host.ran if run.prompt_id == single.id]
            others = {run.loaded for host in hosts for run in host.ran if run.prompt_id != single.id}
            assert (loaded not in others) == cold

    run(test())


# Addresses


def test_a_name_with_several_addresses_is_several_and_keeps_its_name(tmp_path):
    async def look_up(host, port):
        return {"two.test": ["127.0.0.2", "127.0.0.1"], "one.test": ["127.0.0.1"]}[host]

    async def test():
        settings = Settings(data=tmp_path, comfyui_url=("http://two.test:1", "http://one.test:2", "http://127.0.0.1:3"))
        found = [each for address in addresses_of(settings) for each in await resolve(address, look_up)]
        assert [each.name for each in found] == [
            "http://two.test:1 (127.0.0.1)",
            "http://two.test:1 (127.0.0.2)",
            "http://one.test:2",
            "http://127.0.0.1:3",
        ]
        async with StandIn() as host:
            url = f"http://two.test:{host.port}"
            settings = Settings(data=tmp_path, comfyui_url=url, comfyui_tokens=["a secret"])
            first = (await resolve(addresses_of(settings)[0], look_up))[0]
            async with first.client() as client:
                assert await client.pack_instance() == host.instance
            assert host.headers["Host"] == f"two.test:{host.port}"
            assert host.headers["Authorization"] == "Bearer a secret"

    run(test())


def test_tokens_fit_the_addresses_and_are_never_shown(tmp_path):
    both = ("http://127.0.0.1:1", "http://127.0.0.1:2")
    settings = Settings(data=tmp_path, comfyui_url=both, comfyui_tokens=["first secret", "second secret"])
    assert [address.token for address in addresses_of(settings)] == ["first secret", "second secret"]
    assert "secret" not in repr(settings)
    with pytest.raises(ConfigError, match="3 tokens for 2 addresses") as error:
        addresses_of(Settings(data=tmp_path, comfyui_url=both, comfyui_tokens=["secret"] * 3))
    assert "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="Give one of both"):
        addresses_of(Settings(data=tmp_path, comfyui_url="http://me:pass@127.0.0.1:1", comfyui_tokens=["x"]))
    with pytest.raises(ConfigError, match="is not the address of a server"):
        addresses_of(Settings(data=tmp_path, comfyui_url=("http://127.0.0.1:1", "nonsense")))


def test_what_a_cancelled_job_left_on_a_silent_one_is_removed_once_it_responds(tmp_path, short_timeouts):
    async def test():
        async with stand_ins(2, seconds=2.0) as hosts, api_of(tmp_path, hosts) as api:
            job = await submit(api.store, inputs=put_inputs(tmp_path))
            async with api.dispatching():
                first, _ = await on(job, hosts)
                first.stall()
                await until(lambda: api_is_silent(api, first))
                await api.store.cancel(job.id)
                assert (await api.until(job)).status == "cancelled"
                await asyncio.sleep(1.0)
                assert (await api.store.get(job.id)).dirty, "nobody has looked there"
                first.go_on()
                await until(lambda: is_clean(api, job))
                assert not any(folder for kind, folder, _ in first.files if kind == "input")

    run(test())


def test_trouble_with_a_job_ends_with_the_job(tmp_path, monkeypatch):
    """As on a full disk: the API is ready again once the job that could not be kept is cancelled."""

    async def full(*_):
        raise StorageError("the disk is full")

    monkeypatch.setattr(Results, "collect", full)

    async def test():
        async with stand_ins(2, seconds=0.2) as hosts, api_of(tmp_path, hosts) as api:
            job = await submit(api.store)
            async with api.dispatching():
                await until(lambda: dispatcher_is(api, "down"))
                await api.store.cancel(job.id)
                assert (await api.until(job)).status == "cancelled"
                await until(lambda: dispatcher_is(api, "up"))

    run(test())


def test_a_question_that_failed_is_asked_again_before_a_job_is_given(tmp_path, monkeypatch):
    failed, ask = set(), ComfyBackend.lacking

    async def lacking(self, model_id):
        if self.client.url not in failed:
            failed.add(self.client.url)
            raise ServerUnreachableError("too slow")
        return await ask(self, model_id)

    monkeypatch.setattr(ComfyBackend, "lacking", lacking)

    async def test():
        async with stand_ins(2) as hosts, api_of(tmp_path, hosts) as api:
            lacks = graph_for(DEMO)["39"]["inputs"]["vae_name"]
            hosts[0].lacks = {lacks}
            async with api.dispatching():
                ends = [await api.until(await submit(api.store)) for _ in range(3)]
            assert [end.status for end in ends] == ["succeeded"] * 3, [end.error for end in ends]
            assert len(failed) == 2 and ids(hosts[0]) == []

    run(test())


async def api_is_silent(api, host):
    return {state.name: state.state for state in await api.store.workers()}[host.url] == "silent"


async def is_clean(api, job):
    return not (await api.store.get(job.id)).dirty


async def dispatcher_is(api, word):
    return (await api.store.health()).dispatcher == word
