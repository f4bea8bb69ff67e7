"""What settings do to the demo's videos: hand-over, samplers, steps, guidance, caches, lengths, stock nodes.

Each setting makes the same videos of held-out photographs, three of each word, and one of each word of procedural
pictures. The figures also go into a table in Markdown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image

from ..training import procedural
from ..training.transitions import TRANSITIONS
from ._cases import cases_of, held_out_photographs, pairs_of
from ._figures import Figure, Figures, Options, add_row, median
from ._rule import high_noise_steps
from ._stage import MANY_FRAMES, comfyui_alone
from ._videos import SHIFT, SIDE, STEPS, Setting, Videos
from .fidelity import Made, hits, make

_PAIRS, _EACH = 20, 3
_DRAWN, _DRAWN_SEED = 8, 770_000  # procedural pictures; no training draws from this seed
_FIRST_LOW = high_noise_steps(STEPS, int(SHIFT), "simple")
_COLUMNS = ("first", "last", "middle", "gain", "sharpness", "hits", "drawn_middle", "seconds")

# Row of the table -> setting; the first is the demo's own, and what the others differ from. At shift 8 half of the
# steps is the boundary's hand-over, so that is compared at shift 5.
SETTINGS: dict[str, Setting] = {
    "the demo's": Setting(),
    "hand-over one step early": Setting({"handover": "step", "handover_step": _FIRST_LOW - 1}),
    "hand-over one step late": Setting({"handover": "step", "handover_step": _FIRST_LOW + 1}),
    "20 steps, shift 5": Setting({"steps": 20}, shift=5.0),
    "20 steps, shift 5, hand-over at half": Setting({"steps": 20, "handover": "half"}, shift=5.0),
    **{f"sampler {name}": Setting({"sampler_name": name}) for name in ("uni_pc", "dpmpp_2m", "res_multistep")},
    **{f"{steps} steps": Setting({"steps": steps}) for steps in (4, 10, 20)},
    **{f"cfg {cfg:g}": Setting({"cfg": cfg}) for cfg in (2.0, 4.0)},
    "cfg 4, cfg_gate 0.5": Setting({"cfg": 4.0, "cfg_gate": 0.5}),
    "20 steps, EasyCache": Setting({"steps": 20}, easycache=True),
    **{
        f"{'stock ends' if stock else 'node 67'}, length {length}": Setting(length=length, stock_ends=stock)
        for length in (80, 81)
        for stock in (True, False)
    },
    **{
        f"two KSamplerAdvanced, {name}": Setting({"sampler_name": name}, chained_at=_FIRST_LOW)
        for name in ("euler", "uni_pc", "dpmpp_2m", "res_multistep")
    },
}


def run(options: Options) -> Figures:
    """Make videos of each word with every setting, of photographs and of drawn pictures; rounds: videos of a word."""
    photographs = held_out_photographs()
    each = options.rounds or _EACH
    cases = cases_of(pairs_of(list(photographs), max(_PAIRS, each)), list(TRANSITIONS), each)
    figures, rows = {}, list(TABLE_HEAD)
    with tempfile.TemporaryDirectory() as folder, comfyui_alone(options, MANY_FRAMES) as server:
        drawn = _draw(Path(folder))
        drawn_cases = cases_of(pairs_of(list(drawn), _DRAWN), list(TRANSITIONS), 1)
        videos = Videos(server, {**photographs, **drawn})
        fitted = {name: picture for name, (picture, _) in videos.through_vae().items()}
        for name, setting in SETTINGS.items():
            made, seconds = make(videos, cases + drawn_cases, setting, fitted)
            row = row_of(made[: len(cases)], made[len(cases) :], seconds)
            add_row(options, rows, table_line(name, row))
            figures |= {f"{_key(name)}_{column}": figure for column, figure in row.items()}
    return figures


def _draw(folder: Path) -> dict[str, Path]:
    """Write procedural pictures; return name -> file."""
    generator = torch.Generator().manual_seed(_DRAWN_SEED)
    files = {f"drawn{number}": folder / f"drawn{number}.png" for number in range(_DRAWN)}
    for file in files.values():
        codes = (procedural.picture(SIDE, SIDE, generator) * 255).round().to(torch.uint8)
        Image.fromarray(codes.movedim(0, -1).numpy()).save(file)
    return files


TABLE_HEAD = (
    "| setting | first, dB | last, dB | middle, dB | gain, dB | sharpness | word hits | drawn, dB | seconds |",
    "|---|---|---|---|---|---|---|---|---|",
)


def table_line(name: str, row: Mapping[str, Figure]) -> str:
    """Return one row of the table in Markdown."""
    first, last, middle, gain, sharp, hit, drawn, seconds = (row[column].value for column in _COLUMNS)
    videos = row["hits"].rounds
    return (
        f"| {name} | {first:.1f} | {last:.1f} | {middle:.1f} | {gain:.1f} | {sharp:.2f} | {round(hit * videos)} of "
        f"{videos} | {drawn:.1f} | {seconds:.2f} |"
    )


def row_of(made: list[Made], drawn: list[Made], seconds: float) -> Figures:
    """Return the columns of one row; ``drawn`` are videos of procedural pictures, ``seconds`` those of sampling one."""
    moving = [one.gain for one in made if one.case.word != "dissolve"]
    return {
        "first": median([one.first_psnr for one in made], "dB"),
        "last": median([one.last_psnr for one in made], "dB"),
        "middle": median([one.middle_psnr for one in made], "dB"),
        "gain": median(moving, "dB"),
        "sharpness": median([one.sharpness for one in made], "of the true clip"),
        "hits": hits(made),
        "drawn_middle": median([one.middle_psnr for one in drawn], "dB"),
        "seconds": Figure(seconds, "s", len(made), seconds, seconds),
    }


def _key(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
