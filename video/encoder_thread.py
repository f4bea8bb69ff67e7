"""The encoder thread: a video file is written while the next frames are made; few of them wait."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable

import torch

from .whole_file import Writer
from .writer import WithPreview

# As many frames as one call of the decoder gives, two latent frames of four frames each: with fewer the decoder would
# wait for the encoder, more would only take memory.
_WAITING_FRAMES = 8
_POLL_S = 0.1


class EncoderThread:
    """Write frames in order in a separate thread; at most eight of them wait.

    Use as a context manager: leaving it normally waits until all frames are written and the codec is flushed, leaving
    it by an exception stops at once. An error of the encoder is raised by ``put`` or on leaving, as it is.

    Args:
        writer: gets the frames; nothing else may write to it meanwhile.
        tick: called from the thread that calls ``put``, at least every tenth of a second while it waits; what it raises
            (the host's interrupt) comes through.
    """

    def __init__(self, writer: Writer | WithPreview, tick: Callable[[], None]) -> None:
        self._writer = writer
        self._tick = tick
        self._frames: queue.Queue[torch.Tensor | None] = queue.Queue(_WAITING_FRAMES)
        self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="wan-flf2v encoder", daemon=True)

    def put(self, frame: torch.Tensor | None) -> None:
        """Queue a frame, [3 or 4, height, width] on the CPU, and wait for room; None is the end."""
        while True:
            self._raise_error()
            self._tick()
            try:
                return self._frames.put(frame, timeout=_POLL_S)
            except queue.Full:
                continue

    def __enter__(self) -> EncoderThread:
        self._thread.start()
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            if error_type is None:
                self.put(None)
                while self._thread.is_alive():
                    self._tick()
                    self._thread.join(_POLL_S)
                self._raise_error()
        finally:
            self._stop()

    def _raise_error(self) -> None:
        error, self._error = self._error, None  # forgotten here: its traceback holds the tensors of its frames
        try:
            if error is not None:
                raise error
        finally:
            del error

    def _stop(self) -> None:
        """End the thread before the file is closed; it finishes the frame that it has begun."""
        self._stopped = True
        with contextlib.suppress(queue.Empty):
            while True:
                self._frames.get_nowait()
        self._frames.put_nowait(None)  # there is room: only this thread puts frames in
        self._thread.join()

    def _run(self) -> None:
        try:
            while (frame := self._frames.get()) is not None and not self._stopped:
                self._writer.write(frame)
            if not self._stopped:
                self._writer.flush()
        except BaseException as error:  # noqa: BLE001 -- raised again in the thread that waits
            self._error = error
