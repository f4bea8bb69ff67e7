"""The progress of a run: one bar over all steps and seeds, the sampling's time left, previews of the clip's frames.

The time that the whole prompt takes, with the decode, only its client knows (client/progress.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import comfy.utils
import latent_preview
import torch

from .phases import Phase, Position
from .schedule import in_words, reached

STRIP_FRAMES = 4


class RunProgress:
    """Reports a run's steps to the host's progress bar, and in words to ``say``.

    The pictures are the host's own previews, so they are off where those are off.

    Args:
        model: the MODEL that tells how its latents are shown.
        phases: the run's phases.
        seeds: how many seeds run, phase by phase.
        position: the guider's. A step is told by its sigma, since some samplers count steps otherwise
            (dpm_fast, dpm_adaptive).
        say: takes the text to show.
    """

    def __init__(
        self, model: Any, phases: Sequence[Phase], seeds: int, position: Position, say: Callable[[str], None]
    ) -> None:
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._phases, self._seeds, self._position, self._say = phases, seeds, position, say
        self._sigmas = torch.cat([phase.sigmas[phase.first : phase.end] for phase in phases]).tolist()
        self._total = len(self._sigmas) * seeds
        self._bar = comfy.utils.ProgressBar(self._total)
        self._done, self._started = 0, time.perf_counter()
        self._first: tuple[int, float] | None = None

    def callback(self, number: int) -> Callable:
        """Return the host's step callback for seed ``number``, from 0."""

        def on_step(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
            sigma = self._position.sigma
            step_now = min(sum(not reached(start, sigma) for start in self._sigmas) + 1, len(self._sigmas))
            done = self._over_all(number, step_now)
            if done <= self._done:  # a sampler may report a step twice
                return
            self._done = done
            self._bar.update_absolute(done, self._total, self._picture(x0))
            self._say(self._text(number, step_now))

        return on_step

    def summary(self) -> str:
        """Return how many model calls each expert got, and how long the run took."""
        calls = (f"{in_words(expert)} {count} model calls" for expert, count in self._position.calls.items())
        return f"{', '.join(calls)}, {clock(time.perf_counter() - self._started)} in all"

    def _picture(self, x0: torch.Tensor) -> Any:
        """Return the host's preview; only the quick one, a matrix product, shows several frames."""
        if self._previewer is None:
            return None
        quick = isinstance(self._previewer, latent_preview.Latent2RGBPreviewer)
        return self._previewer.decode_latent_to_preview_image("JPEG", frame_strip(x0) if quick else x0)

    def _over_all(self, number: int, step: int) -> int:
        """Return how many steps of all seeds are done when seed ``number`` is at ``step``; 1 is the first."""
        first = 0
        for phase in self._phases:
            steps = phase.end - phase.first
            if phase.expert.name == self._position.expert:
                break
            first += steps
        return first * self._seeds + number * steps + min(max(step - first, 0), steps)

    def _text(self, number: int, step: int) -> str:
        now = time.perf_counter()
        self._first = self._first or (self._done, now)  # the time before it is loading, mostly
        text = f"step {step} of {len(self._sigmas)}, {in_words(self._position.expert)}"
        if self._seeds > 1:
            text = f"seed {number + 1} of {self._seeds}, {text}"
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


def clock(seconds: float) -> str:
    """Return seconds as ``m:ss``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
