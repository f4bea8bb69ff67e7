"""Colour match: drifts that are planted in photographs, judged by scikit-image's ΔE2000."""

import pytest
import torch
from wan_flf2v.benchmarks._drifts import DRIFTS, delta_e, eight_bits, lossy, photographs, planted
from wan_flf2v.video.color_match import ColorMatch, corrected, end_map

SIDE = 96


@pytest.fixture(scope="module")
def pictures():
    return list(photographs(SIDE).values())


def to_bytes(picture):
    return (picture * 255).round().to(torch.uint8)


def run(folder, frames, start=None, end=None, strength=1.0, known=False):
    match = ColorMatch(start, end, strength, folder)
    frames = [to_bytes(frame) for frame in frames]
    shown = list(match.clip(iter(frames), len(frames), frames[-1] if known else None, lambda: None))
    assert list(folder.iterdir()) == []
    return [frame / 255 for frame in shown], match


@pytest.mark.parametrize("wanted", [4, 10])
@pytest.mark.parametrize("name", DRIFTS)
def test_a_drift_is_at_least_five_times_smaller(pictures, name, wanted):
    """Photograph 0 is colourful enough for every drift, and no drift of these clips much of it."""
    image = pictures[0]
    frame, _ = planted(image, name, wanted)
    before = delta_e(frame, image)
    assert before > 0.8 * wanted
    found = end_map(frame, image)
    after = delta_e(corrected(frame, found.change), image)
    assert after < before / 5
    assert found.after < found.before / 5


def test_the_notice_speaks_of_nearly_the_same_delta_e(pictures):
    for image in pictures:
        frame, _ = planted(image, "gain", 6)
        assert end_map(frame, image).before == pytest.approx(delta_e(frame, image), rel=0.35)


def test_lost_detail_is_no_drift(pictures, tmp_path):
    changes = []
    for seed, image in enumerate(pictures):
        other = pictures[seed - 1]
        frames = [lossy(image, seed), lossy(torch.lerp(image, other, 0.5), seed), lossy(other, seed)]
        shown, _ = run(tmp_path, frames, image, other)
        changes += [delta_e(frame, after) for frame, after in zip(frames, shown, strict=True)]
    assert sum(changes) / len(changes) < 0.3


def test_drift_below_a_softened_frame_is_found_all_the_same(pictures):
    image = pictures[0]
    frame, _ = planted(lossy(image, 1), "gain", 8)
    left = delta_e(corrected(frame, end_map(frame, image).change), image)
    assert left < delta_e(lossy(image, 1), image) + 0.8


def test_both_ends_have_their_own_map_and_the_middle_half_of_each(pictures, tmp_path):
    start, end = pictures[0], pictures[1]
    first, _ = planted(start, "gain", 8)
    last, _ = planted(end, "hue", 8)
    between = eight_bits(torch.rand(3, SIDE, SIDE, generator=torch.Generator().manual_seed(1)))
    shown, match = run(tmp_path, [first, between, last], start, end)
    assert delta_e(shown[0], start) < delta_e(first, start) / 5
    assert delta_e(shown[2], end) < delta_e(last, end) / 5
    half = torch.lerp(match.maps[0].change, match.maps[1].change, 0.5)
    assert torch.equal(to_bytes(shown[1]), corrected(to_bytes(between), half))


def test_other_pictures_in_between_gain_too(pictures, tmp_path):
    """The same drift over the whole clip, another photograph in the middle."""
    frames = [eight_bits(DRIFTS["gain"](picture, 0.15)) for picture in (pictures[0], pictures[1], pictures[0])]
    shown, _ = run(tmp_path, frames, pictures[0], pictures[0])
    assert delta_e(shown[1], pictures[1]) < delta_e(frames[1], pictures[1]) / 2


def test_colours_that_the_end_does_not_have_are_not_carried_away(pictures):
    """A dark start says little about a bright middle: a map followed beyond what it was fitted to would spoil that."""
    middle, before, after = pictures[1], [], []
    for i, image in enumerate(pictures):
        for name, strength in (("gain", 0.08), ("darker gamma", 0.15), ("hue", 0.15), ("pale", 0.3)):
            dark = image * 0.35
            found = end_map(lossy(eight_bits(DRIFTS[name](dark, strength)), i), dark)
            frame = eight_bits(DRIFTS[name](middle, strength))
            before.append(delta_e(frame, middle))
            after.append(delta_e(corrected(frame, found.change), middle))
    assert sum(after) < 0.8 * sum(before)
    assert max(after) < 1.5 * max(before)


