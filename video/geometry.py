"""Sizes and lengths that Wan can generate, and what to do with those that it cannot. Pure arithmetic."""

from __future__ import annotations

from typing import NamedTuple

SIZE_MIN = 16
SIZE_MAX = 4096
# The Wan 2.1 VAE downscales by 8 and the transformer's patches are 2x2 latent pixels (Wan2.2 configs: vae_stride
# (4, 8, 8), patch_size (1, 2, 2)), so the generated width and height are multiples of 16.
SIZE_STEP = 16
# vae_stride's first entry: every latent frame but the first holds four video frames.
FRAMES_PER_LATENT = 4


class VideoSize(NamedTuple):
    """Width and height in pixels, as asked for (``exact``) and as the model generates them."""

    width: int
    height: int
    generated_width: int
    generated_height: int


def video_size(width: int, height: int) -> VideoSize:
    """Return the exact and the generated size; the latter is the next multiple of 16, cropped away on the way out.

    Raises:
        ValueError: a size is odd or outside 16...4096; the message names the nearest valid sizes.
    """
    error = size_error("width", width) or size_error("height", height)
    if error:
        raise ValueError(error)
    return VideoSize(width, height, _next_multiple(width), _next_multiple(height))


def size_error(name: str, pixels: int) -> str | None:
    """Say what is wrong with one side of the video, or None when it is even and within 16...4096 pixels."""
    if SIZE_MIN <= pixels <= SIZE_MAX and pixels % 2 == 0:
        return None
    below = min(max(pixels - pixels % 2, SIZE_MIN), SIZE_MAX)
    above = min(max(pixels + pixels % 2, SIZE_MIN), SIZE_MAX)
    nearest = f"{below}" if below == above else f"{below} or {above}"
    return (
        f"{name} is {pixels}, but must be an even number of pixels from {SIZE_MIN} to {SIZE_MAX} "
        f"(video colour is stored for blocks of 2x2 pixels). Use {nearest}."
    )


def snap_length(length: int) -> int:
    """Return the longest valid number of frames, 4n+1, that is not above ``length`` (at least 1).

    Wan's VAE keeps ``1 + 4 * ((length - 1) // 4)`` frames; an end image on a later frame would be lost.
    """
    if length < 1:
        raise ValueError(f"length is {length}, but a video needs at least 1 frame. Use 81, or another 4n+1.")
    return 1 + FRAMES_PER_LATENT * ((length - 1) // FRAMES_PER_LATENT)


def latent_frames(length: int) -> int:
    """Return how many latent frames hold ``length`` video frames."""
    return (length - 1) // FRAMES_PER_LATENT + 1


def parse_hex_colour(name: str, text: str) -> tuple[float, float, float]:
    """Turn ``#rrggbb`` into red, green and blue in 0...1.

    Raises:
        ValueError: ``text`` is not ``#`` and six hexadecimal digits.
    """
    digits = text.strip().removeprefix("#")
    if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise ValueError(f"{name} is {text!r}, but must be a colour like #000000 (black) or #ffffff (white).")
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue


def _next_multiple(pixels: int) -> int:
    return -(-pixels // SIZE_STEP) * SIZE_STEP
