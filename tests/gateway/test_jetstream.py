"""The store on one nats-server: races, lost replies, what it refuses to start with, and what a client is told."""

import asyncio
import base64
import contextlib
import copy
import functools
import json
import math
import signal
import socket
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nats
import psutil
import pytest
from support.api_runs import until
from support.gateway_process import BODY, SUBMIT, SUBMIT_DEMO, Gateway, events
from support.nats_server import CONFIG, NatsServer, admin, edit_stream, extended_config, free_ports, shared_server
from support.stores import STORES, Blocking, fleet_url
from wan_flf2v.benchmarks._stand_in import stand_ins
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.gateway.jobs import jetstream
from wan_flf2v.gateway.jobs.copying import copy_to_nats
from wan_flf2v.gateway.jobs.jetstream import Stream
from wan_flf2v.gateway.jobs.jetstream_store import JetStreamStore
from wan_flf2v.gateway.jobs.records import Health, Submission, Token, new_request_id
from wan_flf2v.gateway.jobs.store import QueueFullError, StoreError, StoreFileError, StoreFullError, within
from wan_flf2v.gateway.settings import NatsAccess

IMAGES = {"68_image": "start.jpg", "62_image": "end.jpg"}


def new(**options):
    return Submission(new_request_id(), "t", "m", {}, {}, **options)


def stream_of(folder):
    """Return the name of the stream that belongs to a folder."""
    return "WF_" + fleet_url(folder).rpartition("/")[2]


def edit(folder, **changes):
    edit_stream(stream_of(folder), **changes)


@contextlib.contextmanager
def opened(folder, count=1):
    """Open the store of a folder as several processes do."""
    stores = [Blocking(STORES["jetstream"](folder)) for _ in range(count)]
    try:
        yield stores[0] if count == 1 else stores
    finally:
        for store in stores:
            store.close()


def at_once(*calls):
    """Make the calls in a thread each; return what they returned or raised."""

    def call(place):
        try:
            results[place] = calls[place]()
        except Exception as error:  # noqa: BLE001
            results[place] = error

    results = [None] * len(calls)
    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_racing_gateways_keep_to_the_limit_and_assign_each_request_once(tmp_path):
    with opened(tmp_path, 2) as stores:
        found = at_once(*(lambda s=store: s.submit(new(queue_limit=10)) for store in stores for _ in range(15)))
        accepted = [job for job in found if not isinstance(job, Exception)]
        assert len(accepted) == 10
        assert all(isinstance(error, QueueFullError) for error in found if isinstance(error, Exception)), found
        assert len({job.number for job in accepted}) == 10
        done = at_once(*(lambda s=s, job=job: s.assign(job.id) for job in accepted for s in stores))
        assert sorted(map(str, done)) == ["False"] * 10 + ["True"] * 10
        ends = at_once(*(lambda s=s, job=job: s.end(job.id, "succeeded") for job in accepted for s in stores))
        assert sorted(map(str, ends)) == ["False"] * 10 + ["True"] * 10
        assert [store.count("t", "in_queue") for store in stores] == [0, 0]
        stores[0].submit(new(queue_limit=1))
        with pytest.raises(QueueFullError):
            stores[1].submit(new(queue_limit=1))


def test_a_burst_of_one_token_is_accepted(tmp_path):
    """Each changes the token's count of waiting requests: they take turns."""
    with opened(tmp_path, 2) as (store, other):

        async def burst(count):
            return await asyncio.gather(*(each.store.submit(new()) for _ in range(count) for each in (store, other)))

        jobs = asyncio.run(burst(30))
        assert len({job.number for job in jobs}) == 60
        assert [job.id for job in store.queue()] == [job.id for job in sorted(jobs, key=lambda job: job.number)]
        assert store.count("t", "in_queue") == 60


@contextlib.contextmanager
def stuck_calls(store):
    """Keep calls of a store under way, as many as it does at once."""

    async def work(_):
        await asyncio.to_thread(released.wait)

    stream, released = store.store._stream, threading.Event()
    calls = [asyncio.run_coroutine_threadsafe(stream.transact(work), stream._loop) for _ in range(jetstream._AT_ONCE)]
    while not stream._slots.locked():
        time.sleep(0.01)
    try:
        yield
    finally:
        released.set()
        for call in calls:
            call.result()


def test_a_call_does_not_wait_for_ever_behind_others(tmp_path, monkeypatch):
    monkeypatch.setattr(jetstream, "_LOCK_S", 0.1)
    too_many = pytest.raises(StoreError, match="Too many others write the same records")
    with opened(tmp_path) as store, ThreadPoolExecutor() as threads, stuck_calls(store), too_many:
        threads.submit(store.submit, new()).result(5)


