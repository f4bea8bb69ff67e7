"""The detectors, each by its definition on clips that show one thing, and all of them on clips of the bench."""

from collections import Counter

import numpy as np
import pytest
from wan_flf2v.benchmarks.detectors import KINDS, judge, rates
from wan_flf2v.quality.detectors import colour_shift
from wan_flf2v.quality.metrics import to_linear
from wan_flf2v.quality.report import MOST_PSNR, make_report
from wan_flf2v.quality.report_text import to_text
from wan_flf2v.quality.thresholds import Thresholds

RNG = np.random.default_rng(5)
TEXTURE = np.kron(RNG.uniform(0.25, 0.6, (24, 32, 3)), np.ones((8, 8, 1)))


def panned(frames=40, speed=3):
    """Frames of a texture that moves, float in 0...1."""
    return [np.roll(TEXTURE, speed * i, axis=1) for i in range(frames)]


def coded(picture):
    return np.round(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def judged(frames, start=None, end=None, **thresholds):
    def given(image):
        return None if image is None else lambda width, height: image

    timed = ((i / 16, coded(frame)) for i, frame in enumerate(frames))
    return make_report(timed, 16.0, given(start), given(end), Thresholds(**thresholds))


def kinds(report):
    return [finding.kind for finding in report.findings]


def flashes(report):
    return [(one.first, one.end) for one in report.flashes]


def with_gain(frame, gains):
    linear = to_linear(frame) * gains
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)


def test_a_moving_clip_with_its_own_ends_passes():
    frames = panned()
    report = judged(frames, frames[0], frames[-1])
    assert (report.verdict, report.findings, report.cuts) == ("pass", (), ())
    assert (report.video.width, report.video.height, report.video.frames) == (256, 192, 40)
    assert report.video.seconds == 39 / 16
    assert report.start.psnr > 50
    assert "pass: the ends match their images" in to_text(report)
    assert "pass: the last frame matches its image, nothing wrong in between" in to_text(
        judged(panned(), end=panned()[-1])
    )
    exact = judged(frames, coded(frames[0]) / 255)
    assert (exact.start.psnr, exact.end) == (MOST_PSNR, None)


@pytest.mark.parametrize("size", [0.03, -0.03, 0.3])
@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_flash_is_short_and_comes_back(size, length):
    frames = panned()
    for i in range(length):
        frames[20 + i] = frames[20 + i] + size
    report = judged(frames)
    assert flashes(report) == [(20, 20 + length)]
    assert report.flashes[0].change == pytest.approx(size, abs=0.003)
    assert kinds(report) == ["flash"]
    assert f"(1.25 s) by {size:+.0%}" in report.findings[0].text


@pytest.mark.parametrize("noise", [0, 0.05])
def test_a_white_frame_is_a_flash_and_no_cut(noise):
    frames = panned()
    frames[20] = 1 - noise * np.kron(np.random.default_rng(1).uniform(0, 1, (24, 32, 1)), np.ones((8, 8, 3)))
    report = judged(frames)
    assert (flashes(report), report.cuts) == ([(20, 21)], ())


def test_flicker_is_many_flashes():
    frames = [frame + 0.05 * (i % 2) for i, frame in enumerate(panned())]
    assert len(flashes(judged(frames))) >= 18


@pytest.mark.parametrize(
    "change",
    [
        lambda i: 0.3 * (i >= 20),
        lambda i: 0.3 * (20 <= i < 24),
        lambda i: 0.01 * i,
        lambda i: 0.15 * np.sin(2 * np.pi * i / 12),
        lambda i: 0.015 * (i == 20),
    ],
    ids=["step", "four frames", "fade", "pulse", "small"],
)
def test_what_is_no_flash(change):
    assert flashes(judged([frame * 0.7 + change(i) for i, frame in enumerate(panned())])) == []


def test_a_flash_on_a_fade_is_found():
    frames = [frame * 0.7 + 0.01 * i + 0.05 * (i == 20) for i, frame in enumerate(panned())]
    assert flashes(judged(frames)) == [(20, 21)]


def test_a_cut_is_no_fault():
    other = np.kron(np.random.default_rng(6).uniform(0.5, 0.9, (24, 32, 3)), np.ones((8, 8, 1)))
    frames = [*panned(20), *(np.roll(other, 2 * i, axis=0) for i in range(20))]
    report = judged(frames, frames[0], frames[-1])
    assert (report.cuts, report.findings) == ((20,), ())


@pytest.mark.parametrize("length", [1, 3, 4, 9])
def test_repeated_frames_are_duplicates_or_a_freeze(length):
    frames = panned()
    frames[15 : 15 + length] = [frames[14]] * length
    report = judged(frames)
    expected = ((15, 15 + length),)
    assert (report.duplicates, report.freezes) == ((expected, ()) if length < 4 else ((), expected))
    assert kinds(report) == ["duplicate" if length < 4 else "freeze"]
    assert judged(frames, freeze_frames=2).freezes == (expected if length > 1 else ())


@pytest.mark.parametrize(("first", "end"), [(1, 9), (31, 40)])
def test_a_freeze_at_an_end(first, end):
    frames = panned()
    frames[first:end] = [frames[first - 1]] * (end - first)
    assert judged(frames).freezes == ((first, end),)


def test_repeated_frames_that_the_encoder_has_changed_a_little():
    frames, rng = panned(), np.random.default_rng(1)
    frames[15:18] = [frames[14] + (rng.uniform(0, 1, TEXTURE.shape[:2]) < 0.15)[..., None] / 255 for _ in range(3)]
    assert judged(frames).duplicates == ((15, 18),)


