"""The plot of a plan's schedule: sigma over the steps, each in its expert's colour, as an IMAGE."""

from __future__ import annotations

from collections.abc import Sequence

import numpy
import torch
from PIL import Image, ImageDraw

from ..drawing import draw_text
from ..sampling.schedule import in_words
from .plan import Plan
from .plan_text import summary

WIDTH, HEIGHT = 960, 540
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 70, 930, 470
_WHITE, _BLACK, _GREY = (255, 255, 255), (34, 34, 34), (210, 210, 210)
# Green, blue and orange of Okabe and Ito's palette (2008), which people with any colour vision tell apart.
COLOURS = {"prelude": (0, 158, 115), "high": (0, 114, 178), "low": (230, 159, 0)}
_DASH, _GAP = 12, 8
_MOST_TICKS = 20


def draw(plan: Plan) -> torch.Tensor:
    """Draw sigma over the steps, each in its expert's colour, with the boundary as a dashed line.

    Returns:
        An IMAGE, [1, 540, 960, 3], float32 in 0...1.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), _WHITE)
    canvas = _Canvas(picture, len(plan.steps), max(1.0, plan.steps[0].sigma))
    canvas.axes()
    ends = [*(step.sigma for step in plan.steps[1:]), plan.final_sigma]
    for step, end in zip(plan.steps, ends, strict=True):
        canvas.step(step.index, step.sigma, end, COLOURS[step.expert])
    if plan.sampling.handover == "boundary":
        canvas.level(plan.sampling.boundary, f"boundary {plan.sampling.boundary:g}")
    prelude = plan.count("prelude")
    if prelude:
        canvas.change(prelude, "prelude", "")
    canvas.change(plan.handover_step, "high" if plan.handover_step > prelude else "", "low")
    canvas.title(summary(plan), [expert for expert in COLOURS if expert != "prelude" or prelude])
    return torch.from_numpy(numpy.asarray(picture).astype(numpy.float32) / 255).unsqueeze(0)


class _Canvas:
    """The plot's coordinates: steps to the right, sigma upwards."""

    def __init__(self, picture: Image.Image, steps: int, top: float) -> None:
        self._draw = ImageDraw.Draw(picture)
        self._steps = steps
        self._top = top

    def _x(self, step: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * step / self._steps

    def _y(self, sigma: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * sigma / self._top

    def _text(self, x: float, y: float, text: str, anchor: str, size: int = 16) -> None:
        draw_text(self._draw, x, y, text, anchor, _BLACK, size)

    def axes(self) -> None:
        for tenths in range(0, int(self._top * 10) + 1, 2):
            y = self._y(tenths / 10)
            self._draw.line((_LEFT, y, _RIGHT, y), _GREY)
            self._text(_LEFT - 10, y, f"{tenths / 10:g}", "rm")
        every = -(-self._steps // _MOST_TICKS)
        for step in range(0, self._steps + 1, every):
            self._draw.line((self._x(step), _BOTTOM, self._x(step), _BOTTOM + 5), _BLACK)
            self._text(self._x(step), _BOTTOM + 8, str(step), "ma")
        self._draw.line((_LEFT, _TOP, _LEFT, _BOTTOM, _RIGHT, _BOTTOM), _BLACK)
        self._text((_LEFT + _RIGHT) / 2, _BOTTOM + 34, "step", "ma")
        self._text(_LEFT - 10, _TOP - 28, "sigma", "rm")

    def step(self, index: int, start: float, end: float, colour: tuple[int, int, int]) -> None:
        here, there = (self._x(index), self._y(start)), (self._x(index + 1), self._y(end))
        self._draw.polygon(
            (*here, *there, there[0], _BOTTOM, here[0], _BOTTOM), tuple((c + 3 * 255) // 4 for c in colour)
        )
        self._draw.line((*here, *there), colour, width=4)
        self._draw.ellipse((here[0] - 4, here[1] - 4, here[0] + 4, here[1] + 4), colour)

    def level(self, sigma: float, text: str) -> None:
        y = self._y(sigma)
        for x in range(_LEFT, _RIGHT, _DASH + _GAP):
            self._draw.line((x, y, min(x + _DASH, _RIGHT), y), _BLACK, width=2)
        self._text(_RIGHT, y - 4, text, "rd")

    def change(self, step: int, before: str, behind: str) -> None:
        x = self._x(step)
        self._draw.line((x, _TOP, x, _BOTTOM), _BLACK)
        for expert, edge, anchor in ((before, x - 8, "rd"), (behind, x + 8, "ld")):
            inside = _LEFT + 60 < edge < _RIGHT - 60
            if inside and expert:
                self._text(edge, _BOTTOM - 8, in_words(expert), anchor)

    def title(self, text: str, experts: Sequence[str]) -> None:
        self._text(_LEFT, 12, text, "la", 20)
        for place, expert in enumerate(experts):
            x = _RIGHT + 10 - 130 * (len(experts) - place)
            self._draw.rectangle((x, 44, x + 14, 58), COLOURS[expert])
            self._text(x + 22, 51, in_words(expert), "lm")
