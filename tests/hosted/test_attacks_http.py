"""Attacks through HTTP, on a real gateway: nothing is a server error, nothing leaks, and others are still served."""

import http.client
import json
import socket
import time
import uuid
from urllib.parse import urlsplit

import pytest
from gateway import BODY, NOWHERE, SUBMIT, Gateway

MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    config = {"queue_limit": 10_000, "rate_per_minute": 1_000_000}
    with Gateway(tmp_path_factory.mktemp("attacks"), NOWHERE, config=config) as it:
        yield it


@pytest.fixture(autouse=True)
def still_serves(gateway):
    yield
    assert gateway.get("/v1/models").status == 200
    assert "Traceback" not in gateway.log_text()


def raw(gateway, data, seconds=5.0):
    """Send bytes as they are and return what comes back until the server closes or falls silent."""
    parts = urlsplit(gateway.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=seconds) as connection:
        connection.sendall(data)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return received


def refused(answer, code=400001):
    assert (answer.status, answer.code) == (code // 1000, code), answer.content
    return answer.json["error_message"]


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"6_text": ['])
@pytest.mark.parametrize("depth", [20, 900, 100_000])
def test_deep_json(gateway, opening, depth):
    refused(gateway.post(SUBMIT, opening * depth))
    closing = {"[": "]", '{"a":': "}", '{"6_text": [': "]}"}[opening]
    refused(gateway.post(SUBMIT, opening * depth + "1" + closing * depth))


def test_duplicate_keys(gateway):
    body = json.dumps(BODY)[:-1] + ', "57_steps": 6, "57_steps": 20}'
    assert '"57_steps" twice' in refused(gateway.post(SUBMIT, body))
    refused(gateway.post(SUBMIT, '{"6_text": {"a": 1, "a": 2}}'))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"\xff\xfe{\x00}\x00",
        b'{"6_text": "\xff"}',
        b'{"57_cfg": NaN}',
        b'{"57_cfg": -Infinity}',
        b'{"6_text": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"57_steps": ' + b"9" * 10_000 + b"}",
        b"{} {}",
        b'{"a": ' + b"[]," * 300_000 + b"1}",
    ],
    ids=range(16),
)
def test_bodies_that_are_no_request(gateway, body):
    refused(gateway.post(SUBMIT, body))


def test_huge_numbers_are_bad_values(gateway):
    body = json.dumps(BODY)[:-1] + ', "57_cfg": 1e999, "57_steps": 1e999, "57_noise_seed": 1e30}'
    answer = gateway.post(SUBMIT, body)
    refused(answer, 422001)
    assert len(answer.json["detail"]) == 3


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
)
def test_only_json_is_json(gateway, kind):
    refused(gateway.post(SUBMIT, json.dumps(BODY), headers={"Content-Type": kind}), 415001)


@pytest.mark.parametrize("character", ["\x00", "\x07", "\x1b", "\x7f", "\x9b"])
def test_nul_and_control_characters(gateway, character):
    for key in ("6_text", "68_image"):
        answer = gateway.post(SUBMIT, {**BODY, key: f"a{character}b"})
        refused(answer, 422001)
        assert character not in answer.json["detail"][0]["msg"]
    refused(gateway.post(SUBMIT, {**BODY, f"x{character}": 1}), 422001)


def test_a_prompt_may_have_lines_but_not_a_novel(gateway):
    gateway.submit(**{"6_text": "first line\n\tsecond line\r\n"})
    gateway.submit(**{"6_text": "语" * 20_000})
    answer = gateway.post(SUBMIT, {**BODY, "6_text": "x" * 20_001})
    refused(answer, 422001)
    assert "20000" in answer.json["detail"][0]["msg"]
    assert len(answer.content) < 2000, "it is not sent back"
    refused(gateway.post(SUBMIT, {**BODY, "6_text": "x" * (8 * MEBIBYTE)}), 422001)


def test_a_body_over_the_limit_is_refused_before_it_is_sent(gateway):
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        "Content-Type: application/json\r\n"
    ).encode()
    received = raw(gateway, head + f"Content-Length: {65 * MEBIBYTE}\r\n\r\n".encode() + b"{")
    assert received.startswith(b"HTTP/1.1 413 ")
    assert b'"error_code": 413001' in received


