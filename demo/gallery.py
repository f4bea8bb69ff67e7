"""One animated picture of several videos side by side, each above its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from .contact_sheet import grid, read_video

TILE, GAP = 160, 6
HOLD_MS = 900  # how long the first and the last frame stand


def gallery(videos: Mapping[str, Path], target: Path) -> None:
    """Save the videos, which have equal lengths and rates, as one animated WebP at ``target``."""
    clips = {caption: read_video(path) for caption, path in videos.items()}
    frames, rate = next(iter(clips.values()))

    def sheet(index: int) -> Image.Image:
        resized = {
            name: clip[index].resize((TILE, TILE), Image.Resampling.LANCZOS) for name, (clip, _) in clips.items()
        }
        return grid(list(resized.items()), TILE, GAP)

    sheets = [sheet(index) for index in range(len(frames))]
    durations = [round(1000 / rate)] * len(sheets)
    durations[0] = durations[-1] = HOLD_MS
    sheets[0].save(target, save_all=True, append_images=sheets[1:], duration=durations, loop=0, quality=70, method=6)
