"""How well the report judges what the demo's models make: 50 videos whose faults were marked by eye.

Among them are videos of settings that the models do not fit, so that there is something to find. A mark says which
kinds of faults a video has, as one sees them in its frames side by side (``outputs.json``: number -> kinds). The marks
are of the videos that these models make of these photographs.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw

from ..demo.base import MODELS
from ..training.transitions import TRANSITIONS
from ..video.edit import Edit
from ._cases import Case, cases_of, held_out_photographs, pairs_of
from ._clips import Clip, Picture
from ._figures import Figure, Figures, Options
from ._stage import MANY_FRAMES, comfyui_alone
from ._videos import Setting, Videos
from .detectors import BAR, KINDS, rates, report_of

# What was made with these settings and looked at: videos, how node 57 and 67 are set, and the target frame rate divided
# by the frame rate, at which node 73 shows some frames longer.
_ASKED: tuple[tuple[int, Setting, Fraction], ...] = (
    (21, Setting(), Fraction(1)),
    (7, Setting({"cfg": 4.0}), Fraction(1)),
    (4, Setting({"cfg": 2.0}), Fraction(1)),
    (4, Setting({"steps": 2}), Fraction(1)),
    (4, Setting(length=80, stock_ends=True), Fraction(1)),
    (6, Setting(), Fraction(3, 2)),
    (4, Setting(), Fraction(5)),
)
_MARKS = Path(__file__).with_name("outputs.json")
_TILE, _COLUMNS, _CAPTION = 84, 17, 14


class Output(NamedTuple):
    """One video and how it is made."""

    case: Case
    setting: Setting
    held: Fraction


def run(options: Options) -> Figures:
    """Make the 50 videos, judge them and compare with the marks; rounds are not used."""
    marks = read_marks(list(held_out_photographs()))
    counts = {kind: Counter[str]() for kind in KINDS}
    for number, (output, clip) in enumerate(clips(options)):
        if options.json is not None:
            _save_sheet(options.json.with_suffix("") / f"{number:02}.png", f"{number} {output.case.word}", clip)
        report, _ = report_of(clip)
        found, marked = {finding.kind for finding in report.findings}, set(marks.get(str(number), ()))
        for kind in KINDS:
            if kind in found | marked:
                counts[kind]["found" if kind in found & marked else "missed" if kind in marked else "wrong"] += 1
            if (kind in found) != (kind in marked):
                print(f"outputs: video {number}: {kind}: {'missed' if kind in marked else 'not marked'}", flush=True)
    return {name: figure for kind in KINDS for name, figure in _figures(kind, counts[kind]).items()}


def read_marks(photographs: list[str]) -> dict[str, list[str]]:
    """Return number of a video -> kinds of faults.

    Raises:
        SystemExit: other photographs or models make other videos than those that were marked.
    """
    marked = json.loads(_MARKS.read_text(encoding="utf-8"))
    models = {path.name: sha256(path.read_bytes()).hexdigest() for path in MODELS.rglob("*.safetensors")}
    for name, now in (("photographs", photographs), ("models", models)):
        if marked[name] != now:
            raise SystemExit(f"the {name} are not those of the marked videos ({_MARKS}): mark the new ones")
    marks: dict[str, list[str]] = marked["marks"]
    return marks


def outputs(photographs: list[str]) -> list[Output]:
    """Return what is made, in order: the pairs and words take turns."""
    count = sum(count for count, _, _ in _ASKED)
    cases = iter(cases_of(pairs_of(photographs, count), list(TRANSITIONS), -(-count // len(TRANSITIONS))))
    return [Output(next(cases), setting, held) for count, setting, held in _ASKED for _ in range(count)]


def clips(options: Options) -> Iterator[tuple[Output, Clip]]:
    """Make the videos and yield each with its images; what is wrong with it is not told."""
    photographs = held_out_photographs()
    with comfyui_alone(options, MANY_FRAMES) as server:
        videos = Videos(server, photographs)
        images = {name: _frames(picture)[0] for name, (picture, _) in videos.through_vae().items()}
        for setting, group in groupby(outputs(list(photographs)), lambda output: output.setting):
            asked = list(group)
            made, _ = videos.make([output.case for output in asked], setting)
            for output, frames in zip(asked, made, strict=True):
                shown = Edit(held=output.held).timed(iter(frames.unbind(1)), frames.shape[1])
                ends = images[output.case.start], images[output.case.end]
                yield output, Clip("output", _frames(torch.stack(list(shown), dim=1)), *ends)


def _frames(clip: torch.Tensor) -> list[Picture]:
    """Return the frames of [3, frames, height, width], 0...1, as uint8 [height, width, 3]."""
    codes: Picture = (clip.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 3, 0).numpy()
    return list(codes)


def _save_sheet(path: Path, caption: str, clip: Clip) -> None:
    """Write a PNG for a person who marks the faults: the start image, all frames, the end image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [clip.start, *clip.frames, clip.end]
    sheet = Image.new("RGB", (_COLUMNS * _TILE, -(-len(pictures) // _COLUMNS) * (_TILE + _CAPTION)))
    draw = ImageDraw.Draw(sheet)
    for place, picture in enumerate(pictures):
        left, top = place % _COLUMNS * _TILE, place // _COLUMNS * (_TILE + _CAPTION)
        sheet.paste(Image.fromarray(picture).resize((_TILE - 2, _TILE - 2)), (left, top + _CAPTION))
        draw.text((left, top), caption if place == 0 else str(place - 1), fill="white")
    sheet.save(path)


def _figures(kind: str, count: Counter[str]) -> Figures:
    precision, recall = rates(count)
    marked = float(count["found"] + count["missed"])
    figures = {f"outputs_{kind}_marked": _figure(marked)}
    if not marked:
        return {**figures, f"outputs_{kind}_wrong": _figure(float(count["wrong"]), ("==", 0.0))}
    for name, value in (("precision", precision), ("recall", recall)):
        figures[f"outputs_{kind}_{name}"] = _figure(value, (">=", BAR))
    return figures


def _figure(value: float, limit: tuple[str, float] | None = None) -> Figure:
    return Figure(value, "", sum(count for count, _, _ in _ASKED), value, value, limit)
