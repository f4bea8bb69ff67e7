"""The inputs that the sampler and the guider share: two experts, their conditioning, guidance and hand-over."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..sampling import schedule
from ..sampling.gate import refuse_with_cfg_functions
from ..sampling.guider import DualExpertGuider, Guidance, Handover


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


def advanced_inputs() -> list[io.Input]:
    """Return what few runs need."""
    return [
        io.Float.Input(
            "boundary",
            default=schedule.BOUNDARY,
            min=0.0,
            max=1.0,
            step=0.005,
            round=0.001,
            tooltip="Used when handover is 'boundary': timesteps from this fraction of 1000 on are high noise. 0.9 for "
            "image-to-video experts, 0.875 for text-to-video ones.",
            advanced=True,
        ),
        io.Float.Input(
            "cfg_low_noise",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Guidance scale of the low-noise expert. 0: the same as cfg.",
            advanced=True,
        ),
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
    model_high_noise: Any,
    model_low_noise: Any,
    positive: list,
    negative: list,
    *,
    cfg: float,
    cfg_low_noise: float,
    cfg_gate: float,
    handover: Handover,
    sampler_name: str = "",
) -> DualExpertGuider:
    """Return the guider of checked inputs; no model is loaded or changed. ``ValueError`` if they do not go together."""
    low = schedule.follow_schedule(model_low_noise, model_high_noise)
    if cfg_gate < 1:
        for model in (model_high_noise, low):
            refuse_with_cfg_functions(model.model_options, sampler_name)
    guidance = Guidance(positive, negative, cfg, cfg_gate)
    return DualExpertGuider(model_high_noise, low, guidance, cfg_low_noise or cfg, handover)
