"""What a bench is given and what it returns."""

from __future__ import annotations

import operator
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">=": operator.ge,
}


@dataclass(frozen=True)
class Options:
    """Where ComfyUI lies, the Python that runs it, and how many rounds or ComfyUIs (``None``: the bench's own number).

    ``json`` is the result file, if one is asked for: a bench may write a picture or a table beside it. ``store`` is
    where gateways keep requests: ``sqlite``, or ``jetstream`` on a cluster of three.
    """

    comfyui: Path
    python: Path = Path(sys.executable)
    rounds: int | None = None
    json: Path | None = None
    workers: int | None = None
    store: str = "sqlite"


@dataclass(frozen=True)
class Figure:
    """One measured figure over ``rounds``, with the smallest and largest of a single round.

    ``limit`` is what it must hold, such as ``("<", 100.0)``; ``None`` if it is only told.
    """

    value: float
    unit: str
    rounds: int
    min: float
    max: float
    limit: tuple[str, float] | None = None

    def holds(self) -> bool:
        """Whether the figure is within its limit."""
        return self.limit is None or _COMPARE[self.limit[0]](self.value, self.limit[1])

    def as_json(self) -> dict[str, Any]:
        """Return the figure as the result file has it."""
        limit = None if self.limit is None else f"{self.limit[0]} {self.limit[1]:g}"
        return {
            "value": self.value,
            "unit": self.unit,
            "rounds": self.rounds,
            "min": self.min,
            "max": self.max,
            "limit": limit,
        }


Figures: TypeAlias = dict[str, Figure]


def median(values: list[float], unit: str, limit: tuple[str, float] | None = None) -> Figure:
    """Return the median of one value for each round."""
    return Figure(statistics.median(values), unit, len(values), min(values), max(values), limit)


def summed(counts: list[int], unit: str, limit: tuple[str, float] | None = None) -> Figure:
    """Return the sum of one count for each round."""
    return Figure(sum(counts), unit, len(counts), min(counts), max(counts), limit)


def add_row(options: Options, rows: list[str], row: str) -> None:
    """Add a row to a Markdown table, print it, and write the table so far beside the result file if there is one."""
    rows.append(row)
    print(row, flush=True)
    if options.json is not None:
        options.json.with_suffix(".md").write_text("\n".join((*rows, "")), encoding="utf-8")