def test_a_call_ends_within_its_time(tmp_path):
    """Behind others, and at a server that stands still, where one call alone has 12 s. Nothing is accepted."""
    server = NatsServer(tmp_path / "nats", free_ports(1)[0]).start()
    store = Blocking(JetStreamStore(NatsAccess(server.url)))

    async def submit():
        with within(1.0):
            await store.store.submit(new())

    def refused(message):
        began = time.monotonic()
        with pytest.raises(StoreError, match=message):
            asyncio.run(submit())
        assert time.monotonic() - began < 5

    try:
        with stuck_calls(store):
            refused("Too many others write the same records")
        server.process.send_signal(signal.SIGSTOP)
        while psutil.Process(server.process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)  # on a busy machine it goes on for a moment, and would take the job
        refused("does not reply")
        server.process.send_signal(signal.SIGCONT)
        assert store.count() == 0
    finally:
        server.process.send_signal(signal.SIGCONT)
        store.close()
        server.kill()


def test_who_dispatches_keeps_the_right_however_many_calls_wait(tmp_path):
    with opened(tmp_path) as store, ThreadPoolExecutor() as threads, stuck_calls(store):
        assert threads.submit(store.lead, "a").result(5)


@pytest.mark.parametrize("taken", ["before the look", "after the look", "never"])
def test_a_batch_whose_reply_is_lost_counts_once(tmp_path, monkeypatch, taken):
    """The records are looked at when the reply is lost: the batch was taken before, is taken later, or was lost."""
    commits, looks, left, late = Stream._commit, Stream._taken, [True], []

    async def commit(stream, batch):
        lost = left and left.pop()
        if taken == "after the look" and lost:
            late.append(batch)
        elif taken != "never" or not lost:
            await commits(stream, batch)
        if lost:
            raise jetstream._NoReplyError

    async def look(stream, batch, operation):
        found = await looks(stream, batch, operation)
        while late:
            await commits(stream, late.pop())
        return found

    monkeypatch.setattr(Stream, "_commit", commit)
    monkeypatch.setattr(Stream, "_taken", look)
    with opened(tmp_path) as store:
        job = store.submit(new(idempotency=("key", "hash")))
        for call in (store.assign, lambda job_id: store.report(job_id, {"fraction": 0.5}), store.requeue):
            left[:] = [True]
            assert call(job.id) in (True, None)
        (job,) = store.newest("t", 9)
        assert (store.count(), job.version, job.status, job.attempt) == (1, 4, "in_queue", 1)
        left[:] = [True]
        assert store.cancel(job.id) == "cancelled"
        assert store.count("t", "in_queue") == 0
        with contextlib.suppress(QueueFullError):
            store.submit(new(queue_limit=1))
        assert store.count("t", "in_queue") == 1, "the number of waiting ones is right too"


def test_what_was_removed_long_ago_is_not_seen(tmp_path, monkeypatch):
    """A gateway that did not look for longer than a removal leaves a trace begins from scratch."""
    with opened(tmp_path, 2) as (store, other):
        job = store.submit(new())
        assert [each.id for each in other.queue()] == [job.id]
        monkeypatch.setattr(jetstream, "_TOMBSTONE_S", 1)
        monkeypatch.setattr(jetstream, "_FRESH_S", 0.5)
        store.cancel(job.id)
        while admin(f"STREAM.INFO.{stream_of(tmp_path)}", {"subjects_filter": "*.now.job.>"})["state"].get("subjects"):
            time.sleep(0.1)
        assert other.queue() == ()


def test_a_look_ends_however_fast_others_write(tmp_path, monkeypatch):
    after, calls = Stream.after, []
    with opened(tmp_path, 2) as (store, other):
        jobs = [store.submit(new())]
        other.queue()
        jobs.append(store.submit(new()))

        async def write_first(stream, sequence, subject):
            calls.append(sequence)
            if len(calls) > 20:
                raise StoreError("The look runs after what is written meanwhile.")
            await asyncio.to_thread(store.submit, new())
            return await after(stream, sequence, subject)

        monkeypatch.setattr(Stream, "after", write_first)
        found = [job.id for job in other.queue()]
        assert found[:2] == [job.id for job in jobs]
        monkeypatch.undo()
        assert len(other.queue()) == 2 + len(calls), "the next look sees the others"


@pytest.mark.parametrize("limit", [{"max_bytes": 2000}, {"max_msgs": 5}])
def test_a_full_stream_refuses_with_words_and_accepts_again(tmp_path, limit):
    with opened(tmp_path) as store:
        store.submit(new())
        edit(tmp_path, **limit)
        with pytest.raises(StoreFullError, match="full: raise its max_bytes or max_msgs"):
            while True:
                store.submit(new())
        count = store.count()
        edit(tmp_path, max_bytes=-1, max_msgs=-1)
        store.submit(new())
        assert store.count() == count + 1


