"""A picture of a stage's log: every figure over the hours that the stage took."""

from __future__ import annotations

import json
from pathlib import Path

_NO_FIGURES = ("step", "seconds", "cpu_seconds")


def plot(log: Path, target: Path) -> None:
    """Read a stage's ``log.jsonl`` and draw one panel for each figure in it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in log.read_text("utf-8").splitlines()]
    names = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in _NO_FIGURES]
    figure, panels = pyplot.subplots(len(names), 1, figsize=(7, 2 * len(names)), sharex=True, squeeze=False)
    for name, panel in zip(names, panels[:, 0], strict=True):
        points = [(line["seconds"] / 3600, line[name]) for line in lines if name in line]
        panel.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else "")
        panel.set_ylabel(name)
        panel.grid(alpha=0.3)
    panels[-1, 0].set_xlabel("hours of training")
    figure.tight_layout()
    figure.savefig(target, dpi=100)
    pyplot.close(figure)
