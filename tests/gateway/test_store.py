"""The store: what is accepted stays, in order, and ends once."""

import asyncio
import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace

import pytest
from support.stores import STORES, Blocking, sql
from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.gateway.jobs.queue import in_order, queue_position
from wan_flf2v.gateway.jobs.records import Health, QueuedJob, StoredFile, Submission, Token, new_request_id
from wan_flf2v.gateway.jobs.sqlite_store import SqliteStore
from wan_flf2v.gateway.jobs.store import IdempotencyConflictError, QueueFullError, StoreError, StoreFileError

HOOK = "https://example.com/hook"


@pytest.fixture(params=STORES)
def open_store(request, tmp_path):
    """Return a function that opens the one store of a test, as each process of an API does; all are closed later."""
    opened = []

    def open_store():
        opened.append(Blocking(STORES[request.param](tmp_path)))
        return opened[-1]

    yield open_store
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store):
    return open_store()


def add(store, token="t", **options):
    job_id, values = new_request_id(), {"6_text": "犬", "57_cfg": 2.5}
    return store.submit(Submission(job_id, token, "m", values, {"68_image": "a.png"}, **options))


def next_id(store):
    return store.queue()[0].id


def position(store, job):
    return store.position(job.id)


def test_an_accepted_request_is_read_back_whole(store):
    job = add(store)
    assert store.get(job.id) == job
    assert (job.status, job.values, job.inputs) == ("in_queue", {"6_text": "犬", "57_cfg": 2.5}, {"68_image": "a.png"})
    assert store.get(str(uuid.uuid4())) is None


def test_what_is_said_of_an_earlier_attempt_makes_no_later_one_clean(store):
    job = add(store)
    store.assign(job.id)
    store.requeue(job.id)
    store.assign(job.id)
    running = store.get(job.id)
    store.mark_clean(job.id, attempt=1)
    store.mark_clean(job.id, attempt=2)
    assert store.get(job.id) == running, "it runs: its ComfyUI has its prompt"
    store.end(job.id, "succeeded")
    store.mark_clean(job.id, attempt=1)
    assert [left.id for left in store.leftovers()] == [job.id]
    store.mark_clean(job.id, attempt=2)
    assert store.leftovers() == []


def test_requests_wait_in_order(store):
    jobs = [add(store) for _ in range(3)]
    assert [position(store, job) for job in jobs] == [0, 1, 2]
    assert next_id(store) == jobs[0].id
    assert store.assign(jobs[0].id)
    deadline = time.monotonic() + 60
    while position(store, jobs[0]) is not None and time.monotonic() < deadline:
        time.sleep(0.05)  # the queue may be that of a moment ago
    assert [position(store, job) for job in jobs] == [None, 0, 1]
    assert next_id(store) == jobs[0].id, "what runs comes before what waits"
    assert store.end(jobs[0].id, "succeeded", output={"video": "video.mp4"}, detail={"seconds": 2})
    assert [job.id for job in store.queue()] == [jobs[1].id, jobs[2].id]


def test_a_position_follows_what_another_process_does(open_store):
    store, other = open_store(), open_store()
    first, second = add(store), add(store)
    assert position(store, second) == 1
    other.cancel(first.id)
    deadline = time.monotonic() + 60
    while position(store, second) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert position(store, second) == 0
    assert position(store, first) is None


def test_the_order_is_the_running_job_then_first_come_first_served():
    jobs = [QueuedJob(f"job {number}", number, "in_queue") for number in (7, 3, 5)] + [
        QueuedJob("runs", 6, "in_progress")
    ]
    queue = in_order(jobs)
    assert [job.id for job in queue] == ["runs", "job 3", "job 5", "job 7"]
    assert [queue_position(job.id, queue) for job in jobs] == [2, 0, 1, None]
    assert queue_position("unknown", queue) is None


def test_a_requeued_request_keeps_its_place_and_its_next_run_is_another_attempt(store):
    first, second = add(store), add(store)
    assert (first.attempt, first.worker) == (0, None)
    store.assign(first.id, "one ComfyUI")
    store.mark_sent(first.id)
    running = store.get(first.id)
    assert (running.attempt, running.worker, running.sent) == (1, "one ComfyUI", True)
    store.requeue(first.id)
    assert next_id(store) == first.id
    waiting = store.get(first.id)
    assert (waiting.status, waiting.attempt, waiting.worker, waiting.sent) == ("in_queue", 1, None, False)
    assert position(store, second) == 1
    store.assign(first.id, "another ComfyUI")
    running = store.get(first.id)
    assert (running.attempt, running.worker, running.sent) == (2, "another ComfyUI", False)


