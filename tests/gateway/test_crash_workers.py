"""Five rounds of the crash bench with three stand-ins: the gateway, one, both, a silent one, two at once."""

from pathlib import Path

import pytest
from wan_flf2v.benchmarks._figures import Options
from wan_flf2v.benchmarks.crash_workers import run


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of work; a busy machine takes long
def test_every_accepted_request_has_one_right_end_whatever_is_killed():
    figures = run(Options(Path(), rounds=5))
    assert {name: figure.value for name, figure in figures.items()} == {
        "accepted": 50,
        "right_end": 50,
        "lost": 0,
        "audit_violations": 0,
    }
