"""One sampler run as a list of phases: each expert's share under the host's own guider, one trajectory over all.

A phase runs the sampler function from its start. It answers the calls of earlier phases from their record, asks its own
model until the sigma where it ends, and stops there. The last phase runs to the end. So the solver's history and its
seeded noise go on over a hand-over, and the host loads, wraps and cleans up each expert as if it ran alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
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
from .record import PhaseSampler, Record, RecordDiffersError
from .resume import Resume, limit_bytes
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
    """Where a run is: the sigma and the expert of its last model call, and how many calls each expert got.

    ``reused`` counts the steps of all seeds that were not run, since an earlier run's record had them.
    """

    sigma: float | None
    expert: str
    calls: dict[str, int]
    reused: int = 0


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
        self.settings = settings
        self.position = Position(None, high.name, {})

    def phases(self, sigmas: torch.Tensor) -> list[Phase]:
        """Return the phases of a run over ``sigmas`` [steps + 1]: one or two.

        Raises:
            ValueError: the hand-over lies outside the schedule.
        """
        high, low = self._experts
        steps = len(sigmas) - 1
        first_low = self.settings.first_low_step(high.model.get_model_object("model_sampling"), sigmas)
        phases = (Phase(high, sigmas, 0, first_low), Phase(low, sigmas, first_low, steps))
        return [phase for phase in phases if phase.first < phase.end]

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        """Run ``sigmas`` [steps + 1] from ``noise`` and ``latent_image``; as ``CFGGuider.sample``."""
        if len(sigmas) < 2:  # as the host's guider: nothing to do
            return latent_image
        seeds = (Seed(lambda: noise, seed, callback),)
        run = self.run_of(self.phases(sigmas), seeds, latent_image, sampler, denoise_mask)
        return sample_runs([run], disable_pbar)[0][0]

    def run_of(
        self,
        phases: Sequence[Phase],
        seeds: Sequence[Seed],
        latent_image: torch.Tensor,
        sampler: Any,
        denoise_mask: torch.Tensor | None,
    ) -> Run:
        """Return the run of ``phases`` over these seeds."""
        return Run(phases, seeds, latent_image, sampler, self.position, denoise_mask, resumes=self.settings.resume)


@dataclass(frozen=True)
class Run:
    """The seeds of one latent, such as a segment's: their phases, what they start from, and where the guider notes it.

    ``latent_image`` and ``denoise_mask`` are as of ``CFGGuider.sample``, ``sampler`` is a SAMPLER. With ``resumes``, a
    seed whose record an earlier run has left runs its last phase alone. ``before`` is run first: this run begins with
    what its sampler has.
    """

    phases: Sequence[Phase]
    seeds: Sequence[Seed]
    latent_image: torch.Tensor
    sampler: Any
    position: Position
    denoise_mask: torch.Tensor | None = None
    resumes: bool = False
    before: Run | None = None

    @property
    def steps(self) -> int:
        """How many steps all of its seeds have, with those before it."""
        own = (len(self.phases[0].sigmas) - 1) * len(self.seeds)
        return own + (self.before.steps if self.before is not None else 0)


class _Course:
    """How far a run is: the record and the result of each seed, and which records are of an earlier run."""

    def __init__(self, run: Run, resume: Resume | None) -> None:
        self.run, self.resume = run, resume
        self.records: list[Record | None] = [None] * len(run.seeds)
        if resume is not None:
            self.records = [resume.find(number, seed.make_noise(), seed.seed) for number, seed in enumerate(run.seeds)]
        self.found = {number for number, record in enumerate(self.records) if record is not None}
        self.results: list[torch.Tensor] = []

    @property
    def reused(self) -> int:
        """How many steps of all seeds are not run."""
        return self.run.phases[-1].first * len(self.found)


def sample_runs(runs: Sequence[Run], disable_pbar: bool) -> list[list[torch.Tensor]]:
    """Return the results of each run's seeds; all runs go expert by expert, so that each is loaded once."""
    before = [run.before for run in runs if run.before is not None]
    with tqdm(total=sum(run.steps for run in runs), disable=disable_pbar) as bar:
        if before:
            _sample(before, bar)
            compat.release_model_buffers()
        return _sample(runs, bar)


def expert_order(runs: Iterable[Sequence[Phase]]) -> list[str]:
    """Return the names of the experts in the order in which they sample all runs, each told by its phases.

    There may be runs with one phase, all on the low-noise expert or all on the high-noise one: they wait for it.
    """
    by_phases = sorted(runs, key=len, reverse=True)
    return list(dict.fromkeys(phase.expert.name for phases in by_phases for phase in phases))


