"""``run.py serve`` as a user runs it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.api_runs import SMALL
from support.gateway_process import BODY, SUBMIT_DEMO
from wan_flf2v.bootstrap.environment import nats_server
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.bootstrap.server import free_port, port_is_taken
from wan_flf2v.contract.parameters import DEMO_WORKFLOW

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent another way on Windows")
# run.py with the arguments that follow, and ports that nothing else on this machine has
ON_FREE_PORTS = """
import sys
gateway, nats, *arguments = sys.argv[1:]
sys.path.insert(0, {repo!r})
import run
run.commands.GATEWAY_PORT, run.commands.NATS_PORT = int(gateway), int(nats)
sys.argv[1:] = arguments
sys.exit(run.main())
"""


def test_serve_demo_until_ctrl_c(project_comfyui, demo_models, tmp_path):
    # Another cache: a request left over in the user's would run on, and ComfyUI aborts when it ends meanwhile.
    shutil.copytree(demo_models, tmp_path / "demo" / "models")
    env = {**os.environ, "COMFYUI_PATH": project_comfyui, "WAN_FLF2V_CACHE": str(tmp_path)}
    port = free_port()
    command = [sys.executable, str(REPO / "run.py"), "serve", "--demo", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/object_info/WanFLF2VSampler", timeout=5
                ) as answer:
                    assert "WanFLF2VSampler" in json.load(answer)
                break
            except OSError:  # not there yet, or too busy to respond in time
                assert process.poll() is None, process.stdout.read()
                assert time.monotonic() < deadline
                time.sleep(0.5)
        url = f"http://127.0.0.1:{port}/api/userdata?dir=workflows"
        with urllib.request.urlopen(url, timeout=60) as answer:
            assert f"{DEMO_WORKFLOW}.json" in json.load(answer)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert f"at http://127.0.0.1:{port}; Ctrl-C stops it" in output
    finally:
        process.kill()


def call(url, body=None):
    request = urllib.request.Request(url, body and json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def ports_for_later():
    """Return three free ports, the next but one to each free too, that no program is given meanwhile by the system."""
    while True:
        ports = random.sample(range(20_000, 32_000, 4), 3)  # Linux gives 32768 and up
        if not any(port_is_taken(port + more) for port in ports for more in (0, 2)):
            return ports


@pytest.mark.slow
def test_a_fleet_on_one_machine_runs_a_request_and_leaves_nothing_when_it_is_stopped(
    project_comfyui, demo_models, tmp_path
):
    """With the nats-server that is on the PATH."""
    path, program, used = tmp_path / "path", tmp_path / "path" / "nats-server", tmp_path / "used"
    path.mkdir()
    program.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] || echo $$ > {used}\nexec {nats_server(Path(sys.executable))} "$@"\n'
    )
    program.chmod(0o755)
    for number in (1, 2):
        shutil.copytree(demo_models, tmp_path / f"serve-{number}" / "demo" / "models")
    gateway, nats, first = ports_for_later()
    env = {
        **{key: value for key, value in os.environ.items() if not key.startswith("WAN_FLF2V_")},
        "COMFYUI_PATH": project_comfyui,
        "WAN_FLF2V_CACHE": str(tmp_path),
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
    }
    code, url = ON_FREE_PORTS.format(repo=str(REPO)), f"http://127.0.0.1:{gateway}"
    arguments = ["serve", "--demo", "--workers", "2", "--port", str(first)]
    command = [sys.executable, "-c", code, str(gateway), str(nats), *arguments]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)
    try:
        while True:
            try:
                workers = call(f"{url}/v1/workers")["workers"]
            except OSError:  # nothing listens yet
                workers = []
            if [worker["state"] for worker in workers] == ["idle", "idle"]:
                break
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.2)
        request_id = call(f"{url}{SUBMIT_DEMO}", {**BODY, **SMALL})["request_id"]
        while (status := call(f"{url}/v1/requests/{request_id}/status")["status"]) != "completed":
            assert status in ("in_queue", "in_progress")
            time.sleep(0.2)
        assert "video" in call(f"{url}/v1/requests/{request_id}/result")["output"]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to all at once
        code = process.wait(120)
        assert code == 130, (tmp_path / "log").read_text()
        assert not [port for port in (gateway, nats, first, first + 2) if port_is_taken(port)]
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
        with pytest.raises(ProcessLookupError):
            os.kill(int(used.read_text()), 0)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
