"""The order of the queue: fair between tokens, first come first served within one, and nobody starves."""

import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wan_flf2v.gateway.jobs.queue import in_order, queue_position
from wan_flf2v.gateway.jobs.records import PRIORITIES, QueuedJob

NOW = 10_000.0


def jobs(*tokens, running=(), created_at=0.0):
    """Return jobs of these tokens in the order of their acceptance; ``running`` are the numbers of those that run."""
    return [
        QueuedJob(f"job {number}", number, "in_progress" if number in running else "in_queue", token, created_at)
        for number, token in enumerate(tokens)
    ]


def names(queue):
    return "".join(job.token for job in queue if job.status == "in_queue")


def test_the_token_with_the_fewest_running_is_next_and_then_the_one_that_waits_for_its_turn_the_longest():
    queue = jobs("a", "a", "a", "b", "c", "c", running=(0,))
    assert names(in_order(queue, {"a": 9.0, "c": 5.0}, now=10.0)) == "bcaca"  # b was never served
    assert names(in_order(queue, {"a": 9.0, "c": 5.0, "b": 7.0}, now=10.0)) == "cbaca"


def test_a_single_job_behind_five_hundred_of_another_token_is_next():
    queue = jobs(*["a"] * 501, "b", running=(0,))
    assert queue_position(queue[-1].id, in_order(queue, {"a": 1.0}, now=2.0)) == 0
    one_worker_is_free = queue[1:]
    assert queue_position(queue[-1].id, in_order(one_worker_is_free, {"a": 1.0}, now=2.0)) == 0


def test_who_was_not_served_for_too_long_comes_first_although_he_has_more_running():
    queue = jobs("a", "a", "b", "b", running=(0,))
    assert names(in_order(queue, {"a": 50.0, "b": 90.0}, now=100.0, max_wait_s=60.0)) == "bab"
    assert names(in_order(queue, {"a": 30.0, "b": 90.0}, now=100.0, max_wait_s=60.0)) == "abb"


def test_a_higher_priority_comes_first_until_the_others_have_waited_too_long():
    queue = jobs("a", "a", "b", "b", "c", "c", running=(0, 2))
    served, priorities = {"a": 99.0, "b": 99.0, "c": 95.0}, {"a": "high", "c": "low"}
    assert names(in_order(queue, served, priorities, now=100.0)) == "abcc"
    assert names(in_order(queue, served, priorities, now=100.0, max_wait_s=4.0)) == "cabc"
    assert names(in_order(queue, served, now=100.0)) == "cabc", "without priorities the fewest running are first"


@st.composite
def queues(draw):
    """Unfinished jobs of a few tokens, some of them running, and when each token was served last."""
    tokens = draw(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30))
    running = draw(st.sets(st.integers(0, len(tokens) - 1), max_size=6))
    made = [draw(st.floats(0, NOW)) for _ in tokens]
    queue = [job._replace(created_at=made[job.number]) for job in jobs(*tokens, running=running)]
    served = draw(st.dictionaries(st.sampled_from("abcde"), st.floats(0, NOW)))
    priorities = draw(st.dictionaries(st.sampled_from("abcde"), st.sampled_from(PRIORITIES)))
    return draw(st.permutations(queue)), served, priorities, draw(st.sampled_from([math.inf, 100.0, 5000.0]))


def holds(drawn):
    queue, served, priorities, max_wait_s = drawn
    ordered = in_order(queue, served, priorities, now=NOW, max_wait_s=max_wait_s)
    assert sorted(ordered) == sorted(queue), "no job is lost or made up"
    for token in "abcde":
        numbers = [job.number for job in ordered if job.token == token and job.status == "in_queue"]
        assert numbers == sorted(numbers), "first come first served within a token"

    # Hand the jobs out one after another, as the dispatcher does: each is the first of the order of that moment.
    left, served, seen = list(queue), dict(served), []

    def order():
        return in_order(left, served, priorities, now=NOW, max_wait_s=max_wait_s)

    while waiting := [job for job in order() if job.status == "in_queue"]:
        job = waiting[0]
        seen.append(job.id)
        left[left.index(job)] = job._replace(status="in_progress")
        served[job.token] = NOW + len(seen) * 1e-6
    assert seen == [job.id for job in ordered if job.status == "in_queue"], "a position is the order that is seen"
    assert [queue_position(job_id, ordered) for job_id in seen] == list(range(len(seen)))


@settings(max_examples=100, deadline=None)
@given(queues())
def test_every_position_is_the_order_in_which_jobs_are_handed_out(drawn):
    holds(drawn)


@pytest.mark.sweep
@pytest.mark.timeout(3600)  # on a busy machine
@settings(max_examples=10_000, deadline=None)
@given(queues())
def test_ten_thousand_random_queues(drawn):
    holds(drawn)


def waits_at_most(workers, lengths, rivals):
    """Run a busy service and return the longest time for which a token with a waiting job was not served.

    Token ``a`` has a low priority and jobs of the given ``lengths``; at every moment another token appears that was
    never served, for ``rivals`` moments. A step of time is one second.
    """
    max_wait_s, number, longest = 20.0, 0, 0.0
    left, ends, served = [], {}, {}
    for _ in lengths:
        left.append(QueuedJob(f"a {number}", number, "in_queue", "a", 0.0))
        number += 1
    now, since = 0.0, 0.0
    while any(job.token == "a" for job in left):
        if now < rivals:
            left.append(QueuedJob(f"rival {number}", number, "in_queue", f"rival {number}", now))
            number += 1
        left = [job for job in left if ends.get(job.id, math.inf) > now]
        busy = Counter(job.status for job in left)["in_progress"]
        ordered = in_order(left, served, {"a": "low"}, now=now, max_wait_s=max_wait_s)
        order = [job for job in ordered if job.status == "in_queue"]
        for job in order[: workers - busy]:
            left[left.index(job)] = job._replace(status="in_progress")
            served[job.token] = now
            ends[job.id] = now + (lengths[job.number] if job.token == "a" else 1)
            if job.token == "a":
                longest, since = max(longest, now - since), now
        now += 1.0
        assert now < 5000, "a token starves"
    return longest


WORKERS, LENGTHS = st.integers(1, 4), st.lists(st.integers(1, 30), min_size=2, max_size=6)


@settings(max_examples=30, deadline=None)
@given(WORKERS, LENGTHS)
def test_nobody_starves_beside_tokens_that_come_and_go(workers, lengths):
    """After ``max_wait`` only those come before it who wait longer: who came while the token's own jobs ran."""
    assert waits_at_most(workers, lengths, rivals=1000) <= 20.0 + 30.0 + sum(lengths)


@pytest.mark.sweep
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, deadline=None)
@given(WORKERS, LENGTHS)
def test_nobody_starves_in_ten_thousand_queues(workers, lengths):
    assert waits_at_most(workers, lengths, rivals=100) <= 20.0 + 30.0 + sum(lengths)
