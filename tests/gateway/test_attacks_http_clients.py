"""Hostile clients, on a real gateway: guessed tokens, others' requests, odd headers, and connections held open."""

import contextlib
import json
import socket
import time
import uuid
from urllib.parse import urlsplit

import pytest
from support.gateway_process import BODY, SUBMIT, raw


@pytest.fixture(autouse=True)
def still_serves(gateway):
    yield
    assert gateway.get("/v1/models").status == 200
    assert "Traceback" not in gateway.log_text()


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
    assert received.split(b" ", 2)[1] in (b"200", b"400"), received
    assert b"evil.example" not in received


AUTHORIZED = "Host: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    ("request_text", "code", "reason"),
    [
        ("nonsense\r\n\r\n", 400001, "its method is unknown"),
        ("FETCH /v1/models HTTP/1.1\r\n" + AUTHORIZED + "\r\n", 400001, "its method is unknown"),
        ("GET /v1/models HTTP/9.9\r\n" + AUTHORIZED + "\r\n", 400001, "malformed"),
        ("GET /v1/models HTTP/1.1\r\n" + AUTHORIZED + "X Bad: 1\r\n\r\n", 400001, "malformed"),
        ("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\x00\r\n\r\n", 400001, "malformed"),
        (
            "GET /v1/models HTTP/1.1\r\n" + AUTHORIZED + "X-Long: " + "x" * 9000 + "\r\n\r\n",
            400001,
            "longer than 8190 bytes",
        ),
        ("GET /" + "x" * 9000 + " HTTP/1.1\r\n" + AUTHORIZED + "\r\n", 400001, "longer than 8190 bytes"),
        ("GET /v1/models HTTP/1.1\r\n" + AUTHORIZED + "Expect: miracles\r\n\r\n", 417001, "100-continue"),
        ("GET /nothing HTTP/1.1\r\n" + AUTHORIZED + "Expect: miracles\r\n\r\n", 417001, "100-continue"),
        ("PUT /v1/models HTTP/1.1\r\n" + AUTHORIZED + "Expect: miracles\r\n\r\n", 417001, "100-continue"),
    ],
    ids=[
        *("nonsense", "method", "version", "header", "nul", "long-header", "long-path"),
        *("expect", "expect-nowhere", "expect-other-method"),
    ],
)
def test_what_aiohttp_responds_itself_is_the_contracts_too(gateway, request_text, code, reason):
    received = raw(gateway, request_text.format(token=gateway.token).encode("latin-1"), seconds=3)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {code // 1000} ".encode()) or head.startswith(
        f"HTTP/1.0 {code // 1000} ".encode()
    )
    assert b"Content-Type: application/json" in head
    answer = json.loads(body)
    assert set(answer) == {"error_code", "error_message", "detail"}
    assert answer["error_code"] == code
    assert reason in answer["error_message"]
    assert gateway.token not in gateway.log_text()


@pytest.mark.parametrize(
    ("path", "kind"), [(SUBMIT, "application/json"), ("/v1/files", "multipart/form-data; boundary=b")]
)
def test_a_body_that_cannot_be_unpacked(gateway, path, kind):
    head = f"POST {path} HTTP/1.1\r\n{AUTHORIZED.format(token=gateway.token)}Content-Type: {kind}\r\n"
    encoding = "Content-Encoding: gzip\r\nContent-Length: 9\r\n\r\n"
    received = raw(gateway, (head + encoding).encode(), b"rubbish!!", seconds=3)
    assert received.startswith(b"HTTP/1.1 400 ")
    answer = json.loads(received.partition(b"\r\n\r\n")[2])
    assert answer["error_code"] == 400001
    assert "Content-Encoding are damaged" in answer["error_message"]


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
        text = "This token already has 64 event streams open. Try again in 5 s."
        assert answer.json["error_message"] == text
    finally:
        for connection in connections:
            connection.close()
    deadline = time.monotonic() + 30
    while gateway.get(f"/v1/requests/{uuid.uuid4()}/events").status == 429:
        assert time.monotonic() < deadline


def test_slow_loris(gateway):
    """Connections that never finish their headers or bodies, or never read, hold up nobody and are closed."""
    parts = urlsplit(gateway.url)
    body_head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    )
    form_head = (
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000\r\n\r\n--b\r\nContent-Disp"
    )
    starts = ["", "GET / HTT", "GET /v1/models HTTP/1.1\r\nHost: x\r\nX-Slow: ", body_head, form_head]
    connections = []
    unread = socket.socket()  # its client reads nothing of many responses
    unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    unread.connect((parts.hostname, parts.port))
    unread.sendall(b"GET /v1/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000)
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
    assert ends == {0: {b""}, 1: {b""}, 2: {b""}, 3: {b"HTTP/1.1 408"}, 4: {b"HTTP/1.1 408"}}
    deadline = time.monotonic() + 60
    while "client dropped, it does not read" not in gateway.log_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    unread.close()


def test_a_body_of_unknown_length_does_not_wait_for_others_that_stall(gateway):
    parts, body = urlsplit(gateway.url), json.dumps(BODY).encode()
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(4):
            client = stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=30))
            client.sendall(head)
            assert client.recv(100).startswith(b"HTTP/1.1 100 ")
            clients.append(client)
        assert gateway.post(SUBMIT, BODY).status == 200, "small bodies of known length wait for none"
        clients[3].sendall(f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n")
        assert clients[3].recv(100).startswith(b"HTTP/1.1 200 ")
