"""A gateway process for tests, and a plain HTTP client that sends exactly what a test says."""

import contextlib
import http.client
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from wan_flf2v.benchmarks._gateway import GatewayProcess
from wan_flf2v.contract.parameters import DEMO, HOSTED

from support.stores import Blocking, chosen_store, nats_url

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing listens
CURL_BODY = """{
    "62_image": "Runcomfy_Example_1259_2.png",
    "6_text": "Puppy, playing, happy, barking, joyful",
    "68_image": "Runcomfy_Example_1259_1.png"
  }"""
BODY = json.loads(CURL_BODY)
SUBMIT = f"/v1/models/{HOSTED.model_id}"
SUBMIT_DEMO = f"/v1/models/{DEMO.model_id}"


@dataclass
class Response:
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def code(self):
        return self.json["error_code"]


class Gateway(GatewayProcess):
    """A gateway process that is up inside the ``with`` block, and calls of its API."""

    def __init__(self, data, comfyui_url=NOWHERE, *arguments, config=None, nats=None):
        super().__init__(Path(data), comfyui_url, *arguments, config=config, nats_url=nats or nats_url(data))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    @contextlib.contextmanager
    def store(self):
        """Yield the store behind this gateway; its methods block."""
        store = Blocking(chosen_store(self.data))
        try:
            yield store
        finally:
            store.close()

    def succeed(self, store, request_id, video="video.mp4"):
        """End a running request as succeeded, with files that only look like a result."""
        folder = self.data / "results" / request_id
        folder.mkdir(parents=True, exist_ok=True)
        output = {"video": video, "image": "frame0.png"}
        for name in output.values():
            (folder / name).write_bytes(b"made up")
        store.end(request_id, "succeeded", output=output)

    def call(self, method, path, body=None, *, token="", headers=None):
        """Send one request; ``body`` is bytes, text, or what becomes JSON; ``token=None`` sends none."""
        headers = dict(headers or {})
        token = self.token if token == "" else token
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {token}")
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        return call(self.url, method, path, body, headers)

    def get(self, path, **options):
        return self.call("GET", path, **options)

    def post(self, path, body=None, **options):
        return self.call("POST", path, body, **options)

    def submit(self, path=SUBMIT, *, token="", **changes):
        """Submit the page's example, with changes; return the request id."""
        response = self.post(path, {**BODY, **changes}, token=token)
        assert response.status == 200, response.content
        return response.json["request_id"]

    def status(self, request_id):
        return self.get(f"/v1/requests/{request_id}/status").json

    def result(self, request_id):
        return self.get(f"/v1/requests/{request_id}/result").json

    def cancel(self, request_id):
        return self.post(f"/v1/requests/{request_id}/cancel")

    def wait(self, request_id, *statuses, seconds=120):
        """Wait until the status call says one of ``statuses`` (the end by default)."""
        deadline = time.monotonic() + seconds
        while (status := self.status(request_id))["status"] not in (statuses or ("completed", "cancelled")):
            assert time.monotonic() < deadline, (status, self.log_text()[-2000:])
            time.sleep(0.1)
        return status


def call(url, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return Response(response.status, response.headers, response.read())
    finally:
        connection.close()


def events(gateway, request_id, last=None, token=None):
    """Yield (id, data) of a request's event stream until the server ends it."""
    headers = {"Authorization": f"Bearer {token or gateway.token}"}
    if last is not None:
        headers["Last-Event-ID"] = str(last)
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=60)
    try:
        connection.request("GET", f"/v1/requests/{request_id}/events", headers=headers)
        response = connection.getresponse()
        assert response.status == 200, response.read()
        assert response.headers["Content-Type"] == "text/event-stream"
        fields = {}
        for line in response:
            text = line.decode().rstrip("\n")
            if not text and fields:
                assert fields["event"] == "status"
                yield int(fields["id"]), json.loads(fields["data"])
                fields = {}
            elif text and not text.startswith(":"):
                name, _, value = text.partition(": ")
                fields[name] = value
    finally:
        connection.close()


def all_events(gateway, path):
    """Yield (name, id or None, data) of an event stream until the server ends it."""
    connection = http.client.HTTPConnection(urlsplit(gateway.url).netloc, timeout=60)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {gateway.token}"})
        fields = {}
        for line in connection.getresponse():
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name:
                fields[name] = value
            elif "data" in fields:
                yield fields["event"], fields.get("id"), json.loads(fields["data"])
                fields = {}
    finally:
        connection.close()


def raw(gateway, *pieces, seconds=5.0):
    """Send bytes as they are, with a pause between the pieces; return what comes back until the server is silent."""
    parts = urlsplit(gateway.url)
    with socket.create_connection((parts.hostname, parts.port), timeout=seconds) as connection:
        connection.sendall(pieces[0])
        for piece in pieces[1:]:
            time.sleep(0.3)
            connection.sendall(piece)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return received
