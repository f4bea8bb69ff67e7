"""Rounds of the crash bench with three stand-ins: the gateway, one, both, a silent one, two at once.

On JetStream the same, and then an outward worker.
"""

from pathlib import Path

import pytest
from wan_flf2v.benchmarks import crash_workers
from wan_flf2v.benchmarks._figures import Options


@pytest.mark.slow
@pytest.mark.timeout(1800)  # a minute of work; a busy machine takes long
@pytest.mark.parametrize(("store", "rounds"), [("sqlite", 5), ("jetstream", 6)])
def test_every_accepted_request_has_one_right_end_whatever_is_killed(store, rounds, monkeypatch):
    monkeypatch.setattr(crash_workers, "REAL_ONE_IN", rounds + 1)
    figures = crash_workers.run(Options(Path(), rounds=rounds, store=store))
    assert {name: figure.value for name, figure in figures.items()} == {
        "accepted": 10 * rounds,
        "right_end": 10 * rounds,
        "lost": 0,
        "unasked": 0,
        "audit_violations": 0,
    }
