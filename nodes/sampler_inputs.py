"""The inputs that node 57, the guider and the plan share."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..sampling import schedule
from ..wan import BOUNDARY_I2V


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
            "computed and the last difference is reused. 0.5 computes a quarter less. 1: off, exact.",
            advanced=True,
        ),
    ]
