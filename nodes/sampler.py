"""Node 57: both experts on one schedule in one run; its inputs and its guider, which other nodes share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io

from ..preflight.checks import check_run
from ..sampling import prelude, schedule
from ..sampling.gate import refuse_with_cfg_functions
from ..sampling.phases import Expert, Phase, PhasedGuider, sample_latent
from ..sampling.progress import RunProgress
from ..sampling.schedule import RunSettings
from ..wan import BOUNDARY_I2V
from .conditioning import LOW_NOISE_MASK
from .notice import show_notice, show_text


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
                "and shift are set once and cannot disagree. A base model can make the first steps before 4-step LoRAs."
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
            outputs=[io.Latent.Output(display_name="latent", tooltip="The denoised latent; one video for each seed.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        latent_image: dict,
        noise_seed: int,
        seed_count: int,
        model_high_noise: Any,
        model_low_noise: Any,
        positive: list,
        negative: list,
        sigmas: torch.Tensor | None = None,
        model_prelude: Any = None,
        **settings: Any,
    ) -> io.NodeOutput:
        """Check, plan the hand-over, sample."""
        run = run_settings(model_prelude, **settings)
        if sigmas is not None:
            schedule.check_sigmas(sigmas)
            run = replace(run, steps=len(sigmas) - 1, denoise=None)
        models = {
            "model_high_noise": model_high_noise,
            "model_low_noise": model_low_noise,
            "model_prelude": model_prelude,
        }
        conditioning = {"positive": positive, "negative": negative}
        guider, warnings = make_guider(cls.hidden, run, latent_image, **models, **conditioning)
        phases = guider.phases(run.sigmas(model_high_noise) if sigmas is None else sigmas)
        node_id, summary = cls.hidden.unique_id, _summary(phases)
        show_notice(node_id, summary, warnings=warnings)

        def say(text: str) -> None:
            show_text(node_id, "\n".join([text, summary, *warnings]))  # the node has room for little but the first line

        progress = RunProgress(guider.model_patcher, phases, seed_count, guider.position, say)
        sampler = comfy.samplers.sampler_object(run.sampler_name)
        latent = sample_latent(guider, phases, sampler, latent_image, noise_seed, seed_count, progress.callback)
        say(progress.summary())
        return io.NodeOutput(latent)


def run_settings(model_prelude: Any, prelude: str = "steps", **settings: Any) -> RunSettings:
    """Return a node's settings; without ``model_prelude`` there is no prelude."""
    return RunSettings(prelude="none" if model_prelude is None else prelude, **settings)


def make_guider(
    hidden: Any,
    settings: RunSettings,
    latent: dict | None,
    *,
    model_high_noise: Any,
    model_low_noise: Any,
    model_prelude: Any,
    positive: list,
    negative: list,
) -> tuple[PhasedGuider, list[str]]:
    """Return the guider of a node's inputs and the warnings about them; no model is loaded or changed.

    ``hidden`` is the node's. ``latent`` is ``None`` where the node does not know it.

    Raises:
        ValueError: the inputs do not go together.
    """
    models = {"high": model_high_noise, "low": model_low_noise}
    if settings.prelude != "none":
        models["prelude"] = model_prelude
    warnings = check_run(models, positive, latent, hidden.prompt, hidden.unique_id, settings)
    low = schedule.follow_schedule(model_low_noise, model_high_noise)
    experts = []
    for name, model, cfg in (("high", model_high_noise, settings.cfg), ("low", low, settings.cfg_low)):
        if settings.cfg_gate < 1 and not math.isclose(cfg, 1.0):  # at cfg 1 the gate skips nothing
            refuse_with_cfg_functions(model.model_options, settings.sampler_name)
        conditioning = [_for_low_noise(each) if name == "low" else each for each in (positive, negative)]
        experts.append(Expert(name, model, *conditioning, cfg, settings.cfg_gate))
    if settings.prelude == "none":
        return PhasedGuider(*experts, settings), warnings
    # A clone, since one patcher must not be two experts of a run. No gate: the guidance is what the prelude is for.
    first = Expert("prelude", model_prelude.clone(), positive, negative, settings.prelude_cfg)
    return prelude.PreludeGuider(first, *experts, settings), warnings


def _for_low_noise(conditioning: list) -> list:
    """Return a CONDITIONING with the mask that is meant for the low-noise expert, where it has one."""
    return [
        [embedding, {**options, "concat_mask": options[LOW_NOISE_MASK]} if LOW_NOISE_MASK in options else options]
        for embedding, options in conditioning
    ]


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
    ]


def expert_inputs() -> list[io.Input]:
    """Return the sockets of the two experts and their conditioning."""
    return [
        io.Model.Input(
            "model_high_noise",
            tooltip="The high-noise expert, after ModelSamplingSD3 (shift) and its own LoRAs.",
        ),
        io.Model.Input(
            "model_low_noise",
            tooltip="The low-noise expert and its own LoRAs. It follows the high-noise expert's shift.",
        ),
        io.Conditioning.Input("positive", tooltip="From Wan First Last Frame (FLF2V)."),
        io.Conditioning.Input("negative", tooltip="From Wan First Last Frame (FLF2V)."),
    ]


