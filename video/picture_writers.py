"""Writes pictures that are encoded by themselves, several at once: a folder of PNG files, and an animated WebP."""

from __future__ import annotations

import os
import shutil
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch

from . import tags, webp
from .pictures import to_bytes, to_picture
from .settings import Settings, encoder_options
from .whole_file import Writer

_AT_ONCE = min(8, os.cpu_count() or 1)


class PictureWriter(Writer):
    """Encode up to ``_AT_ONCE`` pictures at a time, and store them in order."""

    def __init__(self, path: Path, width: int, height: int, settings: Settings) -> None:
        super().__init__(path, width, height, settings)
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="wan-flf2v pictures")
        self._encoded: deque[tuple[Future[bytes], Any]] = deque()

    def _encode(self, frame: torch.Tensor, place: Any = None) -> None:
        """Begin to encode a picture of the format; ``_store`` gets it, and ``place``."""
        if len(self._encoded) == _AT_ONCE:
            self._store_next()
        self._encoded.append((self._threads.submit(_encoded, frame, self.settings), place))

    def _store_next(self) -> None:
        picture, place = self._encoded.popleft()
        self._store(picture.result(), place)
        self.frames_written += 1

    def _store(self, picture: bytes, place: Any) -> None:
        """Write an encoded picture."""
        raise NotImplementedError

    def _flush(self) -> None:
        while self._encoded:
            self._store_next()

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)
        super().__exit__(error_type)


class PngWriter(PictureWriter):
    """A folder of PNG files, 00001.png and so on; each has the tags."""

    def _open(self) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)  # of a killed process whose note is lost
        self._unfinished.mkdir()
        self._chunks = tags.png_chunks(self.settings.tags)

    def _write(self, frame: torch.Tensor) -> None:
        self._encode(frame)

    def _store(self, picture: bytes, place: Any) -> None:
        file = self._unfinished / f"{self.frames_written + 1:05}.png"
        file.write_bytes(tags.in_png(picture, self._chunks))


class WebpWriter(PictureWriter):
    """An animated WebP: of each frame, the smallest rectangle that holds all that plainly differs from what is shown.

    FFmpeg's animated encoder makes one whole picture, and then what differs from the file's own last one: its errors
    add up where something moves slowly (3.6 dB on a panned photograph).
    """

    def _open(self) -> None:
        self._container = self._unfinished.open("wb")
        self._exif = webp.exif_chunk(self.settings.tags) if self.settings.tags else b""
        size = self.width, self.height
        head = webp.head(size, self.settings.loops, alpha=self.settings.has_alpha, exif=bool(self._exif))
        self._container.write(head)
        quality = self.settings.quality
        self._alike = webp.tolerance(self.settings.format.quality.default if quality is None else quality)
        self._shown: torch.Tensor | None = None

    def _write(self, frame: torch.Tensor) -> None:
        frame = to_bytes(frame, self.settings)
        if self._shown is None:
            self._shown = frame.clone()
            left, top, right, bottom = 0, 0, self.width, self.height
        else:
            left, top, right, bottom = webp.changed(self._shown, frame, self._alike)
        part = frame[:, top:bottom, left:right].contiguous()
        self._shown[:, top:bottom, left:right] = part  # of the rest, what was stored last is compared again
        self._encode(part, (left, top, right - left, bottom - top))

    def _store(self, picture: bytes, place: Any) -> None:
        begin, end = (self.settings.ticks(self.frames_written + passed) for passed in (0, 1))
        chunk = webp.frame_chunk(picture, place, end - begin)
        if self._container.tell() + len(chunk) + len(self._exif) > webp.MOST_BYTES:
            raise ValueError(
                f"format is {self.settings.format.name!r}, whose files hold 4 GiB at most, but "
                f"{self.frames_written} of the frames fill it already. Choose another format, or a lower quality."
            )
        self._container.write(chunk)

    def _flush(self) -> None:
        super()._flush()
        self._container.write(self._exif)
        webp.end(self._container)


def _encoded(frame: torch.Tensor, settings: Settings) -> bytes:
    """Return a frame as a picture file of the format's encoder."""
    _, height, width = frame.shape
    context = av.CodecContext.create(settings.format.encoder, "w")
    context.width, context.height = width, height
    context.pix_fmt, context.time_base = settings.pixels, Fraction(1, 1)
    context.options = encoder_options(settings)
    packets = context.encode(to_picture(frame, settings, width, height)) + context.encode(None)
    return b"".join(map(bytes, packets))
