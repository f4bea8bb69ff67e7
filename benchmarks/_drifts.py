"""Drifts of colour to plant, and ΔE2000 (scikit-image's) to judge what is left.

Pictures are float, [3, height, width], 0...1.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from skimage.color import deltaE_ciede2000, lab2lch, lab2rgb, lch2lab, rgb2lab

from ..bootstrap.paths import REPO

# What one unit of strength is; `planted` finds the strength for a wanted ΔE2000.
_WARM = torch.tensor([1.0, 0.2, -0.8]).view(3, 1, 1)


def _gain(picture: torch.Tensor, strength: float) -> torch.Tensor:
    return picture * (1 + strength * _WARM)


def _offset(picture: torch.Tensor, strength: float) -> torch.Tensor:
    return picture + strength * _WARM


def _darker(picture: torch.Tensor, strength: float) -> torch.Tensor:
    return picture.clamp(0, 1) ** (1 + strength)


def _brighter(picture: torch.Tensor, strength: float) -> torch.Tensor:
    return picture.clamp(0, 1) ** (1 / (1 + strength))


def _in_lch(change: Callable[[np.ndarray], None]) -> Callable[[torch.Tensor], torch.Tensor]:
    def changed(picture: torch.Tensor) -> torch.Tensor:
        lch = lab2lch(_lab(picture))
        change(lch)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # colours beyond sRGB are clipped
            return torch.from_numpy(lab2rgb(lch2lab(lch))).movedim(-1, 0).float()

    return changed


def _hue(picture: torch.Tensor, strength: float) -> torch.Tensor:
    def turn(lch: np.ndarray) -> None:
        lch[..., 2] += strength

    return _in_lch(turn)(picture)


def _pale(picture: torch.Tensor, strength: float) -> torch.Tensor:
    def scale(lch: np.ndarray) -> None:
        lch[..., 1] *= math.exp(-strength)

    return _in_lch(scale)(picture)


def _saturated(picture: torch.Tensor, strength: float) -> torch.Tensor:
    return _pale(picture, -strength)


DRIFTS: dict[str, Callable[[torch.Tensor, float], torch.Tensor]] = {
    "gain": _gain,
    "offset": _offset,
    "darker gamma": _darker,
    "brighter gamma": _brighter,
    "hue": _hue,
    "pale": _pale,
    "saturated": _saturated,
}


def delta_e(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the mean ΔE2000 of two pictures."""
    return float(deltaE_ciede2000(_lab(a), _lab(b)).mean())


def planted(picture: torch.Tensor, name: str, wanted: float) -> tuple[torch.Tensor, float]:
    """Return the picture with a drift of mean ΔE2000 ``wanted``, and its strength; less if strength 1 gives less."""
    low, high, coarse = 0.0, 1.0, picture[:, ::3, ::3]
    for _ in range(8):
        middle = (low + high) / 2
        if delta_e(eight_bits(DRIFTS[name](coarse, middle)), coarse) < wanted:
            low = middle
        else:
            high = middle
    return eight_bits(DRIFTS[name](picture, low)), low


def lossy(picture: torch.Tensor, seed: int) -> torch.Tensor:
    """Return the picture as a decoder might give it back: a little soft, a little noisy, through a JPEG."""
    padded = torch.nn.functional.pad(picture[None], (1, 1, 1, 1), mode="replicate")
    soft = 0.5 * picture + 0.5 * torch.nn.functional.avg_pool2d(padded, 3, 1)[0]
    noise = 0.01 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    file = io.BytesIO()
    Image.fromarray(_bytes(soft + noise)).save(file, "JPEG", quality=80)
    return _picture(Image.open(file))


def eight_bits(picture: torch.Tensor) -> torch.Tensor:
    """Return the picture with values that 8 bits can hold."""
    return (picture.clamp(0, 1) * 255).round() / 255


def photographs(side: int) -> dict[str, torch.Tensor]:
    """Return the demo's two photographs and two of scikit-image's, [3, side, side]."""
    from skimage import data

    images = {name: Image.open(REPO / "demo" / "images" / f"{name}.jpg") for name in ("start", "end")}
    images |= {name: Image.fromarray(getattr(data, name)()) for name in ("rocket", "astronaut")}
    return {name: _picture(_square(image, side)) for name, image in images.items()}


def _square(image: Image.Image, side: int) -> Image.Image:
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    return image.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.BICUBIC)


def _picture(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).movedim(-1, 0) / 255


def _bytes(picture: torch.Tensor) -> np.ndarray:
    return (picture.clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()


def _lab(picture: torch.Tensor) -> np.ndarray:
    return rgb2lab(picture.clamp(0, 1).movedim(0, -1).double().numpy())
