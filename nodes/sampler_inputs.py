"""The inputs that the sampler, the guider and the plan share, and the guider that comes of them."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..preflight import checks
from ..sampling import schedule
from ..sampling.gate import refuse_with_cfg_functions
from ..sampling.phases import Expert, PhasedGuider
from ..sampling.schedule import RunSettings
from ..wan import BOUNDARY_I2V


def expert_inputs() -> list[io.Input]:
    """Return the sockets of the two experts and their conditioning."""
    return [
        io.Model.Input(
            "model_high_noise",
            tooltip="The high-noise expert, after ModelSamplingSD3 (shift) and any LoRA of its own.",
        ),
        io.Model.Input(
            "model_low_noise",
            tooltip="The low-noise expert and any LoRA of its own. It follows the high-noise expert's shift.",
        ),
        io.Conditioning.Input("positive", tooltip="From Wan FLF2V First/Last Frame."),
        io.Conditioning.Input("negative", tooltip="From Wan FLF2V First/Last Frame."),
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
    """Return the low-noise expert's own guidance scale."""
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
    """Return what few runs need."""
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
            "computed again and the last difference is used on. 0.5 computes a quarter less. 1: off, exact.",
            advanced=True,
        ),
    ]


def make_guider(
    hidden: Any,
    settings: RunSettings,
    latent: dict | None,
    *,
    model_high_noise: Any,
    model_low_noise: Any,
    positive: list,
    negative: list,
) -> tuple[PhasedGuider, list[str]]:
    """Return the guider of a node's inputs and the warnings about them; no model is loaded or changed.

    ``hidden`` is the node's. ``latent`` is ``None`` where the node does not know it.

    Raises:
        ValueError: the inputs do not go together.
    """
    warnings = checks.check_run(
        model_high_noise,
        model_low_noise,
        positive,
        latent,
        hidden.prompt,
        hidden.unique_id,
        steps=settings.steps,
        cfg=settings.cfg,
        cfg_low=settings.cfg_low,
    )
    low = schedule.follow_schedule(model_low_noise, model_high_noise)
    experts = []
    for name, model, cfg in (("high", model_high_noise, settings.cfg), ("low", low, settings.cfg_low)):
        if settings.cfg_gate < 1:
            refuse_with_cfg_functions(model.model_options, settings.sampler_name)
        experts.append(Expert(name, model, positive, negative, cfg, settings.cfg_gate))
    return PhasedGuider(*experts, settings), warnings
