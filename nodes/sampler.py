"""Node 57: both experts on one schedule, phase by phase over lists too; the guider of its inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import comfy.samplers
import torch
from comfy_api.latest import io

from ..preflight.checks import check_run
from ..sampling import schedule
from ..sampling.gate import refuse_with_cfg_functions
from ..sampling.phases import Expert, LatentRun, Phase, PhasedGuider, sample_latents
from ..sampling.prelude import PreludeGuider
from ..sampling.progress import RunProgress, Track
from ..sampling.schedule import RunSettings
from .conditioning import LOW_NOISE_MASK
from .lists import calls_of
from .notice import show_notice, show_reused, show_text
from .run_inputs import (
    advanced_inputs,
    cfg_input,
    expert_inputs,
    handover_inputs,
    prelude_inputs,
    resume_input,
    solver_inputs,
    steps_input,
)


class WanFLF2VSampler(io.ComfyNode):
    """Sample with both Wan 2.2 experts in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VSampler",
            display_name="Wan FLF2V Sampler",
            category="video/wan flf2v",
            description=(
                "Both Wan 2.2 experts in one sampler: the high-noise model runs the noisy steps, the low-noise model "
                "the rest, on one schedule and in one run, so that every solver keeps its history. Steps, cfg, seed "
                "and shift are set once and cannot disagree. Lists of segments go through each expert together. A base "
                "model can make the first steps before 4-step LoRAs."
            ),
            search_aliases=["wan moe", "dual model sampler", "high low noise", "KSampler wan 2.2", "two experts"],
            inputs=[
                *expert_inputs(),
                io.Latent.Input("latent_image", tooltip="From Wan First Last Frame (FLF2V)."),
                *_schedule_inputs(),
                *handover_inputs(),
                *advanced_inputs(),
                *_more_inputs(),
                *prelude_inputs(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent",
                    is_output_list=True,
                    tooltip="The denoised latent, one video for each seed; of a list of segments one latent for each.",
                )
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, **lists: list) -> io.NodeOutput:
        """Check all calls, plan their hand-over, sample them phase by phase."""
        follow = cache(schedule.follow_schedule)  # one low-noise model for all calls: another would be loaded again
        planned = [cls._planned(follow, **call) for call in calls_of(lists)]
        node_id, summary = cls.hidden.unique_id, _summary(planned[0].phases)
        warnings = list(dict.fromkeys(text for one in planned for text in one.warnings))
        show_notice(node_id, summary, warnings=warnings)

        def say(text: str) -> None:
            show_text(node_id, "\n".join([text, summary, *warnings]))  # the node has room for little but the first line

        tracks = [
            Track(one.phases, one.guider.position, _name(number, len(planned), seed, one.seed_count))
            for number, one in enumerate(planned)
            for seed in range(one.seed_count)
        ]
        progress = RunProgress(planned[0].guider.model_patcher, tracks, say)
        runs, first = [], 0
        for one in planned:
            runs.append(one.run(partial(lambda first, seed: progress.callback(first + seed), first)))
            first += one.seed_count
        latents = sample_latents(runs)
        say(progress.summary())
        show_reused(node_id, progress.reused())
        return io.NodeOutput(latents)

    @classmethod
    def _planned(
        cls,
        follow: Callable[[Any, Any], Any],
        latent_image: dict,
        noise_seed: int,
        seed_count: int,
        sigmas: torch.Tensor | None = None,
        **inputs: Any,
    ) -> _Planned:
        """Return a call's run, with nothing loaded yet."""
        if sigmas is not None:
            schedule.check_sigmas(sigmas)
            inputs |= {"steps": len(sigmas) - 1, "denoise": None}
        guider, warnings = make_guider(cls.hidden, latent_image, follow, **inputs)
        settings = guider.settings
        phases = guider.phases(settings.sigmas(inputs["model_high_noise"]) if sigmas is None else sigmas)
        sampler = comfy.samplers.sampler_object(settings.sampler_name)
        return _Planned(guider, phases, sampler, latent_image, noise_seed, seed_count, warnings)


class _Planned(NamedTuple):
    """One call of the node, ready to run."""

    guider: PhasedGuider
    phases: list[Phase]
    sampler: Any
    latent: dict
    seed: int
    seed_count: int
    warnings: list[str]

    def run(self, callback: Callable[[int], Callable]) -> LatentRun:
        return LatentRun(*self[:-1], callback)


