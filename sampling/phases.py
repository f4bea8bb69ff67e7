"""One sampler run as a list of phases: each expert's share under the host's own guider, one trajectory over all.

A phase runs the sampler function from its start. It plays the calls of earlier phases from their record, asks its own
model until the sigma where it ends, and stops there. The last phase runs to the end. So the solver's history and its
seeded noise go on over a hand-over, and the host loads, wraps and cleans up each expert as if it ran alone.
"""

from __future__ import annotations

import math
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
from .relay import beginning, ending
from .resume import STORE, Result, Resume, limit_bytes
from .schedule import RunSettings

EXPERTS = ("prelude", "high", "low")
"""The names of the experts, in the order in which they sample."""
_SEEDS = 2**64


@dataclass(frozen=True)
class Expert:
    """One expert and its guidance.

    ``name`` is one of ``EXPERTS``, ``model`` a MODEL, ``source`` the MODEL that ComfyUI keeps, of which ``model`` may
    be a clone for this run. ``positive`` and ``negative`` are CONDITIONING, ``cfg`` is the guidance scale, ``gate`` the
    fraction of its steps with full guidance.
    """

    name: str
    model: Any
    source: Any
    positive: list
    negative: list
    cfg: float
    gate: float = 1.0

    @property
    def is_gated(self) -> bool:
        """Whether the gate skips anything: at cfg 1 there is nothing to skip."""
        return self.gate < 1 and not math.isclose(self.cfg, 1.0)


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

    def gate(self) -> GuidanceGate:
        """Return its expert's gate over its steps."""
        return GuidanceGate(self.expert.gate, self.sigmas[self.first : self.end])


@dataclass
class Position:
    """Where a run is: the sigma and the expert of its last model call, and how many calls each expert got.

    ``reused`` counts the steps of all seeds that were not run, since an earlier run has left what they give.
    """

    sigma: float | None
    expert: str
    calls: dict[str, int]
    reused: int = 0

    def begin(self, run: Run) -> None:
        """Begin with a run of which nothing has been sampled."""
        phases = [*(run.before.phases if run.before is not None else ()), *run.phases]
        self.sigma, self.calls, self.reused = None, {phase.expert.name: 0 for phase in phases}, 0


@dataclass(frozen=True)
class Seed:
    """One seed of a run; ``callback`` is the host's step callback for it.

    ``make_noise`` makes its noise, of the latent's shape, right before each sampler run, as the host does: it sets the
    state of torch's generator. ``start`` is the latent that its sampler begins with, if another run comes before it.
    """

    make_noise: Callable[[], torch.Tensor]
    seed: int | None
    callback: Callable | None
    start: torch.Tensor | None = None


class ExpertGuider(comfy.samplers.CFGGuider):
    """The host's guider for one phase: its guidance gate, and how far the run is."""

    intercept: Callable | None = None
    """Records and plays the calls of a sampler that is no ``KSAMPLER``: takes what asks the model, returns the like."""

    def __init__(self, phase: Phase, position: Position) -> None:
        super().__init__(phase.expert.model)
        self.set_conds(phase.expert.positive, phase.expert.negative)
        self.set_cfg(phase.expert.cfg)
        self._phase = phase
        self._position = position
        self._gate = phase.gate() if phase.expert.is_gated else None
        self.model_options = _with_sample_sigmas(self.model_options, phase)

    def outer_predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 -- the host's signature
        predict = self._ask if self.intercept is None else self.intercept(self._ask)
        return predict(x, timestep, model_options=model_options, seed=seed)

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
        self.on_end: Callable[[Position], None] | None = None
        """Is called at the end of ``sample``."""

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
        result = sample_runs([run], disable_pbar)[0][0]
        if self.on_end is not None:
            self.on_end(self.position)
        return result

    def run_of(
        self,
        phases: Sequence[Phase],
        seeds: Sequence[Seed],
        latent_image: torch.Tensor,
        sampler: Any,
        denoise_mask: torch.Tensor | None,
    ) -> Run:
        """Return the run of ``phases`` over these seeds."""
        return Run(phases, seeds, latent_image, sampler, self.position, denoise_mask, self.settings.resume)


