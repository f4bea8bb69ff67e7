"""Figures made of pairs."""

from pathlib import Path

import pytest
from wan_flf2v.benchmarks._figures import Options
from wan_flf2v.benchmarks._in_host import measure, ratio


def test_ratio_is_the_median_of_the_pairs():
    figure = ratio([(4.0, 2.0), (9.0, 1.0), (3.0, 1.0)], 2.5)
    assert (figure.value, figure.min, figure.max, figure.rounds) == (3.0, 2.0, 9.0, 3)
    assert figure.holds()
    assert not ratio([(2.0, 1.0)], 2.5).holds()
    assert ratio([(2.0, 1.0)], None).holds()


def test_a_measurement_that_fails_says_so(tmp_path):
    with pytest.raises(RuntimeError, match="no_such_module failed:"):
        measure(Options(Path(tmp_path)), "no_such_module")
