"""Runs scripts inside a ComfyUI's own Python, with ComfyUI's modules around them."""

import json
import os
import signal

from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.bootstrap.server import comfy_env


def run_python(comfy_install, folder, *arguments, cwd=None):
    """Run ``python *arguments``, in the ComfyUI's folder if not said otherwise, and return what it printed.

    Fails with the end of that if it fails.
    """
    log_path = folder / "python.log"
    with log_path.open("wb") as log:
        process = comfy_install["popen"](
            [str(argument) for argument in arguments],
            comfy_env(),
            cwd or comfy_install["path"],
            log,
        )
        try:
            with process.stdin:
                code = process.wait()
        except BaseException:  # Ctrl-C and timeouts do not reach its session
            os.kill(process.pid, signal.SIGKILL)
            raise
    printed = log_path.read_text("utf-8", "replace")
    assert code == 0, printed[-3000:]
    return printed


def run_cases(comfy_install, folder, script, *groups):
    """Return what ``tests/support/<script>.py`` found."""
    results = folder / "results.json"
    path = REPO / "tests" / "support" / f"{script}.py"
    run_python(comfy_install, folder, path, comfy_install["path"], results, *groups)
    return json.loads(results.read_text())
