"""Messages to clients' servers: signed, and repeated until they arrive."""

import asyncio
import base64
import json
import time
import uuid

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError
from support.api_runs import until
from support.gateway_process import BODY, SUBMIT, Gateway
from support.stores import chosen_store, sql
from support.web_server import serve
from support.webhook_parts import Receiver, deliver, finished_job, owed, running, sender
from wan_flf2v.gateway.jobs import webhooks
from wan_flf2v.gateway.jobs.records import Submission
from wan_flf2v.gateway.jobs.webhooks import new_secret, sign

pytestmark = pytest.mark.usefixtures("soon")


def test_the_signature_of_a_published_example():
    """The example in the documentation of Svix, who wrote the specification's first version."""
    body = b'{"test": 2432232314}'
    secret, message_id = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert sign(secret, message_id, 1614265330, body) == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_receivers_library_refuses_a_changed_message():
    """The judge of the other tests can say no."""
    secret, timestamp = new_secret(), int(time.time())
    signature = sign(secret, "msg_1", timestamp, b"{}")
    headers = {"webhook-id": "msg_1", "webhook-timestamp": str(timestamp), "webhook-signature": signature}
    Webhook(secret).verify(b"{}", headers)
    for judge, body in ((Webhook(secret), b"[]"), (Webhook(new_secret()), b"{}")):
        with pytest.raises(WebhookVerificationError):
            judge.verify(body, headers)


def test_secrets_are_as_the_specification_wants_them():
    secret = new_secret()
    assert secret.startswith("whsec_") and 24 <= len(base64.b64decode(secret[6:])) <= 64
    assert secret != new_secret()


@pytest.mark.parametrize("status", ["succeeded", "failed", "cancelled"])
def test_a_finished_request_is_told_once(tmp_path, store, status):
    receiver = Receiver(204)
    before = int(time.time())
    job_id = deliver(store, tmp_path, receiver.answer, lambda job_id: not owed(store), status=status)
    ((headers, body, path),) = receiver.messages
    message = json.loads(body)
    assert (path, headers["Content-Type"]) == ("/hook", "application/json")
    assert message["type"] == f"request.{status}"
    assert message["data"] == {"request_id": job_id, "name": "Füße 画"}
    assert headers["webhook-id"] == f"msg_{job_id}"
    assert before <= int(headers["webhook-timestamp"]) <= time.time()
    Webhook((tmp_path / "webhook.secret").read_text()).verify(body, headers)


def test_the_secret_of_the_requests_token_signs_its_messages(tmp_path, store):
    secret = new_secret()
    receiver = Receiver(200)
    deliver(store, tmp_path, receiver.answer, lambda job_id: not owed(store), secret=secret)
    ((headers, body, _),) = receiver.messages
    Webhook(secret).verify(body, headers)


def test_a_message_is_signed_and_its_links_lead_as_when_the_request_was_made(tmp_path):
    receiver = Receiver(200)

    def use(port):
        with Gateway(tmp_path, config={"allow_private_urls": True}) as gateway:
            token = gateway.new_token("revoked-soon")
            path = f"{SUBMIT}?webhook=http://127.0.0.1:{port}/&webhook_intermediate_status=true"
            request_id = gateway.post(path, BODY, token=token, headers={"Host": "api.test:81"}).json["request_id"]
            with gateway.store() as store:
                (secret,) = [known.webhook_secret for known in store.tokens() if known.name == "revoked-soon"]
                store.revoke_token("revoked-soon")
                store.end(request_id, "succeeded", output={"video": "video.mp4", "image": "frame0.png"})
            deadline = time.monotonic() + 60  # in a thread, which pytest's own time limit does not end
            while len(receiver.messages) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            return request_id, secret

    async def go():
        async with serve(receiver.answer) as port:
            return await asyncio.to_thread(use, port)

    request_id, secret = asyncio.run(go())
    (waited_headers, waited, _), (headers, body, _) = receiver.messages
    Webhook(secret).verify(waited, waited_headers)
    waited = json.loads(waited)
    assert waited["type"] == "request.in_queue"
    assert (waited["data"]["status"], waited["data"]["finished_at"]) == ("in_queue", None)
    assert "output" not in waited["data"]
    Webhook(secret).verify(body, headers)
    assert json.loads(body)["data"]["output"]["video"].startswith(f"http://api.test:81/v1/results/{request_id}/")


def test_a_request_that_has_not_ended_is_not_told(tmp_path, store):
    async def go():
        receiver = Receiver(200)
        async with serve(receiver.answer) as port:
            url = f"http://127.0.0.1:{port}/"
            waiting = await store.submit(Submission(str(uuid.uuid4()), "anna", "model", {}, {}, webhook=url))
            async with running(sender(store, tmp_path)):
                finished = await finished_job(store, url)
                await until(lambda: finished not in owed(store))
            assert [headers["webhook-id"] for headers, _, _ in receiver.messages] == [f"msg_{finished}"]
            assert waiting.id in owed(store)

    asyncio.run(go())


def news(receiver):
    return [json.loads(body)["type"] for _, body, _ in receiver.messages]


