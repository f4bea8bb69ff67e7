"""The time left over recorded event streams: the demo's runs on ComfyUI 0.30.0 (tests/support/streams).

Of each event, a stream holds what had changed since the one before it.
"""

import json

from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.comfy import Event
from wan_flf2v.client.progress import ProgressTracker
from wan_flf2v.contract.parameters import DEMO, END_IMAGE, PROMPT, START_IMAGE
from wan_flf2v.contract.validation import validate
from wan_flf2v.contract.workflow import fill, graph_for

STREAMS = REPO / "tests" / "support" / "streams"
POLL_S = 2.0  # how often the client looks without an event


def replay(name):
    """Return when a stream ended, and what was shown: time, node, seconds left."""
    stream = json.loads((STREAMS / f"{name}.json").read_text("utf-8"))
    now, shown = 0.0, []
    required = {PROMPT.key: "circle", START_IMAGE.key: "start", END_IMAGE.key: "end"}
    graph = fill(graph_for(DEMO), DEMO, {**validate(DEMO, required), **stream["values"]})
    tracker = ProgressTracker(graph, clock=lambda: now)

    def look():
        moment = tracker.snapshot()
        shown.append((now, moment.node_id, moment.eta_s))

    for event in stream["events"]:
        while event["t"] > now + POLL_S:
            now += POLL_S
            look()
        now = event["t"]
        tracker.apply(Event(event["type"], event["data"]))
        look()
    return now, shown


def truths(name):
    """Return for each moment with an estimate the node, the estimate, and how long the run really still took."""
    end, shown = replay(name)
    return [(node, eta, end - now) for now, node, eta in shown if eta is not None]


def test_the_time_left_covers_the_decode_and_only_falls():
    """A first run, on a busy machine; the encode tells how long the decode takes."""
    moments = truths("encoded")
    estimates = [eta for _, eta, _ in moments]
    assert estimates == sorted(estimates, reverse=True)
    assert {node for node, *_ in moments} == {"57", "73"}
    assert all(0.75 * left < eta < 1.25 * left for _, eta, left in moments if left > 25)


def test_no_time_is_told_where_only_the_decode_could_tell_it():
    """The encode came from the cache, and these tiny models' decode takes 30 times as long as a step."""
    moments = truths("encode_cached")
    assert {node for node, *_ in moments} == {"73"}
    estimates = [eta for _, eta, _ in moments]
    assert estimates == sorted(estimates, reverse=True)
    assert all(0.75 * left < eta for _, eta, left in moments if left > 5)
    assert moments[0][2] > 75, "more than half of the decode was left"


def test_an_estimate_that_ran_out_is_not_followed_by_a_smaller_one():
    """From the fifth step on, ComfyUI was stopped two thirds of the time: nobody could know."""
    moments = truths("slowed")
    out = max(at for at, (node, eta, _) in enumerate(moments) if node == "57")
    ran_down = [eta for _, eta, _ in moments[: out + 1]]
    assert ran_down == sorted(ran_down, reverse=True)
    assert all(eta >= left for _, eta, left in moments if left < 200 and eta), "too small again, in a burst of frames"
