"""The API on ComfyUI's own server, and what the pack adds there for a gateway."""

import json
import stat
import sys
import uuid

import pytest
from support.gateway_process import BODY, SUBMIT, SUBMIT_DEMO, call, events, raw
from support.odd_pictures import png_16_bit
from support.request_images import data_uri
from wan_flf2v.contract.parameters import MODELS
from wan_flf2v.gateway.jobs.comfyui import ONCE

FAST = {"71_widthx71_height": "96x128 (3:4)", "67_length": 17, "57_steps": 1}
OFF = "hosted API of wan-flf2v is off path=/v1"


@pytest.fixture(scope="module")
def mounted(new_comfy_server):
    with_settings = new_comfy_server()
    folder = with_settings.base_dir / "user" / "wan_flf2v"
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(json.dumps({"demo": True}))
    with with_settings as host:
        yield Mounted(host, folder)


class Mounted:
    def __init__(self, host, folder):
        self.host, self.folder, self.url = host, folder, host.url
        self.token = (folder / "token").read_text()

    def call(self, method, path, body=None, **headers):
        headers = {"Authorization": f"Bearer {self.token}", **headers}
        if body is not None:
            headers["Content-Type"] = "application/json"
        return call(self.url, method, path, None if body is None else json.dumps(body), headers)


def on_lines(host):
    return [line for line in host.log_text().splitlines() if "hosted API of wan-flf2v is on" in line]


def test_the_first_start_makes_a_token_and_says_all_in_one_line(mounted):
    (line,) = on_lines(mounted.host)
    assert f"url={mounted.url}/v1: " in line
    assert "runs them here" in line and "Nothing leaves this machine" in line
    assert f"The token is in {mounted.folder / 'token'}." in line
    assert f'write {{"mount": false}} into {mounted.folder / "api.json"}' in line
    assert mounted.token not in mounted.host.log_text()
    assert (mounted.folder / "webhook.secret").read_text().startswith("whsec_")
    assert not (mounted.folder / "webhook_secret").exists(), "one name"
    if sys.platform != "win32":
        for name in ("token", "webhook.secret"):
            assert stat.S_IMODE((mounted.folder / name).stat().st_mode) == 0o600


@pytest.mark.smoke
def test_the_api_runs_a_request_on_its_own_host(mounted):
    body = {**BODY, **FAST, "68_image": "start.jpg", "62_image": data_uri(png_16_bit(8, 8))}
    answer = mounted.call("POST", SUBMIT_DEMO, body)
    assert answer.status == 200, answer.content
    request_id = answer.json["request_id"]
    assert answer.json["status_url"] == f"{mounted.url}/v1/requests/{request_id}/status"
    *_, (_, last) = events(mounted, request_id)
    assert last["status"] == "completed"
    result = mounted.call("GET", f"/v1/requests/{request_id}/result").json
    assert result["status"] == "succeeded", result
    video = call(mounted.url, "GET", result["output"]["video"].removeprefix(mounted.url))
    assert (video.status, video.headers["Content-Type"]) == (200, "video/mp4")
    assert "Cannot reach ComfyUI" not in mounted.host.log_text(), "it waits until ComfyUI listens"


def test_the_api_there_is_the_same(mounted):
    assert call(mounted.url, "GET", "/v1/models").status == 401
    answer = mounted.call("GET", "/v1/nothing")
    assert (answer.status, answer.code) == (404, 404001)
    assert mounted.call("POST", SUBMIT, {**BODY, "57_steps": 1}).code == 422001
    assert mounted.call("GET", "/v1/models").json["total"] == len(MODELS)
    assert mounted.call("GET", "/v1/healthz").status == 200
    assert mounted.call("GET", "/v1/readyz").json["ready"]
    assert 'route="/v1/models"' in mounted.call("GET", "/v1/metrics").content.decode()
    assert mounted.call("GET", "/v1/openapi.json").json["openapi"] == "3.1.0"
    (worker,) = mounted.call("GET", "/v1/workers").json["workers"]
    assert worker["name"] == mounted.url, "the first token is an operator's"


@pytest.mark.parametrize(("end", "sent_first"), [("\x00", 0), ("\r\nX Bad: 1", 0), ("\n\x01", 0), ("\x00", 8)])
def test_a_malformed_request_puts_no_token_into_comfyuis_log(mounted, end, sent_first):
    """``sent_first``: how many characters of the token come in an earlier packet than the rest."""
    before = mounted.host.log_text()
    start = f"GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {mounted.token[:sent_first]}"
    received = raw(mounted, start.encode(), f"{mounted.token[sent_first:]}{end}\r\n\r\n".encode(), seconds=3)
    assert received.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
    log = mounted.host.log_text()[len(before) :]
    assert "Error handling request" in log, "the rest of the line stays"
    assert mounted.token not in log
    assert mounted.token[sent_first or 3 :] not in log


def test_comfyui_is_untouched(mounted):
    assert call(mounted.url, "GET", "/system_stats").status == 200
    assert call(mounted.url, "GET", "/api/queue").status == 200
    assert OFF not in mounted.host.log_text()


def test_a_start_of_comfyui_has_a_name(mounted):
    first, second = (call(mounted.url, "GET", "/wan_flf2v/instance").json["instance"] for _ in range(2))
    assert first == second


