"""One schedule for two experts: its sigmas, and the step from which the low-noise expert takes over."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch

# Wan2.2 wan/configs/wan_i2v_A14B.py: boundary = 0.900, of num_train_timesteps = 1000 (wan_t2v_A14B.py: 0.875).
BOUNDARY = 0.900
HANDOVERS = ("boundary", "step", "half")


def schedule_sigmas(model: Any, sampler_name: str, scheduler: str, steps: int, denoise: float = 1.0) -> torch.Tensor:
    """Return the sigmas [steps + 1] that the host's KSampler would use for ``model``, penultimate rule included.

    ``denoise`` below 1 leaves out the noisiest part, as there: the last ``steps`` of a schedule of ``steps / denoise``.

    Raises:
        ValueError: the scheduler cannot make that few steps.
    """
    sampler = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model_options=model.model_options
    )
    if not sampler.sigmas.isfinite().all():  # kl_optimal divides by steps - 1
        raise ValueError(
            f"scheduler {scheduler} gives no sigmas for steps {steps}. Set more steps, or choose another scheduler."
        )
    return sampler.sigmas


def handover_step(
    model_sampling: Any, sigmas: torch.Tensor, rule: str, step: int = 0, boundary: float = BOUNDARY
) -> int:
    """Return the index of the first step that runs on the low-noise expert (0: all low; steps: all high).

    ``boundary`` is Wan 2.2's official rule (Wan2.2 wan/image2video.py): a step whose timestep is at least
    ``boundary * 1000`` runs on the high-noise expert. It is compared in timesteps, as there, since a comparison of
    sigmas rounds otherwise at ties. ``half`` is the split of the official ComfyUI template; ``step`` takes ``step`` as
    it is.

    Raises:
        ValueError: ``step`` lies outside the schedule.
    """
    steps = len(sigmas) - 1
    if rule == "half":
        return steps // 2
    if rule == "step":
        if not 0 <= step <= steps:
            raise ValueError(
                f"handover_step is {step}, but must be from 0 (low-noise expert only) to {steps}, the number of "
                "steps (high-noise expert only). Change handover_step or steps, or set handover to boundary."
            )
        return step
    timesteps = model_sampling.timestep(sigmas[:-1])
    return int((timesteps >= boundary * 1000).sum())


def follow_schedule(low: Any, high: Any) -> Any:
    """Return the low-noise model with the high-noise model's sampling schedule; neither argument is changed.

    Raises:
        ValueError: the low-noise model carries a schedule of its own (a ``model_sampling`` patch) and it differs.
    """
    high_sampling = high.get_model_object("model_sampling")
    own = low.object_patches.get("model_sampling")
    low = low.clone()  # also where nothing changes: one patcher must not be both experts of a run
    if own is None:
        low.add_object_patch("model_sampling", high_sampling)
        return low
    if not torch.equal(own.sigmas.cpu(), high_sampling.sigmas.cpu()):
        raise ValueError(
            f"model_low_noise has {_shift(own)}, but model_high_noise has {_shift(high_sampling)}. Both experts must "
            "share one schedule: remove the model sampling node before model_low_noise (it follows model_high_noise "
            "by itself), or give both the same shift."
        )
    return low


def _shift(model_sampling: Any) -> str:
    shift = getattr(model_sampling, "shift", None)
    return f"shift {shift:g}" if shift is not None else f"a {type(model_sampling).__name__} schedule"


def check_sigmas(sigmas: torch.Tensor) -> None:
    """Refuse a schedule that cannot be one.

    Raises:
        ValueError: not [steps + 1] falling values from above 0 down to 0 or more.
    """
    if sigmas.ndim != 1 or len(sigmas) < 2 or not (sigmas[1:] < sigmas[:-1]).all() or sigmas[-1] < 0:
        raise ValueError(
            f"sigmas has the shape {list(sigmas.shape)} and the values {sigmas.flatten()[:8].tolist()} …, but must be "
            "a list of at least 2 falling values, the last 0 or above. Connect a scheduler node such as BasicScheduler."
        )


def summary(sigmas: torch.Tensor, first_low_step: int) -> str:
    """Return a schedule [steps + 1] and its hand-over in words."""
    steps = len(sigmas) - 1
    text = f"{steps} steps: {first_low_step} high noise, {steps - first_low_step} low noise"
    if 0 < first_low_step < steps:
        text += f"; hand-over at sigma {float(sigmas[first_low_step]):.3f}"
    return text


def reached(sigma: float, limit: float) -> bool:
    """Return whether a model call at ``sigma`` lies at or below ``limit``.

    1e-6 relative above it counts: some samplers (uni_pc) compute a step's sigma back from a logarithm.
    """
    return sigma <= limit * (1 + 1e-6)
