"""wan-flf2v: Wan 2.2 first/last-frame video for ComfyUI.

ComfyUI reads two names here, ``comfy_entrypoint`` and ``WEB_DIRECTORY``. Nothing heavy is imported until the
host calls the entry point, so that ``wan_flf2v.client`` works on machines without torch.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the node pack's ``ComfyExtension``; the host calls this once at start-up."""
    from .nodes import WanFLF2VExtension

    return WanFLF2VExtension()