def _name(number: int, calls: int, seed: int, seeds: int) -> str:
    """Return what a seed of a call is called in the progress; empty if it is the only one."""
    parts = [("segment", number, calls), ("seed", seed, seeds)]
    return ", ".join(f"{what} {index + 1} of {count}" for what, index, count in parts if count > 1)


def make_guider(
    hidden: Any,
    latent: dict | None,
    follow: Callable[[Any, Any], Any] = schedule.follow_schedule,
    *,
    model_high_noise: Any,
    model_low_noise: Any,
    positive: list,
    negative: list,
    model_prelude: Any = None,
    prelude: str = "steps",
    **run: Any,
) -> tuple[PhasedGuider, list[str]]:
    """Return the guider of a node's inputs and the warnings about them; no model is loaded or changed.

    ``hidden`` is the node's. ``latent`` is ``None`` where the node does not know it. ``follow`` gives the low-noise
    model the high-noise model's schedule. Without ``model_prelude`` there is no prelude. ``run`` are the other fields
    of ``RunSettings``.

    Raises:
        ValueError: the inputs do not go together.
    """
    settings = RunSettings(prelude="none" if model_prelude is None else prelude, **run)
    models = {"high": model_high_noise, "low": model_low_noise}
    if settings.prelude != "none":
        models["prelude"] = model_prelude
    warnings = check_run(models, positive, latent, hidden.prompt, hidden.unique_id, settings)

    def expert(name: str, model: Any, *guidance: Any) -> Expert:
        conditioning = [_for_expert(name, each) for each in (positive, negative)]
        made = Expert(name, model, models[name], *conditioning, *guidance)
        if made.is_gated:
            refuse_with_cfg_functions(model.model_options, settings.sampler_name)
        return made

    high = expert("high", model_high_noise, settings.cfg, settings.cfg_gate)
    low = expert("low", follow(model_low_noise, model_high_noise), settings.cfg_low, settings.cfg_gate)
    if settings.prelude == "none":
        return PhasedGuider(high, low, settings), warnings
    # A clone, since one patcher must not be two experts of a run. No gate: the guidance is what the prelude is for.
    first = expert("prelude", model_prelude.clone(), settings.prelude_cfg)
    return PreludeGuider(first, high, low, settings), warnings


def _for_expert(name: str, conditioning: list) -> list:
    """Return a CONDITIONING with the mask that is meant for an expert, and without the other's."""
    own = []
    for embedding, options in conditioning:
        options = dict(options)
        low_noise_mask = options.pop(LOW_NOISE_MASK, None)
        if name == "low" and low_noise_mask is not None:
            options["concat_mask"] = low_noise_mask
        own.append([embedding, options])
    return own


def _summary(phases: Sequence[Phase]) -> str:
    """Return the planned steps of each expert, and the sigmas at which they change."""
    steps = {"high": 0, "low": 0} | {phase.expert.name: phase.end - phase.first for phase in phases}
    text = f"{steps['high']} high noise, {steps['low']} low noise"
    if "prelude" in steps:
        text = f"{steps['prelude']} prelude to sigma {float(phases[0].sigmas[-1]):.3f}, {text}"
    switches = (phase for phase in phases[1:] if phase.expert.name == "low")
    handover = "".join(f"; hand-over at sigma {float(phase.sigmas[phase.first]):.3f}" for phase in switches)
    return f"{sum(steps.values())} steps: {text}{handover}"


def _schedule_inputs() -> list[io.Input]:
    """Return the seed and what makes the schedule."""
    return [
        io.Int.Input(
            "noise_seed",
            default=96860978,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The same seed and settings give the same video.",
        ),
        steps_input(),
        cfg_input(),
        *solver_inputs(),
    ]


def _more_inputs() -> list[io.Input]:
    """Return the node's own rarer inputs."""
    return [
        io.Float.Input(
            "denoise",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            round=0.001,
            tooltip="Below 1, latent_image is a video to change: only the last part of the schedule is run on it.",
            advanced=True,
        ),
        io.Int.Input(
            "seed_count",
            default=1,
            min=1,
            max=16,
            tooltip="Videos of this many seeds, noise_seed and those after it, in one batch. Each expert is loaded "
            "once for all of them.",
            advanced=True,
        ),
        io.Sigmas.Input(
            "sigmas",
            optional=True,
            tooltip="A schedule of your own, instead of steps, scheduler and denoise.",
        ),
        resume_input(),
    ]
