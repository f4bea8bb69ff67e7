"""Rounds of the crash bench with three stand-ins: the gateway, one, both, a silent one, two at once.

On JetStream three of them: the gateway, one, both.
"""

from pathlib import Path

import pytest
from wan_flf2v.benchmarks._figures import Options
from wan_flf2v.benchmarks.crash_workers import run


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of work; a busy machine takes long
@pytest.mark.parametrize(("store", "rounds"), [("sqlite", 5), ("jetstream", 3)])
def test_every_accepted_request_has_one_right_end_whatever_is_killed(store, rounds):
    figures = run(Options(Path(), rounds=rounds, store=store))
    assert {name: figure.value for name, figure in figures.items()} == {
        "accepted": 10 * rounds,
        "right_end": 10 * rounds,
        "lost": 0,
        "audit_violations": 0,
    }
