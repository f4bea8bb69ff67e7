"""Progress from the server's events: an honest fraction, and an ETA from measured steps."""

import io

import pytest
from rich.console import Console
from wan_flf2v.cli.progress_bar import ProgressRenderer, describe
from wan_flf2v.client.comfy import Event
from wan_flf2v.client.progress import Progress, ProgressTracker
from wan_flf2v.contract.parameters import HOSTED
from wan_flf2v.contract.workflow import load_graph

LOADERS = ("37", "38", "39", "54", "56", "6", "62", "67", "68", "7", "71")


class Run:
    """A tracker on the bundled graph, with a clock that the test sets."""

    def __init__(self, workflow=HOSTED.workflow):
        self.now = 100.0
        self.graph = load_graph(workflow)
        self.tracker = ProgressTracker(self.graph, clock=lambda: self.now)
        self.states = {}

    def event(self, kind, **data):
        self.tracker.apply(Event(kind, data))
        return self.tracker.snapshot()

    def node(self, node_id, state="running", value=0, maximum=1):
        """The server sends the state of every node that has begun, each time."""
        self.states[node_id] = {"value": value, "max": maximum, "state": state, "node_id": node_id}
        return self.event("progress_state", nodes=dict(self.states))

    def finish(self, *node_ids):
        for node_id in node_ids:
            last = self.node(node_id, "finished", 1, 1)
        return last


def test_a_waiting_run_says_its_place():
    run = Run()
    run.tracker.queue_position = 3
    assert run.tracker.snapshot() == Progress(3, None, "", 0, 0, 0.0, None)
    assert run.event("execution_start").queue_position == 0


def test_the_sampler_is_most_of_the_bar():
    run = Run()
    before = run.finish(*LOADERS).fraction
    after = run.node("57", "finished", 20, 20).fraction
    assert before < 0.1
    assert after - before > 0.85
    run.finish("73")
    assert run.tracker.snapshot().fraction == pytest.approx(1.0)


def test_steps_are_counted_and_the_rest_estimated_from_steps_after_the_first():
    run = Run()
    run.finish(*LOADERS)
    assert run.node("57", value=0, maximum=20).eta_s is None
    run.now += 60  # the first step also loads the model
    first = run.node("57", value=1, maximum=20)
    assert (first.step, first.steps, first.title) == (1, 20, "Sampler (two experts, one schedule)")
    assert first.eta_s is None, "how much of it was loading, nobody knows"
    run.now += 2
    run.node("57", value=2, maximum=20)
    run.now += 2
    third = run.node("57", value=3, maximum=20)
    combine = 0.5 * 2  # node 73 costs half a step
    assert third.eta_s == pytest.approx(17 * 2 + combine)
    for step in range(4, 20):
        run.now += 2
        late = run.node("57", value=step, maximum=20)
        assert late.eta_s == (pytest.approx((20 - step) * 2 + combine) if step < 18 else None), (
            "where the guess of node 73's time is much of it, it is no promise"
        )


def test_time_runs_down_and_stands_still_while_a_step_takes_longer():
    run = Run()
    run.finish(*LOADERS)
    run.node("57", value=0, maximum=20)
    for step in range(1, 11):
        run.now += 4
        before = run.node("57", value=step, maximum=20).eta_s
    run.now += 3
    assert run.node("57", value=10, maximum=20).eta_s == pytest.approx(before - 3), "a repeated count is no step"
    run.now += 60  # the low-noise expert is loaded
    waiting = run.tracker.snapshot().eta_s
    assert waiting == pytest.approx(before - 4)
    loaded = run.node("57", value=11, maximum=20).eta_s
    assert loaded == pytest.approx(waiting), "one slow step is not the pace"


def test_the_time_of_the_decode_is_told_by_the_encode():
    run = Run()
    run.finish(*(node_id for node_id in LOADERS if node_id != "67"))
    for chunk in range(42):
        run.node("67", value=chunk, maximum=41)
        run.now += 0.25
    run.finish("67")
    for step in range(5):
        run.node("57", value=step, maximum=4)
        run.now += 0.25
    expected = 42 * 0.25 * 4.46  # at 81 frames
    assert run.node("57", "finished", 4, 4).eta_s == pytest.approx(expected, abs=0.1)
    run.node("73", maximum=81)
    run.now += expected / 2
    assert run.tracker.snapshot().eta_s == pytest.approx(expected / 2, abs=0.1)


def test_the_decode_of_several_segments_is_told_by_all_of_their_encodes():
    """Node 67 counts once for each segment. A pass that broke off, as when memory ran out, is none of them."""
    run = Run()
    run.finish(*(node_id for node_id in LOADERS if node_id != "67"))
    run.node("67", maximum=41)
    for chunks in (7, 41, 41, 41):
        for chunk in range(1, chunks + 1):
            run.now += 0.25
            run.node("67", value=chunk, maximum=41)
    run.finish("67")
    for step in range(13):
        run.node("57", value=step, maximum=12)
        run.now += 0.25
    expected = 3 * 41 * 0.25 * 4.46  # at 81 frames a segment
    assert run.node("57", "finished", 12, 12).eta_s == pytest.approx(expected, rel=0.02)


