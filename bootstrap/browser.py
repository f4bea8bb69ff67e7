"""The Chromium that drives the editor in tests: the machine's own, or Debian's package where it may be installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from .console import say

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge", "chrome", "msedge")
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Microsoft Edge.app/Contents/MacOS/Microsoft Edge",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)


def find_browser() -> str | None:
    """Return the path of a Chromium, Chrome or Edge on this machine, None if there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    return found or next((place for place in PLACES if Path(place).exists()), None)


def ensure_browser() -> str | None:
    """Return a browser; install Debian's Chromium if there is none and this process may."""
    found = find_browser()
    may_install = sys.platform == "linux" and os.geteuid() == 0 and shutil.which("apt-get")
    if found or not may_install:
        return found
    say("installing Chromium for the tests in a browser")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": False}
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ("apt-get", "install", "-y", "--no-install-recommends", "chromium")
    if subprocess.run(install, env=env, **quiet).returncode:  # the lists of packages may be missing or old
        subprocess.run(("apt-get", "update"), env=env, **quiet)
        subprocess.run(install, env=env, **quiet)
    return find_browser()