def test_clients_get_a_507_while_the_server_has_no_room(tmp_path):
    """As while SQLite's disk is full."""
    config = tmp_path / "small.conf"
    config.write_text(CONFIG.read_text().replace("jetstream {", "jetstream {\n  max_file_store: 12K"))
    server = NatsServer(tmp_path / "nats", free_ports(1)[0], config=config).start()
    try:
        with Gateway(tmp_path / "gateway", nats=server.url) as gateway:
            while (response := gateway.post(SUBMIT, BODY)).status == 200:
                pass
            assert (response.status, response.code) == (507, 507001)
    finally:
        server.kill()


def test_a_fleet_without_a_worker_is_degraded_and_without_its_store_down(tmp_path):
    """A load balancer asks for readiness; what waits tells an autoscaler to start workers."""
    server = NatsServer(tmp_path / "nats", free_ports(1)[0]).start()
    try:
        with (
            Gateway(tmp_path / "outward", [], nats=server.url) as gateway,
            Gateway(tmp_path / "named", nats=f"{server.url}/named") as named,
        ):
            ready = gateway.get("/readyz")
            assert (ready.status, ready.json["ready"], ready.json["status"]) == (200, False, "degraded")
            assert ready.json["problems"][0].startswith("No worker is connected")
            without_token = gateway.get("/readyz", token=None)
            assert (without_token.status, without_token.json) == (200, {"ready": False, "status": "degraded"})
            gateway.submit()
            down = named.get("/readyz")
            assert (down.status, down.json["status"]) == (503, "down"), "the ComfyUI of its settings should be there"
            server.kill()
            assert gateway.get("/readyz").status == 503
    finally:
        server.kill()


def test_each_gateway_counts_calls_alone_and_says_so(tmp_path):
    one = Gateway(tmp_path, nats=fleet_url(tmp_path))
    other = copy.copy(one)  # the same folder, settings and token
    with one, other:
        slow = one.new_token("slow", rate_per_minute=12)
        for gateway in (one, other):
            answers = [gateway.get("/v1/models", token=slow) for _ in range(3)]
            assert [answer.status for answer in answers] == [200, 200, 429]
            text = answers[-1].json["error_message"]
            assert text.startswith("This token may send 12 requests per minute to each gateway. Try again in ")


@pytest.mark.parametrize("size", [10, 2000])
def test_a_full_account_is_said_with_what_to_do(tmp_path, size):
    """Where the first record of a batch has no room, the server says only that the batch is incomplete."""
    account = "{ jetstream: {max_file: 20K, max_consumers: 1}, users: [{user: me, password: p}] }"
    config = extended_config(tmp_path, f"accounts {{ A {account} }}")
    port = free_ports(1)[0]
    server = NatsServer(tmp_path / "nats", port, config=config).start()
    url = f"nats://me:p@127.0.0.1:{port}"
    store = Blocking(JetStreamStore(NatsAccess(url)))
    try:
        with pytest.raises(StoreFullError, match=r"The account's room is used up: raise its max_file in nats-server"):
            while True:
                store.submit(replace(new(), values={"6_text": "x" * size}))
        consumer = {"stream_name": "WF", "config": {"name": "other", "ack_policy": "none"}}
        assert "error" not in admin("CONSUMER.CREATE.WF.other", consumer, url)
        with pytest.raises(StoreFullError, match="Raise max_consumers of the account"):
            store.count()
    finally:
        store.close()
        server.kill()


def test_a_record_that_is_too_large_is_said(tmp_path):
    """The one of several, and the only one."""
    text = "x" * (1 << 20)
    with opened(tmp_path) as store:
        for call in (
            lambda: store.submit(replace(new(), values={"6_text": text})),
            lambda: store.set_health(Health("down", reason=text)),
        ):
            with pytest.raises(StoreError, match="takes no record as large as this one: raise its max_payload"):
                call()
        assert store.count() == 0


def test_a_deleted_stream_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(jetstream, "_CALL_S", 0.1)
    with opened(tmp_path) as store:
        job = store.submit(new())
        admin(f"STREAM.DELETE.{stream_of(tmp_path)}")
        for call in (lambda: store.get(job.id), store.queue, store.check, lambda: store.submit(new())):
            with pytest.raises(StoreError, match="was deleted"):
                call()


