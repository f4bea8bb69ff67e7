"""schemathesis makes requests from the OpenAPI document, good and bad, and checks the responses."""

import itertools
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.gateway_process import NOWHERE, Gateway

SUPPORT = Path(__file__).parents[1] / "support"
NO_LIMITS = {"allow_private_urls": True, "queue_limit": 10**9, "rate_per_minute": 10**9}
TWO_MODELS = ("--exclude-path-regex", "^/v1/models/wan-flf2v/")  # the hosted one and the demo's
ENDS = ("succeeded", "failed", "cancelled")


def end_requests(gateway, stopping):
    """Bring every request to an end, as no ComfyUI does here: so all responses are seen, and event streams end."""
    ends = itertools.cycle(ENDS)
    with gateway.store() as store:
        while not stopping.is_set():
            time.sleep(0.05)
            for job in store.queue():
                status = next(ends)
                store.assign(job.id)
                if status == "succeeded":
                    gateway.succeed(store, job.id)
                store.end(job.id, status, error="why" if status == "failed" else None)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of work; a busy machine takes long
@pytest.mark.parametrize(
    ("examples", "at_least", "options"),
    [(40, 700, TWO_MODELS), pytest.param(120, 2000, (), marks=pytest.mark.sweep)],
)
def test_every_response_is_what_the_document_says(tmp_path, examples, at_least, options):
    stopping = threading.Event()
    with Gateway(tmp_path, NOWHERE, "--demo", config=NO_LIMITS) as gateway:
        ending = threading.Thread(target=end_requests, args=(gateway, stopping))
        ending.start()
        try:
            command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", f"{gateway.url}/v1/openapi.json"]
            command += ["--checks", "all", "--max-examples", str(examples), "--seed", "1", "--continue-on-failure"]
            command += options
            config = tmp_path / "schemathesis.toml"
            config.write_text(f'[auth.openapi.bearer]\nbearer = "{gateway.token}"\n')
            environment = {**os.environ, "SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(SUPPORT)}
            done = subprocess.run(
                command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1700, check=False
            )
        finally:
            stopping.set()
            ending.join()
        assert done.returncode == 0, done.stdout[-6000:]
        cases = int(re.search(r"(\d+) generated", done.stdout)[1])
        assert cases >= at_least, done.stdout[-1500:]
        assert "Traceback" not in gateway.log_text()
        assert gateway.get("/healthz").status == 200
