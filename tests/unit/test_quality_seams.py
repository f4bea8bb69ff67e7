"""The jumps where segments meet, in curves that are known."""

import numpy as np
import pytest
from wan_flf2v.quality.curves import Curves
from wan_flf2v.quality.report import make_report
from wan_flf2v.quality.seams import find_seams
from wan_flf2v.quality.thresholds import Thresholds


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
    (seam,) = find_seams(curves_of(ramp(17)), 2, None)
    assert (seam.frame, round(seam.brightness, 2), round(seam.motion, 2)) == (8, 1.0, 1.0)


@pytest.mark.parametrize("at", [8, 9])  # the step to the shared frame, and the one from it
def test_a_jump_counts_in_usual_steps(at):
    first, second = find_seams(curves_of(ramp(25, jumps=(at,))), 3, None)
    assert (first.frame, second.frame) == (8, 16)
    assert first.jump == pytest.approx(6, abs=0.001)
    assert second.jump == pytest.approx(1, abs=0.001)


def report(pictures, **more):
    frames = ((number / 16, picture) for number, picture in enumerate(pictures))
    return make_report(frames, 16.0, None, None, Thresholds(), **more)


def test_a_loops_seam_leads_from_the_last_frame_to_the_first():
    there, back = ramp(9), ramp(9)[-2:0:-1]
    assert [round(seam.jump, 2) for seam in report(there + back, loop=True).seams] == [1.0]
    broken = report(there, loop=True)
    assert broken.seams[0].jump == pytest.approx(8, abs=0.001)
    assert [finding.kind for finding in broken.findings] == ["seam"]
    assert report(there).seams == ()


@pytest.mark.parametrize("segments", [0, 3, 17])
def test_what_cannot_be_is_said(segments):
    with pytest.raises(ValueError, match=f"segments is {segments}, but 17 frames have 16 steps"):
        report(ramp(17), segments=segments)
