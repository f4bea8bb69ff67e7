"""Node 57: one schedule over the high-noise and the low-noise expert."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..sampling import experts, preflight, schedule
from .notice import show_notice


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
                "the rest, on one schedule. Steps, cfg, seed and shift are set once and cannot disagree."
            ),
            search_aliases=["wan moe", "dual model sampler", "high low noise", "KSampler wan 2.2", "two experts"],
            inputs=[*_sockets(), *_settings()],
            outputs=[io.Latent.Output(display_name="latent", tooltip="The denoised latent.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model_high_noise: Any,
        model_low_noise: Any,
        positive: list,
        negative: list,
        latent_image: dict,
        noise_seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        handover: str,
        handover_step: int,
    ) -> io.NodeOutput:
        """Check, plan the hand-over, sample."""
        warnings = preflight.check_run(
            model_high_noise,
            model_low_noise,
            positive,
            latent_image,
            cls.hidden.prompt,
            cls.hidden.unique_id,
            steps=steps,
            cfg=cfg,
            cfg_low=cfg,
        )
        low = schedule.follow_schedule(model_low_noise, model_high_noise)
        sigmas = schedule.schedule_sigmas(model_high_noise, sampler_name, scheduler, steps)
        model_sampling = model_high_noise.get_model_object("model_sampling")
        first_low_step = schedule.handover_step(model_sampling, sigmas, handover, handover_step)
        total = len(sigmas) - 1
        show_notice(
            cls.hidden.unique_id,
            f"{total} steps: {first_low_step} high noise, {total - first_low_step} low noise",
            warnings=warnings,
        )
        samples = experts.sample_experts(
            model_high_noise,
            low,
            sigmas=sigmas,
            handover=first_low_step,
            seed=noise_seed,
            cfg=cfg,
            sampler_name=sampler_name,
            positive=positive,
            negative=negative,
            latent=latent_image,
        )
        # The host's keys about an empty latent's shape are spent once it has been sampled.
        kept = {key: value for key, value in latent_image.items() if not key.startswith("downscale_ratio_")}
        return io.NodeOutput({**kept, "samples": samples})


def _sockets() -> list[io.Input]:
    """Return the inputs that come from other nodes."""
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
        io.Latent.Input("latent_image", tooltip="From Wan FLF2V First/Last Frame."),
    ]


def _settings() -> list[io.Input]:
    """Return the inputs that have a widget."""
    return [
        io.Int.Input(
            "noise_seed",
            default=96860978,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            control_after_generate=True,
            tooltip="The same seed and settings give the same video.",
        ),
        io.Int.Input(
            "steps",
            default=20,
            min=1,
            max=10000,
            tooltip="Denoising steps of the whole run, both experts together. With 4-step LoRAs: 4.",
        ),
        io.Float.Input(
            "cfg",
            default=4.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip="Guidance scale: how closely the video follows the prompt. 1 runs twice as fast, without "
            "the negative prompt (for 4-step LoRAs).",
        ),
        io.Combo.Input(
            "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="euler", tooltip="The solver."
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="simple",
            tooltip="How the sigmas are spaced.",
        ),
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
