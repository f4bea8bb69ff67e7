"""The store: what is accepted stays, in order, and ends once."""

import sqlite3
import stat
import subprocess
import sys
import threading
import uuid
from dataclasses import replace

import pytest
from wan_flf2v.gateway.jobs import database
from wan_flf2v.gateway.jobs.database import DatabaseVersionError
from wan_flf2v.gateway.jobs.records import IdempotencyConflictError, QueueFullError, StoredFile, Token
from wan_flf2v.gateway.jobs.store import Store

HOOK = "https://example.com/hook"


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store.sqlite3")
    yield store
    store.close()


def add(store, token="t", **options):
    return store.add(str(uuid.uuid4()), token, "m", {"6_text": "犬", "57_cfg": 2.5}, {"68_image": "a.png"}, **options)


def test_an_accepted_request_is_read_back_whole(store):
    job = add(store)
    assert store.get(job.id) == job
    assert (job.status, job.values, job.inputs) == ("in_queue", {"6_text": "犬", "57_cfg": 2.5}, {"68_image": "a.png"})
    assert store.get(str(uuid.uuid4())) is None


def test_requests_wait_in_order(store):
    jobs = [add(store) for _ in range(3)]
    assert [store.position(job) for job in jobs] == [0, 1, 2]
    assert store.next().id == jobs[0].id
    assert store.start(jobs[0].id)
    assert [store.position(job) for job in jobs[1:]] == [0, 1]
    assert store.next().id == jobs[0].id, "what runs comes before what waits"
    assert store.finish(jobs[0].id, "succeeded", output={"video": "video.mp4"}, detail={"seconds": 2})
    assert store.next().id == jobs[1].id


def test_a_requeued_request_keeps_its_place_and_counts_deaths(store):
    first, second = add(store), add(store)
    store.start(first.id)
    store.mark_submitted(first.id)
    assert store.requeue_after_death(first.id) == 1
    assert store.next().id == first.id
    assert not store.get(first.id).submitted
    assert store.position(second) == 1
    store.start(first.id)
    assert store.requeue_after_death(first.id) == 2


def test_a_request_ends_once(store):
    job = add(store)
    assert store.start(job.id)
    assert not store.start(job.id)
    assert store.finish(job.id, "succeeded", output={"video": "v"}, detail={"seed": 1})
    assert not store.finish(job.id, "failed", error="late")
    ended = store.get(job.id)
    assert (ended.status, ended.output, ended.error, ended.detail) == ("succeeded", {"video": "v"}, None, {"seed": 1})
    assert store.request_cancel(job.id) == "finished"
    assert store.get(job.id) == ended


def test_cancelling_a_waiting_request_ends_it(store):
    job = add(store, webhook=HOOK)
    assert store.request_cancel(job.id) == "cancelled"
    assert store.get(job.id).status == "cancelled"
    assert not store.start(job.id)
    assert [hook.job_id for hook in store.due_webhooks(now=2e9)] == [job.id]


@pytest.mark.parametrize("status", ["succeeded", "failed"])
def test_a_running_request_that_is_cancelled_ends_as_cancelled_whatever_it_does(store, status):
    job = add(store)
    store.start(job.id)
    assert store.request_cancel(job.id) == "cancelling"
    assert store.request_cancel(job.id) == "cancelling"
    assert store.finish(job.id, status, error="e", output={"video": "v"})
    ended = store.get(job.id)
    assert (ended.status, ended.output, ended.error) == ("cancelled", None, None)


def test_a_cancelled_request_is_not_queued_again(store):
    job = add(store)
    store.start(job.id)
    store.request_cancel(job.id)
    store.requeue_after_death(job.id)
    assert store.get(job.id).status == "cancelled"


def test_every_change_raises_the_version(store):
    job = add(store)
    versions = [job.version]
    store.start(job.id)
    versions.append(store.get(job.id).version)
    store.set_progress(job.id, {"fraction": 0.5})
    versions.append(store.get(job.id).version)
    assert store.get(job.id).progress == {"fraction": 0.5}
    store.finish(job.id, "failed", error="broken")
    versions.append(store.get(job.id).version)
    store.set_progress(job.id, {"fraction": 0.6})
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
    store.start(job.id)
    add(store, queue_limit=1)
    assert [store.count("t"), store.count("t", "in_queue"), store.count(status="in_progress")] == [2, 1, 1]


