"""The transitions that the prompt's words name, drawn exactly: what the experts learn and what quality is judged by.

``start`` and ``end`` are [3, height, width], 0...1; a clip is [3, frames, height, width]. Frame 0 is ``start`` and the
last frame is ``end`` in every transition.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F

# An edge this wide keeps a moving border from jumping pixel by pixel.
_SOFT_PIXELS = 2.0


def dissolve(start: torch.Tensor, end: torch.Tensor, progress: float) -> torch.Tensor:
    """Mix the two pictures."""
    return start + (end - start) * progress


def wipe_left(start: torch.Tensor, end: torch.Tensor, progress: float) -> torch.Tensor:
    """Uncover the end picture from the right edge to the left."""
    return wipe_right(start.flip(-1), end.flip(-1), progress).flip(-1)


def wipe_right(start: torch.Tensor, end: torch.Tensor, progress: float) -> torch.Tensor:
    """Uncover the end picture from the left edge to the right."""
    width = start.shape[-1]
    border = progress * (width + 2 * _SOFT_PIXELS) - _SOFT_PIXELS
    return dissolve(start, end, _edge(border - (torch.arange(width) + 0.5)))  # type: ignore[arg-type]


def circle(start: torch.Tensor, end: torch.Tensor, progress: float) -> torch.Tensor:
    """Open a disc from the centre; the end picture is inside."""
    height, width = start.shape[-2:]
    y = torch.arange(height)[:, None] + 0.5 - height / 2
    x = torch.arange(width) + 0.5 - width / 2
    reach = math.hypot(height, width) / 2 + 2 * _SOFT_PIXELS
    return dissolve(start, end, _edge(progress * reach - _SOFT_PIXELS - torch.hypot(x, y)))  # type: ignore[arg-type]


def slide_left(start: torch.Tensor, end: torch.Tensor, progress: float) -> torch.Tensor:
    """Push the start picture out at the left; the end picture follows from the right."""
    return _window(torch.cat([start, end], dim=-1), progress)


def slide_right(start: torch.Tensor, end: torch.Tensor, progress: float) -> torch.Tensor:
    """Push the start picture out at the right; the end picture follows from the left."""
    return _window(torch.cat([end, start], dim=-1), 1 - progress)


def zoom_in(start: torch.Tensor, end: torch.Tensor, progress: float) -> torch.Tensor:
    """Enlarge the start picture about its centre while it turns into the end picture, which settles from behind."""
    near, far = _enlarge(start, 1 + progress), _enlarge(end, 2 - progress)
    return dissolve(near, far, _smooth(progress))


TRANSITIONS: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "dissolve": dissolve,
    "wipe left": wipe_left,
    "wipe right": wipe_right,
    "circle": circle,
    "slide left": slide_left,
    "slide right": slide_right,
    "zoom in": zoom_in,
}


def transition_clip(word: str, start: torch.Tensor, end: torch.Tensor, frames: int) -> torch.Tensor:
    """Return the whole transition, [3, frames, height, width]; ``frames`` is at least 2."""
    draw = TRANSITIONS[word]
    return torch.stack([draw(start, end, i / (frames - 1)) for i in range(frames)], dim=1)


def _edge(inside: torch.Tensor) -> torch.Tensor:
    """Return 1 inside a border and 0 outside, from the distance in pixels, with a soft edge."""
    return (inside / _SOFT_PIXELS + 0.5).clamp(0, 1)


def _smooth(progress: float) -> float:
    return progress * progress * (3 - 2 * progress)


def _window(strip: torch.Tensor, offset: float) -> torch.Tensor:
    """Cut a picture's width out of two pictures side by side, ``offset`` widths from the left, between pixels too."""
    width = strip.shape[-1] // 2
    left = offset * width
    whole = min(int(left), width - 1)
    part = left - whole
    return strip[..., whole : whole + width] * (1 - part) + strip[..., whole + 1 : whole + 1 + width] * part


def _enlarge(picture: torch.Tensor, factor: float) -> torch.Tensor:
    theta = torch.tensor([[[1 / factor, 0, 0], [0, 1 / factor, 0]]])
    grid = F.affine_grid(theta, (1, *picture.shape), align_corners=False)
    return F.grid_sample(picture[None], grid, mode="bilinear", padding_mode="border", align_corners=False)[0]
