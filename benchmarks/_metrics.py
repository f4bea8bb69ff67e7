"""How near one clip is to another: PSNR, the nearest word, the gain over a cross-fade, sharpness.

Clips are [3, frames, height, width], 0...1, as ``training.transitions`` draws them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ..quality import metrics


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB over all values, infinity if they are equal."""
    return metrics.psnr(a.numpy(), b.numpy())


def frame_psnr(a: torch.Tensor, b: torch.Tensor) -> list[float]:
    """Return the PSNR of each frame of two clips."""
    return [psnr(one, other) for one, other in zip(a.unbind(1), b.unbind(1), strict=True)]


def middle(clip: torch.Tensor) -> torch.Tensor:
    """Return the middle half of the frames; of 33, those from 8 to 24."""
    frames = clip.shape[1]
    return clip[:, frames // 4 : frames - frames // 4]


def nearest_word(clip: torch.Tensor, true_clips: Mapping[str, torch.Tensor]) -> str:
    """Return the word whose true clip is nearest to ``clip``, by the PSNR of the middle frames."""
    made = middle(clip)
    return max(true_clips, key=lambda word: psnr(made, middle(true_clips[word])))


def middle_gain(clip: torch.Tensor, true_clip: torch.Tensor, cross_fade: torch.Tensor) -> float:
    """Return by how many dB the middle of ``clip`` is nearer to the true clip than a cross-fade's is."""
    truth = middle(true_clip)
    return psnr(middle(clip), truth) - psnr(middle(cross_fade), truth)


def sharpness(clip: torch.Tensor, true_clip: torch.Tensor) -> float:
    """Return the gradient energy of the middle frames, as a part of the true clip's."""
    return _gradient_energy(middle(clip)) / _gradient_energy(middle(true_clip))


def phase_spread(per_frame: list[float]) -> float:
    """Return by how much the mean differs at most between frames of equal index modulo 4; frame 0 is left out.

    A Wan VAE makes four frames from each latent frame after the first, so frames alike in this index share their fate.
    """
    means = [_mean(per_frame[1:][phase::4]) for phase in range(4)]
    return max(means) - min(means)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _gradient_energy(frames: torch.Tensor) -> float:
    return float(sum(frames.double().diff(dim=axis).square().sum() for axis in (-1, -2)))
