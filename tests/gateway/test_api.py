"""The contract's four calls and its errors, on a real gateway whose ComfyUI is down: requests wait."""

import json
import re
import uuid

import pytest
from support.gateway_process import BODY, CURL_BODY, SUBMIT, SUBMIT_DEMO
from wan_flf2v.contract.parameters import HOSTED


@pytest.fixture
def empty_queue(gateway):
    with gateway.store() as store:
        for job in store.queue():
            store.cancel(job.id)


def test_submit_returns_the_id_and_three_absolute_urls(gateway):
    answer = gateway.post(SUBMIT, CURL_BODY)
    assert answer.status == 200
    assert answer.headers["Content-Type"].startswith("application/json")
    request_id = answer.json["request_id"]
    assert str(uuid.UUID(request_id)) == request_id
    root = f"{gateway.url}/v1/requests/{request_id}"
    urls = {f"{name}_url": f"{root}/{name}" for name in ("status", "result", "cancel")}
    events_url = answer.json["events_url"]
    assert events_url.startswith(f"{root}/events?"), "one of this API's own additions"
    assert answer.json == {"request_id": request_id, **urls, "events_url": events_url}


def test_the_page_example_is_the_bundled_defaults(gateway):
    request_id = gateway.post(SUBMIT, CURL_BODY).json["request_id"]
    with gateway.store() as store:
        job = store.get(request_id)
    assert job.values == {parameter.key: parameter.default for parameter in HOSTED.parameters}
    assert job.inputs == {}
    assert job.model_id == "community/wan-2-2/first-last-frame"


@pytest.mark.usefixtures("empty_queue")
def test_status_has_the_queue_position_only_while_waiting(gateway):
    ids = [gateway.submit() for _ in range(3)]
    for position, request_id in enumerate(ids):
        status = gateway.status(request_id)
        root = f"{gateway.url}/v1/requests/{request_id}"
        urls = {"status_url": f"{root}/status", "result_url": f"{root}/result"}
        status.pop("waiting_for", None)
        assert status.pop("events_url").startswith(f"{root}/events?")
        assert status == {"request_id": request_id, "status": "in_queue", "queue_position": position, **urls}
    gateway.cancel(ids[0])
    assert [gateway.status(request_id)["queue_position"] for request_id in ids[1:]] == [0, 1]
    assert set(gateway.status(ids[0])) == {"request_id", "status", "status_url", "result_url", "events_url"}


def test_status_says_that_comfyui_is_down(gateway):
    assert "ComfyUI" in gateway.status(gateway.submit())["waiting_for"]


def test_result_of_an_unfinished_request_is_its_state(gateway):
    request_id = gateway.submit()
    answer = gateway.get(f"/v1/requests/{request_id}/result")
    assert answer.status == 200
    assert set(answer.json) == {"request_id", "status", "created_at", "finished_at"}
    assert answer.json["status"] == "in_queue"
    assert answer.json["finished_at"] is None
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", answer.json["created_at"])


def test_cancel_returns_202_and_is_final(gateway):
    request_id = gateway.submit()
    answer = gateway.cancel(request_id)
    assert answer.status == 202
    assert answer.json == {"request_id": request_id, "status": "cancelled", "outcome": "cancelled"}
    assert gateway.status(request_id)["status"] == "cancelled"
    before = gateway.result(request_id)
    assert before["status"] == "cancelled"
    assert "output" not in before
    again = gateway.cancel(request_id)
    assert again.status == 202
    assert again.json == {"request_id": request_id, "status": "cancelled", "outcome": "not_cancellable"}
    assert gateway.result(request_id) == before


@pytest.mark.parametrize(
    ("status", "spoken"), [("succeeded", "completed"), ("failed", "completed"), ("cancelled", "cancelled")]
)
def test_the_two_vocabularies(gateway, status, spoken):
    request_id = gateway.submit()
    with gateway.store() as store:
        store.assign(request_id)
        assert gateway.status(request_id)["status"] == gateway.result(request_id)["status"] == "in_progress"
        if status == "succeeded":
            gateway.succeed(store, request_id)
        store.end(request_id, status, error="why" if status == "failed" else None)
    assert gateway.status(request_id)["status"] == spoken
    result = gateway.result(request_id)
    assert result["status"] == status
    assert ("output" in result) == (status == "succeeded")
    assert result.get("error") == ("why" if status == "failed" else None)
    assert result["seed"] == 96860978
    if status == "succeeded":
        output = result["output"]
        assert output["videos"] == [output["video"]]
        assert output["images"] == [output["image"]]
        assert output["video"].startswith(f"{gateway.url}/v1/results/{request_id}/video.mp4?")


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Bearer wf_wrong", "Basic Zm9v", "wf_wrong"])
def test_no_or_a_wrong_token_is_401_with_its_own_code(gateway, authorization):
    headers = {} if authorization is None else {"Authorization": authorization}
    for method, path in (("POST", SUBMIT), ("GET", f"/v1/requests/{uuid.uuid4()}/status"), ("GET", "/v1/models")):
        answer = gateway.call(method, path, token=None, headers=headers)
        assert (answer.status, answer.code) == (401, 400004)
        assert set(answer.json) == {"error_code", "error_message", "detail"}
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_revoked_token_is_worthless_at_once(gateway):
    token = gateway.new_token("short-lived")
    assert gateway.get("/v1/models", token=token).status == 200
    with gateway.store() as store:
        assert store.revoke_token("short-lived")
    assert gateway.get("/v1/models", token=token).status == 401


