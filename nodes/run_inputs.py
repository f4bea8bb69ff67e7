"""The inputs of a run that nodes share: experts, schedule, guidance, hand-over, resume, prelude."""

from __future__ import annotations

import comfy.samplers
from comfy_api.latest import io

from ..sampling import prelude, schedule
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


def resume_input() -> io.Input:
    """Return whether the steps before the hand-over may come from an earlier run."""
    return io.Boolean.Input(
        "resume",
        default=True,
        optional=True,
        advanced=True,
        tooltip="Where only what the low-noise expert sees has changed since an earlier run, such as its LoRA or "
        "cfg_low_noise, the high-noise steps are not run again; the result is the same, bit for bit. Off: all steps "
        "are run, and nothing is kept in main memory.",
    )


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
