"""Two gateways of a fleet over HTTP: what one has accepted, the other tells, cancels and gives out."""

import asyncio
import contextlib
import math
import time

import pytest
from support.gateway_process import BODY, SUBMIT_DEMO, Gateway, events
from support.stores import STORES, Blocking, fleet_url
from wan_flf2v.benchmarks._stand_in import StandIn

GENEROUS_S = 10.0  # the aim is 2 s; a busy machine must not fail the test


def beside_comfyui(use, **options):
    """Run ``use(host)`` in a thread, beside a stand-in that has the photographs."""

    async def test():
        async with StandIn(**options) as host:
            for value in BODY.values():
                host.files["input", "", value] = b"a photograph"
            await asyncio.to_thread(use, host)

    asyncio.run(asyncio.wait_for(test(), 120))


def two(tmp_path, url):
    first = Gateway(tmp_path / "first", url, "--demo", nats=fleet_url(tmp_path))
    return first, first.twin()


@pytest.mark.slow
def test_what_one_gateway_has_accepted_goes_on_at_another_when_it_is_killed(tmp_path):
    """An event stream goes on after the last id that was seen at the first one."""

    def use(host):
        first, second = two(tmp_path, host.url)
        with first, second:
            running, waiting = first.submit(SUBMIT_DEMO), first.submit(SUBMIT_DEMO)
            first.wait(running, "in_progress")
            last, state = next(events(first, running))
            seen, _ = next(events(first, waiting))
            first.kill()
            stream = events(second, waiting, last=seen)
            assert second.cancel(waiting).json["outcome"] == "cancelled"
            ((cancelled, state),) = stream
            assert (cancelled > seen, state["status"]) == (True, "cancelled")
            host.seconds = 1.0
            told = list(events(second, running, last=last))
            versions = [version for version, _ in told]
            assert versions == sorted({*versions} - {last}) and min(versions) > last
            assert [state["status"] for _, state in told][-1] == "completed"
            assert list(events_or_none(second, running, versions[-1])) == []
            link = second.result(running)["output"]["video"].removeprefix(second.url)
            part = second.get(link, token=None, headers={"Range": "bytes=5-14"})
            assert (part.status, part.content) == (206, second.get(link, token=None).content[5:15])
        assert [prompt for prompt, *_ in host.ran] == [running]

    beside_comfyui(use, seconds=math.inf)


def events_or_none(gateway, request_id, last):
    """Yield the events after ``last``; none where the response says that there is no more."""
    path = f"/v1/requests/{request_id}/events"
    if gateway.get(path, headers={"Last-Event-ID": str(last)}).status != 204:
        yield from events(gateway, request_id, last)


@pytest.mark.slow
def test_a_token_that_is_revoked_is_refused_at_every_gateway_and_its_streams_end(tmp_path):
    def use(host):
        first, second = two(tmp_path, host.url)
        store = Blocking(STORES["jetstream"](tmp_path))
        with first, second, contextlib.closing(store):
            token = first.new_token("guest")
            answer = second.post(SUBMIT_DEMO, BODY, token=token)
            request_id, link = answer.json["request_id"], answer.json["events_url"].removeprefix(second.url)
            streams = [events(each, request_id, token=token) for each in (first, second)]
            for stream in streams:
                next(stream)
            began = time.monotonic()
            assert store.revoke_token("guest")
            while second.get("/v1/requests", token=token).status != 401:
                assert time.monotonic() - began < GENEROUS_S
            refused = time.monotonic() - began
            assert second.get(link, token=None).status == 403
            rest = [[state["status"] for _, state in stream] for stream in streams]
            ended = time.monotonic() - began
            assert not any("completed" in statuses for statuses in rest)
            assert max(refused, ended) < GENEROUS_S

    beside_comfyui(use, seconds=60.0)