def test_a_death_counts_if_the_request_ran(store):
    job = add(store)
    for progress, ran, deaths in ((None, False, 0), (1, False, 0), (0, True, 1), (0, True, 2), (3, False, 2)):
        store.assign(job.id)
        if progress is not None:
            store.report(job.id, {"host_queue_position": progress})
        assert store.get(job.id).ran is ran
        store.requeue(job.id)
        assert (store.get(job.id).deaths, store.get(job.id).ran) == (deaths, False)
    store.assign(job.id)
    store.report(job.id, {"host_queue_position": 0})
    store.requeue(job.id, died=False)
    assert store.get(job.id).deaths == 2, "it was silent"


def test_its_history_says_what_became_of_a_request(store):
    job, cancelled = add(store), add(store)
    store.assign(job.id, "instance 1", name="http://one")
    store.report(job.id, {"fraction": 0.5})
    store.requeue(job.id, attempt=1, reason="it ended")
    store.requeue(job.id, attempt=1, reason="said twice")
    store.assign(job.id, "instance 2")
    store.end(job.id, "succeeded", attempt=1)
    store.end(job.id, "failed", error="no memory", attempt=2)
    history = store.history(job.id)
    assert [entry[1:] for entry in history] == [
        ("in_queue", 0, None, None),
        ("in_progress", 1, "http://one", None),
        ("in_queue", 1, "http://one", "it ended"),
        ("in_progress", 2, "instance 2", None),
        ("failed", 2, "instance 2", "no memory"),
    ]
    assert [entry.at for entry in history] == sorted(entry.at for entry in history)
    store.assign(cancelled.id, "instance 1")
    store.cancel(cancelled.id)
    store.requeue(cancelled.id, reason="it ended")
    reasons = [(entry.status, entry.reason) for entry in store.history(cancelled.id)[1:]]
    assert reasons == [("in_progress", None), ("in_progress", "its client cancelled it"), ("cancelled", None)]
    store.expire([cancelled.id])
    assert len(store.history(cancelled.id)) == 4
    assert store.history("unknown") == []


def test_a_request_ends_once(store):
    job = add(store)
    assert store.assign(job.id)
    assert not store.assign(job.id)
    assert store.end(job.id, "succeeded", output={"video": "v"}, detail={"seed": 1})
    assert not store.end(job.id, "failed", error="late")
    ended = store.get(job.id)
    assert (ended.status, ended.output, ended.error, ended.detail) == ("succeeded", {"video": "v"}, None, {"seed": 1})
    assert store.cancel(job.id) == "finished"
    assert store.get(job.id) == ended


def test_cancelling_a_waiting_request_ends_it(store):
    job = add(store, webhook=HOOK)
    assert store.cancel(job.id) == "cancelled"
    assert store.get(job.id).status == "cancelled"
    assert not store.assign(job.id)
    assert [hook.job_id for hook in store.due_webhooks(now=2e9)] == [job.id]


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_running_request_that_is_cancelled_ends_as_cancelled_whatever_it_does(store, status):
    job = add(store)
    store.assign(job.id)
    assert store.cancel(job.id) == "cancelling"
    assert store.cancel(job.id) == "cancelling"
    assert store.end(job.id, status, error="e", output={"video": "v"})
    ended = store.get(job.id)
    assert (ended.status, ended.output, ended.error) == ("cancelled", None, None)


def test_a_cancelled_request_is_not_queued_again(store):
    job = add(store)
    store.assign(job.id)
    store.cancel(job.id)
    store.requeue(job.id)
    assert store.get(job.id).status == "cancelled"


def test_every_change_raises_the_version(store):
    job = add(store)
    versions = [job.version]
    store.assign(job.id)
    versions.append(store.get(job.id).version)
    store.report(job.id, {"fraction": 0.5})
    versions.append(store.get(job.id).version)
    assert store.get(job.id).progress == {"fraction": 0.5}
    store.end(job.id, "failed", error="broken")
    versions.append(store.get(job.id).version)
    store.report(job.id, {"fraction": 0.6})
    assert versions == sorted(set(versions))
    assert store.get(job.id).version == versions[-1], "a finished request no longer changes"