def test_a_chunked_body_over_the_limit(gateway):
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=60)
    headers = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json"}
    try:
        connection.request("POST", SUBMIT, (b" " * MEBIBYTE for _ in range(70)), headers, encode_chunked=True)
        status = connection.getresponse().status
    except OSError:  # the server closed while we were still sending
        status = 413
    finally:
        connection.close()
    assert status == 413


def test_no_body_is_read_without_a_token(gateway):
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {60 * MEBIBYTE}\r\n\r\n"
    )
    assert raw(gateway, head.encode() + b"{", seconds=2).startswith(b"HTTP/1.1 401 ")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no form at all",
        b"--edge\r\n",
        b"--edge\r\nContent-Disposition: form-data; name=other\r\n\r\nx\r\n--edge--\r\n",
    ],
)
def test_uploads_that_are_no_upload(gateway, content):
    answer = gateway.post("/v1/files", content, headers={"Content-Type": "multipart/form-data; boundary=edge"})
    assert answer.status in (400, 422), answer.content
    assert answer.code in (400001, 422001)


def test_an_upload_over_the_limit(gateway):
    head = b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    try:
        status = gateway.post("/v1/files", head + bytes(51 * MEBIBYTE) + b"\r\n--edge--\r\n", headers=headers).status
    except OSError:
        status = 413
    assert status == 413


@pytest.mark.parametrize(
    "name", ["../../evil.png", "..\\evil.png", "/etc/passwd", "a\x00.png", "a" * 5000, "\x1b[31m.png"]
)
def test_the_name_of_an_upload_becomes_no_path(gateway, name, tmp_path):
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    content = (
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"
        b"\x00\x00\x00\nIDATx\x9cc`\x00\x00\x00\x02\x00\x01H\xaf\xa4q\x00\x00\x00\x00IEND\xaeB`\x82"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    before = {path for path in gateway.data.parent.rglob("*") if "inputs" not in path.parts}
    answer = gateway.post("/v1/files", head + content + b"\r\n--edge--\r\n", headers=headers)
    assert answer.status in (200, 400)
    if answer.status == 200:
        assert answer.json["name"].isprintable()
        assert len(answer.json["name"]) <= 255
    assert {path for path in gateway.data.parent.rglob("*") if "inputs" not in path.parts} == before


@pytest.mark.parametrize(
    "name",
    [
        "../x.png",
        "..\\x.png",
        "/etc/passwd",
        "C:\\x.png",
        "a/../../x.png",
        "x.png [output]",
        "\\\\host\\share",
        "~/x.png",
    ],
)
def test_traversal_in_image_names(gateway, name):
    refused(gateway.post(SUBMIT, {**BODY, "68_image": name}), 422001)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/results/../../etc/passwd",
        "/v1/results/%2e%2e/%2e%2e%2fetc%2fpasswd",
        f"/v1/results/{uuid.uuid4()}/..%2f..%2fstore.sqlite3?expires=99999999999&signature=x",
        f"/v1/results/{uuid.uuid4()}/video.mp4?expires=99999999999&signature={'0' * 64}",
        f"/v1/results/{uuid.uuid4()}/video.mp4?expires=%00&signature=%ff",
        f"/v1/results/{uuid.uuid4()}/video.mp4",
        "/v1/requests/..%2f..%2fstore/status",
        "/v1/models/../../etc/passwd",
    ],
)
def test_traversal_in_paths(gateway, path):
    answer = gateway.get(path)
    assert answer.status in (400, 403, 404)
    assert answer.code in (400001, 403001, 404001)


def test_token_guessing(gateway):
    message = gateway.get("/v1/models", token="wf_").json
    guesses = [gateway.token[:-1], gateway.token + "x", gateway.token.upper(), gateway.token[3:], "wf_" + "A" * 43]
    guesses += ["x" * 5000, "\xff\xfe", "%s%s", "' OR 1=1 --", "*"]
    for guess in guesses:
        headers = {"Authorization": b"Bearer " + guess.encode("latin-1")}
        answer = gateway.get("/v1/models", token=None, headers=headers)
        assert (answer.status, answer.json) == (401, message), guess
    twice = raw(
        gateway,
        "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer wf_no\r\n"
        f"Authorization: Bearer {gateway.token}\r\nConnection: close\r\n\r\n".encode(),
    )
    assert twice.startswith((b"HTTP/1.1 401", b"HTTP/1.1 400"))


