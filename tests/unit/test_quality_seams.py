"""The jumps where segments meet, in curves that are known."""

import numpy as np
import pytest
from wan_flf2v.quality.curves import Curves
from wan_flf2v.quality.report import make_report
from wan_flf2v.quality.seams import Joined, find_seams
from wan_flf2v.quality.thresholds import Thresholds

NOWHERE = (0.0, 0.0)  # back to the first frame, which is not asked


def ramp(frames, jumps=()):
    """Return pictures that get brighter by 2 codes a frame; at a jump by 10 more."""
    level, pictures = 20, []
    for number in range(frames):
        level += 2 * (number > 0) + 10 * (number in jumps)
        pictures.append(np.full((32, 32, 3), level, np.uint8))
    return pictures


def curves_of(pictures):
    curves = Curves()
    for number, picture in enumerate(pictures):
        curves.add(number / 16, picture)
    return curves


def test_a_seam_without_a_jump_is_one_usual_step():
    (seam,) = find_seams(curves_of(ramp(17)), Joined(2), NOWHERE)
    assert (seam.frame, round(seam.brightness, 2), round(seam.motion, 2)) == (8, 1.0, 1.0)


@pytest.mark.parametrize("at", [8, 9])  # the step to the shared frame, and the one from it
def test_a_jump_counts_in_usual_steps(at):
    first, second = find_seams(curves_of(ramp(25, jumps=(at,))), Joined(3), NOWHERE)
    assert (first.frame, second.frame) == (8, 16)
    assert first.jump == pytest.approx(6, abs=0.001)
    assert second.jump == pytest.approx(1, abs=0.001)


def test_a_segments_steps_count_at_its_own_seams_alone():
    """Three segments: still, slow and fast; the fast one's steps are usual where it meets the slow one."""
    levels = [20] * 9 + [20 + 2 * number for number in range(1, 9)] + [36 + 10 * number for number in range(1, 9)]
    still, slow = find_seams(curves_of([np.full((32, 32, 3), level, np.uint8) for level in levels]), Joined(3), NOWHERE)
    assert (still.jump, slow.jump) == (pytest.approx(1, abs=0.001), pytest.approx(1, abs=0.001))


@pytest.mark.parametrize(("shared", "at"), [(5, (16, 28)), (9, (16, 24))])
def test_segments_that_share_more_frames_meet_after_them(shared, at):
    """Three of 17 frames; the frames that two share are the first one's last, so the seam is at the last of them."""
    frames = 17 + 2 * (17 - shared)
    first, second = find_seams(curves_of(ramp(frames, jumps=(at[1] + 1,))), Joined(3, shared_frames=shared), NOWHERE)
    assert (first.frame, second.frame) == at
    assert first.jump == pytest.approx(1, abs=0.001)
    assert second.jump == pytest.approx(6, abs=0.001)


def test_a_loop_of_segments_that_share_frames():
    """Two of 17 frames that share 5, without the last frame: 28."""
    seams = report(ramp(28), segments=2, loop=True, shared_frames=5).seams
    assert [seam.frame for seam in seams] == [16, 0]


def report(pictures, **more):
    frames = ((number / 16, picture) for number, picture in enumerate(pictures))
    return make_report(frames, 16.0, None, None, Thresholds(), joined=Joined(**more))


def test_a_loops_seam_leads_from_the_last_frame_to_the_first():
    there, back = ramp(9), ramp(9)[-2:0:-1]
    assert [round(seam.jump, 2) for seam in report(there + back, loop=True).seams] == [1.0]
    broken = report(there, loop=True)
    assert broken.seams[0].jump == pytest.approx(8, abs=0.001)
    assert [finding.kind for finding in broken.findings] == ["seam"]
    assert report(there).seams == ()


@pytest.mark.parametrize(("segments", "shared"), [(0, 1), (3, 1), (16, 1), (17, 1), (2, 2), (2, 0), (2, 15), (5, 5)])
def test_what_cannot_be_is_said(segments, shared):
    says = f"segments is {segments} and shared_frames is {shared}, but 17 frames are not that many segments"
    with pytest.raises(ValueError, match=says):
        report(ramp(17), segments=segments, shared_frames=shared)
