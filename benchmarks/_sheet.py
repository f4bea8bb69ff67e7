"""A picture of videos beside their true clips, for a person to look at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw

_FRAMES = 7
_TILE, _GAP, _CAPTION = 96, 4, 16
_STEP = _TILE + _GAP
_BACKGROUND, _TEXT = "#1e1e1e", "#dddddd"


class Row(NamedTuple):
    """One video: its caption, both photographs [3, height, width], ``chosen`` frames of the made and the true clip."""

    caption: str
    start: torch.Tensor
    end: torch.Tensor
    made: torch.Tensor
    true: torch.Tensor


def chosen(clip: torch.Tensor) -> torch.Tensor:
    """Return copies of the frames that a sheet shows of a clip [3, frames, height, width], from first to last."""
    return clip[:, [round(i * (clip.shape[1] - 1) / (_FRAMES - 1)) for i in range(_FRAMES)]]


def save_sheet(target: Path, rows: list[Row]) -> None:
    """Write a PNG: for each video its start image, frames in order and end image, with the true clip's frames below."""
    height = _CAPTION + 2 * _STEP + _GAP
    sheet = Image.new("RGB", ((_FRAMES + 2) * _STEP + _GAP, len(rows) * height + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = number * height
        draw.text((_GAP, top + 2), f"{row.caption}   (made above, true below)", fill=_TEXT)
        top += _CAPTION
        _paste(sheet, row.start, 0, top)
        _paste(sheet, row.end, _FRAMES + 1, top)
        for column in range(_FRAMES):
            _paste(sheet, row.made[:, column], column + 1, top)
            _paste(sheet, row.true[:, column], column + 1, top + _STEP)
    sheet.save(target)


def save_photographs(target: Path, photographs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Write a PNG: each photograph above what the VAE made of it; both are [3, 1, height, width]."""
    sides = (torch.cat([one[:, 0] for one in row], dim=-1) for row in zip(*photographs, strict=True))
    codes = (torch.cat(list(sides), dim=-2).clamp(0, 1) * 255).round().to(torch.uint8)
    Image.fromarray(codes.movedim(0, -1).numpy()).save(target)


def _paste(sheet: Image.Image, picture: torch.Tensor, column: int, top: int) -> None:
    codes = (picture.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    sheet.paste(Image.fromarray(codes).resize((_TILE, _TILE), Image.Resampling.LANCZOS), (_GAP + column * _STEP, top))