def test_the_same_key_and_body_is_the_same_request(store):
    job = add(store, idempotency=("key", "hash"))
    assert add(store, idempotency=("key", "hash")).id == job.id
    assert add(store, "another", idempotency=("key", "other")).id != job.id, "keys belong to a token"
    with pytest.raises(IdempotencyConflictError):
        add(store, idempotency=("key", "other"))
    assert store.count() == 2


def test_one_key_sent_by_many_threads_at_once_makes_one_request(store):
    ids = []
    start = threading.Barrier(8)

    def submit():
        start.wait()
        ids.append(add(store, idempotency=("key", "hash")).id)

    threads = [threading.Thread(target=submit) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 8
    assert len(set(ids)) == 1
    assert store.count() == 1


def test_the_queue_limit_is_each_tokens_own(store):
    job = add(store, queue_limit=1)
    with pytest.raises(QueueFullError):
        add(store, queue_limit=1)
    add(store, "another", queue_limit=1)
    store.assign(job.id)
    add(store, queue_limit=1)
    assert [store.count("t"), store.count("t", "in_queue"), store.count(status="in_progress")] == [2, 1, 1]


def test_a_webhook_is_due_when_the_request_ends_and_taken_by_one(store):
    job = add(store, webhook=HOOK, webhook_secret="whsec_x", base_url="https://api.test")
    assert store.due_webhooks(now=2e9) == []
    store.assign(job.id)
    store.end(job.id, "succeeded")
    (hook,) = store.due_webhooks(now=2e9)
    assert (hook.job_id, hook.url, hook.attempts) == (job.id, HOOK, 0)
    assert (hook.secret, hook.base_url) == ("whsec_x", "https://api.test")
    assert store.due_webhooks(now=2e9) == [], "another process is sending it"
    assert len(store.due_webhooks(now=2e9 + 61)) == 1, "that process died"
    store.retry_webhook(job.id, due_at=3e9)
    assert store.due_webhooks(now=2.9e9) == []
    assert store.due_webhooks(now=3e9)[0].attempts == 1
    store.remove_webhook(job.id)
    assert store.due_webhooks(now=9e9) == []


def test_expired_requests_forget_what_was_asked(store):
    job, running = add(store, idempotency=("key", "hash")), add(store)
    assert store.inputs_in_use() == {"a.png"}
    store.assign(job.id)
    store.end(job.id, "succeeded", output={"video": "v"})
    assert [job_id for job_id, _ in store.unexpired()] == [job.id]
    store.expire([job.id, running.id])
    expired = store.get(job.id)
    assert (expired.expired, expired.output, expired.values) == (True, None, {})
    assert store.unexpired() == []
    assert not store.get(running.id).expired
    assert add(store, idempotency=("key", "hash")).id != job.id


def test_which_tokens_are_an_operators_is_kept(store):
    boss = Token("boss", "h", 1.0, None, None, None, operator=True)
    guest = Token("guest", "g", 2.0, None, None, None)
    assert store.add_token(boss) and store.add_token(guest)
    assert store.tokens() == [boss, guest]
    assert store.find_token("h") == store.find_token_by_id(boss.id) == boss
    assert store.find_token("g") == store.find_token_by_id(guest.id) == guest
    assert store.revoke_token("boss")
    assert store.add_token(replace(boss, operator=False))
    assert not store.find_token("h").operator, "it is another token now"


def test_tokens_and_files(store):
    token = Token("laptop", "h", 1.0, "whsec_x", 60, None, id="token_1")
    assert store.add_token(token)
    assert store.add_token(Token("phone", "p", 0.5, None, None, None, id="token_2"))
    assert store.revoke_token("phone")
    assert not store.add_token(Token("laptop", "other", 2.0, None, None, None))
    assert store.tokens() == [token]
    assert store.find_token("h") == token
    assert store.find_token("H") is None
    assert store.find_token_by_id("token_1") == token
    assert store.find_token_by_id("token_2") is None, "it was revoked"
    assert store.revoke_token("laptop")
    assert not store.revoke_token("laptop")
    assert store.find_token_by_id("token_1") is None
    file = StoredFile("file_1", "laptop", "me.png", "abc.png", "image/png", 3, 1.0)
    assert store.add_file(file, 3) is None
    assert store.add_file(replace(file, id="file_2", size=1), 3) == file.created_at, "there is no room"
    assert store.add_file(replace(file, id="file_2", token="phone", size=4), 3) == 0
    assert store.get_file("file_1") == file
    assert store.files() == [file]
    store.remove_file("file_1")
    store.remove_file("file_1")  # there is none: nothing happens
    assert store.get_file("file_1") is None


def test_a_tokens_priority_holds_for_its_waiting_jobs_in_every_process(open_store):
    store, other = open_store(), open_store()
    assert not store.set_priority("laptop", "high")
    for name in ("laptop", "phone"):
        assert store.add_token(Token(name, f"hash of {name}", 1.0, None, None, None, id=name))
    first, second = add(store, token="phone"), add(store, token="laptop")
    assert next_id(store) == first.id
    assert other.set_priority("laptop", "high")
    assert (store.priorities(), next_id(store)) == ({"laptop": "high"}, second.id)
    assert store.set_priority("laptop", "low")
    assert (other.priorities(), next_id(store)) == ({"laptop": "low"}, first.id)
    assert store.set_priority("phone", "low")
    assert store.revoke_token("phone")
    assert store.priorities() == {"laptop": "low"}


def test_models_are_kept_for_all_processes(open_store):
    store, other = open_store(), open_store()
    assert store.models() == []
    first = replace(
        DEMO, model_id="mine/first", graph={"1": {"class_type": "A", "inputs": {"b": ["2", 0]}}}, added_at=1.0
    )
    second = replace(first, model_id="second", added_at=2.5, makes="image", output_node="1")
    assert store.add_model(second) and store.add_model(first)
    assert not other.add_model(replace(first, added_at=3.0)), "a name is taken once"
    assert other.models() == [first, second]
    assert [model.graph for model in other.models()] == [first.graph] * 2
    assert other.remove_model("second")
    assert not store.remove_model("second")
    assert store.add_model(second), "a name can be used again"
    assert [model.model_id for model in other.models()] == ["mine/first", "second"]


def test_following_a_request_yields_every_state_until_its_end(open_store):
    """One process follows; another changes the job."""
    store, other = open_store(), open_store()
    first, job = add(store), add(store)
    seen = []

    async def follow():
        changes = store.store.follow(job.id)
        for change in (
            lambda: other.store.assign(first.id),
            lambda: other.store.assign(job.id),
            lambda: other.store.report(job.id, {"fraction": 0.5}),
            lambda: other.store.end(job.id, "failed", error="broken"),
        ):
            seen.append(await anext(changes))
            await change()
        seen.extend([last async for last in changes])
        seen.extend([change async for change in store.store.follow(job.id)])
        await other.store.expire([job.id])
        seen.extend([change async for change in store.store.follow(job.id)])

    asyncio.run(follow())
    assert [(current.status, place) for current, place in seen] == [
        ("in_queue", 1),
        ("in_queue", 0),
        ("in_progress", None),
        ("in_progress", None),
        ("failed", None),
        ("failed", None),
    ]
    assert seen[3][0].progress == {"fraction": 0.5}


def test_a_call_that_is_cancelled_is_completed_first(store):
    job = add(store)

    async def go():
        async with contextlib.AsyncExitStack() as stack:
            call = asyncio.create_task(store.store.assign(job.id))
            stack.push_async_callback(asyncio.wait, [call])
            await asyncio.sleep(0)
            call.cancel()
        assert call.cancelled()
        return await store.store.get(job.id)

    assert asyncio.run(go()).status == "in_progress"


def test_a_closed_store_says_so(open_store):
    store = open_store()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.count()


@pytest.mark.skipif(sys.platform == "win32", reason="a user's folders are private there")
def test_others_cannot_read_it(tmp_path):
    for folder in (tmp_path / "made here", tmp_path):
        store = Blocking(SqliteStore(folder / "s"))
        add(store)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in folder.glob("s*")]
        assert modes == [0o600] * 3, "also those that SQLite keeps beside it"
        store.close()
    assert stat.S_IMODE((tmp_path / "made here").stat().st_mode) == 0o700