def test_anothers_request_looks_like_none(gateway):
    stranger = gateway.new_token("stranger")
    mine, none = gateway.submit(), str(uuid.uuid4())
    for call in ("status", "result", "cancel", "events"):
        method = "POST" if call == "cancel" else "GET"
        foreign, unknown = (
            gateway.call(method, f"/v1/requests/{request_id}/{call}", token=stranger) for request_id in (mine, none)
        )
        assert foreign.status == unknown.status == 404
        assert foreign.content.replace(mine.encode(), none.encode()) == unknown.content
    assert gateway.status(mine)["status"] == "in_queue"


@pytest.mark.parametrize(
    "header",
    [
        "Host: a\r\nX-Injected: 1",
        "Host: evil.example/path",
        "Host: a b",
        "Host: user@evil.example",
        "Host: \x80",
        "Host: <script>",
        "Host:",
        "X-Bad: a\x00b",
        "Content-Length: 1\r\nTransfer-Encoding: chunked",
        "Content-Length: -1",
        "Content-Length: 5\r\nContent-Length: 6",
        "X Bad: 1",
    ],
)
def test_header_injection(gateway, header):
    body = json.dumps(BODY)
    length = "" if "Content-Length" in header else f"Content-Length: {len(body)}\r\n"
    host = "" if header.startswith("Host") else "Host: x\r\n"
    request = (
        f"POST {SUBMIT} HTTP/1.1\r\n{host}{header}\r\nAuthorization: Bearer {gateway.token}\r\n"
        f"Content-Type: application/json\r\n{length}Connection: close\r\n\r\n{body}"
    )
    received = raw(gateway, request.encode("latin-1"), seconds=3)
    head = received.partition(b"\r\n\r\n")[0]
    assert b"X-Injected" not in head
    assert not received.startswith(b"HTTP/1.1 5"), received
    assert b"evil.example" not in received


@pytest.mark.parametrize("key", ["a\tb", "\x7f", "é", " "])
def test_odd_idempotency_keys(gateway, key):
    answer = gateway.post(SUBMIT, BODY, headers={"Idempotency-Key": key.encode("latin-1")})
    assert answer.status in (400, 422)


@pytest.mark.parametrize("last", ["-1", "9" * 400, "x", "1e3", "²"])
def test_odd_last_event_ids(gateway, last):
    request_id = gateway.submit()
    gateway.cancel(request_id)
    headers = {"Last-Event-ID": last.encode("latin-1")}
    assert gateway.get(f"/v1/requests/{request_id}/events", headers=headers).status == 200


def test_too_many_streams_of_one_token(gateway):
    parts = urlsplit(gateway.url)
    request_id = gateway.submit()
    ask = f"GET /v1/requests/{request_id}/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n\r\n"
    connections = []
    try:
        for _ in range(64):
            connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
            connection.sendall(ask.encode())
            assert connection.recv(12) == b"HTTP/1.1 200"
            connections.append(connection)
        answer = gateway.get(f"/v1/requests/{request_id}/events")
        assert (answer.status, answer.code) == (429, 429001)
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 30
    while gateway.get(f"/v1/requests/{uuid.uuid4()}/events").status == 429:
        assert time.monotonic() < deadline


def test_slow_loris(gateway):
    """Hundreds of connections that never finish their headers or bodies hold up nobody, and are closed."""
    parts = urlsplit(gateway.url)
    body_head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    starts = ["", "GET / HTT", "GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: ", body_head]
    connections = []
    for number in range(300):
        connection = socket.create_connection((parts.hostname, parts.port), timeout=60)
        connection.sendall(starts[number % len(starts)].encode())
        connections.append(connection)
    try:
        assert gateway.get("/v1/models").status == 200
        gateway.submit()
        ends = {}
        for number, connection in enumerate(connections):
            try:
                ends.setdefault(number % len(starts), set()).add(connection.recv(12))
            except ConnectionResetError:
                ends.setdefault(number % len(starts), set()).add(b"")
    finally:
        for connection in connections:
            connection.close()
    assert ends == {0: {b""}, 1: {b""}, 2: {b""}, 3: {b"HTTP/1.1 408"}}
