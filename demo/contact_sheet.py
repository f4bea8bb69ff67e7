"""A picture of a video: the start image, frames of it in order, the end image."""

from __future__ import annotations

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
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate or 0)
        frames = [frame.to_image() for frame in container.decode(stream)]
    chosen = [round(i * (len(frames) - 1) / (FRAMES - 1)) for i in range(FRAMES)]
    tiles = [("start image", _open(start)), *((f"frame {i}", frames[i]) for i in chosen), ("end image", _open(end))]
    rows = -(-len(tiles) // COLUMNS)
    step_x, step_y = TILE + GAP, TILE + CAPTION + GAP
    sheet = Image.new("RGB", (COLUMNS * step_x + GAP, rows * step_y + GAP), "#1e1e1e")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, image) in enumerate(tiles):
        x, y = GAP + index % COLUMNS * step_x, GAP + index // COLUMNS * step_y
        sheet.paste(ImageOps.fit(image, (TILE, TILE)), (x, y))
        draw.text((x, y + TILE + 2), caption, fill="#dddddd")
    sheet.save(target)
    return VideoFacts(len(frames), *frames[0].size, fps)


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
