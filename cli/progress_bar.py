"""Shows progress: a live bar in a terminal, an occasional plain line elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn
from rich.progress import Progress as Bar

from ..client.progress import Progress
from .shared import describe_step

_PLAIN_EVERY_S = 15.0


class ProgressRenderer:
    """A context manager that is called with every ``Progress``, or told in words what to show."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            console=console,
            transient=True,
        )
        self._task = self._bar.add_task("Connecting", total=1.0)
        self._plain_place: str | None = None
        self._plain_time = 0.0

    def __enter__(self) -> ProgressRenderer:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``."""
        self.show(progress.node_id or f"queue {progress.queue_position}", progress.fraction, describe(progress))

    def show(self, place: str, fraction: float, text: str) -> None:
        """Show how far it is; without a terminal only at a new ``place``, and now and then."""
        if self._console.is_terminal:
            self._bar.update(self._task, completed=fraction, description=text)
            return
        if place == self._plain_place and time.monotonic() - self._plain_time < _PLAIN_EVERY_S:
            return
        self._plain_place, self._plain_time = place, time.monotonic()
        self._console.print(f"{fraction:4.0%}  {text}", markup=False, highlight=False, soft_wrap=True)


def describe(progress: Progress) -> str:
    """Say in one line where the run is."""
    if progress.queue_position:
        return f"Waiting in ComfyUI's queue, place {progress.queue_position}"
    if progress.node_id is None:
        return "Done" if progress.fraction >= 1 else "Starting"
    return describe_step(f"{progress.node_id} {progress.title}", progress.step, progress.steps, progress.eta_s)