def test_images_of_a_request_are_removed_and_nothing_else(mounted):
    inputs = mounted.host.base_dir / "input"
    request_id, other = str(uuid.uuid4()), str(uuid.uuid4())
    for folder in (request_id, other):
        (inputs / "wan_flf2v_api" / folder).mkdir(parents=True)
        (inputs / "wan_flf2v_api" / folder / "a.png").touch()
    for _ in range(2):
        assert call(mounted.url, "DELETE", f"/wan_flf2v/inputs/{request_id}").status == 204
    assert not (inputs / "wan_flf2v_api" / request_id).exists()
    for name in ("..", "%2e%2e", "..%2f..%2foutput", other.upper(), f"{other}%2f..", "*", "%00"):
        assert call(mounted.url, "DELETE", f"/wan_flf2v/inputs/{name}").status in (400, 404, 405)
    assert (inputs / "wan_flf2v_api" / other / "a.png").exists()
    assert (inputs / "start.jpg").exists()


def test_a_request_is_queued_once_by_its_id(mounted):
    """The post of a gateway that was killed may come after that of the next one; other prompts are not looked at."""
    graph = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}
    prompt_id, plain = str(uuid.uuid4()), str(uuid.uuid4())

    def post(prompt_id, extra_data):
        body = json.dumps({"prompt": graph, "prompt_id": prompt_id, "extra_data": extra_data})
        return call(mounted.url, "POST", "/prompt", body, {"Content-Type": "application/json"})

    assert [post(prompt_id, {ONCE: True}).status for _ in range(3)] == [200, 400, 400]
    assert f"prompt was queued before and is refused request_id={prompt_id}" in mounted.host.log_text()
    for extra_data in ({}, {ONCE: False}, {ONCE: "1"}):
        assert [post(plain, extra_data).status for _ in range(2)] == [200, 200]


def test_images_that_are_still_there_are_no_success(mounted):
    obstacle = mounted.host.base_dir / "input" / "wan_flf2v_api" / str(uuid.uuid4())
    obstacle.parent.mkdir(exist_ok=True)
    obstacle.touch()  # not a folder, so that removing it fails
    assert call(mounted.url, "DELETE", f"/wan_flf2v/inputs/{obstacle.name}").status == 500


@pytest.mark.parametrize(
    ("content", "log"),
    [
        ('{"qeue_limit": 3}', (OFF, "qeue_limit")),
        ("[" * 100_000, (OFF, "Traceback", "RecursionError")),  # what nobody thought of
        ('{"mount": false}', ('the setting "mount" is false',)),
    ],
    ids=["unknown", "unforeseen", "off"],
)
def test_whatever_is_wrong_with_the_mount_the_nodes_are_there(new_comfy_server, content, log):
    host = new_comfy_server()
    folder = host.base_dir / "user" / "wan_flf2v"
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(content)
    with host:
        for text in log:
            assert text in host.log_text()
        assert call(host.url, "GET", "/object_info/WanFLF2VSampler").json
        assert call(host.url, "GET", "/v1/models").status == 404
        assert call(host.url, "GET", "/wan_flf2v/instance").status == 200, "a gateway needs it all the same"


def test_later_starts_say_the_address_and_a_kept_token_goes_on_with_a_new_store(new_comfy_server):
    host = new_comfy_server()
    folder = host.base_dir / "user" / "wan_flf2v"
    with host:
        token, secret = (folder / "token").read_text(), (folder / "webhook.secret").read_text()
    with host:
        assert [line.partition(" is on ")[2] for line in on_lines(host)][-1] == f"url={host.url}/v1"
    for path in folder.glob("store.sqlite3*"):
        path.unlink()
    with host:
        assert f"url={host.url}/v1: " in on_lines(host)[-1], "the API is new again"
        assert call(host.url, "GET", "/v1/models", headers={"Authorization": f"Bearer {token}"}).status == 200
    assert ((folder / "token").read_text(), (folder / "webhook.secret").read_text()) == (token, secret)


def test_of_several_on_one_user_folder_one_dispatches_and_others_can_be_switched_off(new_comfy_server, monkeypatch):
    """As the README says: the first that started runs all requests, on itself; when it ends, another does."""
    first = new_comfy_server()
    user = first.base_dir / "user"
    second = new_comfy_server("--user-directory", str(user))
    monkeypatch.setenv("WAN_FLF2V_MOUNT", "false")
    off = new_comfy_server("--user-directory", str(user))
    monkeypatch.delenv("WAN_FLF2V_MOUNT")
    folder = user / "wan_flf2v"
    folder.mkdir(parents=True)
    (folder / "api.json").write_text(json.dumps({"demo": True}))

    def run_all(*through):
        """Submit a request through each of these, and return the ids when all have ended."""
        body = {**BODY, **FAST, "68_image": "start.jpg", "62_image": "end.jpg"}
        answers = [
            api.call("POST", SUBMIT_DEMO, {**body, "57_noise_seed": uuid.uuid4().int % 2**32}) for api in through
        ]
        ids = [answer.json["request_id"] for answer in answers]
        for api, request_id in zip(through, ids, strict=True):
            *_, (_, last) = events(api, request_id)
            assert last["status"] == "completed"
            assert api.call("GET", f"/v1/requests/{request_id}/result").json["status"] == "succeeded"
        return sorted(ids)

    def made_by(host):
        videos = (host.base_dir / "output" / "wan_flf2v_api").glob("*.mp4")
        return sorted({path.name[:36] for path in videos})

    with first, second, off:
        one, two = Mounted(first, folder), Mounted(second, folder)
        assert call(off.url, "GET", "/v1/models").status == 404
        made = run_all(two, one, two)
        assert (made_by(first), made_by(second)) == (made, [])
        first.stop()
        later = run_all(two, two)
        assert (made_by(first), made_by(second), made_by(off)) == (made, later, [])
