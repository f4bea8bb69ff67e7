"""A file, or a folder of pictures, that is written frame by frame and appears once it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import torch

from .names import temporary
from .settings import Settings

_REPLACE_TRIES, _REPLACE_WAIT_S = 20, 0.25
_MOVES_FOLDERS = os.name == "posix"  # over an empty one, at once; Windows moves none over another
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Writer(ABC):
    """Write frames to a temporary file as they come; at ``path`` is nothing, or what was there, until it is whole.

    Use as a context manager, and ``flush`` after the last frame: leaving it normally renames the finished file into
    place, leaving it by an exception deletes what was written.

    Args:
        path: the finished file; its folder must exist.
        width: in pixels, a multiple of ``settings.format.block``'s first.
        height: the same for its second.
        settings: everything else.
    """

    def __init__(self, path: Path, width: int, height: int, settings: Settings) -> None:
        self.path, self.width, self.height, self.settings = path, width, height, settings
        self.frames_written = 0
        self._unfinished = temporary(path)
        self._container: Any = None

    def look(self, frame: torch.Tensor) -> None:
        """See a frame before the first is written, where ``settings.looks_twice``."""
        return  # by others there is nothing to learn

    def write(self, frame: torch.Tensor) -> None:
        """Encode one frame, [3 or 4, height, width] on the CPU, uint8 or float 0...1.

        Raises:
            OSError: this and every other method do if the disk is full; the message names the file.
        """
        with self._explained():
            self._write(frame)

    def flush(self) -> None:
        """Encode the frames that the codec still holds back; none can be written after this."""
        with self._explained():
            self._flush()

    @abstractmethod
    def _open(self) -> None:
        """Make the temporary file."""

    @abstractmethod
    def _write(self, frame: torch.Tensor) -> None:
        """Encode one frame."""

    def _flush(self) -> None:
        """Encode what the codec holds back."""
        return

    def __enter__(self) -> Writer:
        try:
            with self._explained():
                self._open()
        except BaseException as error:
            self.__exit__(type(error))
            raise
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            with self._explained():
                try:  # an open file cannot be deleted on Windows
                    if self._container is not None:
                        self._container.close()
                except (av.error.FFmpegError, OSError):
                    if error_type is None:  # else the first error is raised
                        raise
                if error_type is None:
                    self._add_tags()
                    _replace(self._unfinished, self.path)
        finally:
            if self._unfinished.is_dir():
                shutil.rmtree(self._unfinished, ignore_errors=True)
            else:
                self._unfinished.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say which file cannot be written when its disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            left = shutil.disk_usage(self.path.parent).free >> 20
            raise OSError(
                error.errno,
                f"{self.path} cannot be written: {error.strerror}. Its disk has {left} MiB left. Free disk space, or "
                "save to a folder on another disk.",
            ) from error

    def _add_tags(self) -> None:
        """Add the tags to the closed file where the container could not."""
        return


def _replace(source: Path, target: Path) -> None:
    """Move a file or a folder over the empty one that reserves its name.

    The name is never free meanwhile: another process would take it. On Windows a move fails while a virus scanner or a
    viewer has the file open: wait.
    """
    if source.is_dir():
        if _MOVES_FOLDERS:
            with contextlib.suppress(OSError):  # some network drives refuse, and so does a folder with a foreign file
                source.replace(target)
                return
        target.mkdir(exist_ok=True)
        for file in sorted(source.iterdir()):
            _replace(file, target / file.name)
        return
    for _ in range(_REPLACE_TRIES):
        with contextlib.suppress(PermissionError):
            source.replace(target)
            return
        time.sleep(_REPLACE_WAIT_S)
    source.replace(target)
