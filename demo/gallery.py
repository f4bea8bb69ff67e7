"""One animated picture of several videos side by side, each under its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import av
from PIL import Image, ImageDraw

TILE, GAP, CAPTION = 160, 6, 18
COLUMNS = 4
HOLD_MS = 900  # how long the first and the last frame stand


def gallery(videos: Mapping[str, Path], target: Path) -> None:
    """Save the videos, which have equal lengths and rates, as one animated WebP at ``target``."""
    clips = {caption: _frames(path) for caption, path in videos.items()}
    frames, rate = next(iter(clips.values()))
    rows = -(-len(clips) // COLUMNS)
    step_x, step_y = TILE + GAP, TILE + CAPTION + GAP
    sheets = []
    for index in range(len(frames)):
        sheet = Image.new("RGB", (COLUMNS * step_x + GAP, rows * step_y + GAP), "#1e1e1e")
        draw = ImageDraw.Draw(sheet)
        for place, (caption, (clip, _)) in enumerate(clips.items()):
            x, y = GAP + place % COLUMNS * step_x, GAP + place // COLUMNS * step_y
            sheet.paste(clip[index].resize((TILE, TILE), Image.Resampling.LANCZOS), (x, y))
            draw.text((x + 2, y + TILE + 2), caption, fill="#dddddd")
        sheets.append(sheet)
    durations = [round(1000 / rate)] * len(sheets)
    durations[0] = durations[-1] = HOLD_MS
    sheets[0].save(target, save_all=True, append_images=sheets[1:], duration=durations, loop=0, quality=70, method=6)


def _frames(video: Path) -> tuple[list[Image.Image], float]:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate or 16)
        return [frame.to_image() for frame in container.decode(stream)], rate
