"""The plot of a report: both ends beside their images, brightness and motion over time, what was found, the verdict."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw

from ..drawing import draw_text, font
from .metrics import Array
from .report import End, Report
from .report_text import summary

WIDTH, HEIGHT = 1280, 900
_LEFT, _RIGHT = 90, 1250
_THUMB_TOP, _THUMB_WIDTH, _THUMB_HEIGHT = 100, 270, 152
_PLOTS = ((364, 518), (592, 746))  # top and bottom of brightness and motion
_FINDINGS_TOP, _LINE, _MOST_LINES, _LINE_LETTERS = 806, 21, 4, 150
_WHITE, _BLACK, _GREY, _FAINT = (255, 255, 255), (34, 34, 34), (120, 120, 120), (222, 222, 222)
# Okabe and Ito's palette (2008), which people with any colour vision tell apart.
_BLUE, _SKY, _ORANGE, _RED, _GREEN, _PURPLE = (
    (0, 114, 178),
    (86, 180, 233),
    (230, 159, 0),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
)
Colour = tuple[int, int, int]


def draw(report: Report) -> Image.Image:
    """Draw the report as an RGB picture of 1280x900 pixels."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), _WHITE)
    page = _Page(picture, report)
    page.verdict()
    page.end("start", "first", report.start, 40)
    page.end("end", "last", report.end, 680)
    page.brightness()
    page.motion()
    page.findings()
    return picture