def test_the_decode_of_segments_that_follow_each_other_is_told_by_the_encode_of_each():
    run = Run("wan22_flf2v_long_video")
    run.finish(*(node_id for node_id in run.graph if node_id not in ("57", "67", "73", "75", "77", "87")))
    for encoder, sampler in (("67", "57"), ("77", "87")):
        for chunk in range(42):
            run.node(encoder, value=chunk, maximum=41)
            run.now += 0.25
        run.finish(encoder)
        for step in range(5):
            run.node(sampler, value=step, maximum=4)
            run.now += 0.25
        last = run.finish(sampler, *(["75"] if sampler == "57" else []))
    assert last.eta_s == pytest.approx(2 * 42 * 0.25 * 4.46, rel=0.02)  # at 81 frames a segment


def test_only_a_plainly_slower_run_or_new_work_makes_the_time_rise():
    run = Run()
    run.finish(*LOADERS)
    run.node("57", value=0, maximum=100)
    for step in range(1, 51):
        run.now += 1
        before = run.node("57", value=step, maximum=100).eta_s
    for step in range(51, 55):
        run.now += 1.2
        before = min(before, run.node("57", value=step, maximum=100).eta_s)
        assert run.tracker.snapshot().eta_s == before
    for step in range(55, 58):
        run.now += 5  # another program takes the GPU
        after = run.node("57", value=step, maximum=100).eta_s
    assert before < 51 < after == pytest.approx(43 * 5, rel=0.1)
    assert run.node("57", "finished", 100, 100).eta_s is None
    for frame in range(21):
        slow = run.node("73", value=frame, maximum=81).eta_s
        run.now += 1
    assert slow == pytest.approx(61, abs=1), "the decode takes a second a frame, which nothing told before"
    again = run.node("73", value=0, maximum=81).eta_s  # out of memory: once more, in tiles
    assert again is None or again >= slow


def test_no_time_is_promised_that_is_only_a_guess():
    run = Run()
    run.node("67", value=0, maximum=4)
    run.now += 1
    assert run.node("67", value=2, maximum=4).eta_s is None, "nothing says yet how fast the sampler is"
    run.finish(*(node_id for node_id in LOADERS if node_id != "67"))
    run.node("67", "finished", 1, 1)
    run.node("57", value=0, maximum=3)
    for step in range(1, 4):
        run.now += 1
        run.node("57", value=step, maximum=3)
    run.node("57", "finished", 3, 3)
    run.node("73")
    run.now += 60
    assert run.tracker.snapshot().eta_s is None, "longer than node 73 should take"


def test_cached_nodes_do_not_count():
    run = Run()
    everything_else = [node_id for node_id in run.graph if node_id not in ("57", "73")]
    assert run.event("execution_cached", nodes=everything_else).fraction == 0
    assert run.node("57", value=10, maximum=20).fraction == pytest.approx(10 / 20.5)
    assert Run().event("execution_cached", nodes=list(run.graph)).fraction == 1


def test_the_fraction_never_falls():
    run = Run()
    high = run.node("73", value=9, maximum=10).fraction
    assert run.node("73", value=1, maximum=10).fraction == high
    assert run.node("73", value=1, maximum=10).step == 1


def test_nodes_that_are_not_in_the_graph_are_ignored():
    run = Run()
    before = run.tracker.snapshot()
    assert run.node("999", value=1, maximum=2) == Progress(0, *list(vars(before).values())[1:])
    inner = {"node_id": "57.0.1", "display_node_id": "57", "state": "running", "value": 1, "max": 4}
    assert run.event("progress_state", nodes={"57.0.1": inner}).node_id == "57"


def test_finish_is_everything():
    run = Run()
    run.node("57", value=3, maximum=20)
    run.tracker.finish()
    assert run.tracker.snapshot() == Progress(0, None, "", 0, 0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(2, None, "", 0, 0, 0.0, None), "Waiting in ComfyUI's queue, place 2"),
        (Progress(0, None, "", 0, 0, 0.0, None), "Starting"),
        (Progress(0, "38", "Text encoder", 0, 0, 0.01, None), "38 Text encoder"),
        (Progress(0, "57", "Sampler", 3, 20, 0.2, 99.6), "57 Sampler, step 3 of 20, 1:40 left"),
        (Progress(0, None, "", 0, 0, 1.0, None), "Done"),
    ],
)
def test_a_moment_in_words(progress, text):
    assert describe(progress) == text


def test_without_a_terminal_there_is_a_line_per_node_not_per_step():
    stream = io.StringIO()
    with ProgressRenderer(Console(file=stream)) as show:
        for step in range(1, 21):
            show(Progress(0, "57", "Sampler [x]", step, 20, step / 20, None))
        show(Progress(0, "73", "Video", 0, 0, 1.0, None))
    assert stream.getvalue().splitlines() == ["  5%  57 Sampler [x], step 1 of 20", "100%  73 Video"]
