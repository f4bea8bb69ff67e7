"""The prelude: a run's first steps on a third model and its own long schedule, before the few steps of the experts.

Step-distilled LoRAs move slowly. In the prelude, the base model makes the noisiest steps with guidance, and the
distilled experts go on where it ends. The prelude is one sampler run and the rest another: a multistep solver whose
history comes from such uneven steps goes astray.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import comfy.samplers
import torch

from ..wan import TRAIN_TIMESTEPS
from .phases import Expert, Phase, PhasedGuider, Run, Seed
from .schedule import RunSettings, reached

STRATEGIES: dict[str, Callable[[RunSettings, list[float]], int]] = {
    "none": lambda _settings, _sigmas: 0,
    "steps": lambda settings, _sigmas: settings.prelude_steps,
    "sigma": lambda settings, sigmas: sum(not reached(sigma, settings.prelude_sigma) for sigma in sigmas),
}
"""How many steps the prelude has, for each choice of ``prelude``: from the settings and its whole schedule's sigmas."""
ENDS = ("snap", "exact")
"""Where the prelude ends: see ``with_prelude``."""


class WholeSchedule(NamedTuple):
    """The sigmas [steps + 1] of prelude and rest: the first ``prelude`` steps, then high noise up to ``first_low``."""

    sigmas: torch.Tensor
    prelude: int
    first_low: int


def with_prelude(settings: RunSettings, model: Any, model_sampling: Any, sigmas: torch.Tensor) -> WholeSchedule:
    """Return the schedule of a run whose first steps the prelude makes.

    The prelude takes the first steps of another schedule: ``prelude_schedule`` steps by ``model``'s own model sampling.
    ``prelude_end`` ``"snap"`` moves the end of its last step down to the next of ``sigmas``, so that the distilled
    experts run at no other sigmas than those they are made for. ``"exact"`` leaves it where it is; then the experts
    have an uneven first step. Where ``denoise`` is not known, the run begins at the first of ``sigmas``.

    Args:
        settings: the run's; ``prelude`` is not ``"none"``.
        model: the MODEL of the prelude.
        model_sampling: that of the high-noise expert.
        sigmas: the experts' schedule without a prelude, [steps + 1].

    Raises:
        ValueError: the prelude would have no step or more than its schedule, would end below the boundary (or the
            hand-over, where the boundary is not used), or would leave no step to the experts.
    """
    own = replace(settings, steps=settings.prelude_schedule).sigmas(model).to(sigmas)
    if settings.denoise is None and sigmas[0] < own[0]:
        own = torch.cat((sigmas[:1], own[own < sigmas[0]]))
    count = _steps(settings, own)
    following = int(sum(not reached(sigma, float(own[count])) for sigma in sigmas.tolist()))
    first_low = settings.first_low_step(model_sampling, sigmas)
    rest = sigmas[following:]
    meets = settings.prelude_end == "snap" or (len(rest) > 0 and reached(float(own[count]), float(rest[0])))
    whole = torch.cat((own[:count] if meets else own[: count + 1], rest))
    if len(whole) < count + 2:
        raise ValueError(
            f"The prelude would end at sigma {float(own[count]):.4f}, but the experts' schedule ends at "
            f"{float(sigmas[-1]):.4f}, so no step is left to them. {_advice(settings)}"
        )
    _check_end(settings, model_sampling, whole[count], sigmas[first_low], too_low=first_low < following)
    return WholeSchedule(whole, count, count + first_low - following + (not meets))


def _steps(settings: RunSettings, sigmas: torch.Tensor) -> int:
    """Return how many steps of ``sigmas`` the prelude makes: from 1 to all."""
    count, most = STRATEGIES[settings.prelude](settings, sigmas.tolist()), len(sigmas) - 1
    if not 1 <= count <= most:
        name = f"prelude_{settings.prelude}"
        raise ValueError(
            f"{name} is {getattr(settings, name):g}, which gives the prelude {count} steps, but it must have from 1 to "
            f"{most}, the steps of its schedule, which begins at sigma {float(sigmas[0]):.4f}. Change {name} or "
            "prelude_schedule, or set prelude to none."
        )
    return count


