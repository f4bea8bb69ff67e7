"""A fleet as users start it: two gateways, a worker beside a real ComfyUI that they cannot reach, users of NATS."""

import base64
import contextlib
import copy
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from support.api_runs import LONG, SMALL
from support.gateway_process import SUBMIT_DEMO, Gateway, all_events, call
from support.nats_server import CONFIG, NatsServer, free_ports
from wan_flf2v.bootstrap.paths import REPO

PHOTOGRAPH = base64.b64encode((REPO / "demo" / "images" / "start.jpg").read_bytes()).decode()
IMAGES = {"68_image": f"data:image/jpeg;base64,{PHOTOGRAPH}", "62_image": "end.jpg"}  # the second one is on ComfyUI


@contextlib.contextmanager
def worker_process(folder, *arguments):
    """Yield a worker's process, and a function that returns its log."""
    command = [sys.executable, "-I", "-m", "wan_flf2v", "worker", *arguments]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WAN_FLF2V_")}
    log = folder / "worker.log"
    with log.open("ab") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=stream, cwd=folder, env=environment)
    try:
        yield process, log.read_text
    finally:
        process.kill()
        process.wait()


def wait_until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def cli(*arguments):
    command = [sys.executable, "-I", "-m", "wan_flf2v", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "300"})


@pytest.mark.timeout(600)
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_worker_that_connects_outwards_runs_the_requests_of_two_gateways(tmp_path, comfy_server, monkeypatch):
    secrets = {name: f"secret-of-{name.lower()}" for name in ("GATEWAY", "GPU_1", "GPU_2")}
    for name, secret in secrets.items():
        monkeypatch.setenv(f"WAN_NATS_{name}_PASSWORD", secret)
    nats = NatsServer(tmp_path / "nats", free_ports(1)[0], config=CONFIG.with_name("nats-fleet.conf")).start()
    where = nats.url.removeprefix("nats://")
    url, mine = f"nats://gateway:{secrets['GATEWAY']}@{where}", f"nats://gpu-1:{secrets['GPU_1']}@{where}"
    try:
        first = Gateway(tmp_path / "gateway", [], "--demo", nats=url)
        second = copy.copy(first)  # the same folder, settings and token
        with first, second:
            ready = first.get("/readyz")
            assert (ready.status, ready.json["ready"], ready.json["status"]) == (200, False, "degraded")
            assert "No worker is connected" in ready.json["problems"][0]
            waiting = first.submit(SUBMIT_DEMO, **IMAGES, **LONG)  # its previews last long enough to be seen
            assert first.status(waiting)["status"] == "in_queue"

            with worker_process(tmp_path, "--nats", mine, "--comfyui", comfy_server.url, "--name", "gpu-1") as (
                process,
                log,
            ):
                seen = list(all_events(second, f"/v1/requests/{waiting}/events?preview=1"))
                assert {"status", "preview"} == {name for name, *_ in seen}
                assert seen[-1][2]["status"] == "completed"
                (shown,) = second.get("/v1/workers").json["workers"]
                assert (shown["name"], shown["version"]) == ("gpu-1", comfy_server.host_version)
                assert 'wan_flf2v_worker_state{worker="gpu-1",state=' in second.get("/metrics").content.decode()
                wait_until(lambda: second.get("/readyz").json["status"] == "ready")

                video = second.result(waiting)["output"]["video"]
                part = call(
                    second.url,
                    "GET",
                    video.removeprefix(first.url).removeprefix(second.url),
                    headers={"Range": "bytes=4-7"},
                )
                assert (part.status, part.content) == (206, b"ftyp")

                assert cli("workers", "drain", "gpu-1", "--nats", url).returncode == 0
                held = second.submit(SUBMIT_DEMO, **IMAGES, **{**SMALL, "57_steps": 8})
                time.sleep(1.5)
                assert first.status(held)["status"] == "in_queue"
                assert re.search(r"gpu-1\W+idle, drained", cli("workers", "list", "--nats", url).stdout)
                assert cli("workers", "drain", "gpu-1", "--undo", "--nats", url).returncode == 0
                first.wait(held, "in_progress")

                process.send_signal(signal.SIGTERM)
                assert process.wait(300) == 0
                assert first.status(held)["status"] == "completed", log()
                assert "a second signal ends it at once" in log()
            wait_until(lambda: second.get("/v1/workers").json["workers"] == [])
            told = first.log_text() + log()
            assert not any(secret in told for secret in secrets.values())
    finally:
        nats.kill()


def test_what_a_worker_cannot_start_with_is_said(tmp_path):
    for arguments, text in (
        ((), "A worker needs the address of NATS"),
        (("--nats", "nats://127.0.0.1:1", "--name", "A B"), "cannot be a worker's name"),
        (("--nats", "nats://me:secret@h:x"), "The address of NATS is not understood"),
        (("--nats", "nats://127.0.0.1:1", "--comfyui", "nonsense"), "is not the address of a server"),
    ):
        done = cli("worker", *arguments)
        assert done.returncode in (1, 2)
        assert text in " ".join(done.stderr.split()), done.stderr
        assert "secret" not in done.stderr
