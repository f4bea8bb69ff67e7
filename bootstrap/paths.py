"""The repository's folder and the cache folder (``WAN_FLF2V_CACHE``)."""

import os
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent


def cache_dir() -> Path:
    """Return the folder for what can be made again: ``$WAN_FLF2V_CACHE``, or ``wan-flf2v`` in the platform's own.

    XDG base directory on Linux, ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows. Not created here.
    """
    if own := os.environ.get("WAN_FLF2V_CACHE"):
        return Path(own).expanduser().absolute()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "wan-flf2v"
