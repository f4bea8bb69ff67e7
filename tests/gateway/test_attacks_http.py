"""Hostile bodies and names, on a real gateway: nothing is a server error, and others are still served."""

import contextlib
import gzip
import json
import select
import socket
import time
from urllib.parse import urlsplit

import pytest
from support.gateway_process import BODY, NOWHERE, SUBMIT, Gateway, raw
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.gateway.http.request_body import ARRIVING_EACH

MEBIBYTE = 1 << 20
UNKNOWN = "6f1c2f0e-5d0b-4a55-9d0c-1b2a3c4d5e6f"  # a request id that nothing has


@pytest.fixture(autouse=True)
def still_serves(gateway):
    yield
    assert gateway.get("/v1/models").status == 200
    assert "Traceback" not in gateway.log_text()


def send_until_response(gateway, head, pieces):
    """Send a body until the server responds or closes; returns how many pieces went out, and what came back."""
    parts = urlsplit(gateway.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=60) as connection:
        connection.sendall(head.encode())
        sent = 0
        for piece in pieces:
            try:
                connection.sendall(piece)
            except (BrokenPipeError, ConnectionResetError):
                break
            sent += 1
            if select.select([connection], [], [], 0)[0]:
                break
        return sent, connection.recv(65536)


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


@pytest.mark.parametrize("count", [1_001, 16_000])
def test_very_many_keys(gateway, count):
    keys = {f"key{number}": 1 for number in range(count)}
    assert "too many items" in refused(gateway.post(SUBMIT, keys))
    assert "too many items" in refused(gateway.post(SUBMIT, {"a": {"b": list(keys)}}))
    twice = json.dumps(keys)[:-1] + f', "key{count - 1}": 1}}'
    assert f'"key{count - 1}" twice' in refused(gateway.post(SUBMIT, twice))


def test_a_long_list_of_errors_is_cut(gateway):
    answer = gateway.post(SUBMIT, {**BODY, **{f"{number}" + "x" * 60_000: 1 for number in range(900)}})
    refused(answer, 422001)
    assert "880 are not listed" in answer.json["error_message"]
    assert len(answer.json["detail"]) == 21
    assert len(answer.content) < 20_000


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


def test_integers_of_400_digits_are_bad_values(gateway):
    answer = gateway.post(SUBMIT, {**BODY, **{parameter.key: 10**400 for parameter in HOSTED.parameters}})
    refused(answer, 422001)
    assert {entry["loc"][1] for entry in answer.json["detail"]} == {parameter.key for parameter in HOSTED.parameters}


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
    sent, received = send_until_response(
        gateway,
        f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
        [f"{MEBIBYTE:x}\r\n".encode() + b" " * MEBIBYTE + b"\r\n"] * 200,
    )
    assert received.startswith(b"HTTP/1.1 413 ")
    assert 64 <= sent < 100, "it is read up to the limit, and hardly further"


def test_a_compressed_body_takes_a_place_as_a_large_one(gateway):
    """How long it is shows only when it has been read, so those of one token wait for each other."""
    body = gzip.compress(json.dumps(BODY).encode())
    head = (
        f"POST {SUBMIT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        f"Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    parts = urlsplit(gateway.url)
    with contextlib.ExitStack() as stack:
        *unfinished, whole = (
            stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=60))
            for _ in range(ARRIVING_EACH + 1)
        )
        for connection in unfinished:
            connection.sendall(head + body[:5])
        time.sleep(0.5)
        whole.sendall(head + body)
        assert gateway.post(SUBMIT, BODY).status == 200, "a small one does not wait"
        assert select.select([whole], [], [], 1.0)[0] == []
        unfinished[0].sendall(body[5:])
        for connection in (unfinished[0], whole):
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_body_just_under_the_limit_is_read(gateway):
    """To its last byte: what is wrong then is the image in it."""
    text = json.dumps({**BODY, "68_image": "data:image/png;base64,"})
    body = text[:-2] + "A" * (64 * MEBIBYTE - len(text)) + text[-2:]
    assert len(body) == 64 * MEBIBYTE
    assert "68_image" in refused(gateway.post(SUBMIT, body), 422001)
    assert gateway.post(SUBMIT, body + " ").status == 413


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
    _, received = send_until_response(
        gateway,
        f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
        "Content-Type: multipart/form-data; boundary=edge\r\nTransfer-Encoding: chunked\r\n\r\n",
        [f"{len(head):x}\r\n".encode() + head + b"\r\n"]
        + [f"{MEBIBYTE:x}\r\n".encode() + bytes(MEBIBYTE) + b"\r\n"] * 200,
    )
    assert received.startswith(b"HTTP/1.1 413 ")
    length = f"POST /v1/files HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.token}\r\n"
    length += f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {51 * MEBIBYTE}\r\n\r\n"
    assert raw(gateway, length.encode() + head, seconds=3).startswith(b"HTTP/1.1 413 ")


def test_uploads_of_a_token_have_a_limit_in_all(tmp_path, gateway):
    image = (REPO / "demo" / "images" / "start.jpg").read_bytes()
    form = (
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n' + image + b"\r\n--edge--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    with Gateway(tmp_path, NOWHERE, config={"uploads_max_bytes": 2 * len(image)}) as small:
        assert [small.post("/v1/files", form, headers=headers).status for _ in range(3)] == [200, 200, 429]
        answer = small.post("/v1/files", form, headers=headers)
        limit = "With this file, the uploads of this token exceed 0 MiB in all. Try again in "
        assert refused(answer, 429001).startswith(limit)
        assert 6 * 86400 < int(answer.headers["Retry-After"]) <= 7 * 86400, "when the oldest is removed"
        assert small.post("/v1/files", form, headers=headers, token=small.new_token("other")).status == 200


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
        f"/v1/results/{UNKNOWN}/..%2f..%2fstore.sqlite3?expires=99999999999&signature=x",
        f"/v1/results/{UNKNOWN}/video.mp4?expires=99999999999&signature={'0' * 64}",
        f"/v1/results/{UNKNOWN}/video.mp4?expires=%00&signature=%ff",
        f"/v1/results/{UNKNOWN}/video.mp4",
        "/v1/requests/..%2f..%2fstore/status",
        "/v1/models/../../etc/passwd",
    ],
)
def test_traversal_in_paths(gateway, path):
    answer = gateway.get(path)
    assert answer.status in (400, 403, 404)
    assert answer.code in (400001, 403001, 404001)
