"""What this API has beside the hosted one: a client of the hosted one never notices."""

import base64
import contextlib
import io
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from support.gateway_process import BODY, NOWHERE, SUBMIT, Gateway, call, events
from support.stores import nats_url, sqlite_only
from wan_flf2v.contract.parameters import HOSTED, KEYFRAMES


def png(size=(64, 64)):
    stream = io.BytesIO()
    Image.new("RGB", size, "red").save(stream, "PNG")
    return stream.getvalue()


def form(content, name="file", filename="a.png"):
    head = f'--edge\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    return head.encode() + content + b"\r\n--edge--\r\n", {"Content-Type": "multipart/form-data; boundary=edge"}


def test_the_same_key_and_body_is_the_same_request(gateway):
    headers = {"Idempotency-Key": "one"}
    first = gateway.post(SUBMIT, BODY, headers=headers)
    turned = dict(reversed(BODY.items()))
    assert gateway.post(SUBMIT, turned, headers=headers).json == first.json
    other = gateway.post(SUBMIT, {**BODY, "57_steps": 6}, headers=headers)
    assert (other.status, other.code) == (422, 422001)
    assert other.json["detail"][0]["loc"] == ["header", "Idempotency-Key"]
    second_token = gateway.new_token("second")
    assert (
        gateway.post(SUBMIT, BODY, headers=headers, token=second_token).json["request_id"] != first.json["request_id"]
    )
    assert gateway.post(SUBMIT, BODY).json["request_id"] != first.json["request_id"]


def test_a_retry_may_write_its_numbers_in_another_way(gateway):
    headers, post = {"Idempotency-Key": "numbers"}, gateway.post
    numbers = {"57_cfg": 4, "57_steps": 12, "54_shift": 5.0}
    first = post(SUBMIT, {**BODY, **numbers}, headers=headers)
    again = post(SUBMIT, {**BODY, "57_cfg": 4.0, "57_steps": 12.0, "54_shift": 5}, headers=headers)
    assert again.json == first.json
    other = post(SUBMIT, {**BODY, **numbers, "57_cfg": 3.5}, headers=headers)
    assert (other.status, other.json["detail"][0]["type"]) == (422, "idempotency_conflict")