@pytest.mark.parametrize("call", ["status", "result", "cancel", "events"])
def test_unknown_invalid_foreign_and_expired_ids(gateway, call):
    method = "POST" if call == "cancel" else "GET"
    unknown = gateway.call(method, f"/v1/requests/{uuid.uuid4()}/{call}")
    assert (unknown.status, unknown.code) == (404, 404001)
    for text in ("1", "x" * 36, str(uuid.uuid4()).upper(), "..%2f..", "%00"):
        answer = gateway.call(method, f"/v1/requests/{text}/{call}")
        assert (answer.status, answer.code) == (400, 400001), text
        message = "Invalid request id: expected the lowercase UUID that submit returned."
        assert answer.json["error_message"] == message
    request_id = gateway.submit()
    other = gateway.new_token(f"other-{call}")
    foreign = gateway.call(method, f"/v1/requests/{request_id}/{call}", token=other)
    assert (foreign.status, foreign.code) == (404, 404001)
    assert gateway.status(request_id)["status"] == "in_queue"
    gateway.cancel(request_id)
    with gateway.store() as store:
        store.expire([request_id])
    expired = gateway.call(method, f"/v1/requests/{request_id}/{call}")
    assert (expired.status, expired.code) == (404, 404001)


def test_an_unknown_model_is_404_and_names_what_is_near(gateway):
    for method in ("GET", "POST"):
        answer = gateway.call(
            method, "/v1/models/community/wan-2-2/first-last-fram", BODY if method == "POST" else None
        )
        assert (answer.status, answer.code) == (404, 404001)
        assert HOSTED.model_id in answer.json["error_message"]
    demo = gateway.post(SUBMIT_DEMO, BODY)
    assert demo.status == 404, "the demo's model is not offered unless asked for"
    assert demo.json["error_message"].endswith("GET /v1/models lists those that are."), "and nothing is near it"


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("71_widthx71_height", "721x720 (1:1)", "720x720 (1:1)"),
        ("67_length", 82, "81"),
        ("73_frame_rate", 25, "24"),
        ("57_steps", 5, "6"),
        ("57_steps", True, "integer"),
        ("57_steps", "12", "integer"),
        ("57_cfg", 4.01, "4"),
        ("54_shift", 0.99, "1"),
        ("57_noise_seed", -1, "0"),
        ("57_noise_seed", 2**64, "18446744073709551615"),
        ("6_text", None, "text"),
        ("68_image", "", "image"),
        ("57_step", 6, "57_steps"),
        ("6_txt", "x", "6_text"),
    ],
)
def test_a_bad_value_is_422_with_one_entry_and_is_never_clamped(gateway, key, value, word):
    with gateway.store() as store:
        before = store.count()
        answer = gateway.post(SUBMIT, {**BODY, key: value})
        assert (answer.status, answer.code) == (422, 422001)
        (entry,) = answer.json["detail"]
        assert set(entry) == {"loc", "msg", "type"}
        assert entry["loc"] == ["body", key]
        assert word in entry["msg"]
        assert store.count() == before


def test_every_bad_field_has_an_entry(gateway):
    answer = gateway.post(SUBMIT, {"57_steps": 99, "57_cfg": 9, "nonsense": 1})
    assert answer.status == 422
    located = {entry["loc"][-1] for entry in answer.json["detail"]}
    assert located == {"57_steps", "57_cfg", "nonsense", "62_image", "6_text", "68_image"}


@pytest.mark.parametrize("values", [{"57_steps": 6.0}, {"57_cfg": 1}, {"54_shift": 8.5}, {"57_noise_seed": 2**64 - 1}])
def test_what_json_schema_takes_is_taken(gateway, values):
    gateway.submit(**values)


def test_start_and_end_are_not_swapped(gateway):
    request_id = gateway.submit(**{"62_image": "the_end.png", "68_image": "the_start.png"})
    with gateway.store() as store:
        values = store.get(request_id).values
    assert (values["68_image"], values["62_image"]) == ("the_start.png", "the_end.png")


def test_nothing_at_an_address_and_wrong_methods(gateway):
    answer = gateway.get("/v1/nothing")
    assert (answer.status, answer.code) == (404, 404001)
    answer = gateway.call("DELETE", "/v1/models")
    assert (answer.status, answer.code) == (405, 405001)
    assert "GET" in answer.headers["Allow"]


def test_every_error_is_json_with_the_three_members(gateway):
    for answer in (
        gateway.get("/nothing"),
        gateway.post(SUBMIT, "{"),
        gateway.call("PUT", SUBMIT),
        gateway.get("/v1/requests/1/status"),
    ):
        assert set(answer.json) == {"error_code", "error_message", "detail"}
        assert answer.json["error_code"] // 1000 == answer.status


def test_json_numbers_survive_the_way_to_the_store(gateway):
    body = json.dumps(BODY)[:-1] + ', "57_cfg": 2.50, "57_noise_seed": 18446744073709551615}'
    request_id = gateway.post(SUBMIT, body).json["request_id"]
    with gateway.store() as store:
        values = store.get(request_id).values
    assert (values["57_cfg"], values["57_noise_seed"]) == (2.5, 18446744073709551615)
