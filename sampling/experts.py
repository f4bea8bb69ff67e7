"""Run one schedule over two experts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch


def sample_experts(
    high: Any,
    low: Any,
    *,
    sigmas: torch.Tensor,
    handover: int,
    seed: int,
    cfg: float,
    sampler_name: str,
    positive: list,
    negative: list,
    latent: dict,
) -> torch.Tensor:
    """Denoise ``latent`` along ``sigmas``: steps before ``handover`` on the high-noise expert, the rest on the low one.

    The result is that of two KSamplerAdvanced in a row, the first leaving its noise in and the second adding none.

    Args:
        high: MODEL for the noisy steps.
        low: MODEL for the rest, already on the same schedule (``schedule.follow_schedule``).
        sigmas: [steps + 1], falling.
        handover: index of the first low-noise step.
        seed: of the one noise that starts the run.
        cfg: guidance scale of both experts.
        sampler_name: one of the host's samplers.
        positive: CONDITIONING.
        negative: CONDITIONING.
        latent: LATENT; ``batch_index`` and ``noise_mask`` in it act as in the host's samplers.

    Returns:
        The denoised samples, [batch, channels, latent frames, height / 8, width / 8].
    """
    samples = _match_channels(high, latent)
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    progress = latent_preview.prepare_callback(high, len(sigmas) - 1)
    phases = ((high, sigmas[: handover + 1], 0), (low, sigmas[handover:], handover))
    for model, phase_sigmas, first_step in phases:
        if len(phase_sigmas) < 2:
            continue
        samples = comfy.sample.sample_custom(
            model,
            noise,
            cfg,
            comfy.samplers.sampler_object(sampler_name),
            phase_sigmas,
            positive,
            negative,
            samples,
            noise_mask=latent.get("noise_mask"),
            callback=_offset(progress, first_step, len(sigmas) - 1),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        noise = torch.zeros_like(noise)  # the second expert continues the same trajectory
    return samples


def _offset(callback: Callable, first_step: int, total_steps: int) -> Callable:
    """Make one expert's step callback count on the whole run's progress bar."""
    return lambda step, x0, x, _phase_steps: callback(step + first_step, x0, x, total_steps)


def _match_channels(model: Any, latent: dict) -> torch.Tensor:
    """Let the host reshape an empty latent of another family; newer hosts look at more of the latent's keys."""
    adapt = comfy.sample.fix_empty_latent_channels
    known = {key: latent[key] for key in inspect.signature(adapt).parameters if key in latent}
    return adapt(model, latent["samples"], **known)
