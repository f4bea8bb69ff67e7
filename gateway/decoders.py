"""Decodes images in other processes, two at a time, which tokens share; one that takes too long is ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..client import images
from ..client.images import ImageError
from .shares import Shares

_AT_ONCE, _AT_ONCE_EACH = 2, 1  # a process can take Pillow's pixel limit times a few bytes of memory
_DEADLINE_S = 30.0  # a large picture takes a few seconds
# A process gets this one's sys.path, as those of multiprocessing do. They would import ComfyUI's main.py besides. -I:
# without it, Python would import json from the current folder.
_START = "import json, runpy, sys; sys.path[:] = json.loads(sys.argv[1]); runpy.run_path(sys.argv[2], {}, '__main__')"


@dataclass(frozen=True)
class PlainImage:
    """What became of an image file: its type's suffix, its size in bytes, and the hash of its content."""

    suffix: str
    size: int
    sha256: str


class Decoders:
    """The processes. They start when they are needed, and end with this process or at ``close``."""

    def __init__(self) -> None:
        self._shares = Shares(_AT_ONCE, _AT_ONCE_EACH)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "wan-flf2v-decoders")
        self._processes: list[_Process] = []
        self._idle: list[_Process] = []

    async def make_plain(self, path: Path, max_pixels: int, token: str) -> PlainImage:
        """Check an image file for the token with this id; write over it what ``client.images.plain_image`` makes of it.

        Raises ``ImageError`` if the image cannot be used or takes longer than 30 s, ``OSError`` for trouble with the
        file.
        """
        async with self._shares.slot(token):
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._make_plain, path, max_pixels)

    def close(self) -> None:
        """End the processes, whatever they are doing."""
        for process in [*self._processes]:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._idle:
            process.end()

    def _make_plain(self, path: Path, max_pixels: int) -> PlainImage:
        process = self._idle.pop() if self._idle else self._start()
        reply = process.ask({"path": str(path), "max_pixels": max_pixels})
        if process.usable:
            self._idle.append(process)
        else:
            self._processes.remove(process)
            process.end()
        if reply is None and process.out_of_time:
            raise ImageError(f"The image takes longer than {_DEADLINE_S:g} s to decode. Save it again as PNG or JPEG.")
        if reply is None:
            raise ImageError("The image could not be decoded: its decoder ended. Save it again as PNG or JPEG.")
        if "refused" in reply:
            raise ImageError(reply["refused"])
        if "errno" in reply:
            raise OSError(reply["errno"], "The image cannot be read or written", str(path))
        return PlainImage(**reply)

    def _start(self) -> _Process:
        process = _Process()
        self._processes.append(process)
        return process


class _Process:
    """One process that judges images. Once it is not ``usable``, it is to be ended."""

    def __init__(self) -> None:
        self.usable = True
        self.out_of_time = False
        command = [sys.executable, "-I", "-c", _START, json.dumps([*map(str, sys.path)]), str(Path(images.__file__))]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603

    def ask(self, order: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the reply to an order; ``None`` if the process ended, or had to be."""
        assert self._process.stdin is not None and self._process.stdout is not None  # pipes  # noqa: S101
        timer = threading.Timer(_DEADLINE_S, self._give_up)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except OSError:
            line = ""
        timer.cancel()
        timer.join()  # from here on, the process is not killed any more
        self.usable = bool(line) and not self.out_of_time
        reply: dict[str, Any] | None = json.loads(line) if line else None
        return reply

    def kill(self) -> None:
        """Let what is under way fail."""
        self._process.kill()

    def end(self) -> None:
        """End the process and wait until it has."""
        self.kill()
        with contextlib.suppress(OSError), self._process:  # closes the pipes, which may break, and waits
            pass

    def _give_up(self) -> None:
        self.out_of_time = True
        self.kill()