def test_a_stream_that_was_deleted_and_made_again_is_read_from_its_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(jetstream, "_SAME_S", 0)
    with opened(tmp_path) as store:
        for _ in range(3):
            store.cancel(store.submit(new()).id)
        assert (len(store.unexpired()), store.queue()) == (3, ())
        admin(f"STREAM.DELETE.{stream_of(tmp_path)}")
        with opened(tmp_path) as other:
            ended, waiting = other.submit(new()), other.submit(new())
            other.cancel(ended.id)
            assert [job_id for job_id, _ in store.unexpired()] == [ended.id]
            assert [job.id for job in store.newest("t", 9)] == [waiting.id, ended.id]
            assert [job.id for job in store.queue()] == [waiting.id]


def test_records_and_streams_of_another_version_are_refused(tmp_path):
    with opened(tmp_path) as store:
        job = store.submit(new())

        async def spoil():
            client = await nats.connect(shared_server())
            await client.publish(f"wf_{stream_of(tmp_path)[3:]}.now.job.t.open.{job.id}", b'{"v": 2}')
            await client.flush()
            await client.close()

        asyncio.run(spoil())
        for call in (lambda: store.get(job.id), store.queue):
            with pytest.raises(StoreError, match=r"a record of schema 2 .* knows schema 1 only. Update wan-flf2v"):
                call()
    for schema, advice in (("2", "Update wan-flf2v"), ("0", "Go on with the older wan-flf2v that made it")):
        edit(tmp_path, metadata={"wan_flf2v_schema": schema})
        with pytest.raises(StoreFileError, match=rf"has schema {schema}; this .* knows schema 1 only. {advice}, or"):
            STORES["jetstream"](tmp_path)
    edit(tmp_path, metadata={"wan_flf2v_schema": "1"}, allow_direct=True, max_age=10**12)
    with pytest.raises(StoreFileError, match="allow_direct is True and must be False; max_age is 1000000000000 and"):
        STORES["jetstream"](tmp_path)


class OldServer(threading.Thread):
    """Greets each client as a nats-server 2.11 does."""

    def __init__(self):
        super().__init__(daemon=True)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"nats://127.0.0.1:{self.listener.getsockname()[1]}"
        self.start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                client.sendall(b'INFO {"server_id":"x","version":"2.11.9","max_payload":1048576,"headers":true}\r\n')
                while client.recv(4096):
                    client.sendall(b"PONG\r\n")


def test_a_server_that_is_too_old_is_refused():
    old = OldServer()
    with pytest.raises(StoreFileError, match=r"version 2\.11\.9; the store needs 2\.12 or newer"):
        JetStreamStore(NatsAccess(old.url))
    old.listener.close()


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:4222", "nats://", "nats://127.0.0.1:1/a b", ""]
    + [f"nats://me:{password}@127.0.0.1:1" for password in ("42/22", "42?22", "42#22", "[42]", "4,2@2", "4 2")]
    + ["nats://me:42@one,two", "me:42@one,me:42@two"],
)
def test_an_address_that_is_none_is_refused_and_not_shown(url):
    with pytest.raises(StoreFileError, match="The address of NATS is not understood") as error:
        JetStreamStore(NatsAccess(url))
    assert "4" not in str(error.value)


@pytest.mark.parametrize("password", ["42,43", "42@43", "4:2", "42%2C"])
def test_no_part_of_a_password_is_shown(monkeypatch, caplog, password):
    monkeypatch.setattr(jetstream, "_CONNECT_S", 0.5)
    url = f"nats://me:{password}@127.0.0.1:1, tls://me:{password}@localhost:1/fleet"
    with pytest.raises(StoreFileError, match=r"NATS at 127\.0\.0\.1:1, localhost:1 cannot be used") as error:
        JetStreamStore(NatsAccess(url))
    assert not any(part in f"{error.value} {caplog.text}" for part in ("me:", "42", "4:2", "43"))


def test_no_server_a_wrong_password_and_an_account_without_jetstream_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr(jetstream, "_CONNECT_S", 1.0)
    port = free_ports(1)[0]
    with pytest.raises(
        StoreFileError, match=rf"NATS at 127.0.0.1:{port} cannot be used: .*Connect call failed.*Is a nats-server"
    ):
        JetStreamStore(NatsAccess(f"nats://me:secret@127.0.0.1:{port}"))
    config = extended_config(
        tmp_path,
        "accounts { A { users: [{user: one, password: p}] }\n"
        "B { jetstream: enabled, users: [{user: other, password: 'p,p'}] } }",
    )
    server = NatsServer(tmp_path / "nats", port, config=config).start()
    try:
        with pytest.raises(StoreFileError, match="Authorization Violation") as error:
            JetStreamStore(NatsAccess(f"nats://other:secret@127.0.0.1:{port}"))
        assert "secret" not in str(error.value)
        with pytest.raises(StoreFileError, match="JetStream is off there, or not allowed to this account"):
            JetStreamStore(NatsAccess(f"nats://one:p@127.0.0.1:{port}"))
        Blocking(
            JetStreamStore(NatsAccess(f"nats://other:p,p@127.0.0.1:{port},nats://other:p,p@localhost:{port}"))
        ).close()
    finally:
        server.kill()


