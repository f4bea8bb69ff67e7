"""What differs between the supported versions of ComfyUI: each feature that only some of them have, in one place."""

from __future__ import annotations

import contextlib
from typing import Any

import comfy.model_management


def device_context(device: Any) -> contextlib.AbstractContextManager:
    """Make ``device`` the current one, where ComfyUI's own VAE code does so (0.30.0 does, 0.18.2 does not)."""
    context = getattr(comfy.model_management, "cuda_device_context", None)
    return contextlib.nullcontext() if context is None else context(device)