def test_a_webhook_is_due_when_the_request_ends_and_taken_by_one(store):
    job = add(store, webhook=HOOK, webhook_secret="whsec_x", base_url="https://api.test")
    assert store.due_webhooks(now=2e9) == []
    store.start(job.id)
    store.finish(job.id, "succeeded")
    (hook,) = store.due_webhooks(now=2e9)
    assert (hook.job_id, hook.url, hook.attempts) == (job.id, HOOK, 0)
    assert (hook.secret, hook.base_url) == ("whsec_x", "https://api.test")
    assert store.due_webhooks(now=2e9) == [], "another process is sending it"
    assert len(store.due_webhooks(now=2e9 + 61)) == 1, "that process died"
    store.webhook_retry(job.id, due_at=3e9)
    assert store.due_webhooks(now=2.9e9) == []
    assert store.due_webhooks(now=3e9)[0].attempts == 1
    store.webhook_done(job.id)
    assert store.due_webhooks(now=9e9) == []


def test_expired_requests_forget_what_was_asked(store):
    job, running = add(store, idempotency=("key", "hash")), add(store)
    assert store.inputs_in_use() == {"a.png"}
    store.start(job.id)
    store.finish(job.id, "succeeded", output={"video": "v"})
    assert [job_id for job_id, _ in store.unexpired()] == [job.id]
    store.expire([job.id, running.id])
    expired = store.get(job.id)
    assert (expired.expired, expired.output, expired.values) == (True, None, {})
    assert store.unexpired() == []
    assert not store.get(running.id).expired
    assert add(store, idempotency=("key", "hash")).id != job.id


def test_tokens_and_files(store):
    token = Token("laptop", "h", 1.0, "whsec_x", 60, None)
    assert store.add_token(token)
    assert not store.add_token(Token("laptop", "other", 2.0, None, None, None))
    assert store.tokens() == [token]
    assert store.revoke_token("laptop")
    assert not store.revoke_token("laptop")
    file = StoredFile("file_1", "laptop", "me.png", "abc.png", "image/png", 3, 1.0)
    assert store.add_file(file, 3) is None
    assert store.add_file(replace(file, id="file_2", size=1), 3) == file.created_at, "there is no room"
    assert store.add_file(replace(file, id="file_2", token="phone", size=4), 3) == 0
    assert store.get_file("file_1") == file
    assert store.files() == [file]
    assert store.remove_file("file_1")
    assert store.get_file("file_1") is None


def test_a_store_of_the_first_version_keeps_whose_everything_is(tmp_path, monkeypatch):
    with monkeypatch.context() as before:
        before.setattr(database, "_SCHEMAS", database._SCHEMAS[:1])
        before.setattr(database, "SCHEMA_VERSION", 1)
        old = Store(tmp_path / "s")
        with old.write() as connection:
            connection.execute("INSERT INTO tokens VALUES ('laptop', 'h', 1.0, 'whsec_x', NULL, NULL)")
        job = add(old, "laptop")
        with old.write() as connection:
            connection.execute("INSERT INTO webhooks (job_id, url) VALUES (?, ?)", (job.id, HOOK))
        old.close()
    store = Store(tmp_path / "s")
    (token,) = store.tokens()
    assert (token.name, token.id) == ("laptop", store.get(job.id).token)
    store.finish(job.id, "failed")
    assert [hook.secret for hook in store.due_webhooks(now=2e9)] == ["whsec_x"]
    store.close()


@pytest.mark.skipif(sys.platform == "win32", reason="a user's folders are private there")
def test_others_cannot_read_it(tmp_path):
    for folder in (tmp_path / "made here", tmp_path):
        store = Store(folder / "s")
        add(store)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in folder.glob("s*")]
        assert modes == [0o600] * 3, "also those that SQLite keeps beside it"
        store.close()
    assert stat.S_IMODE((tmp_path / "made here").stat().st_mode) == 0o700


def test_the_hosts_state_is_shared(tmp_path):
    first, second = Store(tmp_path / "s"), Store(tmp_path / "s")
    assert first.host_state() == ("unknown", 0.0)
    first.set_host_state("down: no")
    assert second.host_state()[0] == "down: no"
    first.close()
    second.close()


_CHILD = """
import sys, uuid
from dataclasses import replace
from pathlib import Path
from wan_flf2v.gateway.jobs.store import Store
store = Store(Path(sys.argv[1]))
while True:
    job_id = store.add(str(uuid.uuid4()), "t", "m", {}, {}).id
    print(job_id, flush=True)
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
    store = Store(path)
    complete = [job_id for job_id in accepted if len(job_id) == 36]
    assert len(complete) >= 40
    assert all(store.get(job_id) for job_id in complete)
    assert store.check() == "ok"
    store.close()


def test_a_write_that_fails_changes_nothing(store):
    job = add(store)
    with pytest.raises(sqlite3.IntegrityError):
        store.add(job.id, "t", "m", {}, {}, idempotency=("key", "hash"))
    with pytest.raises(KeyError):
        store.expire([job.id, "unknown"])
    assert store.count() == 1
    assert store.get(job.id) == job


def test_a_store_of_a_newer_version_is_refused(tmp_path):
    path = tmp_path / "s"
    Store(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(DatabaseVersionError, match=r"newer version .*Update wan-flf2v"):
        Store(path)
