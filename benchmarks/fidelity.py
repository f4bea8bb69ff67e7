"""What the demo's models make of photographs that they never saw, through a real ComfyUI: ends, middle, the VAE alone.

A video's word names its transition, so there is a true clip to compare with.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import torch

from ..training.transitions import TRANSITIONS, transition_clip
from ._cases import Case, cases_of, held_out_photographs, pairs_of
from ._figures import Figure, Figures, Options, median
from ._metrics import frame_psnr, middle, middle_gain, nearest_word, phase_spread, psnr, sharpness
from ._sheet import Row, chosen, save_photographs, save_sheet
from ._stage import MANY_FRAMES, comfyui_alone
from ._videos import Setting, Videos


def _key(word: str) -> str:
    return word.replace(" ", "_")


_PAIRS = 20
_EACH = 10  # videos of each word
_VAE_FRAMES = 17  # of a true clip that goes through the VAE alone
_ODD_LENGTH = 80  # where the stock node loses the last image
_DEMO = Case("chelsea", "coffee", "circle", 0)  # its photographs and its word
# What a figure must hold: the least value, but for the spread of the VAE.
_LEAST = {
    "vae_psnr": 28, "vae_psnr_worst": 24, "demo_first_psnr": 28, "demo_last_psnr": 26, "first_psnr": 27,
    "last_psnr": 25, "ends_minus_vae": -0.7, "word_hits": 0.8, "mid_gain": 3, "sharpness": 0.5,
    "last_psnr_gain_80": 12,
    **{f"vae_clip_psnr_{_key(word)}": 21 if "slide" in word else 24 for word in TRANSITIONS},
    **{f"word_hits_{_key(word)}": 0.6 for word in TRANSITIONS},
    **{f"mid_gain_{_key(word)}": 1.5 if "zoom" in word else 3 for word in TRANSITIONS},
}  # fmt: skip
_MOST_SPREAD = 2


class Made(NamedTuple):
    """Frames of a video and of its true clip, and what was measured: PSNR in dB, sharpness as a part of the truth's."""

    case: Case
    shown: torch.Tensor
    true_shown: torch.Tensor
    first_psnr: float
    last_psnr: float
    middle_psnr: float
    nearest: str
    gain: float
    sharpness: float


def run(options: Options) -> Figures:
    """Make the demo's video, and three or four of each of 20 pairs of photographs; rounds are the pairs."""
    photographs = held_out_photographs()
    pairs = pairs_of(list(photographs), options.rounds or _PAIRS)
    with comfyui_alone(options, MANY_FRAMES) as server:
        videos = Videos(server, photographs)
        alone = videos.through_vae()
        fitted = {name: picture for name, (picture, _) in alone.items()}
        vae = {name: psnr(picture, decoded) for name, (picture, decoded) in alone.items()}
        figures = {"vae_psnr": _mean(list(vae.values()), "dB"), "vae_psnr_worst": _one(min(vae.values()), "dB")}
        figures |= _vae_clips(videos, fitted, pairs)
        figures |= _demo(videos, fitted)
        made = []
        cases = cases_of(pairs, list(TRANSITIONS), min(_EACH, len(pairs)))
        for _, same_pair in groupby(cases, lambda case: (case.start, case.end)):
            of_pair, _ = make(videos, list(same_pair), Setting(), fitted)
            made += of_pair
            print("\n".join(map(_line, of_pair)), flush=True)
        figures |= figures_of(made, vae)
        figures |= _at_odd_length(videos, fitted, pairs)
    if options.json is not None:
        save_photographs(options.json.with_suffix(".photographs.png"), alone.values())
        sheet = options.json.with_suffix(".png")
        save_sheet(sheet, [_row(one) for one in best_and_worst(made)])
        print(f"fidelity: best and worst video of each word: {sheet}", flush=True)
    limits = {key: (">=", float(least)) for key, least in _LEAST.items()} | {"vae_phase_spread": ("<=", _MOST_SPREAD)}
    return {key: replace(figure, limit=limits.get(key)) for key, figure in figures.items()}


def make(
    videos: Videos, cases: Sequence[Case], setting: Setting, fitted: Mapping[str, torch.Tensor]
) -> tuple[list[Made], float]:
    """Return the videos of these cases with what was measured of them, and the seconds of sampling one.

    ``fitted`` is name of a photograph -> [3, 1, height, width] as it should look in the video.
    """
    clips, seconds = videos.make(cases, setting)
    made = []
    for (start, end), group in groupby(zip(cases, clips, strict=True), lambda one: (one[0].start, one[0].end)):
        true_clips: dict[str, torch.Tensor] = {}
        for case, clip in group:
            true_clips = true_clips or clips_of_words(fitted[start], fitted[end], clip.shape[1])
            made.append(judge(case, clip, true_clips))
    return made, seconds


def clips_of_words(start: torch.Tensor, end: torch.Tensor, frames: int) -> dict[str, torch.Tensor]:
    """Return every word's true clip between two pictures, [3, 1, height, width]."""
    return {word: transition_clip(word, start[:, 0], end[:, 0], frames) for word in TRANSITIONS}


def judge(case: Case, clip: torch.Tensor, true_clips: Mapping[str, torch.Tensor]) -> Made:
    """Compare a video with every word's true clip; the ends of these are the photographs."""
    truth = true_clips[case.word]
    return Made(
        case,
        chosen(clip),
        chosen(truth),
        psnr(clip[:, 0], truth[:, 0]),
        psnr(clip[:, -1], truth[:, -1]),
        psnr(middle(clip), middle(truth)),
        nearest_word(clip, true_clips),
        middle_gain(clip, truth, true_clips["dissolve"]),
        sharpness(clip, truth),
    )