def test_many_with_one_key_at_once_are_one_request(gateway):
    ids = []
    headers = {"Idempotency-Key": "at-once"}
    send = lambda: ids.append(gateway.post(SUBMIT, BODY, headers=headers).json["request_id"])  # noqa: E731
    threads = [threading.Thread(target=send) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 10
    assert len(set(ids)) == 1


@pytest.mark.parametrize("key", ["x" * 256, "with blank", "ümlaut"])
def test_a_bad_key_is_422(gateway, key):
    answer = gateway.post(SUBMIT, BODY, headers={"Idempotency-Key": key.encode("latin-1")})
    assert (answer.status, answer.code) == (422, 422001)


@pytest.mark.parametrize(
    "url", ["http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://localhost/", "ftp://a/", "nonsense"]
)
def test_a_webhook_must_be_public_https(gateway, url):
    answer = gateway.post(f"{SUBMIT}?webhook={url}", BODY)
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["query", "webhook"]


def test_a_doubled_webhook_is_422_and_an_unknown_query_ignored(gateway):
    answer = gateway.post(f"{SUBMIT}?webhook=a&webhook=b", BODY)
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["query", "webhook"]
    for query in (
        "webhok=nonsense",
        "a=1&a=2",
        "webhook_intermediate_status=true",
        "webhook_intermediate_status=False",
    ):
        assert gateway.post(f"{SUBMIT}?{query}", BODY).status == 200, query
    answer = gateway.post(f"{SUBMIT}?webhook_intermediate_status=perhaps", BODY)
    assert (answer.status, answer.code) == (400, 400001)


def test_urls_are_those_the_client_asked_for_and_a_stranger_cannot_change_them(gateway):
    answer = gateway.post(SUBMIT, BODY, headers={"Host": "api.example.com:8443"})
    assert answer.json["status_url"].startswith("http://api.example.com:8443/v1/requests/")
    for port, status in ((65535, 200), (65536, 400), (99999, 400), (0, 400)):
        assert gateway.post(SUBMIT, BODY, headers={"Host": f"a:{port}"}).status == status, port
    forged = {"X-Forwarded-Host": "evil.example", "X-Forwarded-Proto": "https"}
    assert gateway.post(SUBMIT, BODY, headers=forged).json["status_url"].startswith(gateway.url)


def test_a_trusted_proxy_and_a_configured_address_count(tmp_path):
    forwarded = {"X-Forwarded-Host": "api.example.com", "X-Forwarded-Proto": "https", "Host": "inside"}
    with Gateway(tmp_path / "a", NOWHERE, "--trusted-proxy", "127.0.0.1") as gateway:
        answer = gateway.post(SUBMIT, BODY, headers=forwarded)
        assert answer.json["result_url"].startswith("https://api.example.com/v1/requests/")
        odd = gateway.post(SUBMIT, BODY, headers={**forwarded, "X-Forwarded-Host": "a/b?c"})
        assert (odd.status, odd.code) == (400, 400001)
    with Gateway(tmp_path / "b", NOWHERE, "--base-url", "https://video.example.org/") as gateway:
        answer = gateway.post(SUBMIT, BODY, headers=forwarded)
        assert answer.json["result_url"].startswith("https://video.example.org/v1/requests/")


def test_data_uris_and_uploads_are_images(gateway):
    uri = "data:image/png;base64," + base64.b64encode(png()).decode()
    body, headers = form(png((32, 32)))
    upload = gateway.post("/v1/files", body, headers=headers)
    assert upload.status == 200
    assert set(upload.json) == {"id", "name", "content_type", "size", "created_at"}
    request_id = gateway.submit(**{"68_image": uri, "62_image": upload.json["id"]})
    with gateway.store() as store:
        job = store.get(request_id)
    assert set(job.inputs) == {"68_image", "62_image"}
    assert (gateway.data / "inputs" / job.inputs["68_image"]).read_bytes() == png()
    assert len(json.dumps(job.values)) < 1000, "the data URI itself is not kept"


def test_an_upload_belongs_to_its_token(gateway):
    body, headers = form(png())
    file_id = gateway.post("/v1/files", body, headers=headers).json["id"]
    answer = gateway.post(SUBMIT, {**BODY, "62_image": file_id}, token=gateway.new_token("stranger"))
    assert answer.status == 422
    assert answer.json["detail"][0]["loc"] == ["body", "62_image"]


def test_a_later_token_of_the_same_name_is_a_stranger(gateway):
    before = gateway.new_token("reused", queue_limit=1, rate_per_minute=30)
    headers = {"Idempotency-Key": "reused"}
    request_id = gateway.post(SUBMIT, BODY, headers=headers, token=before).json["request_id"]
    body, form_headers = form(png())
    file_id = gateway.post("/v1/files", body, headers=form_headers, token=before).json["id"]
    with gateway.store() as store:
        assert store.revoke_token("reused")
    after = gateway.new_token("reused", queue_limit=1, rate_per_minute=30)
    for path in ("status", "result"):
        assert gateway.get(f"/v1/requests/{request_id}/{path}", token=after).code == 404001
    assert gateway.post(SUBMIT, {**BODY, "62_image": file_id}, token=after).status == 422
    other = gateway.post(SUBMIT, BODY, headers=headers, token=after)
    assert other.status == 200, "neither the queue nor the rate of the one before counts"
    assert other.json["request_id"] != request_id


def test_both_bad_images_are_named(gateway):
    bad = "data:image/png;base64," + base64.b64encode(b"no image").decode()
    answer = gateway.post(SUBMIT, {**BODY, "62_image": bad, "68_image": "../secret.png"})
    assert answer.status == 422
    assert {entry["loc"][1] for entry in answer.json["detail"]} == {"62_image", "68_image"}


def test_limits_of_a_token_are_429_and_say_when_to_come_back(gateway):
    few = gateway.new_token("few", queue_limit=2)
    answers = [gateway.post(SUBMIT, BODY, token=few) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    text = "This token already has 2 requests waiting. Try again in 30 s."
    assert answers[-1].json == {"error_code": 429001, "error_message": text, "detail": {"retry_after": 30}}
    assert answers[-1].headers["Retry-After"] == "30"
    slow = gateway.new_token("slow", rate_per_minute=12)
    answers = [gateway.get("/v1/models", token=slow) for _ in range(4)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert answers[-1].code == 429001
    of_each = " to each gateway" if nats_url(gateway.data) else ""
    text = answers[-1].json["error_message"]
    assert text.startswith(f"This token may send 12 requests per minute{of_each}. Try again in ")
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 5
    assert gateway.get("/v1/models").status == 200, "another token has its own limits"


def test_no_other_page_may_call_unless_configured(gateway, tmp_path):
    headers = {"Origin": "https://example.com"}
    assert "Access-Control-Allow-Origin" not in gateway.get("/v1/models", headers=headers).headers
    with Gateway(tmp_path, NOWHERE, config={"cors_origins": ["https://example.com"]}) as open_one:
        preflight = {**headers, "Access-Control-Request-Method": "POST"}
        answer = open_one.call("OPTIONS", SUBMIT, token=None, headers=preflight)
        assert answer.status == 204
        assert answer.headers["Access-Control-Allow-Origin"] == "https://example.com"
        refused = open_one.get("/v1/models", token=None, headers=headers)
        assert refused.status == 401
        assert refused.headers["Access-Control-Allow-Origin"] == "https://example.com", "pages can read errors"
        request_id = open_one.submit()
        open_one.cancel(request_id)
        stream = open_one.get(f"/v1/requests/{request_id}/events", headers=headers)
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["Access-Control-Allow-Origin"] == "https://example.com", "streams too"
        foreign = open_one.get("/v1/models", headers={"Origin": "https://evil.example"})
        assert "Access-Control-Allow-Origin" not in foreign.headers


def test_events_tell_every_state_and_end(gateway):
    request_id = gateway.submit()
    stream = events(gateway, request_id)
    first, state = next(stream)
    assert state["status"] == "in_queue"
    with gateway.store() as store:
        store.assign(request_id)
        second, state = next(stream)
        assert state["status"] == "in_progress"
        progress = {"fraction": 0.5, "step": 3, "steps": 6, "node": "Sampler", "eta_seconds": 4.0}
        store.report(request_id, progress)
        third, state = next(stream)
        assert state["progress"] == progress
        assert gateway.status(request_id)["progress"] == progress
        store.end(request_id, "failed", error="x")
    fourth, state = next(stream)
    assert state["status"] == "completed"
    assert first < second < third < fourth
    assert list(stream) == [], "the stream ends with the request"


def test_events_go_on_where_the_client_left(gateway):
    request_id = gateway.submit()
    last, _ = next(events(gateway, request_id))
    gateway.cancel(request_id)
    ((newer, state),) = events(gateway, request_id, last)
    assert newer > last
    assert state["status"] == "cancelled"
    headers = {"Last-Event-ID": str(newer)}
    done = gateway.get(f"/v1/requests/{request_id}/events", headers=headers)
    assert (done.status, done.content) == (204, b"")


def test_events_after_an_id_that_the_request_has_not_reached(gateway):
    """It is of another request, or of a store that was put back: the present state is sent as if there were none."""
    request_id = gateway.submit()
    first, _ = next(events(gateway, request_id))
    stream = events(gateway, request_id, first * 1000)
    assert next(stream)[1]["status"] == "in_queue"
    gateway.cancel(request_id)
    ((_, state),) = stream
    assert state["status"] == "cancelled"
    ((_, state),) = events(gateway, request_id, first * 1000)
    assert state["status"] == "cancelled"


def test_a_revoked_token_takes_its_streams_and_links_with_it(gateway):
    token = gateway.new_token("guest")
    ended, waiting = (gateway.post(SUBMIT, BODY, token=token).json["request_id"] for _ in range(2))
    own = gateway.submit()
    with gateway.store() as store:
        store.assign(ended)
        gateway.succeed(store, ended)
        link = gateway.get(f"/v1/requests/{ended}/result", token=token).json["output"]["video"]
        link = link.removeprefix(gateway.url)
        assert gateway.get(link, token=None).content == b"made up"
        stream, own_stream = events(gateway, waiting, token=token), events(gateway, own)
        next(stream), next(own_stream)
        store.revoke_token("guest")
        answer = gateway.get(link, token=None)
        assert (answer.status, answer.code) == (403, 403001)
        assert "revoked" in answer.json["error_message"]
        assert list(stream) == [], "it ends although the request has not"
        store.assign(own)
    assert next(own_stream)[1]["status"] == "in_progress", "another token's goes on"


@sqlite_only
def test_a_stream_ends_when_the_store_cannot_be_read(tmp_path):
    """Its response has begun, so it can say nothing more: the client asks again, and gets the error."""
    with Gateway(tmp_path) as gateway:
        request_id = gateway.submit()
        stream = events(gateway, request_id)
        next(stream)
        with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite3")) as database:
            database.execute("ALTER TABLE jobs RENAME TO elsewhere")
        assert list(stream) == []
        assert gateway.get(f"/v1/requests/{request_id}/status").status == 503
        assert f"event stream ended request_id={request_id}" in gateway.log_text()


def test_an_accepted_request_outlives_kill_9(tmp_path):
    gateway = Gateway(tmp_path)
    with gateway:
        request_id = gateway.submit()
        gateway.kill()
    with gateway:
        assert gateway.status(request_id)["status"] == "in_queue"


def test_an_open_stream_does_not_hold_up_the_shutdown(tmp_path):
    with Gateway(tmp_path) as gateway:
        stream = events(gateway, gateway.submit())
        next(stream)
        gateway.process.terminate()
        assert list(stream) == []
        assert gateway.process.wait(20) == 0


def test_health_readiness_and_metrics(gateway):
    for path in ("/healthz", "/v1/healthz"):
        assert gateway.get(path, token=None).status == 200
    assert gateway.get("/readyz", token=None).json == {"ready": False, "status": "down"}
    ready = gateway.get("/readyz")
    assert ready.status == 503
    assert "Cannot reach ComfyUI" in ready.json["problems"][0]
    gateway.submit()
    assert gateway.get("/metrics", token=None).status == 401
    answer = gateway.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(answer.content.decode())}
    assert {name: family.type for name, family in families.items()} == {
        "wan_flf2v_requests": "gauge",
        "wan_flf2v_unfinished_requests": "gauge",
        "wan_flf2v_comfyui_up": "gauge",
        "wan_flf2v_start_time_seconds": "gauge",
        "wan_flf2v_worker_state": "gauge",
        "wan_flf2v_worker_drained": "gauge",
        "wan_flf2v_http_requests": "counter",
        "wan_flf2v_http_seconds": "histogram",
    }
    assert all(family.documentation for family in families.values())
    jobs = {sample.labels["status"]: sample.value for sample in families["wan_flf2v_requests"].samples}
    assert set(jobs) == {"in_queue", "in_progress", "succeeded", "failed", "cancelled"}
    assert jobs["in_queue"] >= 1
    unfinished = {
        tuple(sample.labels.values()): sample.value for sample in families["wan_flf2v_unfinished_requests"].samples
    }
    for status in ("in_queue", "in_progress"):
        assert sum(number for (_, word), number in unfinished.items() if word == status) == jobs[status]
    assert sum(number for (model, _), number in unfinished.items() if model == HOSTED.model_id) >= 1
    assert unfinished[KEYFRAMES.model_id, "in_queue"] == 0
    assert [sample.value for sample in families["wan_flf2v_comfyui_up"].samples] == [0]
    counts = {tuple(sample.labels.values()): sample.value for sample in families["wan_flf2v_http_requests"].samples}
    assert counts["POST", "/v1/models/{model_id}", "200"] >= 1
    *buckets, _sum, count = (sample.value for sample in families["wan_flf2v_http_seconds"].samples)
    assert [*buckets, count] == sorted([*buckets, count]), "a bucket holds the smaller ones"


def test_readiness_looks_once_for_all_and_not_for_long(tmp_path):
    asked = []
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))  # takes connections and never responds
        gateway = stack.enter_context(Gateway(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}"))
        pool = stack.enter_context(ThreadPoolExecutor(8))
        answers = list(pool.map(lambda _: gateway.get("/readyz"), range(8)))
        silent.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                asked.append(silent.accept()[1])
    assert {answer.status for answer in answers} == {503}
    assert "within 5 s" in answers[0].json["problems"][0]
    assert len(asked) < 8, "one for the calls; the dispatcher asks too"


def test_without_auth_only_on_the_loopback_address(tmp_path):
    command = [
        sys.executable,
        "-I",
        "-m",
        "wan_flf2v",
        "serve",
        "--data",
        str(tmp_path / "x"),
        "--port",
        "0",
        "--no-auth",
    ]
    for host in ("0.0.0.0", "::", "192.0.2.7", "example.com"):
        done = subprocess.run([*command, "--host", host], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 2
        assert "--no-auth" in done.stderr
    with Gateway(tmp_path / "y", NOWHERE, "--no-auth") as gateway:
        for host in ("127.0.0.1", "127.8.8.8:80", "localhost", "LOCALHOST:8000", "[::1]", "[::1]:8000"):
            assert call(gateway.url, "GET", "/v1/models", headers={"Host": host}).status == 200
        for host in ("rebound.example", "localhost.example:80", "192.0.2.7", "[2001:db8::1]", "127.0.0.1@x", ""):
            for path in ("/v1/models", "/readyz"):
                assert call(gateway.url, "GET", path, headers={"Host": host}).code == 403001, host


def test_without_auth_no_page_of_another_origin_may_call(tmp_path):
    with Gateway(tmp_path, NOWHERE, "--no-auth", config={"cors_origins": ["https://friend.example"]}) as gateway:
        request_id = gateway.submit(token=None)
        own = gateway.url
        foreign = [
            {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Origin": own.replace("127.0.0.1", "localhost")},
            {"Origin": own[:-1]}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"},
        ]  # fmt: skip
        upload, kind = form(png())
        for headers in foreign:
            for method, path, body in (
                ("POST", f"/v1/requests/{request_id}/cancel", None),
                ("POST", "/v1/files", upload),
                ("POST", SUBMIT, BODY),
                ("GET", f"/v1/requests/{request_id}/status", None),
            ):
                types = kind if body is upload else {}
                answer = gateway.call(method, path, body, token=None, headers={**headers, **types})
                assert (answer.status, answer.code) == (403, 403001), (headers, path)
        for headers in (
            {},
            {"Origin": own, "Sec-Fetch-Site": "same-origin"},
            {"Sec-Fetch-Site": "none"},
            {"Origin": "https://friend.example", "Sec-Fetch-Site": "cross-site"},
        ):
            assert gateway.post("/v1/files", upload, token=None, headers={**headers, **kind}).status == 200, headers
            assert gateway.get(f"/v1/requests/{request_id}/status", token=None, headers=headers).status == 200, headers


def test_the_log_has_neither_tokens_nor_prompts(gateway):
    gateway.submit(**{"6_text": "a very private prompt"})
    gateway.get("/v1/models", token="wf_someone-elses-secret")
    time.sleep(0.1)
    log = gateway.log_text()
    assert "request accepted request_id=" in log
    for secret in (gateway.token, "wf_someone", "private prompt"):
        assert secret not in log
