"""Writes a video file of any format, frame by frame, and a preview beside it; it appears once it is whole."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from av.video.reformatter import ColorRange

from . import tags
from .audio import SoundStream
from .formats import PREVIEW
from .names import temporary
from .pictures import fill_picture, to_picture, to_planar_bytes
from .settings import Settings, encoder_options

_REPLACE_TRIES, _REPLACE_WAIT_S = 20, 0.25
_MOVES_FOLDERS = os.name == "posix"  # over an empty one, at once; Windows moves none over another
_PREVIEW_SIDE, _PREVIEW_CRF, _PREVIEW_PRESET = 640, 23, "veryfast"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# ITU-T H.273 code points: 1 is BT.709 in the tables for primaries, transfer characteristics and matrix; 13 is sRGB's
# transfer characteristics, 0 the matrix of RGB itself.
_H273_BT709, _H273_SRGB, _H273_RGB = 1, 13, 0
# FFmpeg's names of what paletteuse does.
_GIF_DITHERS = {"auto": "sierra2_4a", "none": "none", "ordered": "bayer"}

_LOG = logging.getLogger("wan_flf2v.video")


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


class StreamWriter(Writer):
    """A file of one video stream, and one of sound if there is a sound."""

    _sound: SoundStream | None = None

    def _open(self) -> None:
        settings, chosen = self.settings, self.settings.format
        options = dict(chosen.container_options)
        if chosen.container == "webp":
            options["loop"] = str(settings.loops)
        self._container = av.open(str(self._unfinished), mode="w", format=chosen.container, options=options)
        if chosen.container != "webp":
            for key, value in settings.tags.items():
                self._container.metadata[key] = tags.as_text(value)
        self._stream = self._container.add_stream(chosen.encoder, rate=chosen.clock or settings.frame_rate)
        self._stream.width, self._stream.height = self.width, self.height
        self._stream.pix_fmt = settings.pixels
        self._stream.options = encoder_options(settings)
        # PyAV asks for threads by slice, which x264 pays for with size and speed; AUTO lets it take threads by frame.
        self._stream.thread_type = "AUTO"
        context = self._stream.codec_context
        if chosen.is_yuv:
            context.color_range = ColorRange.MPEG
            context.colorspace = context.color_primaries = context.color_trc = _H273_BT709
        else:
            context.color_range = ColorRange.JPEG
            context.colorspace, context.color_primaries, context.color_trc = _H273_RGB, _H273_BT709, _H273_SRGB
        if chosen.tag:
            context.codec_tag = chosen.tag
        if settings.has_alpha and chosen.container == "webm":  # VP9's transparency is a second stream beside the first
            self._stream.metadata["alpha_mode"] = "1"
        if settings.sound is not None and chosen.audio:
            self._sound = SoundStream(self._container, chosen.audio, settings.sound)

    def _write(self, frame: torch.Tensor) -> None:
        picture = to_picture(frame, self.settings, self.width, self.height)
        if clock := self.settings.format.clock:
            # Rounded up: libwebp shows the last frame as long as the mean of those before it, rounded down.
            picture.pts = math.ceil(self.frames_written * clock / self.settings.frame_rate)
            picture.time_base = Fraction(1, clock)
        self._container.mux(self._stream.encode(picture))
        self.frames_written += 1
        if self._sound is not None:
            self._sound.write_until(self.frames_written / self.settings.frame_rate)

    def _flush(self) -> None:
        self._container.mux(self._stream.encode(None))
        if self._sound is not None:
            self._sound.flush()

    def _add_tags(self) -> None:
        if self.settings.format.container == "webp" and self.settings.tags:
            tags.into_webp(self._unfinished, self.settings.tags)


class GifWriter(Writer):
    """A GIF with one palette for all frames, which FFmpeg's palettegen makes of those that it looks at."""

    _mapped: _Filter | None = None

    @property
    def _tick(self) -> Fraction:
        return Fraction(1, self.settings.format.clock)

    @property
    def _size(self) -> tuple[int, int]:
        return self.width, self.height

    def _open(self) -> None:
        self._counted = _Filter("palettegen", "reserve_transparent=0", self._tick, self._size)
        last = self._time(self.settings.frames) - self._time(self.settings.frames - 1)
        # A GIF says how often it plays again: FFmpeg's -1 is not at all, 0 is for ever.
        again = {0: 0, 1: -1}.get(self.settings.loops, self.settings.loops - 1)
        options = {"loop": str(again), "final_delay": str(last)}
        self._container = av.open(str(self._unfinished), mode="w", format="gif", options=options)
        self._stream = self._container.add_stream("gif", rate=self.settings.format.clock)
        self._stream.width, self._stream.height, self._stream.pix_fmt = self.width, self.height, "pal8"

    def look(self, frame: torch.Tensor) -> None:
        """Count the frame's colours."""
        self._counted.push(self._timed(frame, 0))

    def _write(self, frame: torch.Tensor) -> None:
        if self._mapped is None:
            self._mapped = self._with_palette()
        self._mapped.push(self._timed(frame, self._time(self.frames_written)))
        self._mux(self._mapped)
        self.frames_written += 1

    def _flush(self) -> None:
        if self._mapped is not None:
            self._mapped.push(None)
            self._mux(self._mapped)
        self._container.mux(self._stream.encode(None))

    def _with_palette(self) -> _Filter:
        """Return the filter that maps frames to the palette of what was looked at."""
        self._counted.push(None)
        (palette,) = self._counted.pull()
        palette.pts, palette.time_base = 0, self._tick
        dither = _GIF_DITHERS[self.settings.dither]
        arguments = f"dither={dither}:diff_mode=rectangle"
        mapped = _Filter("paletteuse", arguments, self._tick, self._size, (palette.width, palette.height))
        for picture in (palette, None):
            mapped.push(picture, 1)
        return mapped

    def _mux(self, mapped: _Filter) -> None:
        for picture in mapped.pull():
            self._container.mux(self._stream.encode(picture))

    def _time(self, frame: int) -> int:
        return round(frame / self._tick / self.settings.frame_rate)

    def _timed(self, frame: torch.Tensor, time: int) -> av.VideoFrame:
        picture = fill_picture("bgra", to_planar_bytes(frame))
        picture.pts, picture.time_base = time, self._tick
        return picture

    def _add_tags(self) -> None:
        if self.settings.tags:
            tags.into_gif(self._unfinished, self.settings.tags)


