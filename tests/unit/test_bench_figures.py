"""Figures made of pairs."""

from pathlib import Path

import pytest
from wan_flf2v.benchmarks._figures import Options
from wan_flf2v.benchmarks._in_host import measure, ratio
from wan_flf2v.benchmarks.longer_segments import drifts


def test_ratio_is_the_median_of_the_pairs():
    figure = ratio([(4.0, 2.0), (9.0, 1.0), (3.0, 1.0)], 2.5)
    assert (figure.value, figure.min, figure.max, figure.rounds) == (3.0, 2.0, 9.0, 3)
    assert figure.holds()
    assert not ratio([(2.0, 1.0)], 2.5).holds()
    assert ratio([(2.0, 1.0)], None).holds()


def test_a_measurement_that_fails_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="no_such_module failed:"):
        measure(Options(Path(tmp_path)), "no_such_module")


def test_drifts_are_of_the_frames_that_both_files_have_a_reading_of():
    """The frames that one file alone has are far off, and count in neither."""
    far, near, nearer = (0.9, -0.9, 0.9), (0.3, -0.3, 0.0), (0.0, 0.1, -0.2)
    plain, matched = drifts([far, near, None, None], [None, nearer, far, None])
    assert (plain, matched) == (pytest.approx(0.2), pytest.approx(0.1))
    with pytest.raises(RuntimeError, match="no frame could be read in both files"):
        drifts([far, None], [None, far])
