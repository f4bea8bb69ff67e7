"""Writes a GIF with one palette for all frames, which are looked at before the first is written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction

import av
import torch

from . import tags
from .pictures import fill_picture, to_planar_bytes
from .whole_file import Writer

# FFmpeg's names of what paletteuse does.
_DITHERS = {"auto": "sierra2_4a", "none": "none", "ordered": "bayer"}


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
        last = self.settings.ticks(self.settings.frames) - self.settings.ticks(self.settings.frames - 1)
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
        self._mapped.push(self._timed(frame, self.settings.ticks(self.frames_written)))
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
        dither = _DITHERS[self.settings.dither]
        arguments = f"dither={dither}:diff_mode=rectangle"
        mapped = _Filter("paletteuse", arguments, self._tick, self._size, (palette.width, palette.height))
        for picture in (palette, None):
            mapped.push(picture, 1)
        return mapped

    def _mux(self, mapped: _Filter) -> None:
        for picture in mapped.pull():
            self._container.mux(self._stream.encode(picture))

    def _timed(self, frame: torch.Tensor, time: int) -> av.VideoFrame:
        picture = fill_picture("bgra", to_planar_bytes(frame))
        picture.pts, picture.time_base = time, self._tick
        return picture

    def _add_tags(self) -> None:
        if self.settings.tags:
            tags.into_gif(self._unfinished, self.settings.tags)


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