def test_a_client_that_the_library_closed_is_replaced(tmp_path):
    """It closes one for good after most errors that a server sends."""
    with opened(tmp_path) as store:
        stream, closed = store.store._stream, store.store._stream._connection.client()
        while not closed.is_closed:
            if closed.is_connected:
                stream._loop.call_soon_threadsafe(closed._transport.write, b"NONSENSE\r\n")
            time.sleep(0.05)
        store.check()


@pytest.mark.parametrize("error", [ValueError("a broken INFO"), asyncio.CancelledError()])
def test_a_client_that_does_not_connect_again_is_replaced(tmp_path, monkeypatch, error):
    """The library's task that connects again ends with an error that it does not expect, and its client stays open."""
    failed = threading.Event()

    async def fail(_):
        failed.set()
        raise error

    with opened(tmp_path) as store:
        stream, lost = store.store._stream, store.store._stream._connection.client()
        monkeypatch.setattr(lost, "_select_next_server", functools.partial(fail, lost))
        stream._loop.call_soon_threadsafe(lost._transport.close)
        assert failed.wait(20)
        store.check()
        assert stream._connection.client() is not lost and lost.is_closed


def test_clients_get_a_503_while_nats_is_down_and_all_is_there_afterwards(tmp_path):
    server = NatsServer(tmp_path / "nats", free_ports(1)[0]).start()
    try:
        with Gateway(tmp_path / "gateway", nats=server.url) as gateway:
            request_id = gateway.submit()
            server.kill()
            for response in at_once(
                lambda: gateway.post(SUBMIT, {"6_text": "x"}),
                lambda: gateway.get(f"/v1/requests/{request_id}/status"),
                lambda: gateway.get("/v1/requests"),
                lambda: gateway.cancel(request_id),
                lambda: gateway.get("/healthz"),
            ):
                assert (response.status, response.headers["Retry-After"]) == (503, "5"), response.content
            server.start()
            while gateway.get("/healthz").status != 200:
                time.sleep(0.1)
            assert gateway.status(request_id)["status"] == "in_queue"
            assert gateway.cancel(request_id).json["outcome"] == "cancelled"
            assert (gateway.data / "store.sqlite3").exists() is False
    finally:
        server.kill()


def test_lists_read_no_more_records_than_they_show(tmp_path, monkeypatch):
    decode, read = Stream._decode, []
    monkeypatch.setattr(Stream, "_decode", lambda *args: read.append(args[1]) or decode(*args))
    with opened(tmp_path) as store:
        ids = [store.submit(new()).id for _ in range(9)]
        for job_id in ids[:7]:
            store.cancel(job_id)
        assert len(store.unexpired()) == 7
        store.expire(ids[:1])
        monkeypatch.setattr(jetstream, "_FRESH_S", 0)  # for those who have not ended
        read.clear()
        assert [job.id for job in store.newest("t", 2, status="cancelled")] == ids[6:4:-1]
        assert [job_id for job_id, _ in store.unexpired()] == ids[1:7]
        assert sum(".done." in subject for subject in read) == 3, "the two that are shown, and the one that expired"
        assert [job.id for job in store.newest("t", 9)] == ids[:0:-1]
        assert store.newest("other", 9) == []


def test_a_gateway_that_starts_reads_no_finished_request(tmp_path, monkeypatch):
    """Of many that are there it has the ids and when they ended; lists go on over pages, whatever is new meanwhile."""
    decode, read = Stream._decode, []
    with opened(tmp_path) as store:
        ids = [store.submit(new()).id for _ in range(6)]
        for job_id in ids[:3]:
            store.end(job_id, "failed")
        store.cancel(ids[3])
        store.expire(ids[:1])
        monkeypatch.setattr(Stream, "_decode", lambda *args: read.append(args[1]) or decode(*args))
        with opened(tmp_path) as other:
            unexpired = other.unexpired()
            assert not [subject for subject in read if ".done." in subject]
            assert [job_id for job_id, _ in unexpired] == ids[1:4]
            assert all(abs(at - other.get(job_id).finished_at) < 5 for job_id, at in unexpired)
            first = other.newest("t", 2)
            store.submit(new())
            second = other.newest("t", 2, before=first[-1])
            third = other.newest("t", 2, before=second[-1])
            assert [job.id for job in (*first, *second, *third)] == ids[:0:-1]
            assert [job.id for job in other.newest("t", 9, status="failed")] == ids[2:0:-1]
            store.expire(ids[1:3])
            assert [job_id for job_id, _ in other.unexpired()] == ids[3:4]
            assert other.newest("t", 9, status="failed") == []