@pytest.mark.parametrize(
    ("statuses", "told"),
    [
        ([200], ["request.in_queue", "request.in_progress", "request.failed"]),
        ([500, 500, 500, 200], ["request.in_queue", "request.in_progress", "request.failed", "request.failed"]),
        ([410], ["request.in_queue"]),
    ],
    ids=["delivered", "repeats-only-the-end", "wants-no-more"],
)
def test_every_status_is_told_in_order_if_that_is_asked_for(tmp_path, store, statuses, told):
    receiver = Receiver(*statuses)

    async def go():
        async with serve(receiver.answer) as port:
            webhook = {"webhook": f"http://127.0.0.1:{port}/", "webhook_every_status": True}
            job = await store.submit(Submission(str(uuid.uuid4()), "anna", "model", {}, {}, **webhook))
            await store.assign(job.id)
            async with running(sender(store, tmp_path)):
                await until(lambda: len(receiver.messages) == min(2, len(told)))
                await store.end(job.id, "failed", error="why")
                await until(lambda: not owed(store))
            return job.id

    job_id = asyncio.run(go())
    assert news(receiver) == told
    ids = [headers["webhook-id"] for headers, _, _ in receiver.messages]
    assert ids[:3] == [f"msg_{job_id}_in_queue", f"msg_{job_id}_in_progress", f"msg_{job_id}"][: len(told)]


def test_a_request_that_never_ran_was_never_in_progress(tmp_path, store):
    receiver = Receiver(200)

    async def go():
        async with serve(receiver.answer) as port:
            webhook = {"webhook": f"http://127.0.0.1:{port}/", "webhook_every_status": True}
            job = await store.submit(Submission(str(uuid.uuid4()), "anna", "model", {}, {}, **webhook))
            await store.cancel(job.id)
            async with running(sender(store, tmp_path)):
                await until(lambda: not owed(store))

    asyncio.run(go())
    assert news(receiver) == ["request.in_queue", "request.cancelled"]


@pytest.mark.parametrize("status", [301, 400, 404, 429, 500, 503])
def test_it_is_repeated_under_the_same_id_until_it_arrives(tmp_path, store, status):
    receiver = Receiver(status, status, 200)
    deliver(store, tmp_path, receiver.answer, lambda job_id: not owed(store))
    assert len(receiver.messages) == 3
    assert {path for _, _, path in receiver.messages} == {"/hook"}, "redirects are not followed"
    assert len({headers["webhook-id"] for headers, _, _ in receiver.messages}) == 1
    for headers, body, _ in receiver.messages:
        Webhook((tmp_path / "webhook.secret").read_text()).verify(body, headers)


def test_a_receiver_that_wants_no_more_gets_no_more(tmp_path, store):
    receiver = Receiver(410)
    deliver(store, tmp_path, receiver.answer, lambda job_id: not owed(store))
    assert len(receiver.messages) == 1


def test_it_is_given_up_after_the_configured_time(tmp_path, store):
    receiver = Receiver(500)
    deliver(store, tmp_path, receiver.answer, lambda job_id: not owed(store), webhook_retry_s=2.0)
    assert len(receiver.messages) >= 2


def test_the_pauses_grow_to_an_hour_and_the_last_attempt_is_at_the_end(tmp_path, store, monkeypatch):
    monkeypatch.setattr(webhooks, "_FIRST_DELAY_S", 5.0)
    receiver = Receiver(500)
    for attempts, low, high in ((0, 4, 6), (3, 32, 48), (20, 2880, 4320)):

        async def attempt(attempts=attempts):
            async with serve(receiver.answer) as port:
                job_id = await finished_job(store, f"http://127.0.0.1:{port}/")
                sql(store, "UPDATE webhooks SET attempts = ? WHERE job_id = ?", attempts, job_id)
                async with running(sender(store, tmp_path)):
                    await until(lambda: owed(store)[job_id][0] == attempts + 1)
                return owed(store)[job_id][1] - time.time()

        assert low - 1 < asyncio.run(attempt()) < high


def test_a_restart_forgets_nothing(tmp_path):
    """A sender that fails is stopped; another, with another store, goes on."""
    first, receiver = chosen_store(tmp_path), Receiver(503)
    job_id = deliver(first, tmp_path, receiver.answer, lambda job_id: owed(first)[job_id][0] >= 1)
    ((url,),) = sql(first, "SELECT url FROM webhooks")
    asyncio.run(first.close())

    async def go():
        second, receiver = chosen_store(tmp_path), Receiver(200)
        port = int(url.split(":")[2].split("/")[0])
        async with serve(receiver.answer, port=port), running(sender(second, tmp_path)):
            await until(lambda: not owed(second))
        await second.close()
        return [headers["webhook-id"] for headers, _, _ in receiver.messages]

    assert asyncio.run(go()) == [f"msg_{job_id}"]


def test_a_sender_that_dies_in_the_middle_leaves_the_message_to_the_next(tmp_path, store):
    async def go():
        job_id = await finished_job(store, "http://127.0.0.1:1/")
        assert [webhook.job_id for webhook in await store.due_webhooks(time.time(), lease_s=60.0)] == [job_id]
        assert not await store.due_webhooks(time.time() + 59.0)
        assert [webhook.job_id for webhook in await store.due_webhooks(time.time() + 61.0)] == [job_id]

    asyncio.run(go())


def test_two_processes_send_each_message_once(tmp_path, store):
    async def go():
        receiver = Receiver(200)
        other = chosen_store(tmp_path)
        async with serve(receiver.answer) as port, running(sender(store, tmp_path), sender(other, tmp_path)):
            ids = [await finished_job(store, f"http://127.0.0.1:{port}/") for _ in range(30)]
            await until(lambda: not owed(store))
        await other.close()
        assert sorted(headers["webhook-id"] for headers, _, _ in receiver.messages) == sorted(f"msg_{i}" for i in ids)

    asyncio.run(go())
