"""Progress of a run and the time left (ETA), one estimate over all its stages, computed from ComfyUI's events."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..contract.workflow import Graph, node_title
from .comfy import Event

# Rough cost of a node in forward passes of Wan 2.2 14B at 720x720, 81 frames: a pass is 2.5 PFLOP; decoding that video
# is 0.36 PFLOP at a lower rate, and encoding its ends 0.08. Loading counts where ComfyUI does it, in the first step.
_ENCODER = "WanFLF2VConditioning"
_DECODERS = ("WanFLF2VVideoCombine", "VAEDecode")
_COST = {_ENCODER: 0.25, **dict.fromkeys(_DECODERS, 1.0), "CLIPLoader": 1.0, "CLIPTextEncode": 0.4}
_SMALL_COST = 0.1
_DEFAULT_STEPS = 20
# The decode counts frames in bursts, so its own pace has to outweigh what was expected: as if a quarter were counted.
_EXPECTED_SHARE = 0.25
# Before the first count it loads and checks; no wait of an eighth of that, and no burst has been seen whole.
_FIRST_WAIT = 8
_RECENT = 5
# Where nothing in the run tells the decode's time, the cost above does: good enough for so much of an estimate.
_GUESS_SHARE = 0.15
# An estimate above the one shown is an error of the estimate, unless it is that much longer: then the run is slower.
_SLOWER, _SLACK_S = 1.5, 5.0


@dataclass(frozen=True)
class Progress:
    """One moment of a run.

    ``queue_position`` is 0 while the prompt runs and otherwise its place in the server's queue, 1 for the next.
    ``step`` of ``steps`` counts inside the node (0 of 0 if the node does not count), ``fraction`` is that of the
    whole run in 0..1 and never falls. ``eta_s`` is the estimated rest of the whole run in seconds, ``None`` until the
    sampler's pace is known and where a node takes longer than expected without counting. It rises only if the run
    became plainly slower.
    """

    queue_position: int
    node_id: str | None
    title: str
    step: int
    steps: int
    fraction: float
    eta_s: float | None


@dataclass
class _Counter:
    """What the running node has counted, and when. What comes before its first count is loading, or a check."""

    node_id: str
    started: float
    value: float = 0.0
    maximum: float = 1.0
    first: tuple[float, float] | None = None  # value and time of the first count
    burst: tuple[float, float] = (0.0, 0.0)  # value and time of the last count after a wait
    last: float = 0.0  # when it counted last
    longest: float = 0.0  # seconds between two counts, or what they are at least
    paces: list[float] = field(default_factory=list)  # seconds of each step after the first count
    expected: float | None = None  # seconds of this pass, as the one before tells
    earlier: float = 0.0  # seconds of the whole passes before this one: one for each segment

    def count(self, value: float, maximum: float, now: float) -> bool:
        """Take a new count; equal counts are repeated messages. Return whether the node began another pass."""
        again = value < self.value
        if again:
            self.expected = (now - self.started) / self.value * maximum
            self.earlier += now - self.started if self.value >= self.maximum else 0.0
            self.started, self.first, self.paces, self.longest = now, None, [], 0.0
        elif value > self.value:
            waited, steps = now - self.last, value - self.value
            if self.first is None:
                self.first = self.burst = (value, now)
                self.longest = (now - self.started) / _FIRST_WAIT
            else:
                self.paces += [waited / steps] * max(round(steps), 1)
                self.longest = max(self.longest, waited)
                if waited >= self.longest / 2:
                    self.burst = (value, now)
            self.last = now
        self.value, self.maximum = value, maximum
        return again

    def sampler_pace(self) -> float | None:
        """Seconds a step: the median of the last few, as the one at which the second expert is loaded takes longer."""
        return statistics.median(self.paces[-_RECENT:]) if self.paces else None

    def sampler_left(self, now: float) -> float | None:
        """Seconds left of a sampler. Time stands still while a step takes longer than the others."""
        pace = self.sampler_pace()
        return None if pace is None else (self.maximum - self.value) * pace - min(now - self.last, pace)

    def left(self, expected: float | None, now: float) -> float | None:
        """Seconds left of any other node, which may count in bursts; ``expected`` is the time guessed for all of it."""
        if self.first is None:
            left = (expected or 0.0) - (now - self.started)
            return left if left > 0 else None
        value, at = self.burst
        counted, seconds = value - self.first[0], at - self.first[1]
        guessed = (expected or 0.0) - (self.first[1] - self.started)
        share = _EXPECTED_SHARE * self.maximum if guessed > 0 else 0.0  # one that was over before tells nothing
        if share + counted < _EXPECTED_SHARE / 2 * self.maximum:
            return None
        pace = (share * guessed / self.maximum + seconds) / (share + counted)
        return (self.maximum - value) * pace - min(now - at, max(self.longest, pace))


class ProgressTracker:
    """Follows one prompt through the server's events."""

    def __init__(self, graph: Graph, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._graph = graph
        self._clock = clock
        self._costs = {node_id: _cost(node) for node_id, node in graph.items()}
        self._done: set[str] = set()
        self._counter: _Counter | None = None
        self._seconds_per_cost: float | None = None
        self._decode_seconds: float | None = None  # for all segments, from the encode of their ends
        self._fraction = 0.0
        self._shown_eta: float | None = None
        self.queue_position = 1

    @property
    def node_id(self) -> str | None:
        """The node that runs now or ran last."""
        return self._counter.node_id if self._counter else None

    def apply(self, event: Event) -> None:
        """Take one event of this prompt. Types that say nothing about progress are ignored."""
        if event.type == "execution_cached":
            for node_id in event.data.get("nodes", []):
                self._costs.pop(str(node_id), None)
        elif event.type == "progress_state":
            for state in event.data.get("nodes", {}).values():
                self._apply_state(state)
        if event.type in ("execution_start", "execution_cached", "progress_state"):
            self.queue_position = 0

    def finish(self) -> None:
        """The run succeeded."""
        self._done.update(self._costs)
        self._counter = None

    def snapshot(self) -> Progress:
        """Return the progress as of the last event."""
        counter = self._counter
        counted = counter is not None and counter.maximum > 1
        self._fraction = max(self._fraction, self._current_fraction())
        return Progress(
            queue_position=self.queue_position,
            node_id=self.node_id,
            title=node_title(self._graph, counter.node_id) if counter else "",
            step=round(counter.value) if counter and counted else 0,
            steps=round(counter.maximum) if counter and counted else 0,
            fraction=self._fraction,
            eta_s=self._steady(self._eta()),
        )

    def _apply_state(self, state: Mapping[str, Any]) -> None:
        node_id = str(state.get("display_node_id") or state.get("node_id"))
        if node_id not in self._graph or node_id in self._done:
            return
        now = self._clock()
        if state.get("state") == "finished":
            self._done.add(node_id)
            self._learn_from_encode(node_id, now)
            return
        if self._counter is None or self._counter.node_id != node_id:
            self._counter = _Counter(node_id, started=now)
        if self._counter.count(float(state.get("value", 0)), float(state.get("max", 1)), now):
            self._shown_eta = None  # out of memory, say: the node does its work again, in tiles
        pace = self._counter.sampler_pace() if _is_sampler(self._graph[node_id]) else None
        if pace is not None:
            self._seconds_per_cost = pace * self._counter.maximum / _cost(self._graph[node_id])

    def _learn_from_encode(self, node_id: str, now: float) -> None:
        """Expect the decode to be as quick as the encode was, of all segments. What counted nothing was in a cache."""
        counter = self._counter
        if self._class(node_id) == _ENCODER and counter and counter.node_id == node_id and counter.maximum > 1:
            seconds = counter.earlier + now - counter.started
            self._decode_seconds = seconds * _decode_per_encode(counter.maximum) * self._encodes_per_decode()

    def _encodes_per_decode(self) -> float:
        """Return how many encoders there are for each decoder: segments that follow each other have one each."""
        classes = [self._class(node_id) for node_id in self._graph]
        return max(1.0, classes.count(_ENCODER) / max(1, sum(name in _DECODERS for name in classes)))

    def _part_done(self, node_id: str) -> float:
        if node_id in self._done:
            return 1.0
        if self._counter is None or self._counter.node_id != node_id or self._counter.maximum <= 0:
            return 0.0
        return min(self._counter.value / self._counter.maximum, 1.0)

    def _current_fraction(self) -> float:
        total = sum(self._costs.values())
        if total == 0:
            return 1.0
        return sum(cost * self._part_done(node_id) for node_id, cost in self._costs.items()) / total

    def _eta(self) -> float | None:
        """Seconds left of every node together; ``None`` if nothing tells how long one of them takes."""
        total, guessed = 0.0, 0.0
        for node_id in self._costs:
            if node_id in self._done:
                continue
            running = self._counter is not None and self._counter.node_id == node_id
            left = self._left(self._counter) if self._counter and running else self._expected(node_id)
            if left is None:
                return None
            total += left
            guessed += left if self._is_guess(node_id) and not running else 0.0
        return total if guessed <= _GUESS_SHARE * total else None

    def _expected(self, node_id: str) -> float | None:
        """Seconds that a node takes which has not begun; ``None`` if nothing tells."""
        if self._decode_seconds is not None and self._class(node_id) in _DECODERS:
            return self._decode_seconds
        if self._seconds_per_cost is not None:
            return self._costs[node_id] * self._seconds_per_cost
        return None if self._costs[node_id] >= 1 else 0.0

    def _is_guess(self, node_id: str) -> bool:
        return self._decode_seconds is None and self._class(node_id) in _DECODERS

    def _left(self, counter: _Counter) -> float | None:
        """Seconds left of the running node."""
        if counter.first is not None and counter.value >= counter.maximum:
            return 0.0
        if counter.first is not None and _is_sampler(self._graph[counter.node_id]):
            left = counter.sampler_left(self._clock())
        else:
            expected = None if self._is_guess(counter.node_id) else self._expected(counter.node_id)
            left = counter.left(counter.expected or expected, self._clock())
        return None if left is None else max(left, 0.0)

    def _steady(self, eta: float | None) -> float | None:
        """Return the estimate to show in place of ``eta``: one that does not rise by an error of the estimate."""
        shown = self._shown_eta
        if eta is None or shown is None or eta < shown or eta > max(_SLOWER * shown, shown + _SLACK_S):
            self._shown_eta = eta
        return self._shown_eta

    def _class(self, node_id: str) -> str:
        return str(self._graph[node_id].get("class_type"))


def _is_sampler(node: Mapping[str, Any]) -> bool:
    return "steps" in node.get("inputs", {})


def _cost(node: Mapping[str, Any]) -> float:
    """Return the node's cost in forward passes; at cfg 1 a step is one, else two."""
    if not _is_sampler(node):
        return _COST.get(str(node.get("class_type")), _SMALL_COST)
    steps = node["inputs"]["steps"]
    passes = 1 if node["inputs"].get("cfg") == 1 else 2
    return float(passes * (steps if isinstance(steps, int) else _DEFAULT_STEPS))


def _decode_per_encode(chunks: float) -> float:
    """Return how much longer decoding a video takes than encoding its ends, in ``chunks`` of two frames.

    One full decode is 1.7 full encodes by its operations, and runs at a lower rate. But of a long video the encode
    computes only what differs from grey (video/memo.py): 2.7 times less at 81 frames, 5.6 at 141.
    """
    return max(2.0, 0.16 * chunks - 2.1)
