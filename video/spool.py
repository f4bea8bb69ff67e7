"""A store of video frames that are read later than they come: in memory up to a limit, then in a temporary file."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

# 1280x720 frames that stay in memory: 97. A video of 81 frames needs no file.
LIMIT_BYTES = 256 * 2**20


class FrameSpool:
    """Keep frames, [channels, height, width] on the CPU and of one size and dtype, and give them back in any order.

    Use as a context manager: on leaving, the temporary file is gone, however it is left. It never has a name on Linux
    and macOS, and Windows deletes it when it is closed, so it is gone even if the process is killed.

    Args:
        folder: where the temporary file goes; it must exist.
        frames: how many frames will come at most.
        also: how many frames of the same size another spool will keep there meanwhile, which there must be room for.
        owner: the node's input that needs the frames again, for the message of a full disk.
        otherwise: what to do to need no spool, for the same message.
        limit_bytes: what may stay in memory, ``LIMIT_BYTES`` if not given.
    """

    def __init__(
        self,
        folder: Path,
        frames: int,
        owner: str,
        otherwise: str,
        *,
        also: int = 0,
        limit_bytes: int | None = None,
    ) -> None:
        self._folder = folder
        self._counts = frames, also
        self._owner, self._otherwise = owner, otherwise
        self._limit = LIMIT_BYTES if limit_bytes is None else limit_bytes
        self._file = tempfile.SpooledTemporaryFile(self._limit, dir=folder)  # noqa: SIM115 -- closed in __exit__
        self._shape: tuple[int, ...] = ()
        self._dtype = torch.uint8
        self._frame_bytes = 0
        self._count = 0

    def put(self, frame: torch.Tensor) -> None:
        """Keep one frame.

        Raises:
            OSError: there is no room for all frames, or the temporary file cannot grow; the message says where it is
                and how much room it needs.
        """
        data = frame.contiguous().numpy().data.cast("B")
        if self._count == 0:
            self._shape, self._dtype, self._frame_bytes = tuple(frame.shape), frame.dtype, len(data)
            self._check_space()
        with self._explained():
            self._file.write(data)
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return a frame, bit for bit as it was put in; only after the last ``put``."""
        if not 0 <= index < self._count:
            raise IndexError(index)
        with self._explained():
            self._file.seek(index * self._frame_bytes)
            data = bytearray(self._file.read(self._frame_bytes))
        return torch.frombuffer(data, dtype=self._dtype).reshape(self._shape)

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Yield the frames in order."""
        return (self[index] for index in range(self._count))

    def __enter__(self) -> FrameSpool:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # a full disk again, when the last bytes are written
            self._file.close()

    def _check_space(self) -> None:
        with self._explained():
            if self._needed() > shutil.disk_usage(self._folder).free:
                raise OSError(errno.ENOSPC, "No space left on device")

    def _needed(self) -> int:
        """Return how many bytes go to the disk: those of a spool that does not stay in memory."""
        sizes = [self._frame_bytes * count for count in self._counts]
        return sum(size for size in sizes if size > self._limit > 0)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            megabytes = -(-self._needed() // 10**6)
            room = "Free disk space, start" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "Start"
            raise OSError(
                error.errno,
                f"{self._owner} keeps the decoded frames in {self._folder} until the last one is known, but "
                f"{error.strerror or error}. They need {megabytes} MB there. {room} ComfyUI with another "
                f"--temp-directory, or {self._otherwise}",
            ) from error