class PngWriter(Writer):
    """A folder of PNG files, 00001.png and so on; each has the tags."""

    def _open(self) -> None:
        shutil.rmtree(self._unfinished, ignore_errors=True)  # of a killed process whose note is lost
        self._unfinished.mkdir()
        self._chunks = tags.png_chunks(self.settings.tags)

    def _write(self, frame: torch.Tensor) -> None:
        context = av.CodecContext.create("png", "w")
        context.width, context.height = self.width, self.height
        context.pix_fmt, context.time_base = self.settings.pixels, Fraction(1, 1)
        context.options = dict(self.settings.format.options)
        packets = context.encode(to_picture(frame, self.settings, self.width, self.height)) + context.encode(None)
        self.frames_written += 1
        file = self._unfinished / f"{self.frames_written:05}.png"
        file.write_bytes(tags.in_png(b"".join(map(bytes, packets)), self._chunks))


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
    kind = {"gif": GifWriter, "": PngWriter}.get(settings.format.container, StreamWriter)
    writer = kind(path, width, height, settings)
    return writer if preview is None else WithPreview(writer, preview)


class _Filter:
    """One of FFmpeg's filters, fed with BGRA pictures of these sizes, one size for each of its inputs."""

    def __init__(self, name: str, arguments: str, tick: Fraction, *sizes: tuple[int, int]) -> None:
        graph = av.filter.Graph()
        middle, self._end = graph.add(name, arguments), graph.add("buffersink")
        self._sources = [graph.add_buffer(width=w, height=h, format="bgra", time_base=tick) for w, h in sizes]
        for i, source in enumerate(self._sources):
            source.link_to(middle, 0, i)
        middle.link_to(self._end)
        graph.configure()
        self._graph = graph  # the sources and the end know it only by a weak reference

    def push(self, picture: av.VideoFrame | None, number: int = 0) -> None:
        """Give a picture, or None for the end, to one of the inputs."""
        self._sources[number].push(picture)

    def pull(self) -> Iterator[av.VideoFrame]:
        """Yield the pictures that are ready."""
        with contextlib.suppress(av.error.BlockingIOError, av.error.EOFError):
            while True:
                yield self._end.pull()


def _replace(source: Path, target: Path) -> None:
    """Move a file or a folder over the empty one that reserves its name.

    The name is never free meanwhile: another process would take it. On Windows a move fails while a virus scanner or a
    viewer has the file open: wait.
    """
    if source.is_dir() and not _MOVES_FOLDERS:
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
