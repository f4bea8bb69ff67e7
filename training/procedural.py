"""Pictures from formulas: gradients, shapes, stripes, clouds and mixtures. No licence is needed."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def picture(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return one procedural picture, float [3, height, width], 0...1."""
    canvas = _gradient(height, width, generator)
    for _ in range(_integer(1, 5, generator)):
        kind = _integer(0, 3, generator)
        layer = (_gradient, _stripes, _clouds)[kind](height, width, generator) if kind < 3 else _flat(generator)
        mask = (_disc, _polygon, _cloud_mask)[_integer(0, 2, generator)](height, width, generator)
        canvas = canvas + (layer - canvas) * mask
    return canvas.clamp(0, 1)


def _number(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _integer(low: int, high: int, generator: torch.Generator) -> int:
    """Return a whole number from ``low`` to ``high``, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _flat(generator: torch.Generator) -> torch.Tensor:
    return torch.rand(3, 1, 1, generator=generator)


def _grid(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x and y, each [height, width], -1...1 along the shorter side."""
    short = min(height, width)
    y = (torch.arange(height) + 0.5 - height / 2) / (short / 2)
    x = (torch.arange(width) + 0.5 - width / 2) / (short / 2)
    return x.expand(height, width), y[:, None].expand(height, width)


def _along(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return the coordinate along a random direction, [height, width]."""
    x, y = _grid(height, width)
    angle = _number(0, 2 * math.pi, generator)
    return x * math.cos(angle) + y * math.sin(angle)


def _gradient(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    weight = (_along(height, width, generator) * 0.5 + 0.5).clamp(0, 1)
    first, last = _flat(generator), _flat(generator)
    return first + (last - first) * weight


def _stripes(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    wave = torch.sin(_along(height, width, generator) * _number(3, 40, generator)) * _number(1, 6, generator)
    first, last = _flat(generator), _flat(generator)
    return first + (last - first) * torch.sigmoid(wave)


def _noise(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """Return a sum of smooth random fields of halving size, [height, width], about 0 with deviation 1."""
    total = torch.zeros(height, width)
    roughness = _number(0.35, 0.8, generator)
    for octave in range(6):
        cells = 2 ** (octave + 1)
        field = torch.randn(1, 1, cells + 1, cells + 1, generator=generator)
        smooth = F.interpolate(field, (height, width), mode="bicubic", align_corners=True)
        total += smooth[0, 0] * roughness**octave
    return (total - total.mean()) / (total.std() + 1e-6)


def _clouds(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    base, spread = _flat(generator), torch.rand(3, 1, 1, generator=generator) * 0.25
    shared, own = _noise(height, width, generator), _noise(height, width, generator)
    return (base + spread * shared + 0.05 * own).clamp(0, 1)


def _cloud_mask(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    sharpness = 2 ** _number(0, 5, generator)
    return torch.sigmoid((_noise(height, width, generator) - 0.3) * sharpness)


def _disc(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    x, y = _grid(height, width)
    centre_x, centre_y = _number(-1, 1, generator), _number(-1, 1, generator)
    stretch, radius = _number(0.5, 2, generator), _number(0.1, 0.9, generator)
    distance = ((x - centre_x) ** 2 + ((y - centre_y) * stretch) ** 2).sqrt()
    return ((radius - distance) * min(height, width) / 2 + 0.5).clamp(0, 1)  # an edge one pixel wide


def _polygon(height: int, width: int, generator: torch.Generator) -> torch.Tensor:
    sides = _integer(3, 6, generator)
    mask = torch.ones(height, width)
    x, y = _grid(height, width)
    turn, centre_x, centre_y = _number(0, 6.3, generator), _number(-1, 1, generator), _number(-1, 1, generator)
    for side in range(sides):
        angle = turn + 2 * math.pi * side / sides
        reach = _number(0.15, 0.8, generator)
        distance = (x - centre_x) * math.cos(angle) + (y - centre_y) * math.sin(angle)
        mask = torch.minimum(mask, ((reach - distance) * min(height, width) / 2 + 0.5).clamp(0, 1))
    return mask