def test_a_gamma_needs_a_map_that_changes_with_lightness(pictures):
    gains = []
    for image in pictures:
        frame, _ = planted(image, "darker gamma", 8)
        gains.append(delta_e(frame, image) / delta_e(corrected(frame, end_map(frame, image).change), image))
    assert sum(gains) / len(gains) > 8.5  # 10; an affine map gives 7


@pytest.mark.parametrize("known", [False, True])
def test_one_image_alone_is_held_over_the_clip(pictures, tmp_path, known):
    image = pictures[0]
    frames = [eight_bits(DRIFTS["gain"](image, 0.15))] * 5
    for ends in ({"start": image}, {"end": image}):
        shown, _ = run(tmp_path, frames, **ends, known=known)
        assert all(torch.equal(frame, shown[0]) for frame in shown)
        assert delta_e(shown[0], image) < delta_e(frames[0], image) / 5


def test_an_end_without_drift_stays_bit_for_bit(pictures, tmp_path):
    image = pictures[0]
    drifted, _ = planted(image, "hue", 6)
    shown, match = run(tmp_path, [image, image, drifted], image, image)
    assert torch.equal(to_bytes(shown[0]), to_bytes(image))
    assert not torch.equal(shown[1], image)
    assert delta_e(shown[2], image) < delta_e(drifted, image) / 5
    assert str(match).startswith("start ΔE 0.0, left as it is; end ΔE ")


def test_a_frame_that_shows_something_else_is_left_alone(pictures, tmp_path):
    shown, match = run(tmp_path, [pictures[0]] * 2, pictures[2])
    assert torch.equal(to_bytes(shown[0]), to_bytes(pictures[0]))
    assert "does not show the image" in str(match)


def test_strength_is_a_share_of_the_correction(pictures):
    image = pictures[0]
    frame, _ = planted(image, "gain", 8)
    left = [delta_e(corrected(frame, end_map(frame, image, strength).change), image) for strength in (0, 0.5, 1)]
    assert left[0] == pytest.approx(delta_e(frame, image))
    assert left[1] == pytest.approx(left[0] / 2, rel=0.25)
    assert left[2] < left[0] / 5
    assert corrected(frame, end_map(frame, image, 0.0).change) is frame


def test_a_part_that_differs_does_not_spoil_the_rest(pictures):
    """A sixteenth of the frame shows something that is not in the image."""
    image = pictures[0]
    frame, _ = planted(image, "gain", 8)
    frame = frame.clone()
    frame[:, : SIDE // 4, : SIDE // 4] = torch.tensor([0.9, 0.1, 0.6]).view(3, 1, 1)
    after = corrected(frame, end_map(frame, image).change)
    rest = (slice(None), slice(SIDE // 4, None))
    assert delta_e(after[rest], image[rest]) < delta_e(frame[rest], image[rest]) / 5


@pytest.mark.parametrize("size", [(1, 1), (2, 16), (16, 16), (40, 8)])
def test_small_pictures(size):
    picture = torch.rand(3, *size, generator=torch.Generator().manual_seed(1))
    change = end_map(picture * 0.9, picture).change
    assert change.isfinite().all()
    assert corrected(picture, change).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_pictures_of_one_colour(value):
    """Nothing can be learned about other colours; whatever comes of those is a colour."""
    grey = torch.full((3, 32, 32), value)
    change = end_map((grey + 0.03).clamp(0, 1) * 0.98, grey).change
    assert change.isfinite().all()
    assert corrected(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1)), change).isfinite().all()


def test_a_broken_frame_is_left_alone(pictures):
    """A VAE in half precision may give NaN."""
    frame = torch.full_like(pictures[0], torch.nan)
    assert corrected(frame, end_map(frame, pictures[0]).change) is frame


def test_one_frame_takes_the_start(pictures, tmp_path):
    frame, _ = planted(pictures[0], "gain", 6)
    (shown,), _ = run(tmp_path, [frame], pictures[0], pictures[1])
    assert delta_e(shown, pictures[0]) < delta_e(frame, pictures[0]) / 5


def test_an_interrupt_while_frames_wait_leaves_no_file(pictures, tmp_path, monkeypatch):
    """All frames go to the file, the third wait raises."""
    monkeypatch.setattr("wan_flf2v.video.spool.LIMIT_BYTES", 1)
    match, frame = ColorMatch(pictures[0], pictures[1], 1.0, tmp_path), to_bytes(pictures[0])

    def tick():
        if match.waiting == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(match.clip(iter([frame] * 9), 9, None, tick))
    assert list(tmp_path.iterdir()) == []
