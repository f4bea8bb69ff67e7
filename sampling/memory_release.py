"""What the host lets go of between two nodes, let go of between two experts."""

from __future__ import annotations

from importlib import import_module

import comfy.memory_management
import comfy.model_management


def release_cast_buffers() -> None:
    """Free the staging memory of the expert that ran, as the host does after each node where it streams weights.

    With its dynamic memory manager (aimdo), pinned memory of a model counts as in use until then, so that the next
    expert could not have it. Without that manager nothing is held and nothing is done.
    """
    if not comfy.memory_management.aimdo_enabled:
        return
    comfy.model_management.reset_cast_buffers()
    if hasattr(comfy, "model_prefetch"):  # not in every host that has the manager
        comfy.model_prefetch.cleanup_prefetch_queues()
    import_module("comfy_aimdo.model_vbar").vbars_reset_watermark_limits()
