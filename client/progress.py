"""Progress and ETA of a run, computed from ComfyUI's events: fraction, step, queue position, seconds left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..contract.workflow import Graph, node_title
from .comfy import Event

# Rough cost of a node in sampler steps of Wan 2.2 14B at 720x720, 81 frames (two forwards of 2.5 PFLOP a step; the
# VAE's encode and decode 0.2 and 0.4 PFLOP at a lower rate; loading counts where ComfyUI does it, in the first step).
_COST_IN_STEPS = {
    "WanFLF2VVideoCombine": 0.5,
    "VAEDecode": 0.5,
    "WanFLF2VConditioning": 0.3,
    "CLIPLoader": 0.5,
    "CLIPTextEncode": 0.2,
}
_SMALL_COST = 0.05
_DEFAULT_STEPS = 20


@dataclass(frozen=True)
class Progress:
    """One moment of a run.

    ``queue_position`` is 0 while the prompt runs and otherwise its place in the server's queue, 1 for the next.
    ``step`` of ``steps`` counts inside the node (0 of 0 if the node does not count), ``fraction`` is that of the
    whole run in 0..1 and never falls, ``eta_s`` is the estimated rest in seconds, ``None`` until the sampler's pace
    is known and where a node takes longer than expected without counting.
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
    """What the running node has counted, and when."""

    node_id: str
    started: float
    value: float = 0.0
    maximum: float = 1.0
    first: tuple[float, float] | None = None  # value and time of the first step seen
    last: tuple[float, float] | None = None

    def count(self, value: float, maximum: float, now: float) -> None:
        """Take a new count; equal counts are repeated messages."""
        if value < self.value:
            self.started, self.first, self.last = now, None, None  # the node began another pass
        elif value > self.value:
            self.first = self.first or (value, now)
            self.last = (value, now)
        self.value, self.maximum = value, maximum

    def seconds_per_step(self) -> float | None:
        """Mean over the steps after the first, which also loads the model; the first alone until there are two."""
        if self.first is None or self.last is None:
            return None
        if self.last[0] > self.first[0]:
            return (self.last[1] - self.first[1]) / (self.last[0] - self.first[0])
        return (self.first[1] - self.started) / self.first[0]


class ProgressTracker:
    """Follows one prompt through the server's events."""

    def __init__(self, graph: Graph, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._graph = graph
        self._clock = clock
        self._costs = {node_id: _cost(node) for node_id, node in graph.items()}
        self._done: set[str] = set()
        self._counter: _Counter | None = None
        self._seconds_per_cost: float | None = None
        self._fraction = 0.0
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
            eta_s=self._eta(),
        )

    def _apply_state(self, state: Mapping[str, Any]) -> None:
        node_id = str(state.get("display_node_id") or state.get("node_id"))
        if node_id not in self._graph or node_id in self._done:
            return
        if state.get("state") == "finished":
            self._done.add(node_id)
            return
        if self._counter is None or self._counter.node_id != node_id:
            self._counter = _Counter(node_id, started=self._clock())
        self._counter.count(float(state.get("value", 0)), float(state.get("max", 1)), self._clock())
        per_step = self._counter.seconds_per_step()
        cost = self._costs.get(node_id, _SMALL_COST)
        if per_step is not None and cost >= 1:  # only the sampler is long enough to say how fast this machine is
            self._seconds_per_cost = per_step * self._counter.maximum / cost

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
        """Seconds left: the running node at its own pace, the rest at the sampler's; ``None`` where that is a guess."""
        counter, rate = self._counter, self._seconds_per_cost
        if rate is None:
            return None
        running = counter.node_id if counter and counter.node_id not in self._done else None
        waiting = sum(cost for node_id, cost in self._costs.items() if node_id not in self._done | {running})
        if counter is None or running is None:
            return waiting * rate
        per_step, now = counter.seconds_per_step(), self._clock()
        if per_step is not None and counter.last is not None:
            left = (counter.maximum - counter.value) * per_step - (now - counter.last[1])
            return waiting * rate + max(left, 0.0)
        left = self._costs.get(running, _SMALL_COST) * rate - (now - counter.started)
        return waiting * rate + left if left > 0 else None


def _cost(node: Mapping[str, Any]) -> float:
    """Return the node's cost in sampler steps; a node with a number of steps is a sampler."""
    if "steps" in node.get("inputs", {}):
        steps = node["inputs"]["steps"]
        return float(steps) if isinstance(steps, int) else float(_DEFAULT_STEPS)
    return _COST_IN_STEPS.get(str(node.get("class_type")), _SMALL_COST)
