"""What differs between the supported ComfyUI versions (0.18.2 to the newest): each probe for a feature, once."""

from __future__ import annotations

import contextlib
import inspect
from importlib import import_module
from typing import Any

import comfy.memory_management
import comfy.model_management
import comfy.sample
import torch


def release_model_buffers() -> None:
    """Free the staging memory of the model that ran, as the host does after each node where it streams weights.

    With the host's dynamic memory manager (aimdo), the pinned memory of a model counts as in use until then, so the
    next expert could not have it. Without that manager nothing is held and nothing is done. The order is that of
    ComfyUI after 0.30: prefetch entries alias the cast buffers, so their queues are cleaned up first.
    """
    if not comfy.memory_management.aimdo_enabled:
        return
    if hasattr(comfy, "model_prefetch"):  # not in every host that has the manager
        comfy.model_prefetch.cleanup_prefetch_queues()
    comfy.model_management.reset_cast_buffers()
    import_module("comfy_aimdo.model_vbar").vbars_reset_watermark_limits()


def fix_empty_latent(model: Any, latent: dict[str, Any]) -> torch.Tensor:
    """Return the samples of a LATENT; an empty one of another model family gets the shape that ``model`` takes.

    Newer hosts look at more of the latent's keys: those that the host's function takes are passed on.
    """
    adapt = comfy.sample.fix_empty_latent_channels
    known = {key: latent[key] for key in inspect.signature(adapt).parameters if key in latent}
    return adapt(model, latent["samples"], **known)


def device_context(device: torch.device) -> contextlib.AbstractContextManager:
    """Make ``device`` the current one, where ComfyUI's own VAE code does so (0.30.0 does, 0.18.2 does not)."""
    context = getattr(comfy.model_management, "cuda_device_context", None)
    return contextlib.nullcontext() if context is None else context(device)


def frame_interpolation() -> Any:
    """Return ComfyUI's node that interpolates frames, or None before 0.24, where there is none."""
    with contextlib.suppress(ImportError, AttributeError):
        return import_module("comfy_extras.nodes_frame_interpolation").FrameInterpolate
    return None


def trim_window(video: Any) -> tuple[float, float] | None:
    """Return the second where a trimmed VIDEO begins and its length in seconds (0: to the end); None if it is whole."""
    if hasattr(video, "get_active_trim_window"):
        start, duration = video.get_active_trim_window()
    else:  # ComfyUI 0.18.2 keeps them to itself
        start, duration = (getattr(video, f"_VideoFromFile__{name}", 0) for name in ("start_time", "duration"))
        if start < 0:  # counted from the end
            start = max(video._get_raw_duration() + start, 0)  # it has no public name there
    return (start, duration) if start or duration else None


def host_version() -> str:
    """Return ComfyUI's version."""
    return str(import_module("comfyui_version").__version__)
