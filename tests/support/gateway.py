"""A real gateway process, and a plain HTTP client that sends exactly what a test says."""

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from stores import STORES, Blocking
from wan_flf2v.contract.parameters import DEMO, HOSTED
from wan_flf2v.gateway.jobs.tokens import create_token

NOWHERE = "http://127.0.0.1:9"  # the discard port: nothing answers
CURL_BODY = """{
    "62_image": "Runcomfy_Example_1259_2.png",
    "6_text": "Puppy, playing, happy, barking, joyful",
    "68_image": "Runcomfy_Example_1259_1.png"
  }"""
BODY = json.loads(CURL_BODY)
SUBMIT = f"/v1/models/{HOSTED.model_id}"
SUBMIT_DEMO = f"/v1/models/{DEMO.model_id}"


@dataclass
class Answer:
    status: int
    headers: http.client.HTTPMessage
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)

    @property
    def code(self):
        return self.json["error_code"]


class Gateway:
    """``wan-flf2v serve`` on a free port; ``token`` is one that it knows."""

    def __init__(self, data, comfyui_url=NOWHERE, *arguments, config=None):
        self.data = Path(data)
        self.data.mkdir(parents=True, exist_ok=True)
        self._arguments = ["--data", str(data), "--comfyui", comfyui_url, "--port", "0", *arguments]
        if config is not None:
            (self.data / "api.json").write_text(json.dumps(config))
            self._arguments += ["--config", str(self.data / "api.json")]
        self.token = self.new_token("first")
        self.url = self.process = None

    def __enter__(self):
        log = (self.data / "gateway.log").open("ab")
        command = [sys.executable, "-I", "-m", "wan_flf2v", "serve", *self._arguments]
        start = log.tell()
        environment = {key: value for key, value in os.environ.items() if not key.startswith("WAN_FLF2V_")}
        self.process = subprocess.Popen(command, stderr=log, stdout=log, cwd=self.data, env=environment)
        while self.url is None:
            assert self.process.poll() is None, self.log_text()
            for line in self.log_text()[start:].splitlines():
                if line.startswith("Serving http"):
                    self.url = line.split()[1].removesuffix("/v1")
            time.sleep(0.05)
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.url = None

    def kill(self):
        self.process.kill()
        self.process.wait()

    def log_text(self):
        return (self.data / "gateway.log").read_text()

    @contextlib.contextmanager
    def store(self):
        """Yield the store behind this gateway; its methods block."""
        store = Blocking(STORES["sqlite"](self.data))
        try:
            yield store
        finally:
            store.close()

    def new_token(self, name, **limits):
        with self.store() as store:
            return asyncio.run(create_token(store.store, name, **limits))[0]

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

    def submit(self, path=SUBMIT, **changes):
        """Submit the page's example, with changes; return the request id."""
        answer = self.post(path, {**BODY, **changes})
        assert answer.status == 200, answer.content
        return answer.json["request_id"]

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
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


def events(gateway, request_id, last=None):
    """Yield (id, data) of a request's event stream until the server ends it."""
    headers = {"Authorization": f"Bearer {gateway.token}"}
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