def follow(tmp_path, use, count=1, *, hears=True):
    """Follow waiting jobs at one gateway; ``use`` gets it, another one, and a future of what is seen of each next."""

    async def go():
        store, other = (STORES["jetstream"](tmp_path) for _ in range(2))
        try:
            jobs = [await other.submit(new()) for _ in range(count)]
            changes = [store.follow(job.id) for job in jobs]
            for each in changes:
                await anext(each)
            following = [asyncio.ensure_future(anext(each)) for each in changes]
            if hears:
                await until(lambda: store._states_at > store._heard_at > -math.inf)
            await asyncio.sleep(0.5)  # it hears of progress too
            return await use(store, other, dict(zip((job.id for job in jobs), following, strict=True)))
        finally:
            await store.close()
            await other.close()

    return asyncio.run(go())


async def cancelled(other, job_id, following):
    """Cancel at one gateway; return what is seen at the other one, which must be soon."""
    await other.cancel(job_id)
    return (await asyncio.wait_for(following[job_id], 20))[0].status


def test_who_follows_is_told_and_asks_nothing_meanwhile(tmp_path, monkeypatch):
    monkeypatch.setattr(JetStreamStore, "look_s", 3600)
    asked, exchange = [], Stream._exchange

    async def note(stream, subject, *args):
        asked.append(subject)
        return await exchange(stream, subject, *args)

    async def use(store, other, following):
        monkeypatch.setattr(Stream, "_exchange", note)
        await asyncio.sleep(1.5)
        assert asked == []
        return await cancelled(other, next(iter(following)), following)

    assert follow(tmp_path, use, 5) == "cancelled"


def test_who_begins_to_follow_sees_the_present_and_nothing_older(tmp_path, monkeypatch):
    """Though the last look is some time ago, and nothing was told since."""

    async def use(store, other, following):
        (job_id,) = following
        monkeypatch.setattr(JetStreamStore, "_heard", lambda _: None)
        monkeypatch.setattr(JetStreamStore, "look_s", 0.5)
        await store.position(job_id)
        await other.assign(job_id)
        changes = store.follow(job_id)
        first = (await anext(changes))[0]
        await asyncio.sleep(1.0)
        await other.end(job_id, "failed")
        return [first.status, *[job.status async for job, _ in changes]]

    assert follow(tmp_path, use) == ["in_progress", "failed"]


def test_who_was_not_told_looks_all_the_same(tmp_path, monkeypatch):
    async def hear(*_):
        pass

    async def use(store, other, following):
        return await cancelled(other, *following, following)

    monkeypatch.setattr(Stream, "hear", hear)
    assert follow(tmp_path, use, hears=False) == "cancelled"


def test_a_gateway_hears_again_after_its_consumer_is_gone(tmp_path, monkeypatch):
    """As when the node that has it dies. What was written meanwhile is told too."""
    monkeypatch.setattr(JetStreamStore, "look_s", 3600)

    async def use(store, other, following):
        name = stream_of(tmp_path)
        consumers = (await asyncio.to_thread(admin, f"CONSUMER.NAMES.{name}"))["consumers"]
        assert consumers
        for consumer in consumers:
            await asyncio.to_thread(admin, f"CONSUMER.DELETE.{name}.{consumer}")
        first, last = following  # the last one first: then no position changes
        missed = await cancelled(other, last, following)
        return missed, await cancelled(other, first, following)

    assert follow(tmp_path, use, 2) == ("cancelled", "cancelled")


def test_progress_reaches_all_gateways_and_is_seldom_written(tmp_path, monkeypatch):
    commits, written = Stream._commit, []

    async def commit(stream, batch):
        written.append(batch)
        await commits(stream, batch)

    async def use(store, other, following):
        ((job_id, change),) = following.items()
        await other.assign(job_id, "a ComfyUI")
        seen, fractions = [(await asyncio.wait_for(change, 20))[0]], [0.1, 0.2, 0.3, 0.4]
        changes = store.follow(job_id)
        await anext(changes)
        monkeypatch.setattr(Stream, "_commit", commit)
        for fraction in fractions:
            await other.report(job_id, {"fraction": fraction, "host_queue_position": 0}, attempt=1)
            seen.append((await asyncio.wait_for(anext(changes), 20))[0])
            assert seen[-1] == await store.get(job_id) == await other.get(job_id)
        assert [job.progress["fraction"] for job in seen[1:]] == fractions
        assert len(written) == 1, "the first one"
        await store.cancel(job_id)
        await other.report(job_id, {"fraction": 0.5, "host_queue_position": 0}, attempt=1)
        seen.append((await asyncio.wait_for(anext(changes), 20))[0])
        while seen[-1].progress["fraction"] < 0.5:
            seen.append((await asyncio.wait_for(anext(changes), 20))[0])
        await other.end(job_id, "succeeded")
        seen.extend([job async for job, _ in changes])
        stamps = [job.stamp for job in seen]
        assert stamps == sorted(set(stamps)), "an event's id says everywhere what came before"
        assert seen[-1].status == "cancelled"
        assert [entry.status for entry in await store.history(job_id)][1:] == ["in_progress"] * 2 + ["cancelled"]

    follow(tmp_path, use)


