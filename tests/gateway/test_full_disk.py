"""A gateway whose disk is full, or takes no writes: it says so, and goes on when the disk has room again."""

import contextlib
import io
import subprocess
import sys
import time

import pytest
from PIL import Image
from support.gateway_process import BODY, SUBMIT, Gateway
from support.nats_server import NatsServer, free_ports
from support.stores import sqlite_only

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mount or prlimit")
_DISK_BYTES = 8 << 20


@pytest.fixture
def small_disk(tmp_path):
    """A folder on another disk, which is small."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: this user may not mount a disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def image():
    content = io.BytesIO()
    Image.effect_noise((512, 512), 64).save(content, "PNG")
    return content.getvalue()


def upload(gateway):
    head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return call(gateway, "/v1/files", head + image() + b"\r\n--x--\r\n", headers=headers)


def call(gateway, path, body, headers=None):
    answer = gateway.post(path, body, headers=headers)
    return answer.status, answer.json.get("error_code")


def health(gateway, *, but):
    """Return what /healthz says as soon as it is not ``but``: it keeps what it found for a moment."""
    while (answer := gateway.get("/healthz", token=None)).status == but:
        time.sleep(0.1)
    return answer


@sqlite_only
def test_a_full_disk_is_said_and_nothing_is_lost(small_disk):
    with Gateway(small_disk) as gateway:
        waiting = gateway.submit()
        assert gateway.get("/healthz").status == 200
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        full = (507, 507001)
        assert call(gateway, SUBMIT, BODY) == full
        assert upload(gateway) == full
        cancel = gateway.cancel(waiting)
        assert (cancel.status, cancel.code) == full
        assert "disk is full" in cancel.json["error_message"]
        assert health(gateway, but=200).code == 507001
        assert gateway.status(waiting)["status"] == "in_queue", "what was accepted can be read"
        (small_disk / "filler").unlink()
        assert health(gateway, but=507).status == 200
        assert upload(gateway)[0] == 200
        assert gateway.cancel(waiting).json["outcome"] == "cancelled"
        gateway.submit()


@sqlite_only
def test_a_store_that_cannot_be_written_is_said(tmp_path):
    """The process may write no byte into any file."""
    import resource  # not on Windows

    with Gateway(tmp_path) as gateway:
        waiting = gateway.submit()
        _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (0, hard))
        assert call(gateway, SUBMIT, BODY) == (503, 503001)
        cancel = gateway.cancel(waiting)
        assert (cancel.status, cancel.code) == (503, 503001)
        assert health(gateway, but=200).code == 503001
        assert upload(gateway)[0] == 507, "the file system says that the file is too large"
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert health(gateway, but=503).status == 200
        assert gateway.cancel(waiting).json["outcome"] == "cancelled"
        gateway.submit()


@pytest.mark.slow
def test_a_full_disk_under_nats_server_is_a_503_and_nothing_is_accepted(tmp_path, small_disk):
    """JetStream says nothing then. A limit of its own that the disk can hold comes first, and is a 507."""
    server = NatsServer(small_disk / "nats", free_ports(1)[0]).start()
    try:
        with Gateway(tmp_path / "gateway", nats=server.url) as gateway:
            accepted = [gateway.submit()]
            with (small_disk / "other").open("wb", buffering=0) as other, contextlib.suppress(OSError):
                while other.write(bytes(4096)):
                    pass
            while (response := gateway.post(SUBMIT, BODY)).status == 200:  # in what room is left
                accepted.append(response.json["request_id"])
            assert (response.status, response.headers["Retry-After"]) == (503, "5"), response.content
            assert "a disk of nats-server is full" in gateway.log_text()
            (small_disk / "other").unlink()
            while (response := gateway.post(SUBMIT, BODY)).status != 200:
                assert response.status == 503
            listed = gateway.get("/v1/requests?limit=100").json["requests"]
            assert {each["request_id"] for each in listed} == {*accepted, response.json["request_id"]}
    finally:
        server.kill()