@dataclass(frozen=True)
class Run:
    """The seeds of one latent, such as a segment's: their phases, what they start from, and where the guider notes it.

    ``latent_image`` and ``denoise_mask`` are as of ``CFGGuider.sample``, ``sampler`` is a SAMPLER. With ``resumes``,
    what an earlier run has left is not run again, and what this one gives is kept. ``before`` is run first: each seed
    of this run begins with what that one's sampler has at its end.
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
    """How far a run is: the record and the result of each seed, and what of them is of an earlier run."""

    def __init__(self, run: Run, resume: Resume | None = None, *, goes_on: bool = False) -> None:
        self.run, self.resume, self.goes_on = run, resume, goes_on
        self.records: dict[int, Record] = {}
        self.results: dict[int, torch.Tensor] = {}
        self.found: dict[int, Record | Result] = {}
        if resume is not None:
            found = {number: resume.find(number, seed) for number, seed in enumerate(run.seeds)}
            self.found = {number: one for number, one in found.items() if one is not None}
            self.records = {number: one for number, one in self.found.items() if isinstance(one, Record)}

    @property
    def reused(self) -> int:
        """How many steps of all seeds are not run."""
        last = self.run.phases[-1]
        return sum(last.first if isinstance(one, Record) else last.end for one in self.found.values())

    def finish(self, number: int, result: torch.Tensor) -> None:
        """Note what a seed gave, which is kept for a later run."""
        self.results[number] = result.to(comfy.model_management.intermediate_device())
        self.records.pop(number, None)
        if self.resume is not None:
            self.resume.keep_result(number, self.results[number])


def sample_runs(runs: Sequence[Run], disable_pbar: bool) -> list[list[torch.Tensor]]:
    """Return the results of each run's seeds; all runs go expert by expert, so that each is loaded once.

    Those of several seeds may be kept for a later run: they must not be changed in place.
    """
    STORE.begin_run()
    for run in runs:
        run.position.begin(run)
    before = [run.before for run in runs if run.before is not None]
    with tqdm(total=sum(run.steps for run in runs), disable=disable_pbar) as bar:
        if before:
            left = iter(_sample([_begin(run, keeps_results=True, goes_on=True) for run in before], bar))
            runs = [_after(run, next(left)) if run.before is not None else run for run in runs]
            compat.release_model_buffers()
        # Nothing can stop the run of one seed alone between its result and its end.
        several = sum(len(run.seeds) for run in runs) > 1
        courses = [_begin(run, keeps_results=several) for run in runs]
        results = _sample(courses, bar)
    for course in courses:
        if course.resume is not None:
            course.resume.drop_results()  # from here on ComfyUI keeps them
    return results


def _after(run: Run, left: Sequence[torch.Tensor]) -> Run:
    """Return the run whose seeds begin with what the run before it has left."""
    return replace(run, seeds=[replace(seed, start=start) for seed, start in zip(run.seeds, left, strict=True)])


def expert_order(runs: Iterable[Sequence[Phase]]) -> list[str]:
    """Return the names of the experts in the order in which they sample all runs, each told by its phases."""
    names = {phase.expert.name for phases in runs for phase in phases}
    return [name for name in EXPERTS if name in names]


def _begin(run: Run, *, keeps_results: bool, goes_on: bool = False) -> _Course:
    """Look for what earlier runs have left, and note in the run's position what is reused."""
    resumes = run.resumes and (keeps_results or len(run.phases) > 1) and limit_bytes() > 0
    course = _Course(run, Resume(run, keeps_results=keeps_results) if resumes else None, goes_on=goes_on)
    run.position.reused += course.reused
    return course


def _sample(courses: Sequence[_Course], bar: tqdm) -> list[list[torch.Tensor]]:
    """Sample the runs expert by expert, and return the results of each one's seeds."""
    bar.update(sum(course.reused for course in courses))
    for number, expert in enumerate(expert_order([course.run.phases for course in courses])):
        if number:
            compat.release_model_buffers()
        for course in courses:
            for phase in course.run.phases:
                if phase.expert.name == expert:
                    _sample_phase(course, phase, bar)
    return [[course.results[number] for number in range(len(course.run.seeds))] for course in courses]


def _sample_phase(course: _Course, phase: Phase, bar: tqdm) -> None:
    """Sample one phase of each seed of which no earlier run has left it, with the seed's record."""
    run, resume = course.run, course.resume
    for number in range(len(run.seeds)):
        found = course.found.get(number)
        if isinstance(found, Result) and phase.is_last:
            latent = found.give(phase.expert.model.load_device)
            course.results[number] = latent.to(comfy.model_management.intermediate_device())
        if isinstance(found, Result) or (found is not None and not phase.is_last):
            continue
        comfy.model_management.throw_exception_if_processing_interrupted()  # loading takes long
        try:
            result = _sample_seed(course, number, phase, bar)
        except RecordDiffersError:
            if resume is None or found is None:
                raise
            resume.drop(number)
            run.position.reused -= phase.first
            result = _sample_whole(replace(run, seeds=[run.seeds[number]]), bar)
        if resume is not None and len(run.phases) > 1 and phase is run.phases[-2]:
            resume.keep(number, course.records[number])
        if phase.is_last:
            course.finish(number, result)


def _sample_seed(course: _Course, number: int, phase: Phase, bar: tqdm) -> torch.Tensor:
    """Return what one phase of one seed gives: in the last phase, the seed's result."""
    run, seed = course.run, course.run.seeds[number]
    noise = seed.make_noise()
    left: list[torch.Tensor] = []
    guider = ExpertGuider(phase, run.position)
    sampler = run.sampler if seed.start is None else beginning(run.sampler, seed.start)
    if course.goes_on:
        sampler = ending(sampler, left.append)
    if len(run.phases) > 1:
        record = course.records.setdefault(number, Record((noise, run.latent_image)))
        end_sigma = None if phase.is_last else float(phase.sigmas[phase.end])
        sampler = PhaseSampler(record, end_sigma, guider).around(sampler)
    # The bar is one for all runs, so the sampler shows none. A sampler may change the noise in place.
    rest = (run.denoise_mask, _counted(bar, seed.callback), True, seed.seed)
    result: torch.Tensor = guider.sample(noise.clone(), run.latent_image, sampler, phase.sigmas, *rest)
    return left.pop() if course.goes_on else result


def _sample_whole(run: Run, bar: tqdm) -> torch.Tensor:
    """Return the result of a run of one seed whose record did not hold after all."""
    course = _Course(run)
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
