"""How well the report finds planted faults: 500 made-up clips, encoded with x264 at crf 23 and read back.

Each clip is judged as ``wan-flf2v report`` judges a file. A flash counts as found if a frame of it is named, a freeze
if its frames and the ones named overlap by half of both together; each duplicate counts by itself, drift once a clip.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from ..quality.fit import fitted
from ..quality.report import Report, make_report
from ..quality.thresholds import Thresholds
from ..quality.video_file import open_video
from ..video.settings import Settings, exact_rate
from ..video.stream_writer import StreamWriter
from ._clips import Clip, Range, make_clip
from ._figures import Figure, Figures, Options

KINDS = ("flash", "duplicate", "freeze", "drift")
_CLIPS = 500
_FIRST = 500  # thresholds were set by looking at clips 0 to 199, and judged on 0 to 499
_CRF, _FRAME_RATE = 23, 16
BAR = 0.95
_SPEED_SIZE, _SPEED_SEED, _SPEED_BAR_MS = (1280, 720), 1, 60.0
_BLACK = (0.0, 0.0, 0.0)
Counts = dict[str, Counter[str]]


def run(options: Options) -> Figures:
    """Judge 500 clips, or as many as there are rounds; then one of 1280x720 for the time."""
    clips = options.rounds or _CLIPS
    counts: Counts = {kind: Counter() for kind in KINDS}
    with ProcessPoolExecutor(min(2, os.cpu_count() or 1)) as pool:
        for seed, one in enumerate(pool.map(judge, range(_FIRST, _FIRST + clips), chunksize=5), _FIRST):
            for kind in KINDS:
                counts[kind].update(one[kind])
                if one[kind]["wrong"] or one[kind]["missed"]:
                    print(f"detectors: clip {seed}: {kind}: {dict(one[kind])}", flush=True)
    figures: Figures = {}
    for kind in KINDS:
        precision, recall = rates(counts[kind])
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        for name, value in (("f1", f1), ("precision", precision), ("recall", recall)):
            figures[f"{kind}_{name}"] = Figure(value, "", clips, value, value, (">=", BAR))
        planted = float(counts[kind]["found"] + counts[kind]["missed"])
        figures[f"{kind}_planted"] = Figure(planted, "", clips, planted, planted)
    milliseconds = _frame_ms()
    figures["frame_ms_720p"] = Figure(milliseconds, "ms", 1, milliseconds, milliseconds, ("<=", _SPEED_BAR_MS))
    return figures


def judge(seed: int) -> Counts:
    """Make, encode, read and judge the clip of a seed; count what was ``found``, ``missed`` and named ``wrong``ly."""
    torch.set_num_threads(1)
    clip = make_clip(seed)
    report, _ = report_of(clip)
    return compare(clip, report)


def compare(clip: Clip, report: Report) -> Counts:
    """Count what the report found of the clip's faults, missed, and named without a fault."""
    named = {i for one in report.duplicates for i in range(*one)}
    drift = any(finding.kind == "drift" for finding in report.findings)
    return {
        "flash": _matched(clip.flashes, [(one.first, one.end) for one in report.flashes], 0.0),
        "duplicate": Counter(
            found=len(named & clip.duplicates), missed=len(clip.duplicates - named), wrong=len(named - clip.duplicates)
        ),
        "freeze": _matched(clip.freezes, report.freezes, 0.5),
        "drift": Counter(
            found=int(drift and clip.drift), missed=int(clip.drift and not drift), wrong=int(drift and not clip.drift)
        ),
    }


def rates(counts: Counter[str]) -> tuple[float, float]:
    """Return precision and recall."""
    found = counts["found"]
    return found / max(1, found + counts["wrong"]), found / max(1, found + counts["missed"])


def _matched(planted: Sequence[Range], named: Sequence[Range], least: float) -> Counter[str]:
    def same(a: Range, b: Range) -> bool:
        common = min(a[1], b[1]) - max(a[0], b[0])
        return common > 0 and common >= least * (max(a[1], b[1]) - min(a[0], b[0]))

    found = sum(any(same(one, other) for other in named) for one in planted)
    wrong = sum(not any(same(one, other) for other in planted) for one in named)
    return Counter(found=found, missed=len(planted) - found, wrong=wrong)


def report_of(clip: Clip) -> tuple[Report, float]:
    """Return the report of the clip after its encode, and the processor's seconds that it took."""
    height, width = clip.start.shape[:2]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        with StreamWriter(path, width, height, Settings(exact_rate(_FRAME_RATE), crf=_CRF)) as writer:
            for frame in clip.frames:
                writer.write(torch.from_numpy(np.ascontiguousarray(frame.transpose(2, 0, 1))))
            writer.flush()
        began = time.process_time()
        with open_video(path) as video:
            report = make_report(
                video.frames,
                video.frame_rate,
                lambda wide, tall: fitted(clip.start, wide, tall, "crop", _BLACK),
                lambda wide, tall: fitted(clip.end, wide, tall, "crop", _BLACK),
                Thresholds(),
            )
        return report, time.process_time() - began


def _frame_ms() -> float:
    """Return the processor's milliseconds for each frame of a 1280x720 file: decode, curves, ends, all."""
    clip = make_clip(_SPEED_SEED, *_SPEED_SIZE)
    _, seconds = report_of(clip)
    return 1000 * seconds / len(clip.frames)
