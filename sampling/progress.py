"""One progress bar over all steps and seeds, with the time left and a strip of the clip's frames."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import comfy.utils
import latent_preview
import torch

from .schedule import reached

STRIP_FRAMES = 4


class RunProgress:
    """Reports a run's steps to the host's progress bar, and in words to ``say``.

    ``model`` (MODEL) tells how its latents are shown. The pictures are the host's own previews, so they are off where
    those are off. ``position`` is the guider's: some samplers count in a way of their own (dpm_fast, dpm_adaptive).
    """

    def __init__(self, model: Any, position: Any, say: Callable[[str], None]) -> None:
        self._previewer = latent_preview.get_previewer(model.load_device, model.model.latent_format)
        self._position = position
        self._say = say

    def begin(self, sigmas: torch.Tensor, first_low: int, seeds: int) -> None:
        """Begin a run of ``seeds`` times ``sigmas`` [steps + 1]; steps from ``first_low`` on are low-noise ones."""
        self._sigmas, self._steps = sigmas[:-1].tolist(), len(sigmas) - 1
        self._first_low, self._seeds = first_low, seeds
        self._by_phase = seeds > 1 and 0 < first_low < self._steps
        self._bar = comfy.utils.ProgressBar(self._steps * seeds)
        self._done, self._started = 0, time.perf_counter()
        self._first: tuple[int, float] | None = None

    def callback(self, number: int) -> Callable:
        """Return the host's step callback for seed ``number``; replayed steps call no model and are not counted."""

        def on_step(step: int, x0: torch.Tensor, x: torch.Tensor, total_steps: int) -> None:
            if self._position.sigma is None:
                return
            step_now = min(sum(not reached(sigma, self._position.sigma) for sigma in self._sigmas) + 1, self._steps)
            done = self._over_all(number, step_now)
            if done <= self._done:  # a sampler may report a step twice
                return
            self._done = done
            self._bar.update_absolute(done, self._steps * self._seeds, self._picture(x0))
            self._say(self._text(number, step_now))

        return on_step

    def _picture(self, x0: torch.Tensor) -> Any:
        """Return the host's preview; only the quick one, a matrix product, shows several frames."""
        if self._previewer is None:
            return None
        quick = isinstance(self._previewer, latent_preview.Latent2RGBPreviewer)
        return self._previewer.decode_latent_to_preview_image("JPEG", frame_strip(x0) if quick else x0)

    def summary(self) -> str:
        """Return how long the run took, by now."""
        return f"{clock(time.perf_counter() - self._started)} in all"

    def _over_all(self, number: int, step: int) -> int:
        """Return how many steps of all seeds are done, when seed ``number`` has come to ``step`` (1 is the first)."""
        if not self._by_phase:
            return number * self._steps + step
        if not self._position.low:
            return number * self._first_low + min(step, self._first_low)
        low_steps = self._steps - self._first_low
        return self._seeds * self._first_low + number * low_steps + max(step - self._first_low, 0)

    def _text(self, number: int, step: int) -> str:
        now = time.perf_counter()
        self._first = self._first or (self._done, now)  # the time before it is loading, mostly
        expert = "low" if self._position.low else "high"
        text = f"step {step} of {self._steps}, {expert} noise"
        if self._seeds > 1:
            text = f"seed {number + 1} of {self._seeds}, {text}"
        first, then = self._first
        if self._done > first:
            seconds = (now - then) / (self._done - first) * (self._steps * self._seeds - self._done)
            text += f", {clock(seconds)} left"
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
