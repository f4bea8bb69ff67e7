"""Writes a video file of any format, frame by frame, and a preview beside it; it appears once it is whole."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .formats import PREVIEW
from .gif_writer import GifWriter
from .picture_writers import PngWriter, WebpWriter
from .pictures import to_planar_bytes
from .settings import Settings
from .stream_writer import StreamWriter
from .whole_file import Writer

_PREVIEW_SIDE, _PREVIEW_CRF, _PREVIEW_PRESET = 640, 23, "veryfast"
_WRITERS = {"gif": GifWriter, "webp": WebpWriter, "": PngWriter}

_LOG = logging.getLogger("wan_flf2v.video")


class WithPreview:
    """A writer, and beside it a small H.264 file of the same frames that browsers play.

    The file matters, the preview does not: after its first error there is none, and the log says why.

    Args:
        writer: of the file itself.
        path: the preview.
    """

    def __init__(self, writer: Writer, path: Path) -> None:
        self._writer = writer
        self.width, self.height, self.settings = writer.width, writer.height, writer.settings
        scale = min(1.0, _PREVIEW_SIDE / max(self.width, self.height))
        size = (max(2, round(side * scale) // 2 * 2) for side in (self.width, self.height))
        settings = Settings(
            self.settings.frame_rate, PREVIEW, _PREVIEW_CRF, preset=_PREVIEW_PRESET, sound=self.settings.sound
        )
        self._preview: Writer | None = StreamWriter(path, *size, settings)
        self._exits = contextlib.ExitStack()

    @property
    def path(self) -> Path:
        """The file itself."""
        return self._writer.path

    @property
    def frames_written(self) -> int:
        """The frames that the file has."""
        return self._writer.frames_written

    def look(self, frame: torch.Tensor) -> None:
        """See a frame before the first is written."""
        self._writer.look(frame)

    def write(self, frame: torch.Tensor) -> None:
        """Encode one frame in both files."""
        self._writer.write(frame)
        self._try(lambda preview: preview.write(to_planar_bytes(frame[:3])))

    def flush(self) -> None:
        """Encode what the codecs hold back."""
        self._writer.flush()
        self._try(lambda preview: preview.flush())

    def __enter__(self) -> WithPreview:
        self._exits.push(lambda *error: self._try(lambda preview: preview.__exit__(*error)))
        self._exits.enter_context(self._writer)
        self._try(lambda preview: preview.__enter__())
        return self

    def __exit__(self, *error: Any) -> None:
        self._exits.__exit__(*error)

    def _try(self, do: Callable[[Writer], object]) -> None:
        """Do this with the preview if there still is one."""
        if self._preview is None:
            return
        try:
            do(self._preview)
        except Exception as error:  # noqa: BLE001 -- of encoders, containers and disks
            failed, self._preview = self._preview, None
            _LOG.warning("the file has no preview in the editor file=%s: %s", self.path, error)
            with contextlib.suppress(OSError):
                failed.__exit__(type(error))


def new_writer(
    path: Path, width: int, height: int, settings: Settings, preview: Path | None = None
) -> Writer | WithPreview:
    """Return the writer of a format, with a preview beside it if there is a path for one."""
    writer = _WRITERS.get(settings.format.container, StreamWriter)(path, width, height, settings)
    return writer if preview is None else WithPreview(writer, preview)
