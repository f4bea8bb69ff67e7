"""The video's size, travelling from node 67 to node 73 inside the latent."""

from __future__ import annotations

from ..video.geometry import VideoSize

# A key of the LATENT dict. Core latent nodes copy unknown keys even when they resize the latent, so the size counts
# only while the frames still have the generated size.
SIZE_KEY = "wan_flf2v_size"


def exact_size(latent: dict, width: int, height: int) -> tuple[int, int] | None:
    """Return (width, height) to crop frames of this size to, or None when the latent was changed since node 67."""
    size: VideoSize | None = latent.get(SIZE_KEY)
    if size is None or (size.generated_width, size.generated_height) != (width, height):
        return None
    return size.width, size.height
