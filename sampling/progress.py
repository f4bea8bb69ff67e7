"""The progress of runs: one bar over all steps, seeds and segments, the time left, previews of frames.

The time that the whole prompt takes, with the decode, only its client knows (client/progress.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import comfy.utils
import latent_preview
import torch

from .phases import EXPERTS, Phase, Position, expert_order
from .schedule import in_words, reached

STRIP_FRAMES = 4


class Track(NamedTuple):
    """The steps of one seed of a run: its phases, the guider's position, and what it is called, empty if it is alone.

    A step is told by the position's sigma, since some samplers count steps otherwise (dpm_fast, dpm_adaptive).
    """

    phases: Sequence[Phase]
    position: Position
    name: str = ""

    @property
    def starts(self) -> list[float]:
        """The sigma of each step."""
        sigmas: list[float] = torch.cat([phase.sigmas[phase.first : phase.end] for phase in self.phases]).tolist()
        return sigmas

    def steps(self, expert: str) -> int:
        """Return how many of the steps this expert makes."""
        return sum(phase.end - phase.first for phase in self.phases if phase.expert.name == expert)


class RunProgress:
    """Reports the steps of runs to the host's progress bar, and in words to ``say``.

    The pictures are the host's own previews, so they are off where those are off.

    Args:
        model: the MODEL that tells how its latents are shown.
        tracks: one for each seed of each run, in the order in which each expert goes over them.
        say: takes the text to show.
    """

    def __init__(self, model: Any, tracks: Sequence[Track], say: Callable[[str], None]) -> None:
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._tracks, self._say = tracks, say
        self._experts = expert_order([track.phases for track in tracks])
        self._total = sum(len(track.starts) for track in tracks)
        self._bar = comfy.utils.ProgressBar(self._total)
        self._done, self._started = 0, time.perf_counter()
        self._first: tuple[int, float] | None = None

    def callback(self, number: int) -> Callable:
        """Return the host's step callback for track ``number``, from 0."""
        track = self._tracks[number]
        starts = track.starts

        def on_step(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
            sigma = track.position.sigma
            step_now = min(sum(not reached(start, sigma) for start in starts) + 1, len(starts))
            done = self._over_all(number, step_now)
            if done <= self._done:  # a sampler may report a step twice
                return
            self._done = done
            self._bar.update_absolute(done, self._total, self._picture(x0))
            self._say(self._text(track, step_now))

        return on_step

    def summary(self) -> str:
        """Return how many model calls each expert got, what was reused, and how long it all took."""
        return f"{made_in_words(self._positions())}, {clock(time.perf_counter() - self._started)} in all"

    def reused(self) -> str:
        """Return in words how many steps of all runs were not run; empty if none."""
        return _reused_in_words(self._positions())

    def _positions(self) -> list[Position]:
        return list({id(track.position): track.position for track in self._tracks}.values())

    def _picture(self, x0: torch.Tensor) -> Any:
        """Return the host's preview; only the quick one, a matrix product, shows several frames."""
        if self._previewer is None:
            return None
        quick = isinstance(self._previewer, latent_preview.Latent2RGBPreviewer)
        return self._previewer.decode_latent_to_preview_image("JPEG", frame_strip(x0) if quick else x0)

    def _over_all(self, number: int, step: int) -> int:
        """Return how many steps of all tracks are done when track ``number`` is at ``step``; 1 is the first."""
        own = self._tracks[number]
        expert = own.position.expert
        earlier = self._experts[: self._experts.index(expert)]
        before = sum(track.steps(name) for track in self._tracks for name in earlier)
        before += sum(track.steps(expert) for track in self._tracks[:number])
        first = sum(own.steps(name) for name in earlier)
        return before + min(max(step - first, 0), own.steps(expert))

    def _text(self, track: Track, step: int) -> str:
        now = time.perf_counter()
        self._first = self._first or (self._done, now)  # the time before it is loading, mostly
        text = f"step {step} of {len(track.starts)}, {in_words(track.position.expert)}"
        text = ", ".join(filter(None, (track.name, text)))
        first, then = self._first
        if first < self._done < self._total:
            seconds = (now - then) / (self._done - first) * (self._total - self._done)
            text += f", {clock(seconds)} of sampling left"
        return text


def frame_strip(x0: torch.Tensor) -> torch.Tensor:
    """Return evenly spaced frames of a clip's latent side by side, as one frame.

    From [batch, channels, frames, height, width] to [1, channels, 1, height, 4 * width], or [.., 4 * height, width] of
    a wide clip, so that the strip is never much longer than wide. Anything else is returned as it is.
    """
    if x0.ndim != 5:
        return x0
    frames = x0.shape[2]
    chosen = torch.linspace(0, frames - 1, min(STRIP_FRAMES, frames)).round().long().tolist()
    wide = x0.shape[4] > x0.shape[3]
    return torch.cat([x0[:1, :, index : index + 1] for index in chosen], dim=3 if wide else 4)


def made_in_words(positions: Sequence[Position]) -> str:
    """Return how many model calls each expert got, and how many steps were reused."""
    calls = {
        name: sum(position.calls[name] for position in positions if name in position.calls)
        for name in EXPERTS
        if any(name in position.calls for position in positions)
    }
    parts = [f"{in_words(expert)} {count} model calls" for expert, count in calls.items()]
    return ", ".join(filter(None, [*parts, _reused_in_words(positions)]))


def _reused_in_words(positions: Sequence[Position]) -> str:
    """Return how many steps were not run, since an earlier run had them; empty if none."""
    steps = sum(position.reused for position in positions)
    return f"{steps} step{'s' if steps > 1 else ''} reused from an earlier run" if steps else ""


def clock(seconds: float) -> str:
    """Return seconds as ``m:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
