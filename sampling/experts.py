"""Runs one schedule over two experts, for one seed or several."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from .guider import DualExpertGuider
from .progress import RunProgress

_SEEDS = 2**64


@dataclass(frozen=True)
class Run:
    """What is sampled: the host's sampler and its sigmas [steps + 1] on a LATENT, with ``seed`` and those after it.

    ``batch_index`` and ``noise_mask`` in the latent act as in the host's samplers.
    """

    sampler: Any
    sigmas: torch.Tensor
    latent: dict[str, Any]
    seed: int
    seed_count: int = 1


def sample_experts(guider: DualExpertGuider, run: Run, progress: RunProgress) -> dict[str, Any]:
    """Return the LATENT of a run; with several seeds, their results in one batch, each as its own run would give it.

    Several seeds run phase by phase, so that each expert is loaded once: all of them on the high-noise expert, then all
    of them from the hand-over on. Between the two, main memory holds a latent for each call of each seed.
    """
    samples = _match_channels(guider.model_patcher, run.latent)
    seeds = [(run.seed + number) % _SEEDS for number in range(run.seed_count)]
    first_low = guider.first_low_step(run.sigmas)
    device, dtype = comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype()

    def call(method: Callable, number: int, *before: Any) -> Any:
        noise = comfy.sample.prepare_noise(samples, seeds[number], run.latent.get("batch_index"))
        mask, quiet = run.latent.get("noise_mask"), not comfy.utils.PROGRESS_BAR_ENABLED
        callback = progress.callback(number)
        return method(*before, noise, samples, run.sampler, run.sigmas, mask, callback, quiet, seeds[number])

    def kept(result: torch.Tensor) -> torch.Tensor:
        return result.to(device=device, dtype=dtype)

    numbers = range(run.seed_count)
    progress.begin(run.sigmas, first_low, run.seed_count)
    if run.seed_count == 1 or first_low in (0, len(run.sigmas) - 1):
        results = [kept(call(guider.sample, number)) for number in numbers]
    else:
        records = [call(guider.record_high, number) for number in numbers]
        results = [kept(call(guider.play_low, number, records.pop(0))) for number in numbers]
    return _latent(run, torch.cat(results))


def _latent(run: Run, samples: torch.Tensor) -> dict[str, Any]:
    """Return the run's LATENT with other samples; what it says of each item of the batch is said of each seed's."""
    # The host's keys about an empty latent's shape are spent once it has been sampled.
    latent = {key: value for key, value in run.latent.items() if not key.startswith("downscale_ratio_")}
    mask, indices = latent.get("noise_mask"), latent.get("batch_index")
    if mask is not None and mask.shape[0] > 1:
        latent["noise_mask"] = mask.repeat(run.seed_count, *[1] * (mask.ndim - 1))
    if indices is not None and run.seed_count > 1:
        count = max(indices) - min(indices) + 1  # as the host's RepeatLatentBatch counts on
        latent["batch_index"] = [index + number * count for number in range(run.seed_count) for index in indices]
    return {**latent, "samples": samples}


def _match_channels(model: Any, latent: dict) -> torch.Tensor:
    """Let the host reshape an empty latent of another family; newer hosts look at more of the latent's keys."""
    adapt = comfy.sample.fix_empty_latent_channels
    known = {key: latent[key] for key in inspect.signature(adapt).parameters if key in latent}
    return adapt(model, latent["samples"], **known)