def _check_end(
    settings: RunSettings, model_sampling: Any, end: torch.Tensor, handover: torch.Tensor, *, too_low: bool
) -> None:
    limit = f"the hand-over at sigma {float(handover):.4f}"
    if settings.handover == "boundary":
        limit = f"the boundary {settings.boundary:g}"
        too_low = float(model_sampling.timestep(end)) < settings.boundary * TRAIN_TIMESTEPS
    if too_low:
        raise ValueError(
            f"The prelude would end at sigma {float(end):.4f}, below {limit}, but the steps from there on are the "
            f"low-noise expert's. {_advice(settings)}"
        )


def _advice(settings: RunSettings) -> str:
    change = "a lower prelude_steps" if settings.prelude == "steps" else "a higher prelude_sigma"
    exact = " or prelude_end to exact" if settings.prelude_end == "snap" else ""
    return f"Set {change}, a higher prelude_schedule, more steps{exact}, or set prelude to none."


class PreludeGuider(PhasedGuider):
    """A GUIDER that runs any sampler of the host's over a prelude, then, as another run, over both experts.

    Args:
        prelude: the prelude's model, named ``"prelude"``.
        high, low, settings: as of ``PhasedGuider``; ``prelude`` in the settings is not ``"none"``.
    """

    def __init__(self, prelude: Expert, high: Expert, low: Expert, settings: RunSettings) -> None:
        super().__init__(high, low, settings)
        self._prelude = prelude

    def phases(self, sigmas: torch.Tensor) -> list[Phase]:
        """Return the phases of a run over ``sigmas`` [steps + 1]: that of the prelude, then one or two.

        Raises:
            ValueError: the hand-over lies outside the schedule, or the prelude does not fit it.
        """
        high, low = self._experts
        model_sampling = high.model.get_model_object("model_sampling")
        whole = with_prelude(self.settings, self._prelude.model, model_sampling, sigmas)
        count, first_low = whole.prelude, whole.first_low - whole.prelude
        rest = whole.sigmas[count:]
        phases = (
            Phase(self._prelude, whole.sigmas[: count + 1], 0, count),
            Phase(high, rest, 0, first_low),
            Phase(low, rest, first_low, len(rest) - 1),
        )
        return [phase for phase in phases if phase.first < phase.end]

    def run_of(
        self,
        phases: Sequence[Phase],
        seeds: Sequence[Seed],
        latent_image: torch.Tensor,
        sampler: Any,
        denoise_mask: torch.Tensor | None,
    ) -> Run:
        """Return the run of the experts, with that of the prelude before it.

        Raises:
            ValueError: the sampler is no ``KSAMPLER``; only of those is known how they begin and end at a sigma.
        """
        if not isinstance(sampler, comfy.samplers.KSAMPLER):
            raise ValueError(
                f"The sampler {type(sampler).__name__} cannot go on from a prelude. Choose a sampler of "
                "KSamplerSelect, or set prelude to none."
            )
        prelude, *rest = phases
        switch, end = prelude.end, prelude.end + rest[-1].end
        first = [replace(seed, callback=_placed(seed.callback, 0, switch, end)) for seed in seeds]
        after = [replace(_next(seed), callback=_placed(seed.callback, switch, end, end)) for seed in seeds]
        shared = (latent_image, sampler, self.position, denoise_mask, self.settings.resume)
        return Run(rest, after, *shared, before=Run([prelude], first, *shared))


def _placed(callback: Callable | None, first: int, end: int, total: int) -> Callable | None:
    """Return the step callback for the steps ``first`` to ``end`` of ``total``; some samplers count more than them."""
    if callback is None:
        return None
    return lambda step, x0, x, _steps: callback(min(first + step, end - 1), x0, x, total)


def _next(seed: Seed) -> Seed:
    """Return the seed for what comes after the prelude: it draws other numbers, or its noise would be added twice."""
    if seed.seed is None:
        return seed
    # Another in its lower 32 bits: torch's generator on the CPU takes no more. Below 2**63, as samplers add 1.
    other = (seed.seed + 2**31) % 2**63

    def make_noise() -> torch.Tensor:
        noise = seed.make_noise()
        torch.manual_seed(other)
        return noise

    return replace(seed, make_noise=make_noise, seed=other)
