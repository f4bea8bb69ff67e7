"""The size and length of the video: the snap to 4n+1, multiples of 16, the crop back, and the size kept in a LATENT."""

from __future__ import annotations

from typing import NamedTuple

from .. import wan

SIZE_MIN = wan.PIXELS_PER_TOKEN
SIZE_MAX = 4096
LENGTH_MAX = 4097
# A key of the LATENT dict. Core latent nodes copy unknown keys even when they resize the latent, so the size counts
# only while the frames still have the generated size.
SIZE_KEY = "wan_flf2v_size"
# Another: how many first frames the start image gives (or a keyframe there), and how many latent frames there were.
START_KEY = "wan_flf2v_start"


class VideoSize(NamedTuple):
    """Width and height in pixels: as asked for, and as the model generates them."""

    width: int
    height: int
    generated_width: int
    generated_height: int


def video_size(width: int, height: int) -> VideoSize:
    """Return the exact and the generated size; the latter is the next multiple of 16, cropped away on the way out.

    Raises:
        ValueError: a size is odd or outside 16...4096; the message names the nearest valid sizes.
    """
    error = size_errors(width, height)
    if error:
        raise ValueError(error)
    step = wan.PIXELS_PER_TOKEN
    return VideoSize(width, height, -(-width // step) * step, -(-height // step) * step)


def size_errors(width: int | None, height: int | None) -> str:
    """Say what is wrong with each side that is given; empty if each is even and within 16...4096 pixels."""
    errors = []
    for name, pixels in (("width", width), ("height", height)):
        if pixels is None or (SIZE_MIN <= pixels <= SIZE_MAX and pixels % 2 == 0):
            continue
        below = min(max(pixels - pixels % 2, SIZE_MIN), SIZE_MAX)
        above = min(max(pixels + pixels % 2, SIZE_MIN), SIZE_MAX)
        nearest = f"{below}" if below == above else f"{below} or {above}"
        errors.append(
            f"{name} is {pixels}, but must be an even number of pixels from {SIZE_MIN} to {SIZE_MAX} "
            f"(video colour is stored for blocks of 2x2 pixels). Use {nearest}."
        )
    return " ".join(errors)


def snap_length(length: int) -> int:
    """Return the longest valid number of frames, 4n+1, that is not above ``length`` (at least 1).

    Wan's VAE keeps ``1 + 4 * ((length - 1) // 4)`` frames; an end image on a later frame would be lost.
    """
    if length < 1:
        raise ValueError(f"length is {length}, but a video needs at least 1 frame. Use 81, or another 4n+1.")
    return 1 + wan.FRAMES_PER_LATENT * (latent_frames(length) - 1)


def latent_frames(length: int) -> int:
    """Return how many latent frames hold ``length`` video frames."""
    return (length - 1) // wan.FRAMES_PER_LATENT + 1


def exact_size(latent: dict | None, width: int, height: int) -> tuple[int, int]:
    """Return (width, height) to crop frames of this size to: the same if no LATENT tells, or it was changed since."""
    size: VideoSize | None = None if latent is None else latent.get(SIZE_KEY)
    if size is None or (size.generated_width, size.generated_height) != (width, height):
        return width, height
    return size.width, size.height


def start_frames(latent: dict) -> int:
    """Return how many first frames of a LATENT are its start image's; 1 if it does not tell, or was cut since."""
    count, frames = latent.get(START_KEY, (1, None))
    return count if frames in (None, latent["samples"].shape[2]) else 1