def test_progress_of_an_earlier_attempt_or_another_gateway_is_not_taken_for_newer(tmp_path):
    async def use(store, other, following):
        (job_id,) = following
        await other.assign(job_id)
        for fraction in (0.1, 0.2, 0.3):
            await other.report(job_id, {"fraction": fraction, "host_queue_position": 0}, attempt=1)
        before = (await other.get(job_id)).stamp
        await store.report(job_id, {"fraction": 0.15, "host_queue_position": 0}, attempt=1)  # it dispatches now
        for each in (store, other):
            job = await each.get(job_id)
            assert job.progress["fraction"] == 0.15
            assert job.stamp > before
        await store.requeue(job_id)
        assert (await other.get(job_id)).progress is None
        await store.assign(job_id)
        await other.report(job_id, {"fraction": 0.9}, attempt=1)
        job = await other.get(job_id)
        assert (job.progress, job.attempt, job.deaths) == (None, 2, 1)

    follow(tmp_path, use)


def test_the_record_tells_who_asks_later(tmp_path, monkeypatch):
    """At once that ComfyUI is at work, since a death counts then; the rest after a while."""
    with opened(tmp_path) as store:
        job = store.submit(new())
        store.assign(job.id)
        seen = []
        for position, fraction, write_s in ((1, 0.0, 3600), (0, 0.1, 3600), (0, 0.2, 3600), (0, 0.3, -1)):
            monkeypatch.setattr("wan_flf2v.gateway.jobs.jetstream_progress._WRITE_S", write_s)
            store.report(job.id, {"fraction": fraction, "host_queue_position": position}, attempt=1)
            with opened(tmp_path) as other:
                seen.append(other.get(job.id).progress["fraction"])
        assert seen == [0.0, 0.1, 0.1, 0.3]
        with pytest.raises(KeyError):
            store.report(str(uuid.uuid4()), {}, attempt=1)


def test_webhooks_that_are_due_are_taken_at_once(tmp_path, monkeypatch):
    commits, under_way, all_are = Stream._commit, [], threading.Event()

    async def commit(stream, batch):
        under_way.append(batch)
        if len(under_way) == 3:
            all_are.set()
        assert await asyncio.to_thread(all_are.wait, 5)
        await commits(stream, batch)

    with opened(tmp_path) as store:
        for _ in range(3):
            store.cancel(store.submit(new(webhook="https://example.com/hook")).id)
        monkeypatch.setattr(Stream, "_commit", commit)
        assert len(store.due_webhooks(now=2e9)) == 3


def test_tokens_models_and_unfinished_requests_are_copied_from_the_file(tmp_path):
    """As they are there: attempts, keys, what webhooks are told. A second copy changes nothing."""
    hook = {"webhook": "https://example.com/hook", "webhook_every_status": True, "webhook_secret": "whsec_x"}
    token = Token("laptop", "h", 1.0, "whsec_y", 60, None)
    source = Blocking(STORES["sqlite"](tmp_path))
    assert source.add_token(token)
    assert source.set_priority("laptop", "high")
    model = replace(HOSTED, model_id="mine/one")
    assert source.add_model(model)
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "a.png").write_bytes(b"an image")
    image = {"62_image": "a.png"}
    running, waiting, ended = [
        source.submit(replace(new(idempotency=(f"key {n}", "hash"), **hook), inputs=image)) for n in range(3)
    ]
    source.end(ended.id, "failed")
    for _ in range(2):
        source.requeue(running.id)
        source.assign(running.id, "a ComfyUI")
    source.mark_sent(running.id)
    source.next_webhook(running.id)
    assert source.lead("a gateway")
    with pytest.raises(StoreFileError, match="A gateway runs requests of"):
        asyncio.run(copy_to_nats(tmp_path, NatsAccess(fleet_url(tmp_path))))
    source.resign("a gateway")
    with opened(tmp_path) as store:
        assert asyncio.run(copy_to_nats(tmp_path, NatsAccess(fleet_url(tmp_path)))) == (1, 1, 2)
        assert asyncio.run(copy_to_nats(tmp_path, NatsAccess(fleet_url(tmp_path)))) == (0, 0, 0)
        assert (store.tokens(), store.models()) == ([token], [model])
        assert asyncio.run(store.blobs.find(tmp_path / "of another gateway", "inputs/a.png"))
        assert store.priorities() == {token.id: "high"}
        assert [job.id for job in store.queue()] == [running.id, waiting.id]
        for job in (running, waiting):
            assert replace(store.get(job.id), number=0) == replace(source.get(job.id), number=0)
            assert store.history(job.id) == source.history(job.id) != []
        assert (store.get(running.id).attempt, store.get(ended.id)) == (2, None)
        with pytest.raises(QueueFullError):
            store.submit(new(queue_limit=1))
        assert store.submit(new(idempotency=("key 1", "hash"))).id == waiting.id
        due = [each for each in source.due_webhooks(now=2e9) if each.job_id != ended.id]
        assert (store.due_webhooks(now=2e9), len(due)) == (due, 2)
    source.close()


