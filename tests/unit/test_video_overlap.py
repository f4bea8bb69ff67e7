"""Which frames two clips share: found in spite of what a VAE changes, and none where there are none."""

import pytest
import torch
from wan_flf2v.video.overlap import shared_frames

SIZE, STEP = 96, 2
GRAIN = torch.rand(1, 1, 12, 48, generator=torch.Generator().manual_seed(0))
SCENE = torch.nn.functional.interpolate(GRAIN, size=(SIZE, 4 * SIZE), mode="bicubic")[0, 0]


def moving(first, count):
    """Return frames ``first`` and on of a look around, float [count, height, width, 3]."""
    frames = [SCENE[:, STEP * number : STEP * number + SIZE] for number in range(first, first + count)]
    return torch.stack(frames).unsqueeze(-1).expand(-1, -1, -1, 3)


def changed(frames, seed=1):
    """Return the frames with fine noise and another brightness, as of another encode and decode."""
    noise = torch.randn(frames.shape, generator=torch.Generator().manual_seed(seed))
    return frames + 0.03 * noise + 0.02


@pytest.mark.parametrize("shared", [0, 1, 2, 5, 9])
@pytest.mark.parametrize("change", [lambda frames: frames, changed])
def test_the_shared_frames_are_counted(shared, change):
    assert shared_frames(moving(0, 33), change(moving(33 - shared, 33)), 81) == shared


def test_another_scene_shares_none():
    assert shared_frames(moving(0, 17), moving(0, 17).flip(1, 2), 81) == 0


def test_a_still_shares_one():
    """All counts fit; one leaves out the fewest."""
    still = moving(0, 1).expand(17, -1, -1, -1)
    assert shared_frames(still, changed(still), 81) == 1


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 5), (5, 1)])
def test_clips_of_one_frame(before, after):
    assert shared_frames(moving(5 - before, before), moving(4, after), 81) == 1


def test_no_more_than_most():
    assert shared_frames(moving(0, 33), moving(24, 33), 5) == 0
