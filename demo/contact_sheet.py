"""A picture of a video: the start image, frames of it in order, the end image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import av
from PIL import Image, ImageDraw, ImageOps

TILE, GAP, CAPTION = 192, 8, 18
COLUMNS, FRAMES = 4, 6


class VideoFacts(NamedTuple):
    """What a video file holds: number of frames, width, height, frames per second."""

    frames: int
    width: int
    height: int
    fps: float


def contact_sheet(video: Path, start: Path, end: Path, target: Path) -> VideoFacts:
    """Read ``video`` whole, save the sheet as ``target`` and return what was read."""
    frames, fps = read_video(video)
    chosen = [round(i * (len(frames) - 1) / (FRAMES - 1)) for i in range(FRAMES)]
    tiles = [("start image", _open(start)), *((f"frame {i}", frames[i]) for i in chosen), ("end image", _open(end))]
    grid([(caption, ImageOps.fit(image, (TILE, TILE))) for caption, image in tiles], TILE, GAP).save(target)
    return VideoFacts(len(frames), *frames[0].size, fps)


def read_video(video: Path) -> tuple[list[Image.Image], float]:
    """Return all frames of a video file, and its frames per second (0 if the file does not say)."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return [frame.to_image() for frame in container.decode(stream)], float(stream.average_rate or 0)


def grid(tiles: Sequence[tuple[str, Image.Image]], side: int, gap: int) -> Image.Image:
    """Return square pictures of ``side`` pixels in four columns, each above its caption."""
    rows = -(-len(tiles) // COLUMNS)
    step_x, step_y = side + gap, side + CAPTION + gap
    sheet = Image.new("RGB", (COLUMNS * step_x + gap, rows * step_y + gap), "#1e1e1e")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, image) in enumerate(tiles):
        x, y = gap + index % COLUMNS * step_x, gap + index // COLUMNS * step_y
        sheet.paste(image, (x, y))
        draw.text((x, y + side + 2), caption, fill="#dddddd")
    return sheet


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
