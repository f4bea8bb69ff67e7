"""The time left over recorded event streams of the demo's runs on a real ComfyUI (tests/support/streams)."""

import json

import pytest
from wan_flf2v.bootstrap.paths import REPO
from wan_flf2v.client.comfy import Event
from wan_flf2v.client.progress import ProgressTracker
from wan_flf2v.contract.parameters import DEMO
from wan_flf2v.contract.workflow import fill, graph_for

STREAMS = REPO / "tests" / "support" / "streams"
POLL_S = 2.0  # how often the client looks without an event


def replay(name):
    """Return the end of a stream, and what was shown: time, node, step, steps, seconds left."""
    stream = json.loads((STREAMS / f"{name}.json").read_text("utf-8"))
    now = 0.0
    tracker = ProgressTracker(fill(graph_for(DEMO), DEMO, stream["values"]), clock=lambda: now)
    shown = []

    def look():
        moment = tracker.snapshot()
        shown.append((now, moment.node_id, moment.step, moment.steps, moment.eta_s))

    for event in stream["events"]:
        while event["t"] > now + POLL_S:
            now += POLL_S
            look()
        now = event["t"]
        tracker.apply(Event(event["type"], event["data"]))
        look()
    return now, shown


def with_eta(shown):
    return [(now, eta) for now, *_, eta in shown if eta is not None]