def test_health_is_shared(open_store):
    first, second = open_store(), open_store()
    assert first.health() == Health("unknown", "up", None)
    first.set_health(Health("down", reason="no"))
    assert second.health() == Health("down", "up", "no")


_CHILD = """
import asyncio, sys, uuid
from pathlib import Path
from wan_flf2v.gateway.jobs.records import Submission, new_request_id
from wan_flf2v.gateway.jobs.sqlite_store import SqliteStore

async def submit():
    store = SqliteStore(Path(sys.argv[1]))
    while True:
        job = await store.submit(Submission(new_request_id(), "t", "m", {}, {}))
        print(job.id, flush=True)

asyncio.run(submit())
"""


def test_what_was_accepted_survives_a_kill_and_other_processes_write_meanwhile(tmp_path):
    path = tmp_path / "new" / "store.sqlite3"
    command = [sys.executable, "-I", "-c", _CHILD, str(path)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    lines = [[child.stdout.readline() for _ in range(20)] for child in children]
    for child in children:
        child.kill()
    accepted = {line.strip() for seen, child in zip(lines, children, strict=True) for line in [*seen, *child.stdout]}
    for child in children:
        child.wait()
    store = Blocking(SqliteStore(path))
    complete = [job_id for job_id in accepted if len(job_id) == 36]
    assert len(complete) >= 40
    assert all(store.get(job_id) for job_id in complete)
    assert sql(store.store, "PRAGMA integrity_check") == [("ok",)]
    store.close()


def test_a_write_that_fails_changes_nothing(store):
    job = add(store)
    with pytest.raises(StoreError):
        store.submit(Submission(job.id, "t", "m", {}, {}, idempotency=("key", "hash")))
    with pytest.raises(KeyError):
        store.expire([job.id, "unknown"])
    assert store.count() == 1
    assert store.get(job.id) == job


@pytest.mark.parametrize(
    ("version", "advice"), [(3, "Go on with the older wan-flf2v that made it"), (99, "Update wan-flf2v")]
)
def test_a_store_of_another_version_is_refused(tmp_path, version, advice):
    path = tmp_path / "s"
    Blocking(SqliteStore(path)).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    with pytest.raises(StoreFileError) as error:
        SqliteStore(path)
    assert str(error.value) == (
        f"{path} has schema {version}; this version of wan-flf2v knows schema 4 only. {advice}, or use another "
        "data folder."
    )


def test_a_store_that_was_made_before_a_table_was_thought_of_gets_it(tmp_path):
    store = Blocking(SqliteStore(tmp_path / "s"))
    job = add(store)
    for statement in ("DROP TABLE priorities", "DROP TABLE operators", "DROP INDEX jobs_unfinished"):
        sql(store.store, statement)
    store.close()
    store = Blocking(SqliteStore(tmp_path / "s"))
    assert (store.priorities(), store.tokens(), next_id(store), store.get(job.id)) == ({}, [], job.id, job)
    store.close()


def _another_programs(path):
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE notes (text)")


_SPOILT = {  # how a good store's file is spoilt, and what the error says
    "text": (lambda path: path.write_text("hello\n" * 500), "is damaged, or no store of this API"),
    "cut short": (lambda path: os.truncate(path, 5000), "is damaged, or no store of this API"),
    "its first pages only": (lambda path: os.truncate(path, 8192), "is damaged, or no store of this API"),
    "cut to nothing": (
        lambda path: (os.truncate(path, 0), (path.parent / "results" / "one").mkdir(parents=True)),
        "is empty, although there are results",
    ),
    "a page that is none": (
        lambda path: path.write_bytes(path.read_bytes()[:8192] + b"?" * 4096 + path.read_bytes()[12288:]),
        "is damaged, or no store of this API",
    ),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    "another program's": (lambda path: (path.unlink(), _another_programs(path)), "is a database of another program"),
}


@pytest.mark.parametrize("how", _SPOILT)
def test_a_file_that_is_no_store_is_refused_with_words(tmp_path, how):
    path = tmp_path / "s"
    store = Blocking(SqliteStore(path))
    add(store)
    store.close()
    spoil, words = _SPOILT[how]
    spoil(path)
    with pytest.raises(StoreFileError, match=words) as error:
        SqliteStore(path)
    assert str(path) in str(error.value)
