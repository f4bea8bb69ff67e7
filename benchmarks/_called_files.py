"""Notes in which product files a function runs, in every thread. Imports do not count, nor what they run."""

from __future__ import annotations

import inspect
import json
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_REPO = Path(__file__).resolve().parent.parent
_NOT_PRODUCT = {"benchmarks", "bootstrap", "demo", "tests", ".venv"}


class CalledFiles:
    """Collects while it is started; threads that are started after ``install`` are seen too."""

    def __init__(self) -> None:
        self._seen: set[CodeType] = set()
        self._files: set[str] = set()
        self._on = False

    def install(self) -> None:
        """Watch this thread and all that start from now on."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def start(self) -> None:
        """Forget what was seen before, and watch."""
        self._seen.clear()
        self._files.clear()
        self._on = True

    def stop(self) -> list[str]:
        """Return the files that were seen, relative to the repository."""
        self._on = False
        threading.setprofile(None)
        sys.setprofile(None)
        return sorted(self._files)

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if not self._on or event != "call" or code in self._seen:
            return
        self._seen.add(code)
        if not code.co_flags & inspect.CO_OPTIMIZED or _is_importing(frame):  # the body of a module or class
            return
        path = Path(code.co_filename).resolve()
        if path.is_relative_to(_REPO):
            name = path.relative_to(_REPO)
            if name.parts[0] not in _NOT_PRODUCT:
                self._files.add(name.as_posix())


def _is_importing(frame: FrameType) -> bool:
    caller = frame.f_back
    while caller is not None:
        if caller.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        caller = caller.f_back
    return False


def main() -> None:
    """Run the command line, ``python -m ... FILE ARGUMENTS``: SIGUSR1 starts to watch, SIGUSR2 writes FILE."""
    output, called = Path(sys.argv.pop(1)), CalledFiles()

    def write(*_: Any) -> None:
        unfinished = output.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(called.stop()))
        unfinished.replace(output)

    signal.signal(signal.SIGUSR1, lambda *_: called.start())
    signal.signal(signal.SIGUSR2, write)
    called.install()
    import_module("wan_flf2v.__main__").main()


if __name__ == "__main__":
    main()
