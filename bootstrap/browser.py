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

_APT_S = 300  # without a network apt-get tries for long


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
    if not _apt_get("install", "-y", "--no-install-recommends", "chromium"):  # its lists may be missing or old
        _apt_get("update")
        _apt_get("install", "-y", "--no-install-recommends", "chromium")
    found = find_browser()
    if found is None:
        say("Chromium could not be installed: the tests in a browser will not run")
    return found


def _apt_get(*arguments: str) -> bool:
    command, env = ["apt-get", *arguments], {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=_APT_S)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
