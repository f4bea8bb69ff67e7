"""The schedule of a run: how its steps become sigmas, and the hand-over rule that gives each step to an expert."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.samplers
import torch

from ..wan import BOUNDARY_I2V, TRAIN_TIMESTEPS

HANDOVERS = ("boundary", "step", "half")
"""The rules by which the low-noise expert takes over: see ``RunSettings.first_low_step``."""


@dataclass(frozen=True)
class RunSettings:
    """What a run is asked for. The fields are the nodes' inputs of these names; ``None`` is what is not known.

    ``cfg_low_noise`` 0 is the same as ``cfg``. ``cfg_gate`` is the fraction of each expert's steps with full guidance.
    ``resume`` is whether what earlier runs have left is reused.
    What begins with ``prelude`` is of no use where ``prelude`` is ``"none"``: see ``prelude.with_prelude``.
    """

    steps: int | None = None
    cfg: float | None = None
    cfg_low_noise: float | None = None
    cfg_gate: float = 1.0
    handover: str = "boundary"
    handover_step: int = 0
    boundary: float = BOUNDARY_I2V
    sampler_name: str = ""
    scheduler: str = ""
    denoise: float | None = 1.0
    shift: float | None = None
    resume: bool = True
    prelude: str = "none"
    prelude_schedule: int = 20
    prelude_steps: int = 3
    prelude_sigma: float = 0.97
    prelude_cfg: float = 3.5
    prelude_end: str = "snap"
    prelude_shift: float | None = None

    @property
    def cfg_low(self) -> float | None:
        """The guidance scale of the low-noise expert."""
        return self.cfg_low_noise or self.cfg

    def sigmas(self, model: Any) -> torch.Tensor:
        """Return the sigmas [steps + 1] that the host's KSampler would use for ``model``, penultimate rule included.

        ``denoise`` below 1 leaves out the noisiest part, as there: the last ``steps`` of a schedule of
        ``steps / denoise``.

        Raises:
            ValueError: the scheduler cannot make that few steps.
        """
        sampler = comfy.samplers.KSampler(
            model,
            self.steps,
            model.load_device,
            self.sampler_name,
            self.scheduler,
            self.denoise,
            model_options=model.model_options,
        )
        if not sampler.sigmas.isfinite().all():  # kl_optimal divides by steps - 1
            raise ValueError(
                f"scheduler {self.scheduler} gives no sigmas for steps {self.steps}. Set more steps, or choose "
                "another scheduler."
            )
        return sampler.sigmas

    def first_low_step(self, model_sampling: Any, sigmas: torch.Tensor) -> int:
        """Return the index of the first step of ``sigmas`` [steps + 1] that runs on the low-noise expert.

        0 is all low noise, the number of steps all high noise. ``boundary`` is Wan 2.2's official rule (Wan2.2
        wan/image2video.py): a step whose timestep is at least ``boundary * 1000`` runs on the high-noise expert.
        Timesteps are compared, as there: sigmas round otherwise at ties. ``half`` is the split of the official ComfyUI
        template. ``step`` takes ``handover_step`` as it is.

        Raises:
            ValueError: ``handover_step`` lies outside the schedule.
        """
        steps = len(sigmas) - 1
        if self.handover == "half":
            return steps // 2
        if self.handover == "step":
            if not 0 <= self.handover_step <= steps:
                raise ValueError(
                    f"handover_step is {self.handover_step}, but must be from 0 (low-noise expert only) to {steps}, "
                    "the number of steps (high-noise expert only). Change handover_step or steps, or set handover to "
                    "boundary."
                )
            return self.handover_step
        return int((model_sampling.timestep(sigmas[:-1]) >= self.boundary * TRAIN_TIMESTEPS).sum())


def in_words(expert: str) -> str:
    """Return what texts call an expert: ``"high noise"``, ``"low noise"``, ``"prelude"``."""
    return expert if expert == "prelude" else f"{expert} noise"


def follow_schedule(low: Any, high: Any) -> Any:
    """Return the low-noise model with the high-noise model's sampling schedule; neither argument is changed.

    Raises:
        ValueError: the low-noise model has its own schedule (a ``model_sampling`` patch) and it differs.
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


def reached(sigma: float, limit: float) -> bool:
    """Return whether a model call at ``sigma`` lies at or below ``limit``.

    1e-6 relative above it counts: some samplers (uni_pc) compute a step's sigma back from a logarithm.
    """
    return sigma <= limit * (1 + 1e-6)
