"""What settings do to the demo's videos: hand-over, samplers, steps, guidance, caches, lengths, stock nodes.

Each setting makes the same videos of held-out photographs, three of each word. The figures also go into a table
in Markdown.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..training.transitions import TRANSITIONS
from ._cases import cases_of, held_out_photographs, pairs_of
from ._figures import Figure, Figures, Options, median
from ._rule import high_noise_steps
from ._stage import MANY_FRAMES, comfyui_alone
from ._videos import LENGTH, SHIFT, STEPS, Setting, Videos
from .fidelity import Made, hits, make

_PAIRS, _EACH = 20, 3
_LONG_EVERY = 3  # of the videos, one in three is made at the long lengths, which take longest
_FIRST_LOW = high_noise_steps(STEPS, int(SHIFT), "simple")
_COLUMNS = ("first", "last", "middle", "hits", "seconds")

# Row of the table -> setting; the first is the demo's own, and what the others differ from.
SETTINGS: dict[str, Setting] = {
    "the demo's": Setting(),
    "hand-over at half of the steps": Setting({"handover": "half"}),
    "hand-over one step early": Setting({"handover": "step", "handover_step": _FIRST_LOW - 1}),
    "hand-over one step late": Setting({"handover": "step", "handover_step": _FIRST_LOW + 1}),
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
        for name in ("euler", "uni_pc", "dpmpp_2m")
    },
}


def run(options: Options) -> Figures:
    """Make three videos of each word with every setting; rounds are the videos of each word."""
    photographs = held_out_photographs()
    each = options.rounds or _EACH
    cases = cases_of(pairs_of(list(photographs), max(_PAIRS, each)), list(TRANSITIONS), each)
    figures, rows = {}, []
    with comfyui_alone(options, MANY_FRAMES) as server:
        videos = Videos(server, photographs)
        fitted = {name: picture for name, (picture, _) in videos.through_vae().items()}
        for name, setting in SETTINGS.items():
            few = cases if setting.length == LENGTH else cases[::_LONG_EVERY]
            row = row_of(*make(videos, few, setting, fitted))
            rows.append(table_line(name, row))
            print(rows[-1], flush=True)
            figures |= {f"{_key(name)}_{column}": figure for column, figure in row.items()}
    if options.json is not None:
        table = options.json.with_suffix(".md")
        table.write_text("\n".join((*TABLE_HEAD, *rows, "")), encoding="utf-8")
        print(f"quality: table: {table}", flush=True)
    return figures


TABLE_HEAD = (
    "| setting | first, dB | last, dB | middle, dB | word hits | seconds of sampling |",
    "|---|---|---|---|---|---|",
)


def table_line(name: str, row: Mapping[str, Figure]) -> str:
    """Return one row of the table in Markdown."""
    first, last, middle, hit, seconds = (row[column] for column in _COLUMNS)
    share = f"{round(hit.value * hit.rounds)} of {hit.rounds}"
    return f"| {name} | {first.value:.1f} | {last.value:.1f} | {middle.value:.1f} | {share} | {seconds.value:.2f} |"


def row_of(made: list[Made], seconds: float) -> Figures:
    """Return the columns of one row; ``seconds`` are those of sampling one video."""
    return {
        "first": median([one.first_psnr for one in made], "dB"),
        "last": median([one.last_psnr for one in made], "dB"),
        "middle": median([one.middle_psnr for one in made], "dB"),
        "hits": hits(made),
        "seconds": Figure(seconds, "s", len(made), seconds, seconds),
    }


def _key(name: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in name)
