"""``run.py serve`` as a user runs it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.bootstrap.server import free_port
from wan_flf2v.contract.parameters import DEMO_WORKFLOW


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent another way on Windows")
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
