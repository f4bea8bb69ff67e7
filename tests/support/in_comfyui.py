"""Runs a script of cases with a host's own Python, and ComfyUI's modules around it."""

import json
import subprocess

from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.bootstrap.server import comfy_env


def run_cases(comfy_install, folder, script, *groups):
    """Return what ``tests/support/<script>.py`` found."""
    results = folder / "results.json"
    path = REPO / "tests" / "support" / f"{script}.py"
    command = [comfy_install["python"], str(path), comfy_install["path"], str(results), *groups]
    env = comfy_env({"OMP_NUM_THREADS": "1"})
    done = subprocess.run(command, cwd=comfy_install["path"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(results.read_text())
