"""One sampler run as a list of phases: each expert's share under the host's own guider, one trajectory over all.

A phase runs the sampler function from its start. It answers the calls of earlier phases from their record, asks its own
model until the sigma where it ends, and stops there. The last phase runs to the end. So the solver's history and its
seeded noise go on over a hand-over, and the host loads, wraps and cleans up each expert as if it ran alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from tqdm.auto import tqdm

from .. import compat
from .gate import GuidanceGate
from .record import PhaseSampler, Record
from .schedule import RunSettings

_SEEDS = 2**64


@dataclass(frozen=True)
class Expert:
    """One expert and its guidance.

    ``name`` is ``"high"`` or ``"low"``, ``model`` a MODEL, ``positive`` and ``negative`` are CONDITIONING, ``cfg`` is
    the guidance scale, ``gate`` the fraction of its steps with full guidance.
    """

    name: str
    model: Any
    positive: list
    negative: list
    cfg: float
    gate: float = 1.0


@dataclass(frozen=True)
class Phase:
    """One expert's share of a run: the steps from ``first`` up to, not including, ``end`` of ``sigmas`` [steps + 1]."""

    expert: Expert
    sigmas: torch.Tensor
    first: int
    end: int

    @property
    def is_last(self) -> bool:
        """Whether the run ends with it."""
        return self.end == len(self.sigmas) - 1


@dataclass
class Position:
    """Where a run is: the sigma and the expert of its last model call, and how many calls each expert got."""

    sigma: float | None
    expert: str
    calls: dict[str, int]


@dataclass(frozen=True)
class Seed:
    """One seed of a run; ``callback`` is the host's step callback for it.

    ``make_noise`` makes its noise, of the latent's shape, right before each sampler run, as the host does: it sets the
    state of torch's generator.
    """

    make_noise: Callable[[], torch.Tensor]
    seed: int | None
    callback: Callable | None


class ExpertGuider(comfy.samplers.CFGGuider):
    """The host's guider for one phase: its guidance gate, and how far the run is."""

    intercept: Callable | None = None
    """Answers the calls of a sampler that is no ``KSAMPLER``: takes the model, returns what is called in its place."""

    def __init__(self, phase: Phase, position: Position) -> None:
        super().__init__(phase.expert.model)
        self.set_conds(phase.expert.positive, phase.expert.negative)
        self.set_cfg(phase.expert.cfg)
        self._phase = phase
        self._position = position
        gate = phase.expert.gate
        self._gate = GuidanceGate(gate, phase.sigmas[phase.first : phase.end]) if gate < 1 else None
        self.model_options = _with_sample_sigmas(self.model_options, phase)

    def outer_predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 -- the host's signature
        answer = self._ask if self.intercept is None else self.intercept(self._ask)
        return answer(x, timestep, model_options=model_options, seed=seed)

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 -- the host's signature
        if self._gate is None:
            return super().predict_noise(x, timestep, model_options, seed)
        return self._gate.predict(self, super().predict_noise, x, timestep, model_options, seed)

    def _ask(self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict = {}, seed: Any = None):  # noqa: B006
        # Here too, for samplers that report no step: an interrupted run ends at its next model call.
        comfy.model_management.throw_exception_if_processing_interrupted()
        expert = self._phase.expert.name
        self._position.sigma, self._position.expert = float(timestep.max()), expert
        self._position.calls[expert] = self._position.calls.get(expert, 0) + 1
        return super().outer_predict_noise(x, timestep, model_options, seed)