def figures_of(made: list[Made], vae: dict[str, float]) -> Figures:
    """Return the figures of the videos; ``vae`` is name of a photograph -> PSNR through the VAE alone."""
    ends_minus_vae = [(one.first_psnr - vae[one.case.start] + one.last_psnr - vae[one.case.end]) / 2 for one in made]
    moving = [one for one in made if one.case.word != "dissolve"]
    figures = {
        "first_psnr": median([one.first_psnr for one in made], "dB"),
        "last_psnr": median([one.last_psnr for one in made], "dB"),
        "ends_minus_vae": median(ends_minus_vae, "dB"),
        "middle_psnr": median([one.middle_psnr for one in made], "dB"),
        "word_hits": hits(made),
        "mid_gain": median([one.gain for one in moving], "dB"),
        "sharpness": median([one.sharpness for one in made], "of the true clip"),
    }
    for word in TRANSITIONS:
        of_word = [one for one in made if one.case.word == word]
        figures[f"word_hits_{_key(word)}"] = hits(of_word)
        if word != "dissolve":
            figures[f"mid_gain_{_key(word)}"] = median([one.gain for one in of_word], "dB")
    return figures


def hits(made: list[Made]) -> Figure:
    """Return the share of videos whose middle is nearest to their own word's true clip."""
    found = [float(one.nearest == one.case.word) for one in made]
    return Figure(statistics.mean(found), "of the videos", len(found), min(found), max(found))


def best_and_worst(made: list[Made]) -> list[Made]:
    """Return for each word the video whose middle is nearest to the true clip, and the one that is farthest."""
    both = []
    for word in TRANSITIONS:
        ranked = sorted((one for one in made if one.case.word == word), key=lambda one: -one.middle_psnr)
        both += ranked[:1] + ranked[1:][-1:]
    return both


def _vae_clips(videos: Videos, fitted: Mapping[str, torch.Tensor], pairs: list[tuple[str, str]]) -> Figures:
    """Return what the VAE alone makes of true clips, by word."""
    figures, means, spreads = {}, [], []
    for word in TRANSITIONS:
        each, frames = [], []
        for start, end in pairs:
            clip = transition_clip(word, fitted[start][:, 0], fitted[end][:, 0], _VAE_FRAMES)
            decoded = videos.clip_through_vae(clip)
            each.append(psnr(decoded, clip))
            frames.append(frame_psnr(decoded, clip))
        means.append(statistics.mean(each))
        spreads.append(phase_spread([statistics.mean(column) for column in zip(*frames, strict=True)]))
        figures[f"vae_clip_psnr_{_key(word)}"] = Figure(means[-1], "dB", len(each), min(each), max(each))
    worst = {
        "vae_clip_psnr": Figure(min(means), "dB", len(means), min(means), max(means)),
        "vae_phase_spread": Figure(max(spreads), "dB", len(spreads), min(spreads), max(spreads)),
    }
    return worst | figures


def _demo(videos: Videos, fitted: Mapping[str, torch.Tensor]) -> Figures:
    """Return the PSNR of both ends of the demo's own video."""
    (made,), _ = make(videos, [_DEMO], Setting(), fitted)
    return {"demo_first_psnr": _one(made.first_psnr, "dB"), "demo_last_psnr": _one(made.last_psnr, "dB")}


def _at_odd_length(videos: Videos, fitted: Mapping[str, torch.Tensor], pairs: list[tuple[str, str]]) -> Figures:
    """Return the last frame's PSNR at a length that is not 4n+1, with the stock node and with node 67."""
    words = list(TRANSITIONS)
    cases = [Case(*pair, words[number % len(words)], number) for number, pair in enumerate(pairs)]
    last = {}
    for name, stock in (("stock", True), ("ours", False)):
        clips, _ = videos.make(cases, Setting(length=_ODD_LENGTH, stock_ends=stock))
        last[name] = [psnr(clip[:, -1:], fitted[case.end]) for case, clip in zip(cases, clips, strict=True)]
    figures = {f"last_psnr_{name}_{_ODD_LENGTH}": median(values, "dB") for name, values in last.items()}
    gains = [ours - stock for ours, stock in zip(last["ours"], last["stock"], strict=True)]
    return {**figures, f"last_psnr_gain_{_ODD_LENGTH}": median(gains, "dB")}


def _mean(values: list[float], unit: str) -> Figure:
    return Figure(statistics.mean(values), unit, len(values), min(values), max(values))


def _one(value: float, unit: str) -> Figure:
    return Figure(value, unit, 1, value, value)


def _line(one: Made) -> str:
    nearest = "" if one.nearest == one.case.word else f", nearest to {one.nearest}"
    return (
        f"fidelity: {one.case.start} to {one.case.end}, {one.case.word}: first {one.first_psnr:.1f}, "
        f"last {one.last_psnr:.1f}, middle {one.middle_psnr:.1f} dB{nearest}"
    )


def _row(one: Made) -> Row:
    return Row(
        f"{one.case.word}: middle {one.middle_psnr:.1f} dB, nearest to {one.nearest}",
        one.true_shown[:, 0],
        one.true_shown[:, -1],
        one.shown,
        one.true_shown,
    )
