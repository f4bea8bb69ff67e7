"""What keeps one expert's run from being nested in the other's."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension

_MASK_FUNCTION = "denoise_mask_function"


def nesting_obstacle(high: Any, low: Any, *, has_mask: bool) -> str | None:
    """Return why the two guiders cannot share one sampler call, ``None`` if they can.

    Three things belong to a whole sampler call and cannot change within it:

    - ``SAMPLER_SAMPLE`` wrappers of one expert that the other has not (they wrap the call);
    - a ``denoise_mask_function`` of one expert only, where there is a mask (the sampler call reads it once);
    - clones on several devices (the call holds their threads), or experts on different devices.
    """
    if high.model_patcher.load_device != low.model_patcher.load_device:
        return "the experts are on different devices"
    if any(_devices(guider) for guider in (high, low)):
        return "an expert is spread over several devices"
    if set(_sampler_wrappers(low)) != set(_sampler_wrappers(high)):
        return "one expert has a wrapper around the sampler call that the other has not"
    functions = [guider.model_options.get(_MASK_FUNCTION) for guider in (high, low)]
    if has_mask and functions[0] != functions[1]:
        return "the experts have different denoise mask functions"
    return None


def _devices(guider: Any) -> list:
    return list(guider.model_patcher.get_additional_models_with_key("multigpu"))


def _sampler_wrappers(guider: Any) -> list:
    """Return the wrappers that a model patcher carries and those in its options."""
    kind = comfy.patcher_extension.WrappersMP.SAMPLER_SAMPLE
    own = guider.model_patcher.get_all_wrappers(kind)
    return [*own, *comfy.patcher_extension.get_all_wrappers(kind, guider.model_options, is_model_options=True)]