class _Page:
    """The parts of the plot; frames go to the right, one a step."""

    def __init__(self, picture: Image.Image, report: Report) -> None:
        self._picture, self._report = picture, report
        self._draw = ImageDraw.Draw(picture)
        self._steps = max(1, len(report.times) - 1)

    def _text(self, x: float, y: float, text: str, anchor: str = "la", colour: Colour = _BLACK, size: int = 16) -> None:
        draw_text(self._draw, x, y, text, anchor, colour, size)

    def _x(self, frame: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * frame / self._steps

    def verdict(self) -> None:
        passed = not self._report.findings
        self._draw.rectangle((0, 0, WIDTH, 52), _GREEN if passed else _RED)
        text = summary(self._report)
        self._text(24, 26, text[0].upper() + text[1:], "lm", _WHITE, 24)
        video = self._report.video
        facts = f"{video.width}x{video.height}, {video.frames} frames, {video.seconds:.2f} s"
        self._text(WIDTH - 24, 26, facts, "rm", _WHITE, 18)

    def end(self, image: str, frame: str, end: End | None, left: int) -> None:
        """Draw an image beside its frame, with what was measured below."""
        bad = {i for finding in self._report.findings if finding.kind in ("end", "drift") for i, _ in finding.frames}
        wrong = end is not None and end.frame in bad
        for place, (name, title) in enumerate(((image, f"{image} image"), (frame, f"{frame} frame"))):
            x = left + place * (_THUMB_WIDTH + 14)
            self._text(x, _THUMB_TOP - 8, title, "ld", _BLACK, 18)
            self._thumbnail(self._report.pictures.get(name), x, wrong)
        y = _THUMB_TOP + _THUMB_HEIGHT + 12
        if end is None:
            self._text(left, y, f"not compared: there is no {image} image", colour=_GREY)
            return
        limits = self._report.thresholds
        parts = (
            (f"PSNR {end.psnr:.1f} dB", end.psnr < limits.psnr),
            (f"SSIM {end.ssim:.3f}", end.ssim < limits.ssim),
            (f"CIEDE2000 {end.delta_e:.1f}", end.delta_e > limits.delta_e),
        )
        self._row(left, y, parts)
        if end.colour is None:
            self._text(left, y + 26, "colours cannot be compared: they show different things", colour=_GREY)
            return
        changes = zip(("red", "green", "blue"), end.colour.change, strict=True)
        self._row(left, y + 26, [(f"{name} {change:+.1%}", abs(change) >= limits.drift) for name, change in changes])

    def _row(self, x: float, y: float, parts: Iterable[tuple[str, bool]]) -> None:
        for text, wrong in parts:
            self._text(x, y, text, colour=_RED if wrong else _BLACK, size=18)
            x += self._draw.textlength(text, font=font(18)) + 24

    def _thumbnail(self, pixels: Array | None, left: int, wrong: bool) -> None:
        box = (left, _THUMB_TOP, left + _THUMB_WIDTH, _THUMB_TOP + _THUMB_HEIGHT)
        self._draw.rectangle(box, _FAINT)
        if pixels is None:
            self._text((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, "none", "mm", _GREY, 18)
            return
        thumbnail = Image.fromarray(pixels)
        scale = min(_THUMB_WIDTH / thumbnail.width, _THUMB_HEIGHT / thumbnail.height)
        size = max(1, round(thumbnail.width * scale)), max(1, round(thumbnail.height * scale))
        place = left + (_THUMB_WIDTH - size[0]) // 2, _THUMB_TOP + (_THUMB_HEIGHT - size[1]) // 2
        self._picture.paste(thumbnail.resize(size, Image.Resampling.BILINEAR), place)
        self._draw.rectangle(
            (box[0] - 2, box[1] - 2, box[2] + 2, box[3] + 2), outline=_RED if wrong else _GREY, width=3
        )

    def brightness(self) -> None:
        report = self._report
        top, bottom = _PLOTS[0]
        bands = [(one.first, one.end, _ORANGE) for one in report.flashes]
        if report.balance_drift is not None:
            bands.append((report.balance_drift.first, report.balance_drift.end, _PURPLE))
        self._axes(top, bottom, "brightness (mean of the frame)", _scale(report.luma), bands)
        self._curve(top, bottom, range(len(report.luma)), report.luma, _scale(report.luma))
        self._legend(top, [("flash", _ORANGE), ("colour drift", _PURPLE), ("cut", _GREY)])

    def motion(self) -> None:
        report = self._report
        top, bottom = _PLOTS[1]
        bands = [(*one, _BLUE) for one in report.freezes] + [(*one, _SKY) for one in report.duplicates]
        values = report.motion[1:]
        scale = (0.0, max(0.001, _without_peaks(values)))
        self._axes(top, bottom, "motion (mean change since the frame before)", scale, bands)
        self._curve(top, bottom, range(1, len(report.motion)), values, scale)
        self._legend(top, [("duplicate", _SKY), ("freeze", _BLUE), ("cut", _GREY)])
        self._text((_LEFT + _RIGHT) / 2, bottom + 26, "seconds", "ma", _GREY)

    def _axes(
        self, top: int, bottom: int, title: str, scale: tuple[float, float], bands: list[tuple[int, int, Colour]]
    ) -> None:
        for first, end, colour in bands:
            left, right = self._x(max(0.0, first - 0.5)), self._x(min(float(self._steps), end - 0.5))
            middle, half = (left + right) / 2, max(2.5, (right - left) / 2)
            pale = tuple((3 * c + 2 * 255) // 5 for c in colour)
            self._draw.rectangle((middle - half, top, middle + half, bottom), pale)
            self._draw.rectangle((middle - half, top - 7, middle + half, top - 2), colour)
        for part in (0.0, 0.5, 1.0):
            y = bottom - (bottom - top) * part
            self._draw.line((_LEFT, y, _RIGHT, y), _FAINT)
            value = scale[0] + (scale[1] - scale[0]) * part
            self._text(_LEFT - 8, y, f"{value:.0%}" if scale[1] > 0.1 else f"{value:.1%}", "rm", _GREY)
        for cut in self._report.cuts:
            self._dashes(self._x(cut - 0.5), top, bottom)
        times = self._report.times
        every = _tick(times[-1])
        for number in range(int(times[-1] / every + 1e-6) + 1):
            x = _LEFT + (_RIGHT - _LEFT) * (number * every / times[-1] if times[-1] else 0)
            self._draw.line((x, bottom, x, bottom + 5), _BLACK)
            self._text(x, bottom + 8, f"{number * every:g}", "ma", _GREY)
        self._draw.line((_LEFT, top, _LEFT, bottom, _RIGHT, bottom), _BLACK)
        self._text(_LEFT, top - 12, title, "ld", _BLACK, 18)

    def _dashes(self, x: float, top: int, bottom: int) -> None:
        for y in range(top, bottom, 12):
            self._draw.line((x, y, x, min(y + 7, bottom)), _GREY, width=2)

    def _curve(
        self, top: int, bottom: int, frames: Sequence[int], values: Sequence[float], scale: tuple[float, float]
    ) -> None:
        span = scale[1] - scale[0]
        points = [
            (self._x(frame), bottom - (bottom - top) * min(1.0, max(0.0, (value - scale[0]) / span)))
            for frame, value in zip(frames, values, strict=True)
        ]
        if len(points) > 1:
            self._draw.line(points, _BLACK, width=3, joint="curve")
        if len(points) <= 200:
            for x, y in points:
                self._draw.ellipse((x - 3, y - 3, x + 3, y + 3), _BLACK)

    def _legend(self, top: int, names: list[tuple[str, Colour]]) -> None:
        x = float(_RIGHT)
        for name, colour in reversed(names):
            x -= self._draw.textlength(name, font=font(16))
            self._text(x, top - 12, name, "ld")
            x -= 22
            if name == "cut":
                self._dashes(x + 7, top - 30, top - 11)
            else:
                self._draw.rectangle((x, top - 27, x + 14, top - 13), colour)
            x -= 24

    def findings(self) -> None:
        lines = [
            line
            for finding in self._report.findings
            for line in textwrap.wrap(finding.text, _LINE_LETTERS, initial_indent="- ", subsequent_indent="  ")
        ]
        if len(lines) > _MOST_LINES:
            lines = [*lines[: _MOST_LINES - 1], "- ... the text has the rest"]
        for place, line in enumerate(lines or ["No flash, no repeated frames, no freeze, no colour drift."]):
            self._text(24, _FINDINGS_TOP + place * _LINE, line)


def _scale(values: Sequence[float]) -> tuple[float, float]:
    """Return bounds in tenths around brightness values."""
    low, high = math.floor(min(values) * 10) / 10, math.ceil(max(values) * 10) / 10
    return low, max(low + 0.1, high)


def _without_peaks(values: Sequence[float]) -> float:
    """Return the top of the motion's scale: a cut or a flash may stick out of it, so that the rest can be seen."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return min(ordered[-1], 3 * ordered[int(0.9 * (len(ordered) - 1))] or ordered[-1]) * 1.05


def _tick(seconds: float) -> float:
    for every in (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0):
        if seconds / every <= 16:
            return every
    return 1800.0
