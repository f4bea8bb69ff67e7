"""A store of video frames that are read later than they come: in memory up to a limit, then in a temporary file."""

from __future__ import annotations

import contextlib
import errno
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

# 1280x720 frames that stay in memory: 97. A video of 81 frames needs no file.
LIMIT_BYTES = 256 * 2**20


class FrameSpool:
    """Keep frames, uint8 [3, height, width] on the CPU and of one size, and give them back once, in order.

    Use as a context manager: on leaving, the temporary file is gone, however it is left. It never has a name on Linux
    and macOS, and Windows deletes it when it is closed, so it is gone even if the process is killed.

    Args:
        folder: where the temporary file goes; it must exist.
        frames: how many frames will come at most, for the message of a full disk.
        limit_bytes: what may stay in memory, ``LIMIT_BYTES`` if not given.
    """

    def __init__(self, folder: Path, frames: int, limit_bytes: int | None = None) -> None:
        self._folder = folder
        self._frames = frames
        limit = LIMIT_BYTES if limit_bytes is None else limit_bytes
        self._file = tempfile.SpooledTemporaryFile(limit, dir=folder)  # noqa: SIM115 -- closed in __exit__
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def put(self, frame: torch.Tensor) -> None:
        """Keep one frame.

        Raises:
            OSError: the temporary file cannot grow; the message says where it is and how much room it needs.
        """
        self._shape = tuple(frame.shape)
        data = frame.contiguous().numpy().data.cast("B")
        with self._explained(len(data)):
            self._file.write(data)
        self._count += 1

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the frames, bit for bit as they were put in."""
        size = int(np.prod(self._shape))
        with self._explained(size):
            self._file.seek(0)
        for _ in range(self._count):
            with self._explained(size):
                data = bytearray(self._file.read(size))
            yield torch.frombuffer(data, dtype=torch.uint8).reshape(self._shape)

    def __enter__(self) -> FrameSpool:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk again, when the last bytes are written
            self._file.close()

    @contextlib.contextmanager
    def _explained(self, frame_bytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            megabytes = -(-frame_bytes * self._frames // 10**6)
            room = "Free disk space, start" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "Start"
            raise OSError(
                error.errno,
                f"color_match keeps the decoded frames in {self._folder} until the last one is known, but "
                f"{error.strerror or error}. They need {megabytes} MB there. {room} ComfyUI with another "
                "--temp-directory, or disconnect color_match",
            ) from error