def test_every_other_frame_repeated():
    frames = [frame for frame in panned(20) for _ in range(2)]
    assert {i for run in judged(frames).duplicates for i in range(*run)} == set(range(1, 40, 2))


def test_a_still_picture_is_a_freeze_and_grain_is_not():
    assert judged([TEXTURE] * 20).freezes == ((1, 20),)
    rng = np.random.default_rng(2)
    report = judged([TEXTURE + rng.normal(0, 0.01, TEXTURE.shape) for _ in range(20)])
    assert (report.freezes, report.duplicates) == ((), ())


def test_a_small_thing_that_moves_is_no_freeze():
    frames = []
    for i in range(30):
        frame = TEXTURE.copy()
        frame[40:60, 3 * i : 3 * i + 20] = 0.9
        frames.append(frame)
    report = judged(frames)
    assert (report.freezes, report.duplicates) == ((), ())


def test_slow_motion_and_a_turn_are_no_duplicates():
    def at(x):
        whole, part = int(np.floor(x)), x - np.floor(x)
        return np.roll(TEXTURE, whole, axis=1) * (1 - part) + np.roll(TEXTURE, whole + 1, axis=1) * part

    slow = judged([at(0.25 * i) for i in range(40)])
    turning = judged([at(30 * np.sin(0.35 + 2 * np.pi * i / 40)) for i in range(40)])
    for report in (slow, turning):
        assert (report.freezes, report.duplicates) == ((), ())


def test_gain_and_offset_of_an_end_in_linear_light():
    frames = panned()
    gains = (1.1, 1.0, 0.9)
    report = judged([*frames[:-1], with_gain(frames[-1], gains)], frames[0], frames[-1])
    assert report.end.colour.gain == pytest.approx(gains, abs=0.01)
    assert report.end.colour.offset == pytest.approx((0, 0, 0), abs=0.005)
    assert report.end.colour.change == pytest.approx((0.1, 0, -0.1), abs=0.01)
    assert kinds(report) == ["drift"]
    assert "red +10.0%, green" in report.findings[0].text
    assert judged([*frames[:-1], with_gain(frames[-1], (1.03, 1, 1))], frames[0], frames[-1]).findings == ()


def test_light_that_goes_with_lost_detail_is_no_drift():
    """Fine light and dark, and its mean in sRGB: the frame has 12 % less light."""
    rng = np.random.default_rng(3)
    coarse, fine = np.kron(rng.uniform(60, 190, (12, 20)), np.ones((8, 8))), rng.choice([-40, 40], (96, 160))
    sharp, soft = (np.repeat(picture[..., None] / 255, 3, axis=2) for picture in (coarse + fine, coarse))
    light = [to_linear(picture).mean() for picture in (sharp, soft)]
    assert light[1] < 0.9 * light[0]
    assert colour_shift(coded(soft), sharp).change == pytest.approx((0, 0, 0), abs=0.01)
    assert min(colour_shift(coded(with_gain(soft, 1.2)), sharp).change) > 0.04


def test_a_drift_between_equal_ends():
    frames = panned()
    frames = [with_gain(frame, (1 + 0.15 * np.sin(np.pi * i / 39), 1, 1)) for i, frame in enumerate(frames)]
    report = judged(frames, frames[0], frames[-1])
    assert kinds(report) == ["drift"]
    assert 0.09 < report.balance_drift.red < 0.16, "the smaller of two readings"
    assert report.balance_drift.blue == pytest.approx(0, abs=0.02)
    assert judged(frames, frames[0]).balance_drift is None, "one end has no span"


@pytest.mark.parametrize("part", [(1.3, 1.3, 1.3), (1, 1, 1)])
def test_light_that_changes_and_colours_on_their_way_are_no_drift(part):
    frames = panned()
    bump = [1 + (np.array(part) - 1) * np.sin(np.pi * i / 39) for i in range(40)]
    way = [1 + np.array((0.2, 0, -0.2)) * i / 39 for i in range(40)]
    frames = [with_gain(frame, bump[i] * way[i] * 0.7) for i, frame in enumerate(frames)]
    assert judged(frames, frames[0], frames[-1]).findings == ()


def test_ends_that_are_not_their_images():
    frames = panned()
    report = judged(frames, 1 - frames[0], np.roll(frames[-1], 90, axis=1))
    assert kinds(report)[:2] == ["end", "end"]
    assert report.findings[0].text.startswith("The first frame is not the start image: PSNR is ")
    assert (report.findings[0].frames, report.findings[1].frames) == (((0, 1),), ((39, 40),))
    assert report.end.colour is None, "different pictures have no gain"


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_clips_of_a_few_frames(frames):
    clip = panned(frames)
    assert judged(clip, clip[0], clip[-1]).verdict == "pass"


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="the video has no frames"):
        judged([])
    with pytest.raises(ValueError, match=r"frame 1 of the video is 128x192, but the first is 256x192. Use one size."):
        judged([TEXTURE, TEXTURE[:, :128]])
    with pytest.raises(ValueError, match=r"flash_frames is 9, but must be from 1 to 5. The default is 3."):
        judged([TEXTURE], flash_frames=9)


def test_planted_faults_are_found_after_the_encode():
    """A part of the bench: ``python3 run.py bench detectors`` judges 500 clips."""
    counts = {kind: Counter() for kind in KINDS}
    for seed in range(26, 50):
        for kind, one in judge(seed).items():
            counts[kind].update(one)
    for kind in KINDS:
        assert counts[kind]["found"] + counts[kind]["missed"] >= 3, kind
        precision, recall = rates(counts[kind])
        assert precision >= 0.9, (kind, counts[kind])
        assert recall >= 0.9, (kind, counts[kind])
