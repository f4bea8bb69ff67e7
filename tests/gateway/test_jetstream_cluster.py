"""The store on three nats-servers: what becomes of it when one or two of them are killed."""

import asyncio
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import nats
import pytest
from support.gateway_process import BODY, SUBMIT, Gateway
from support.nats_server import Cluster, edit_stream
from support.stores import Blocking
from wan_flf2v.gateway.jobs.jetstream_store import JetStreamStore
from wan_flf2v.gateway.jobs.records import Submission, new_request_id
from wan_flf2v.gateway.jobs.store import StoreError, StoreFileError
from wan_flf2v.gateway.settings import NatsAccess

NAME = "WF"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def store(cluster):
    store = Blocking(wait_for(lambda: JetStreamStore(NatsAccess(cluster.url))))
    yield store
    store.close()


def wait_for(call):
    """Call until it raises no error of the store; return its result."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return call()
        except (StoreError, StoreFileError):
            assert time.monotonic() < deadline
            time.sleep(0.2)


def leader(cluster):
    """Return the name of the node that leads the stream."""

    async def ask():
        client = await nats.connect(cluster.url.split(","))
        try:
            answer = await client.request(f"$JS.API.STREAM.INFO.{NAME}", b"", timeout=2)
        finally:
            await client.close()
        return json.loads(answer.data)["cluster"]["leader"]

    return asyncio.run(ask())


def test_a_stream_with_fewer_replicas_than_three_is_refused_in_a_cluster(cluster):
    Blocking(wait_for(lambda: JetStreamStore(NatsAccess(f"{cluster.url}/few")))).close()
    edit_stream("WF_few", url=cluster.url.split(","), num_replicas=1)
    with pytest.raises(StoreFileError, match="num_replicas is 1 and must be 3 in a cluster"):
        JetStreamStore(NatsAccess(f"{cluster.url}/few"))


def submit(store):
    return store.submit(Submission(new_request_id(), "t", "m", {}, {}))


def test_nothing_accepted_is_lost_when_the_leader_is_killed(cluster, store):
    """Requests go on being submitted and run; some fail meanwhile, and what is accepted stays."""
    accepted, ended, refused, stopped = [], [], [], threading.Event()

    def work():
        while not stopped.is_set():
            try:
                job = submit(store)
                accepted.append(job)
                assert store.assign(job.id)
                assert store.end(job.id, "succeeded")
                ended.append(job.id)
            except StoreError as error:
                refused.append(error)

    def until(count):
        deadline = time.monotonic() + 60
        while len(accepted) < count and not any(each.done() for each in working):
            assert time.monotonic() < deadline, refused
            time.sleep(0.05)

    with ThreadPoolExecutor() as threads:
        working = [threads.submit(work) for _ in range(3)]
        try:
            until(10)
            killed = cluster.nodes[leader(cluster)]
            killed.kill()
            until(len(accepted) + 10)
        finally:
            stopped.set()
    for each in working:
        each.result()
    killed.start()
    ids = {job.id for job in accepted}
    kept = {job.id: job for job in store.newest("t", 10_000)}
    assert ids <= set(kept)
    assert len({job.number for job in kept.values()}) == len(kept)
    assert {kept[job_id].status for job_id in ended} == {"succeeded"}
    assert len(accepted) - len(ended) <= len(refused), "every call that raised no error was done"
    assert store.count("t", "in_queue") == sum(job.status == "in_queue" for job in kept.values())


def test_without_a_majority_nothing_is_accepted_and_then_all_is_back(cluster, store, tmp_path):
    job = wait_for(lambda: submit(store))
    with Gateway(tmp_path, nats=cluster.url) as gateway:
        request_id = gateway.submit()
        for node in list(cluster.nodes.values())[:2]:
            node.kill()
        while gateway.get("/healthz").status != 503:
            time.sleep(0.1)
        response = gateway.post(SUBMIT, BODY, headers={"Idempotency-Key": "a-key"})
        assert (response.status, response.headers["Retry-After"]) == (503, "5"), response.content
        with pytest.raises(StoreError, match="does not reply for the stream WF"):
            submit(store)
        for node in list(cluster.nodes.values())[:2]:
            node.start()
        while gateway.get("/healthz").status != 200:
            time.sleep(0.1)
        assert gateway.status(request_id)["status"] == "in_queue"
        again = gateway.post(SUBMIT, BODY, headers={"Idempotency-Key": "a-key"})
        assert again.status == 200
        listed = [each["request_id"] for each in gateway.get("/v1/requests").json["requests"]]
        assert listed == [again.json["request_id"], request_id]
    assert store.get(job.id) == job
