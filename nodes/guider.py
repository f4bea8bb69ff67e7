"""The two experts as one GUIDER, for the host's SamplerCustomAdvanced."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.samplers
from comfy_api.latest import io

from .notice import show_notice
from .run_inputs import (
    advanced_inputs,
    cfg_input,
    expert_inputs,
    handover_inputs,
    prelude_inputs,
    resume_input,
)
from .sampler import make_guider, run_settings


class WanFLF2VGuider(io.ComfyNode):
    """Guide one sampler run over both Wan 2.2 experts."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="WanFLF2VGuider",
            display_name="Wan FLF2V Guider",
            category="video/wan flf2v",
            description=(
                "Both Wan 2.2 experts as one guider for SamplerCustomAdvanced: any sampler and any sigmas run once "
                "over the whole schedule, and the low-noise model takes over on the way. The solver keeps its history."
            ),
            search_aliases=["wan moe guider", "dual model guider", "high low noise guider"],
            inputs=[
                *expert_inputs(),
                cfg_input(),
                *handover_inputs(),
                *advanced_inputs(),
                resume_input(),
                *prelude_inputs(),
                io.Combo.Input(
                    "prelude_scheduler",
                    options=comfy.samplers.KSampler.SCHEDULERS,
                    default="simple",
                    optional=True,
                    tooltip="How the sigmas of the prelude's schedule are spaced.",
                ),
            ],
            outputs=[io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced.")],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model_high_noise: Any,
        model_low_noise: Any,
        positive: list,
        negative: list,
        model_prelude: Any = None,
        prelude_scheduler: str = "simple",
        **settings: Any,
    ) -> io.NodeOutput:
        """Check the experts; nothing is loaded before the sampler runs."""
        models = {
            "model_high_noise": model_high_noise,
            "model_low_noise": model_low_noise,
            "model_prelude": model_prelude,
        }
        conditioning = {"positive": positive, "negative": negative}
        # The sampler gives the experts' sigmas, and with them denoise; a scheduler is needed for the prelude alone.
        run = replace(run_settings(model_prelude, **settings), scheduler=prelude_scheduler, denoise=None)
        guider, warnings = make_guider(cls.hidden, run, None, **models, **conditioning)
        if warnings:
            show_notice(cls.hidden.unique_id, "\n".join(warnings), warning=True)
        return io.NodeOutput(guider)
