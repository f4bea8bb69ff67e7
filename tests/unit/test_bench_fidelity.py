"""What the benches of fidelity and quality are made of: pairs, words, measures, the table and the sheet."""

import math
from collections import Counter

import pytest
import torch
from PIL import Image
from wan_flf2v.benchmarks import _cases, _metrics, fidelity, outputs, quality
from wan_flf2v.benchmarks._cases import LEAST_PHOTOGRAPHS, Case, cases_of, pairs_of, triples_of
from wan_flf2v.benchmarks._sheet import Row, chosen, save_sheet
from wan_flf2v.benchmarks.detectors import KINDS
from wan_flf2v.training.pictures import PICTURES, GatherError
from wan_flf2v.training.transitions import TRANSITIONS

WORDS = list(TRANSITIONS)
NAMES = [picture.name for picture in PICTURES if picture.held_out]


def picture(seed):
    """Return a picture with large and small shapes, [3, 1, 32, 32]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 4, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, (32, 32), mode="bilinear")[0][:, None]


START, END = picture(1), picture(2)


TRUE_CLIPS = fidelity.clips_of_words(START, END, 33)


def judge(clip, word="wipe left"):
    return fidelity.judge(Case("a", "b", word, 0), clip, TRUE_CLIPS)


def test_these_photographs_are_held_out_for_ever():
    """A figure of a model that has seen one of them would be worth nothing."""
    assert NAMES == [
        "chelsea", "coffee", "rocket", "flower", "wine", "picosdeeuropa", "forest", "lobby", "venice", "workshop",
    ]  # fmt: skip


def test_no_source_is_both_held_out_and_trained_on():
    sources = {
        held_out: {(p.package, p.file) for p in PICTURES if p.held_out == held_out} for held_out in (True, False)
    }
    assert not sources[True] & sources[False]


def cached(monkeypatch, folder, names):
    """Let the cache hold these photographs, and let no package be fetched."""
    monkeypatch.setenv("WAN_FLF2V_CACHE", str(folder))
    (folder / "training" / "pictures").mkdir(parents=True)
    for name in names:
        (folder / "training" / "pictures" / f"{name}.png").touch()

    def gather(target, say, pictures):
        if missing := [picture.name for picture in pictures if not (target / f"{picture.name}.png").exists()]:
            raise GatherError(f"npm cannot be run for {missing}")

    monkeypatch.setattr(_cases, "gather", gather)


def test_a_package_that_cannot_be_fetched_is_told_and_left_out(monkeypatch, tmp_path, capsys):
    cached(monkeypatch, tmp_path, NAMES[:LEAST_PHOTOGRAPHS])
    assert list(_cases.held_out_photographs()) == NAMES[:LEAST_PHOTOGRAPHS]
    assert "left out: npm @pmndrs/assets 1.7.0: npm cannot be run for" in capsys.readouterr().out


def test_too_few_photographs_end_the_bench(monkeypatch, tmp_path):
    cached(monkeypatch, tmp_path, NAMES[1:LEAST_PHOTOGRAPHS])
    with pytest.raises(SystemExit, match="only 7 held-out photographs are there, 8 are needed"):
        _cases.held_out_photographs()


@pytest.mark.parametrize("photographs", range(LEAST_PHOTOGRAPHS, 11))
def test_twenty_pairs_use_every_photograph_alike(photographs):
    pairs = pairs_of(NAMES[:photographs], 20)
    assert len(set(pairs)) == 20
    assert all(start != end for start, end in pairs)
    used = Counter(name for pair in pairs for name in pair)
    assert max(used.values()) - min(used.values()) <= 2


def test_all_pairs_can_be_had_and_no_more():
    names = NAMES[:8]
    assert len(set(pairs_of(names, 56))) == 56
    with pytest.raises(ValueError, match="8 photographs make 56 pairs, not 57"):
        pairs_of(names, 57)


def test_a_triple_is_a_pair_with_another_photograph():
    triples = triples_of(NAMES[:8], 56)
    assert [triple[:2] for triple in triples] == pairs_of(NAMES[:8], 56)
    assert all(len(set(triple)) == 3 for triple in triples)
    assert len({key for _, _, key in triples[:20]}) == 8, "each is on the way at times"


@pytest.mark.parametrize(("pairs", "each"), [(20, 10), (1, 1), (3, 3), (10, 10), (56, 10)])
def test_every_word_has_its_share_and_no_video_comes_twice(pairs, each):
    pairs = pairs_of(NAMES[:8], pairs)
    cases = cases_of(pairs, WORDS, each)
    assert Counter(case.word for case in cases) == dict.fromkeys(WORDS, each)
    assert len({case[:3] for case in cases}) == len(cases)
    assert len({case.seed for case in cases}) == len(cases)
    shares = Counter((case.start, case.end) for case in cases)
    assert set(shares) == set(pairs)
    assert max(shares.values()) - min(shares.values()) <= 1


def test_psnr():
    assert _metrics.psnr(torch.zeros(3, 4), torch.full((3, 4), 0.1)) == pytest.approx(20)
    assert _metrics.psnr(START, START) == math.inf


def test_the_middle_is_half_of_the_frames():
    numbers = torch.arange(33.0).view(1, 33, 1, 1)
    assert _metrics.middle(numbers).flatten().tolist() == list(range(8, 25))


@pytest.mark.parametrize("word", WORDS)
def test_a_true_clip_with_noise_is_nearest_to_its_own_word(word):
    noise = torch.randn(3, 33, 32, 32, generator=torch.Generator().manual_seed(3)) * 0.1
    found = judge(TRUE_CLIPS[word] + noise, word)
    assert found.nearest == word
    assert found.middle_psnr == pytest.approx(20, abs=0.2)
    assert found.first_psnr == pytest.approx(20, abs=0.5)
    assert found.last_psnr == pytest.approx(20, abs=0.5)
    assert found.sharpness > 2  # noise is all edges


def test_another_words_clip_is_no_hit():
    right, wrong = judge(TRUE_CLIPS["wipe left"]), judge(TRUE_CLIPS["wipe right"])
    assert wrong.nearest == "wipe right"
    assert fidelity.hits([right, wrong, wrong, wrong]).value == 0.25


def test_a_cross_fade_gains_nothing_and_is_less_sharp():
    fade = judge(TRUE_CLIPS["dissolve"])
    assert fade.gain == 0
    assert fade.sharpness < 0.9
    noisy = TRUE_CLIPS["wipe left"] + 0.05
    assert judge(noisy).gain > 3
    assert judge(noisy).sharpness == pytest.approx(1)


def test_ends_are_those_of_the_pair():
    assert judge(TRUE_CLIPS["circle"].flip(1)).first_psnr < 20


def test_phase_spread_finds_the_bad_frame_of_each_four():
    per_frame = [50.0] + [30.0, 31.0, 32.0, 28.0] * 8
    assert _metrics.phase_spread(per_frame) == pytest.approx(4)


def test_figures_of_videos():
    made = [judge(TRUE_CLIPS[word] + 0.1, word) for word in WORDS]
    figures = fidelity.figures_of(made, {"a": 25.0, "b": 23.0})
    assert figures["word_hits"].value == 1
    assert figures["word_hits_zoom_in"].rounds == 1
    assert figures["first_psnr"].value == pytest.approx(20, abs=1e-4)
    assert figures["ends_minus_vae"].value == pytest.approx(-4, abs=1e-4)
    assert "mid_gain_dissolve" not in figures
    assert {key for key in fidelity._LEAST if key.startswith(("word_hits", "mid_gain"))} >= {
        key for key in figures if key.startswith(("word_hits", "mid_gain"))
    }
    assert figures["mid_gain"].rounds == len(WORDS) - 1


def test_best_and_worst_video_of_each_word():
    made = [judge(TRUE_CLIPS[word] + error, word) for word in WORDS for error in (0.1, 0.02, 0.05)]
    chosen = fidelity.best_and_worst(made)
    assert [one.case.word for one in chosen] == [word for word in WORDS for _ in range(2)]
    assert [round(one.middle_psnr) for one in chosen[:2]] == [34, 20]
    assert len(fidelity.best_and_worst(made[:1])) == 1


def test_the_tables_settings_differ_and_its_rows_have_its_columns():
    settings = list(quality.SETTINGS.values())
    assert all(settings.index(setting) == number for number, setting in enumerate(settings))
    made = [judge(TRUE_CLIPS["wipe left"] + 0.1), judge(TRUE_CLIPS["wipe right"] + 0.1)]
    line = quality.table_line("x", quality.row_of(made, made[:1], 1.234))
    assert line.startswith("| x | 20.0 | 20.0 | ")
    assert line.endswith(" | 1 of 2 | 20.0 | 1.23 |")
    assert {head.count("|") for head in quality.TABLE_HEAD} == {line.count("|")}


def test_the_sheet_shows_each_video(tmp_path):
    frames = chosen(TRUE_CLIPS["wipe left"])
    assert torch.allclose(frames[:, ::6], torch.cat([START, END], dim=1), atol=1e-6)
    rows = [Row("wipe left", START[:, 0], END[:, 0], frames, frames)] * 3
    save_sheet(tmp_path / "sheet.png", rows)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (9 * 100 + 4, 3 * (16 + 2 * 100 + 4) + 4)


def test_marks_are_of_these_photographs_and_models():
    marks = outputs.read_marks(NAMES)
    assert set(marks) <= {str(number) for number in range(len(outputs.outputs(NAMES)))}
    assert {kind for kinds in marks.values() for kind in kinds} <= set(KINDS)
    with pytest.raises(SystemExit, match="the photographs are not those of the marked videos"):
        outputs.read_marks(NAMES[1:])
