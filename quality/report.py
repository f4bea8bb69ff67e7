"""The report of a video: its ends beside their images, its curves, and what is wrong, from frames read one by one."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import detectors, metrics
from .curves import Curves, sampled
from .detectors import BalanceDrift, ColourShift, Range
from .fit import resized
from .metrics import Array
from .seams import ALONE, Joined, Seam, find_seams
from .thresholds import Thresholds

MOST_PSNR = 100.0  # dB, for equal pictures: JSON has no infinity
_THUMBNAIL = 256  # pixels of the longer side
Fitted = Callable[[int, int], Array]  # width, height -> an image at that size, float in 0...1


@dataclass(frozen=True)
class VideoFacts:
    """Size in pixels, frames, frames per second, and seconds from the first frame to the last."""

    width: int
    height: int
    frames: int
    frame_rate: float
    seconds: float


@dataclass(frozen=True)
class End:
    """The first or the last frame beside its image. ``colour`` is None where they do not show the same."""

    frame: int
    psnr: float
    ssim: float
    delta_e: float
    colour: ColourShift | None


@dataclass(frozen=True)
class Flash:
    """Frames (half-open) that are brighter or darker than those around them, by ``change`` of white at most."""

    first: int
    end: int
    change: float


@dataclass(frozen=True)
class Finding:
    """One kind of fault in plain words, with the frames (half-open ranges) where it is."""

    kind: str
    text: str
    frames: tuple[Range, ...]


@dataclass(frozen=True)
class Report:
    """All that is known of the video. Luma and motion are 0...1, one a frame; motion is 0 for the first."""

    video: VideoFacts
    start: End | None
    end: End | None
    times: tuple[float, ...]
    luma: tuple[float, ...]
    motion: tuple[float, ...]
    cuts: tuple[int, ...]
    flashes: tuple[Flash, ...]
    duplicates: tuple[Range, ...]
    freezes: tuple[Range, ...]
    balance_drift: BalanceDrift | None
    loop_seam: float  # motion from the last frame back to the first
    seams: tuple[Seam, ...]
    thresholds: Thresholds
    findings: tuple[Finding, ...]
    pictures: dict[str, Array]  # small: "first", "last", and of the images "start", "end"; uint8

    @property
    def verdict(self) -> str:
        """``pass``, or ``findings``."""
        return "findings" if self.findings else "pass"

    def to_json(self) -> str:
        """Return all but the pictures as a JSON object."""
        content = {"verdict": self.verdict, **dataclasses.asdict(self)}
        del content["pictures"]
        return json.dumps(_rounded(content), indent=2)


def make_report(
    frames: Iterable[tuple[float, Array]],
    frame_rate: float,
    start: Fitted | None,
    end: Fitted | None,
    thresholds: Thresholds,
    tick: Callable[[int], None] = lambda done: None,
    joined: Joined = ALONE,
) -> Report:
    """Read a video to its end and judge it.

    Args:
        frames: time in seconds and picture, uint8 [height, width, 3], of each frame in order; two are held at a time,
            and the first.
        frame_rate: frames per second.
        start: gives the start image at the video's size; None if there is none.
        end: the same of the end image.
        thresholds: what counts as a fault.
        tick: called with the number of frames read, after each; what it raises comes through.
        joined: what the video was joined from.

    Raises:
        ValueError: there are no frames, a frame has another size than the first, a threshold is out of range, or the
            video cannot have so many segments.
    """
    thresholds.check()
    curves = Curves()
    first: Array | None = None
    last = np.empty(0)
    for time, picture in frames:
        if first is None:
            first = picture
        elif picture.shape != first.shape:
            was, now = (f"{one.shape[1]}x{one.shape[0]}" for one in (first, picture))
            raise ValueError(f"frame {len(curves.times)} of the video is {now}, but the first is {was}. Use one size.")
        last = picture
        curves.add(time, picture)
        tick(len(curves.times))
    if first is None:
        raise ValueError("the video has no frames. Give one with at least 1.")
    return _judged(curves, first, last, frame_rate, start, end, thresholds, joined)


def _judged(
    curves: Curves,
    first: Array,
    last: Array,
    frame_rate: float,
    start: Fitted | None,
    end: Fitted | None,
    thresholds: Thresholds,
    joined: Joined,
) -> Report:
    height, width = first.shape[:2]
    pictures = {"first": _thumbnail(first), "last": _thumbnail(last)}
    ends: list[End | None] = []
    for name, image, frame, index in (("start", start, first, 0), ("end", end, last, len(curves.times) - 1)):
        if image is None:
            ends.append(None)
            continue
        wanted = image(width, height)
        pictures[name] = _thumbnail(wanted)
        ends.append(_end(frame, wanted, index))
    cuts = detectors.find_cuts(curves, thresholds.flash_frames)
    flashes = detectors.find_flashes(curves, cuts, thresholds.flash, thresholds.flash_frames)
    repeats = detectors.find_repeats(curves, cuts, flashes, thresholds.freeze_frames)
    whole = start is not None and end is not None
    back = float(np.abs(metrics.luma(sampled(first)) - metrics.luma(sampled(last))).mean())
    report = Report(
        video=VideoFacts(width, height, len(curves.times), frame_rate, curves.times[-1]),
        start=ends[0],
        end=ends[1],
        times=tuple(curves.times),
        luma=tuple(curves.luma),
        motion=tuple(curves.motion),
        cuts=tuple(cuts),
        flashes=tuple(Flash(*one, _flash_change(curves.luma, one)) for one in flashes),
        duplicates=tuple(one for one in repeats if one[1] - one[0] < thresholds.freeze_frames),
        freezes=tuple(one for one in repeats if one[1] - one[0] >= thresholds.freeze_frames),
        # Without both images nothing says which colours the ends should have.
        balance_drift=detectors.find_balance_drift(curves, cuts, flashes, thresholds.drift) if whole else None,
        loop_seam=back,
        seams=find_seams(curves, joined, (abs(curves.luma[0] - curves.luma[-1]), back)),
        thresholds=thresholds,
        findings=(),
        pictures=pictures,
    )
    return dataclasses.replace(report, findings=tuple(_findings(report)))


def _end(frame: Array, image: Array, index: int) -> End:
    return End(
        index,
        min(MOST_PSNR, metrics.psnr(frame, image)),
        metrics.ssim(frame, image),
        metrics.mean_delta_e(frame, image),
        detectors.colour_shift(frame, image),
    )


def _flash_change(luma: Sequence[float], frames: Range) -> float:
    around = (luma[frames[0] - 1] + luma[frames[1]]) / 2
    return max((value - around for value in luma[frames[0] : frames[1]]), key=abs)


def _thumbnail(picture: Array) -> Array:
    height, width = picture.shape[:2]
    scale = min(1.0, _THUMBNAIL / max(height, width))
    step = max(1, round(0.5 / scale))
    small = resized(
        metrics.as_unit(picture[::step, ::step]), max(1, round(width * scale)), max(1, round(height * scale))
    )
    coded: Array = np.round(np.clip(small, 0, 1) * 255).astype(np.uint8)
    return coded


def _rounded(value: Any) -> Any:
    """Round the floats of a JSON value to six decimals."""
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return value


# What is wrong, in words.

_MOST_PLACES = 8


def _findings(report: Report) -> list[Finding]:
    found: list[Finding] = []
    for end, which, image in ((report.start, "first", "start image"), (report.end, "last", "end image")):
        if end is not None:
            found += _of_end(end, which, image, report.thresholds)
    if report.flashes:
        places = [f"{_at(report, one.first, one.end)} by {one.change:+.0%}" for one in report.flashes]
        ranges = tuple((one.first, one.end) for one in report.flashes)
        found.append(Finding("flash", f"{_count(len(places), 'flash', 'flashes')}: {_list(places)}.", ranges))
    if report.duplicates:
        places = [_at(report, *one) for one in report.duplicates]
        count = sum(end - first for first, end in report.duplicates)
        text = f"{_count(count, 'frame repeats', 'frames repeat')} the one before: {_list(places)}."
        found.append(Finding("duplicate", text, report.duplicates))
    if report.freezes:
        places = [_at(report, *one) for one in report.freezes]
        text = f"The picture stands still: {_list(places)}."
        found.append(Finding("freeze", text, report.freezes))
    jumps = [seam for seam in report.seams if seam.jump > report.thresholds.seam]
    if jumps:
        places = [f"{_at(report, one.frame, one.frame + 1)} {one.jump:.1f} times as far" for one in jumps]
        text = f"The picture jumps where segments meet, against its usual steps: {_list(places)}."
        found.append(Finding("seam", text, tuple((one.frame, one.frame + 1) for one in jumps)))
    drift = report.balance_drift
    if drift is not None:
        changes = f"{_change('red', drift.red)} and {_change('blue', drift.blue)} against green"
        text = f"The colours drift between the ends, {_at(report, drift.first, drift.end)}: {changes} beyond both ends."
        found.append(Finding("drift", text, ((drift.first, drift.end),)))
    return found


def _of_end(end: End, which: str, image: str, thresholds: Thresholds) -> list[Finding]:
    found, frames = [], ((end.frame, end.frame + 1),)
    wrong = []
    if end.psnr < thresholds.psnr:
        wrong.append(f"PSNR is {end.psnr:.1f} dB (least {thresholds.psnr:g})")
    if end.ssim < thresholds.ssim:
        wrong.append(f"SSIM is {end.ssim:.2f} (least {thresholds.ssim:g})")
    if end.delta_e > thresholds.delta_e:
        wrong.append(f"the colour difference CIEDE2000 is {end.delta_e:.1f} (most {thresholds.delta_e:g})")
    if wrong:
        found.append(Finding("end", f"The {which} frame is not the {image}: {', '.join(wrong)}.", frames))
    if end.colour is not None and max(map(abs, end.colour.change)) >= thresholds.drift:
        names = zip(("red", "green", "blue"), end.colour.change, strict=True)
        parts = ", ".join(_change(name, change) for name, change in names)
        text = f"The {which} frame's colours are not the {image}'s, in linear light: {parts}."
        found.append(Finding("drift", text, frames))
    return found


def _at(report: Report, first: int, end: int) -> str:
    frames = f"frame {first}" if end - first == 1 else f"frames {first} to {end - 1}"
    return f"{frames} ({report.times[first]:.2f} s)"


def _change(name: str, change: float) -> str:
    return f"{name} {change:+.1%}"


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _list(places: list[str]) -> str:
    more = len(places) - _MOST_PLACES
    return "; ".join(places[:_MOST_PLACES]) + (f"; and {more} more" if more > 0 else "")