def _sample(runs: Sequence[Run], bar: tqdm) -> list[list[torch.Tensor]]:
    """Sample the runs expert by expert; what is before them has been run."""
    courses = [_begin(run) for run in runs]
    bar.update(sum(course.reused for course in courses))
    for number, expert in enumerate(expert_order([run.phases for run in runs])):
        if number:
            compat.release_model_buffers()
        for course in courses:
            for phase in course.run.phases:
                if phase.expert.name == expert:
                    _sample_phase(course, phase, bar)
    return [course.results for course in courses]


def _begin(run: Run) -> _Course:
    """Look for records of earlier runs, and note in the run's position what is reused."""
    resumes = run.resumes and len(run.phases) > 1 and limit_bytes() > 0
    course = _Course(run, Resume(run.phases, run.sampler, run.latent_image, run.denoise_mask) if resumes else None)
    calls = dict(run.position.calls) if run.before is not None else {}
    calls |= {phase.expert.name: 0 for phase in run.phases[:-1]} if course.found else {}
    run.position.sigma, run.position.calls, run.position.reused = None, calls, course.reused
    return course


def _sample_phase(course: _Course, phase: Phase, bar: tqdm) -> None:
    """Sample one phase of each seed, with the seed's record; the last phase adds to the results."""
    run, records, resume = course.run, course.records, course.resume
    for number, seed in enumerate(run.seeds):
        if number in course.found and not phase.is_last:
            continue
        comfy.model_management.throw_exception_if_processing_interrupted()  # loading takes long
        noise = seed.make_noise()
        guider = ExpertGuider(phase, run.position)
        own = run.sampler
        if len(run.phases) > 1:
            record = records[number] = records[number] or Record((noise, run.latent_image))
            end_sigma = None if phase.is_last else float(phase.sigmas[phase.end])
            own = PhaseSampler(record, end_sigma, guider).around(run.sampler)
        # The bar is one for all runs, so the sampler shows none. The noise is copied since a sampler may change it in
        # place.
        rest = (run.denoise_mask, _counted(bar, seed.callback), True, seed.seed)
        try:
            result = guider.sample(noise.clone(), run.latent_image, own, phase.sigmas, *rest)
        except RecordDiffersError:
            if resume is None or number not in course.found:
                raise
            resume.drop(number)
            run.position.reused -= phase.first
            result = _sample_whole(replace(run, seeds=[seed]), bar)
        if resume is not None and phase is run.phases[-2] and (record := records[number]) is not None:
            resume.keep(number, record)
        if phase.is_last:
            course.results.append(result.to(comfy.model_management.intermediate_device()))
            records[number] = None


def _sample_whole(run: Run, bar: tqdm) -> torch.Tensor:
    """Return the result of a run of one seed whose record did not hold after all."""
    course = _Course(run, None)
    for phase in run.phases:
        if phase is not run.phases[0]:
            compat.release_model_buffers()
        _sample_phase(course, phase, bar)
    return course.results[0]


@dataclass(frozen=True)
class LatentRun:
    """A run of one LATENT over ``seed_count`` seeds from ``seed`` on.

    ``callback`` makes the host's step callback for the n-th seed.
    """

    guider: PhasedGuider
    phases: Sequence[Phase]
    sampler: Any
    latent: dict[str, Any]
    seed: int
    seed_count: int
    callback: Callable[[int], Callable]


def sample_latents(runs: Sequence[LatentRun]) -> list[dict[str, Any]]:
    """Return the LATENT of each run: the results of its seeds in one batch.

    Each result is that of a run with this seed alone. ``batch_index`` and ``noise_mask`` in a latent act as in the
    host's samplers. Between two phases, main memory holds the record of every seed.
    """
    results = sample_runs([_of_latent(run) for run in runs], not comfy.utils.PROGRESS_BAR_ENABLED)
    dtype = comfy.model_management.intermediate_dtype()
    return [_batch(run.latent, [one.to(dtype) for one in of_run]) for run, of_run in zip(runs, results, strict=True)]


def _of_latent(run: LatentRun) -> Run:
    samples = compat.fix_empty_latent(run.guider.model_patcher, run.latent)

    def one(number: int) -> Seed:
        own, index = (run.seed + number) % _SEEDS, run.latent.get("batch_index")
        return Seed(lambda: comfy.sample.prepare_noise(samples, own, index), own, run.callback(number))

    seeds = [one(number) for number in range(run.seed_count)]
    return run.guider.run_of(run.phases, seeds, samples, run.sampler, run.latent.get("noise_mask"))


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


def _counted(bar: tqdm, callback: Callable | None) -> Callable:
    """Return the step callback that moves the bar too; samplers that count otherwise (dpm_adaptive) may overrun it."""

    def on_step(*arguments: Any) -> None:
        bar.update()
        if callback is not None:
            callback(*arguments)

    return on_step