class PhasedGuider(comfy.samplers.CFGGuider):
    """A GUIDER that runs any sampler over both experts, one phase for each.

    Args:
        high: the high-noise expert.
        low: the low-noise expert, on the same schedule (``schedule.follow_schedule``).
        settings: tell where the low-noise expert takes over.
    """

    def __init__(self, high: Expert, low: Expert, settings: RunSettings) -> None:
        super().__init__(high.model)
        self.set_conds(high.positive, high.negative)
        self.set_cfg(high.cfg)
        self._experts = (high, low)
        self._settings = settings
        self.position = Position(None, high.name, {})

    def phases(self, sigmas: torch.Tensor) -> list[Phase]:
        """Return the phases of a run over ``sigmas`` [steps + 1]: one or two.

        Raises:
            ValueError: the hand-over lies outside the schedule.
        """
        high, low = self._experts
        steps = len(sigmas) - 1
        first_low = self._settings.first_low_step(high.model.get_model_object("model_sampling"), sigmas)
        phases = (Phase(high, sigmas, 0, first_low), Phase(low, sigmas, first_low, steps))
        return [phase for phase in phases if phase.first < phase.end]

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        """Run ``sigmas`` [steps + 1] from ``noise`` and ``latent_image``; as ``CFGGuider.sample``."""
        if len(sigmas) < 2:  # as the host's guider: nothing to do
            return latent_image
        seeds = [Seed(lambda: noise, seed, callback)]
        return self.sample_seeds(self.phases(sigmas), seeds, latent_image, sampler, denoise_mask, disable_pbar)[0]

    def sample_seeds(
        self,
        phases: Sequence[Phase],
        seeds: Sequence[Seed],
        latent_image: torch.Tensor,
        sampler: Any,
        denoise_mask: torch.Tensor | None,
        disable_pbar: bool,
    ) -> list[torch.Tensor]:
        """Return the result of each seed; they run phase by phase, so that each expert is loaded once for all."""
        self.position.sigma, self.position.calls = None, {}
        records: list[Record | None] = [None] * len(seeds)
        results = []
        steps = len(phases[0].sigmas) - 1
        with tqdm(total=steps * len(seeds), disable=disable_pbar) as bar:
            for phase in phases:
                if phase is not phases[0]:
                    compat.release_model_buffers()
                for number, seed in enumerate(seeds):
                    comfy.model_management.throw_exception_if_processing_interrupted()  # loading takes long
                    noise = seed.make_noise()
                    guider = ExpertGuider(phase, self.position)
                    own = sampler
                    if len(phases) > 1:
                        record = records[number] = records[number] or Record((noise, latent_image))
                        end_sigma = None if phase.is_last else float(phase.sigmas[phase.end])
                        own = PhaseSampler(record, end_sigma, guider).around(sampler)
                    # The bar is one for the whole run, so the sampler shows none. The noise is copied since a sampler
                    # may change it in place.
                    rest = (denoise_mask, counted(bar, seed.callback), True, seed.seed)
                    result = guider.sample(noise.clone(), latent_image, own, phase.sigmas, *rest)
                    if phase.is_last:
                        results.append(result.to(comfy.model_management.intermediate_device()))
                        records[number] = None
        return results


def sample_latent(
    guider: PhasedGuider,
    phases: Sequence[Phase],
    sampler: Any,
    latent: dict[str, Any],
    seed: int,
    seed_count: int,
    callback: Callable[[int], Callable],
) -> dict[str, Any]:
    """Return the LATENT of a run: the results of ``seed_count`` seeds from ``seed`` on in one batch.

    Each result is that of a run with this seed alone. ``batch_index`` and ``noise_mask`` in the latent act as in the
    host's samplers. ``callback`` makes the host's step callback for the n-th seed. Between two phases, main memory
    holds the record of every seed.
    """
    samples = compat.fix_empty_latent(guider.model_patcher, latent)

    def one(number: int) -> Seed:
        own, index = (seed + number) % _SEEDS, latent.get("batch_index")
        return Seed(lambda: comfy.sample.prepare_noise(samples, own, index), own, callback(number))

    seeds = [one(number) for number in range(seed_count)]
    quiet = not comfy.utils.PROGRESS_BAR_ENABLED
    results = guider.sample_seeds(phases, seeds, samples, sampler, latent.get("noise_mask"), quiet)
    dtype = comfy.model_management.intermediate_dtype()
    return _batch(latent, [result.to(dtype) for result in results])


def _batch(latent: dict[str, Any], results: list[torch.Tensor]) -> dict[str, Any]:
    """Return ``latent`` with the results; what it says of each item of the batch is repeated for each seed."""
    # The host's keys about an empty latent's shape are spent once it has been sampled.
    latent = {key: value for key, value in latent.items() if not key.startswith("downscale_ratio_")}
    mask, indices, count = latent.get("noise_mask"), latent.get("batch_index"), len(results)
    if mask is not None and mask.shape[0] > 1:
        latent["noise_mask"] = mask.repeat(count, *[1] * (mask.ndim - 1))
    if indices is not None and count > 1:
        span = max(indices) - min(indices) + 1  # as the host's RepeatLatentBatch counts on
        latent["batch_index"] = [index + number * span for number in range(count) for index in indices]
    return {**latent, "samples": torch.cat(results)}


def _with_sample_sigmas(model_options: dict[str, Any], phase: Phase) -> dict[str, Any]:
    """Return the options with an outermost wrapper that gives the model the sigmas of this phase alone.

    The host writes the whole schedule into ``transformer_options["sample_sigmas"]``. With two chained samplers it is
    the part that each computes, and that is what caches and context windows count their steps by.
    """
    kind = comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE

    def set_sigmas(executor: Any, guider: Any, sigmas: torch.Tensor, extra_args: dict, *rest: Any, **more: Any) -> Any:
        own = sigmas[phase.first : phase.end + 1]
        extra_args["model_options"]["transformer_options"]["sample_sigmas"] = own
        return executor(guider, sigmas, extra_args, *rest, **more)

    options = comfy.model_patcher.create_model_options_clone(model_options)
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    wrappers[kind] = {"wan_flf2v": [set_sigmas], **wrappers.get(kind, {})}  # the first is the outermost
    return options


def counted(bar: tqdm, callback: Callable | None) -> Callable:
    """Return the step callback that moves the bar too; samplers that count otherwise (dpm_adaptive) may overrun it."""

    def on_step(*arguments: Any) -> None:
        bar.update()
        if callback is not None:
            callback(*arguments)

    return on_step