def test_a_gateway_that_knows_no_operators_can_read_all_other_tokens(tmp_path):
    """It refuses a record with a field that it does not know."""
    with opened(tmp_path) as store:
        for name, operator in (("guest", False), ("boss", True)):
            assert store.add_token(Token(name, name, 1.0, None, None, None, operator=operator))
    stream = stream_of(tmp_path)
    for name, operator in (("guest", None), ("boss", True)):
        query = {"last_by_subj": f"wf_{stream[3:]}.now.token.{name}"}
        data = admin(f"STREAM.MSG.GET.{stream}", query)["message"]["data"]
        assert json.loads(base64.b64decode(data))["data"].get("operator") is operator


def test_a_revoked_token_is_refused_by_every_gateway(tmp_path):
    with opened(tmp_path, 2) as (store, other):
        token = Token("laptop", "h", 1.0, None, None, None)
        assert store.add_token(token)
        assert other.find_token("h") == token
        assert other.tokens() == [token]
        assert store.revoke_token("laptop")
        assert (other.find_token("h"), other.tokens()) == (None, [])
        assert other.add_token(token), "its name may be used again"


def test_one_leads_and_another_follows_when_it_stops_or_falls_silent(tmp_path, monkeypatch):
    monkeypatch.setattr("wan_flf2v.gateway.jobs.jetstream_store._LEAD_TTL_S", 3)
    with opened(tmp_path, 2) as (store, other):
        assert [store.lead("a"), other.lead("b"), store.lead("a")] == [True, False, True]
        store.resign("a")
        assert [other.lead("b"), store.lead("a")] == [True, False]
        while not store.lead("a"):  # "b" says nothing any more
            time.sleep(0.1)
        monkeypatch.setattr("wan_flf2v.gateway.jobs.jetstream_store._LEAD_KEPT_S", 0)
        assert not other.lead("b")


@pytest.mark.slow
def test_two_gateways_share_the_work_and_one_takes_over_from_the_other(tmp_path):
    """Both take requests; the one that dispatches is killed while a request runs, and each request runs once."""

    def use(urls):
        first = Gateway(tmp_path, urls, "--demo", nats=fleet_url(tmp_path))
        second = copy.copy(first)  # the same folder, settings and token
        with first, second:
            ids = [gateway.submit(SUBMIT_DEMO, **IMAGES) for gateway in (first, second) * 3]
            while not any(first.status(each)["status"] == "in_progress" for each in ids):
                time.sleep(0.05)
            assert second.cancel(ids[-1]).json["outcome"] == "cancelled"
            assert first.status(ids[-1])["status"] == "cancelled"
            first.kill()
            seen = [data["status"] for _, data in events(second, ids[-2])]
            assert (seen[0], seen[-1]) == ("in_queue", "completed")
            assert [second.wait(each)["status"] for each in ids[:-1]] == ["completed"] * 5
            assert second.log_text().count("this gateway dispatches now") == 2
            first.start()
            assert {each["request_id"] for each in first.get("/v1/requests").json["requests"]} == set(ids)
        return ids[:-1]

    async def test():
        async with stand_ins(2, seconds=1.0) as hosts:
            for host in hosts:
                for name in IMAGES.values():
                    host.files["input", "", name] = b"a photograph"
            ids = await asyncio.to_thread(use, [host.url for host in hosts])
            assert sorted(run.prompt_id for host in hosts for run in host.ran) == sorted(ids)

    asyncio.run(asyncio.wait_for(test(), 90))
