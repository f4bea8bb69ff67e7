"""An image at the video's size, as the conditioning node makes it, without torch.

``video/frames.py`` does the same with ComfyUI's ``common_upscale``; a test compares the two on every version.
"""

from __future__ import annotations

import numpy as np

from .metrics import Array, as_unit

FITS = ("crop", "pad", "stretch")
Colour = tuple[float, float, float]


def fitted(image: Array, width: int, height: int, fit: str, background: Colour) -> Array:
    """Return an image as float [height, width, 3] in 0...1.

    Args:
        image: [height, width, 3 or 4], uint8 or float in 0...1; the fourth channel is alpha.
        width: of the video.
        height: of the video.
        fit: ``crop`` fills the frame and cuts what is outside, ``pad`` shows all of the image on the background,
            ``stretch`` ignores the aspect ratio.
        background: red, green and blue in 0...1, behind transparent parts and around padded images.
    """
    image = as_unit(image)
    if image.shape[-1] == 4:
        image = image[..., :3] * image[..., 3:] + np.array(background) * (1 - image[..., 3:])
    if fit == "pad":
        scale = min(width / image.shape[1], height / image.shape[0])
        inner_width = min(width, max(1, round(image.shape[1] * scale)))
        inner_height = min(height, max(1, round(image.shape[0] * scale)))
        canvas = np.empty((height, width, 3))
        canvas[:] = background
        top, left = (height - inner_height) // 2, (width - inner_width) // 2
        canvas[top : top + inner_height, left : left + inner_width] = resized(image, inner_width, inner_height)
        return canvas
    if fit == "crop":
        image = _centre(image, width / height)
    return resized(image, width, height)


def _centre(image: Array, aspect: float) -> Array:
    """Cut an image to an aspect ratio around its centre, with the rounding of ComfyUI's ``common_upscale``."""
    height, width = image.shape[:2]
    own = width / height
    x = round((width - width * (aspect / own)) / 2) if own > aspect else 0
    y = round((height - height * (own / aspect)) / 2) if own < aspect else 0
    return image[y : height - y, x : width - x]


def resized(image: Array, width: int, height: int) -> Array:
    """Return [h, w, channels] at another size: bilinear between the two nearest pixels, no filter against aliasing.

    That is PyTorch's ``interpolate(mode="bilinear")``, which ``common_upscale`` calls.
    """
    image = _along(image, 0, height)
    return _along(image, 1, width)


def _along(image: Array, axis: int, length: int) -> Array:
    old = image.shape[axis]
    if old == length:
        return image
    place = np.maximum((np.arange(length) + 0.5) * (old / length) - 0.5, 0)
    below = np.minimum(place.astype(int), old - 1)
    part = (place - below).reshape([-1 if i == axis else 1 for i in range(image.ndim)])
    above = np.minimum(below + 1, old - 1)
    mixed: Array = image.take(below, axis) * (1 - part) + image.take(above, axis) * part
    return mixed


def parse_hex_colour(name: str, text: str) -> Colour:
    """Turn ``#rrggbb`` into red, green and blue in 0...1; ``ValueError`` if it is no such text."""
    digits = text.strip().removeprefix("#")
    if len(digits) != 6 or any(digit not in "0123456789abcdefABCDEF" for digit in digits):
        raise ValueError(f"{name} is {text!r}, but must be a colour like #000000 (black) or #ffffff (white).")
    red, green, blue = (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    return red, green, blue