def cfg_input() -> io.Input:
    """Return the guidance scale."""
    return io.Float.Input(
        "cfg",
        default=4.0,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Guidance scale: how closely the video follows the prompt. 1 runs twice as fast, without "
        "the negative prompt (for 4-step LoRAs).",
    )


def cfg_low_noise_input(*, advanced: bool) -> io.Input:
    """Return the low-noise expert's guidance scale."""
    return io.Float.Input(
        "cfg_low_noise",
        default=0.0,
        min=0.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip="Guidance scale of the low-noise expert. 0: the same as cfg.",
        advanced=advanced,
    )


def steps_input() -> io.Input:
    """Return the number of steps."""
    return io.Int.Input(
        "steps",
        default=20,
        min=1,
        max=10000,
        tooltip="Denoising steps of the whole run, both experts together. With 4-step LoRAs: 4.",
    )


def solver_inputs() -> list[io.Input]:
    """Return the sampler and the scheduler."""
    return [
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip="The solver."
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="simple",
            tooltip="How the sigmas are spaced.",
        ),
    ]


def handover_inputs() -> list[io.Input]:
    """Return when the low-noise expert takes over."""
    return [
        io.Combo.Input(
            "handover",
            options=list(schedule.HANDOVERS),
            default="boundary",
            tooltip="When the low-noise expert takes over. boundary: Wan 2.2's own rule, timestep below 900 "
            "(20 steps at shift 8: after 10). step: at handover_step. half: after half of the steps.",
        ),
        io.Int.Input(
            "handover_step",
            default=10,
            min=0,
            max=10000,
            tooltip="First step of the low-noise expert, counted from 0. Used when handover is 'step'.",
        ),
    ]


def boundary_input(*, advanced: bool) -> io.Input:
    """Return the boundary."""
    return io.Float.Input(
        "boundary",
        default=BOUNDARY_I2V,
        min=0.0,
        max=1.0,
        step=0.005,
        round=0.001,
        tooltip="Used when handover is 'boundary': timesteps from this fraction of 1000 on are high noise. 0.9 for "
        "image-to-video experts, 0.875 for text-to-video ones.",
        advanced=advanced,
    )


def advanced_inputs() -> list[io.Input]:
    """Return the inputs that few runs need."""
    return [
        boundary_input(advanced=True),
        cfg_low_noise_input(advanced=True),
        io.Float.Input(
            "cfg_gate",
            default=1.0,
            min=0.05,
            max=1.0,
            step=0.05,
            round=0.01,
            tooltip="Fraction of each expert's steps with full guidance; after them the negative prompt is not "
            "computed and the last difference is reused. 0.5 computes a quarter less. 1: off, exact.",
            advanced=True,
        ),
    ]


def prelude_inputs() -> list[io.Input]:
    """Return the prelude's model and what makes its steps; all optional, as prompts of earlier versions have none."""
    return [
        io.Model.Input(
            "model_prelude",
            optional=True,
            tooltip="The base high-noise model without LoRA. It makes the first steps with guidance, which gives "
            "back the motion that 4-step LoRAs lose. Not connected: no prelude.",
        ),
        *prelude_settings("steps"),
    ]


def prelude_settings(default: str) -> list[io.Input]:
    """Return what makes the prelude's steps."""
    return [
        io.Combo.Input(
            "prelude",
            options=list(prelude.STRATEGIES),
            default=default,
            optional=True,
            tooltip="How long the prelude is. none: no prelude. steps: prelude_steps. sigma: until prelude_sigma.",
        ),
        io.Int.Input(
            "prelude_schedule",
            default=20,
            min=1,
            max=10000,
            optional=True,
            tooltip="Steps of the prelude model's whole schedule, of which the prelude makes the first.",
        ),
        io.Int.Input(
            "prelude_steps",
            default=3,
            min=1,
            max=10000,
            optional=True,
            tooltip="Steps of the prelude. Used when prelude is 'steps'.",
        ),
        io.Float.Input(
            "prelude_sigma",
            default=0.97,
            min=0.0,
            max=1.0,
            step=0.005,
            round=0.0001,
            optional=True,
            tooltip="The prelude makes the steps that begin above this sigma. Used when prelude is 'sigma'.",
        ),
        io.Float.Input(
            "prelude_cfg",
            default=3.5,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            optional=True,
            tooltip="Guidance scale of the prelude.",
        ),
        io.Combo.Input(
            "prelude_end",
            options=list(prelude.ENDS),
            default="snap",
            optional=True,
            advanced=True,
            tooltip="snap: the prelude's last step ends at the next sigma of the few-step schedule, so that 4-step "
            "LoRAs run at the sigmas that they are made for. exact: it ends where its own schedule says.",
        ),
    ]
