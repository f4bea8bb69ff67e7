"""What is done to the frames of a clip: which come out, in what order, and that their number is known before."""

import itertools
from fractions import Fraction

import pytest
import torch
from wan_flf2v.video.edit import Edit


def frames(count, channels=3):
    return [torch.full((channels, 2, 2), float(i)) for i in range(count)]


def played(edit, count):
    """Return the numbers of the frames that come out; the interpolation's are the means of two."""
    forward = list(edit.interpolated(edit.trimmed(iter(frames(count)), count)))
    assert len(forward) == edit.forward(count)
    order = itertools.chain(forward, (forward[i] for i in edit.again(len(forward))))
    shown = [float(frame[0, 0, 0]) for frame in edit.timed(order, count)]
    assert len(shown) == edit.count(count)
    return shown


def between(factor):
    """Return a stand-in for an interpolation model: frames mixed evenly."""

    def interpolate(images):
        steps = [
            images[i] + (images[i + 1] - images[i]) * k / factor for i in range(len(images) - 1) for k in range(factor)
        ]
        return torch.stack([*steps, images[-1]])

    return interpolate


@pytest.mark.parametrize("held", [Fraction(1), Fraction(3, 2), Fraction(1001, 1000), Fraction(2, 5)])
@pytest.mark.parametrize("count", [1, 2, 3, 9, 33])
def test_the_count_is_known_before(count, held):
    for ping_pong, repeats, factor in itertools.product((False, True), (1, 3), (1, 2, 5)):
        interpolate = None if factor == 1 else between(factor)
        played(Edit(0, min(1, count - 1), factor, interpolate, ping_pong, repeats, held), count)


def test_interpolation_in_chunks_is_that_of_the_whole():
    """17 frames times 4 are made four at a time; each chunk begins with the last frame of the one before."""
    shown = played(Edit(factor=4, interpolate=between(4)), 17)
    assert shown == [i / 4 for i in range(65)]


def test_alpha_is_mixed_evenly_beside_an_interpolation():
    edit = Edit(factor=2, interpolate=between(2))
    made = list(edit.interpolated(iter(frames(5, channels=4))))
    assert [float(frame[3, 0, 0]) for frame in made] == [i / 2 for i in range(9)]


def test_frames_that_are_left_out_at_the_end_are_not_even_decoded():
    asked = []

    def decoder():
        for i in range(9):
            asked.append(i)
            yield torch.zeros(3, 2, 2)

    assert len(list(Edit(skip_first=2, skip_last=4).trimmed(decoder(), 9))) == 3
    assert asked == [0, 1, 2, 3, 4]


def test_nothing_left_is_an_error():
    with pytest.raises(
        ValueError, match="skip_first_frames is 0 and skip_last_frames 1, but the video has 1 frame and"
    ):
        Edit(skip_last=1).count(1)
