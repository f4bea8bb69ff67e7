"""Node 57: one schedule over the high-noise and the low-noise expert."""

from __future__ import annotations

from typing import Any

import comfy.samplers
import torch
from comfy_api.latest import io

from ..sampling import schedule
from ..sampling.experts import Run, sample_experts
from ..sampling.guider import DualExpertGuider
from ..sampling.progress import RunProgress
from .notice import show_notice, show_text
from .sampler_inputs import (
    advanced_inputs,
    cfg_input,
    expert_inputs,
    handover_inputs,
    make_guider,
    solver_inputs,
    steps_input,
)


class WanFLF2VSampler(io.ComfyNode):
    """Sample with both Wan 2.2 experts in one node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Describe the node."""
        return io.Schema(
            node_id="WanFLF2VSampler",
            display_name="Wan FLF2V Sampler",
            category="video/wan flf2v",
            description=(
                "Both Wan 2.2 experts in one sampler: the high-noise model runs the noisy steps, the low-noise model "
                "the rest, on one schedule and in one run, so that every solver keeps its history. Steps, cfg, seed "
                "and shift are set once and cannot disagree."
            ),
            search_aliases=["wan moe", "dual model sampler", "high low noise", "KSampler wan 2.2", "two experts"],
            inputs=[
                *expert_inputs(),
                io.Latent.Input("latent_image", tooltip="From Wan FLF2V First/Last Frame."),
                *_schedule_inputs(),
                *handover_inputs(),
                *advanced_inputs(),
                *_more_inputs(),
            ],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The denoised latent; one video for each seed.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        latent_image: dict,
        noise_seed: int,
        steps: int,
        sampler_name: str,
        scheduler: str,
        denoise: float,
        seed_count: int,
        sigmas: torch.Tensor | None = None,
        **experts: Any,
    ) -> io.NodeOutput:
        """Check, plan the hand-over, sample."""
        steps = steps if sigmas is None else len(sigmas) - 1
        guider, warnings = make_guider(cls.hidden, latent_image, steps, sampler_name, **experts)
        if sigmas is None:
            sigmas = schedule.schedule_sigmas(guider.model_patcher, sampler_name, scheduler, steps, denoise)
        else:
            schedule.check_sigmas(sigmas)
        sampler = comfy.samplers.sampler_object(sampler_name)
        run = Run(sampler, sigmas, latent_image, noise_seed, seed_count)
        return io.NodeOutput(_sample(guider, run, cls.hidden.unique_id, warnings))


def _sample(guider: DualExpertGuider, run: Run, node_id: str | None, warnings: list[str]) -> dict[str, Any]:
    """Sample, and show on the node what is run, how far it is, and at the end what was run; warnings stay below."""
    summary = schedule.summary(run.sigmas, guider.first_low_step(run.sigmas))
    show_notice(node_id, summary, warnings=warnings)

    def say(text: str) -> None:
        calls = [f"two sampler calls: {guider.obstacle}"] if guider.obstacle else []
        show_text(node_id, "\n".join([summary, text, *calls, *warnings]))

    progress = RunProgress(guider.model_patcher, guider.position, say)
    latent = sample_experts(guider, run, progress)
    say(progress.summary())
    return latent


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
            tooltip="A schedule of your own, in the place of steps, scheduler and denoise.",
        ),
    ]
