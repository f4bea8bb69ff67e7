"""The audit of the crash benches finds what must not be in a store's history."""

import pytest
from wan_flf2v.benchmarks._audit import Version, _step

WAITS, RUNS, AGAIN, ENDED = ("in_queue", 0), ("in_progress", 1), ("in_queue", 1), ("succeeded", 1)


def version(number, *states):
    return Version("a", number, states, None)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (None, version(1, WAITS)),
        (version(1, WAITS), version(2, WAITS, RUNS)),
        (version(1, WAITS), version(2, RUNS)),
        (version(2, WAITS, RUNS), version(3, WAITS, RUNS)),
        (version(3, WAITS, RUNS), version(9, WAITS, RUNS, AGAIN, ("in_progress", 2), ("failed", 2))),
        (version(3, WAITS, RUNS, ENDED), version(3, WAITS, RUNS, ENDED)),
        (version(3, ENDED), version(4, ENDED)),
        (version(1, WAITS), version(2, ("cancelled", 0))),
    ],
)
def test_what_may_be_passes(before, now):
    assert list(_step(before, now)) == []


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (None, version(1, RUNS), "began as in_progress"),
        (version(2, WAITS, RUNS), version(2, WAITS, RUNS), "two versions 2"),
        (version(3, WAITS, RUNS), version(2, WAITS, RUNS), "went back from version 3 to 2"),
        (version(2, WAITS, RUNS), version(3, WAITS, ("cancelled", 0)), "another history"),
        (version(2, RUNS), version(3, ("in_progress", 2)), "from attempt 1 to 2 as in_progress"),
        (version(1, WAITS), version(2, WAITS, ("in_progress", 2)), "from attempt 0 to 2"),
        (version(3, ENDED), version(4, ("failed", 1)), "from succeeded to failed"),
        (version(3, ENDED), version(4, RUNS), "from succeeded to in_progress"),
    ],
)
def test_what_must_not_be_is_told(before, now, said):
    assert any(said in text for text in _step(before, now))
