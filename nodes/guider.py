"""The two experts as one GUIDER, for the host's SamplerCustomAdvanced."""

from __future__ import annotations

from typing import Any

import comfy.samplers
from comfy_api.latest import io

from ..sampling.progress import made_in_words
from .notice import show_notice, show_text
from .run_inputs import (
    advanced_inputs,
    cfg_input,
    expert_inputs,
    handover_inputs,
    prelude_inputs,
    resume_input,
)
from .sampler import make_guider


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
    def execute(cls, prelude_scheduler: str = "simple", **inputs: Any) -> io.NodeOutput:
        """Check the experts; nothing is loaded before the sampler runs."""
        node_id = cls.hidden.unique_id
        # The sampler gives the experts' sigmas, and with them denoise; a scheduler is needed for the prelude alone.
        guider, warnings = make_guider(cls.hidden, None, scheduler=prelude_scheduler, denoise=None, **inputs)
        if warnings:
            show_notice(node_id, "\n".join(warnings), warning=True)
        guider.on_end = lambda position: show_text(node_id, "\n".join([made_in_words([position]), *warnings]))
        return io.NodeOutput(guider)
