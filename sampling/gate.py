"""Skip the unconditional prediction in late steps; reuse its last difference."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.samplers
import torch

from .record import POST_CFG
from .schedule import reached

# The host's keys in a model's options for what needs the unconditional prediction, and what refusals call them. The
# last is set by patches that compare both predictions inside the model, such as NAG, or that want both even at cfg 1.
_NEEDS_BOTH = {
    POST_CFG: "a node such as CFGNorm or a cfg_pp sampler",
    "sampler_pre_cfg_function": "a model patch (sampler_pre_cfg_function)",
    "sampler_cfg_function": "a model patch (sampler_cfg_function)",
    "sampler_calc_cond_batch_function": "a model patch (sampler_calc_cond_batch_function)",
    "disable_cfg1_optimization": "a model patch such as NAGuidance (disable_cfg1_optimization)",
}


class GuidanceGate:
    """The gate of one phase. It closes after a fraction of the steps; then the last full step's guidance is used.

    The guided prediction is ``cond + (cfg - 1) * (cond - uncond)`` (Ho & Salimans 2022, eq. 6). After the
    gate has closed, only ``cond`` is computed, one row instead of two, and the difference is that of the last call
    before. It changes little in late steps (Lv et al. 2024, FasterCache, 3.3). It is kept as a velocity, which is what
    the model predicts: for a flow the denoised latent is ``x - sigma * velocity``.
    """

    def __init__(self, fraction: float, sigmas: torch.Tensor) -> None:
        """Open the gate for a phase whose steps begin at ``sigmas`` [steps]."""
        full = math.ceil(fraction * len(sigmas))
        self.close_sigma = float(sigmas[full]) if full < len(sigmas) else None
        self._velocity: torch.Tensor | None = None  # cond - uncond

    def predict(
        self, guider: Any, predict: Callable, x: torch.Tensor, timestep: torch.Tensor, model_options: dict, seed: Any
    ) -> torch.Tensor:
        """Return the guided prediction; ``predict`` is the host's ``predict_noise`` of ``guider``."""
        if self.close_sigma is None:
            return predict(x, timestep, model_options, seed)
        refuse_with_cfg_functions(model_options)
        if self._velocity is not None and reached(float(timestep.max()), self.close_sigma):
            conds = (None, guider.conds["positive"])
            cond = comfy.samplers.sampling_function(
                guider.inner_model, x, timestep, *conds, 1.0, model_options=model_options, seed=seed
            )
            return cond - (guider.cfg - 1.0) * _per_item(timestep, x) * self._velocity
        options = comfy.model_patcher.create_model_options_clone(model_options)
        comfy.model_patcher.set_model_options_post_cfg_function(options, self._keep)
        return predict(x, timestep, options, seed)

    def _keep(self, call: dict[str, Any]) -> torch.Tensor:
        difference = call["uncond_denoised"] - call["cond_denoised"]
        self._velocity = difference / _per_item(call["sigma"], difference)
        return call["denoised"]


def _per_item(sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return sigma [batch] so that it multiplies the items of ``x`` [batch, …]."""
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def refuse_with_cfg_functions(model_options: dict[str, Any], sampler_name: str = "") -> None:
    """Refuse a gate where something else needs the unconditional prediction of every step.

    Raises:
        ValueError: the sampler is a cfg_pp one, or the model carries a patch that needs both predictions.
    """
    what = next((text for key, text in _NEEDS_BOTH.items() if model_options.get(key)), None)
    if is_cfg_pp(sampler_name):
        what = f"the sampler {sampler_name}"
    if what is not None:
        raise ValueError(
            f"cfg_gate is below 1, which skips unconditional predictions, but {what} needs all of them. Set cfg_gate "
            "to 1, or choose a sampler without cfg_pp and remove the patch."
        )


def is_cfg_pp(sampler_name: str) -> bool:
    """Whether a sampler is a CFG++ one by its name: ``euler_cfg_pp``, or ``euler_cfgpp`` as other packs write it."""
    return re.search("cfg_?pp", sampler_name) is not None
