"""The VAE's three stages: on pictures, on clips, then the decoder alone, which leaves the latents as they are."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import comfy.utils
import torch
import torch.nn.functional as F
from comfy.ldm.wan.vae import CausalConv3d, Resample, WanVAE
from torch import nn

from ..demo.make_models import TINY_VAE
from ..video.geometry import latent_frames
from ..video.known_video import UNKNOWN_GREY
from ..wan import LATENT_CHANNELS, PIXELS_PER_LATENT
from . import pictures
from .trainer import Machine, Schedule
from .transitions import TRANSITIONS, transition_clip
from .whole_clip import WholeClipVAE

VAE_CONFIG = {**TINY_VAE, "dim": 16}
IMAGES = Schedule(steps=3000, learning_rate=0.004)
CLIPS = Schedule(steps=2000, learning_rate=0.002)
DECODER = Schedule(steps=1200, learning_rate=0.002)
PROCEDURAL = 0.25  # the share of pictures that are no photographs
CROP = 64  # pixels, the side of a training crop


def new_vae(seed: int, config: Mapping[str, Any] = VAE_CONFIG) -> WholeClipVAE:
    """Return a WanVAE that treats every frame alone: past frames have weight 0, frames between 4n ones repeat.

    Each residual block begins as its shortcut, so that depth does not slow the first steps.
    """
    vae = WanVAE(**config)
    generator = torch.Generator().manual_seed(seed)
    for name, value in vae.state_dict().items():
        if name.endswith("gamma"):
            value.fill_(1.0)
        elif value.ndim < 2:
            value.zero_()
        else:
            fan_in = value[0, :, -1].numel() if value.ndim == 5 else value[0].numel()
            value.copy_(torch.randn(value.shape, generator=generator) / fan_in**0.5)
    for module in vae.modules():
        if isinstance(module, CausalConv3d):
            module.weight.data[:, :, :-1] = 0.0
        if hasattr(module, "residual"):
            module.residual[-1].weight.data.mul_(0.1)
    for module in vae.modules():
        if isinstance(module, Resample) and hasattr(module, "time_conv"):
            _copy_the_newest_frame(module.time_conv)
    return WholeClipVAE(vae)


def _copy_the_newest_frame(conv: CausalConv3d) -> None:
    conv.weight.data.zero_()
    out, inside = conv.weight.shape[:2]
    channels = torch.arange(out)
    conv.weight.data[channels, channels % inside, -1] = 1.0


def freeze_encoder(module: WholeClipVAE) -> WholeClipVAE:
    """Leave the latents as they are from here on, so that the experts may learn while the decoder still does."""
    for part in (module.vae.encoder, module.vae.conv1):
        part.requires_grad_(False)
    return module


def picture_batch(photographs: list[torch.Tensor], count: int, generator: torch.Generator) -> torch.Tensor:
    """Return [count, 3, 1, 64, 64], -1...1: three quarters crops of photographs, the rest procedural."""
    return (
        torch.stack([pictures.draw(photographs, CROP, CROP, PROCEDURAL, generator) for _ in range(count)])[:, :, None]
        * 2
        - 1
    )


def clip_batch(photographs: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return clips of 5, 9 or 17 frames, about 20 frames together, [clips, 3, frames, 64, 64], -1...1."""
    frames, clips = ((5, 4), (9, 2), (17, 1))[int(torch.randint(3, (), generator=generator))]
    return torch.stack([_clip(photographs, frames, generator) for _ in range(clips)]) * 2 - 1


def mixed_batch(photographs: list[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """Return clips, or in one batch of five pictures, so that single frames stay as good as they were."""
    if float(torch.rand((), generator=generator)) < 0.2:
        return picture_batch(photographs, 16, generator)
    return clip_batch(photographs, generator)


def _clip(photographs: list[torch.Tensor], frames: int, generator: torch.Generator) -> torch.Tensor:
    """Return a part of a transition, a camera's motion, or the conditioning video: known at its ends, grey between."""
    kind = float(torch.rand((), generator=generator))
    start, end = (pictures.draw(photographs, CROP, CROP, PROCEDURAL, generator) for _ in range(2))
    if kind < 0.25:
        clip = torch.full((3, frames, CROP, CROP), UNKNOWN_GREY)
        if kind < 0.20:
            clip[:, 0] = start
        if kind > 0.05:
            clip[:, -1] = end
        if kind < 0.10 and frames > 5:
            key = 4 * int(torch.randint(1, (frames - 1) // 4, (), generator=generator))
            clip[:, key] = pictures.draw(photographs, CROP, CROP, PROCEDURAL, generator)
        return clip
    whole = frames + int(torch.randint(frames + frames // 2, (), generator=generator))
    first = int(torch.randint(whole - frames + 1, (), generator=generator))
    if kind < 0.45:
        return _camera(pictures.draw(photographs, CROP * 2, CROP * 2, PROCEDURAL, generator), whole, generator)[
            :, first : first + frames
        ]
    words = list(TRANSITIONS)
    word = words[int(torch.randint(len(words), (), generator=generator))]
    return transition_clip(word, start, end, whole)[:, first : first + frames]


def _camera(picture: torch.Tensor, frames: int, generator: torch.Generator) -> torch.Tensor:
    """Pan, zoom and turn over a picture of twice a crop's side, [3, frames, 64, 64]."""
    first, last = (torch.rand(4, generator=generator) * 2 - 1 for _ in range(2))
    weight = torch.linspace(0, 1, frames)[:, None]
    x, y, zoom, turn = (first + (last - first) * weight).unbind(-1)
    scale = 0.5 * 2 ** (0.4 * zoom)
    sin, cos = torch.sin(0.3 * turn) * scale, torch.cos(0.3 * turn) * scale
    theta = torch.stack([torch.stack([cos, -sin, 0.4 * x], -1), torch.stack([sin, cos, 0.4 * y], -1)], 1)
    grid = F.affine_grid(theta, (frames, 3, CROP, CROP), align_corners=False)
    source = picture.expand(frames, *picture.shape)
    return F.grid_sample(source, grid, padding_mode="reflection", align_corners=False).movedim(0, 1)


def reconstruction_loss(
    model: Callable[..., Any], video: torch.Tensor, generator: torch.Generator, machine: Machine
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the loss of one batch: absolute and squared error, and a pull of the latent to mean 0, deviation 1.

    A little noise on the latent makes the decoder forgive small errors, as the experts will make.
    """
    height, width = (side // PIXELS_PER_LATENT for side in video.shape[3:])
    shape = (video.shape[0], LATENT_CHANNELS, latent_frames(video.shape[2]), height, width)
    noise = torch.randn(shape, generator=generator) * 0.05
    latent, decoded = model(machine.to(video), machine.to(noise))
    error = decoded.float() - video.to(machine.device)
    squared = error.square().mean()
    mean, deviation = latent.float().mean((0, 2, 3, 4)), latent.float().std((0, 2, 3, 4))
    moments = mean.square().mean() + (deviation - 1).square().mean()
    return error.abs().mean() / 2 + 2 * squared + 0.01 * moments, {"psnr": psnr(squared)}


def psnr(mean_squared_error: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio in dB of values in -1...1."""
    return float(10 * torch.log10(4 / mean_squared_error.detach().clamp_min(1e-10)))


def fitted(picture: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a uint8 picture fitted as the conditioning node does, [3, height, width], -1...1."""
    return comfy.utils.common_upscale(picture[None] / 255, width, height, "bilinear", "center")[0] * 2 - 1


@torch.no_grad()
def held_out_psnr(module: nn.Module, held_out: list[torch.Tensor]) -> dict[str, float]:
    """Return mean and worst PSNR over the held-out photographs, each fitted to 128x128."""
    device = next(module.parameters()).device
    videos = torch.stack([fitted(picture, 128, 128) for picture in held_out])[:, :, None].to(device)
    decoded = module(videos)[1].clamp(-1, 1)
    each = [psnr((a - b).square().mean()) for a, b in zip(decoded, videos, strict=True)]
    return {"vae_psnr": sum(each) / len(each), "vae_psnr_worst": min(each)}


@torch.no_grad()
def held_out_clips(module: nn.Module, held_out: list[torch.Tensor], frames: int = 17) -> dict[str, float]:
    """Return PSNR per transition of true clips between held-out photographs at 128x128, and its spread over frames.

    The spread is the greatest difference between the means over frames of equal index modulo 4.
    """
    device = next(module.parameters()).device
    ends = [fitted(picture, 128, 128) for picture in held_out]
    pairs = list(itertools.pairwise(ends))[::3]
    figures: dict[str, float] = {}
    phases = []
    for word in TRANSITIONS:
        per_frame = []
        for start, end in pairs:
            clip = transition_clip(word, start, end, frames)[None].to(device)
            error = (module(clip)[1].clamp(-1, 1) - clip).square().mean((0, 1, 3, 4))
            per_frame.append(10 * torch.log10(4 / error))
        mean = torch.stack(per_frame).mean(0)
        figures[f"clip_{word.replace(' ', '_')}"] = float(mean.mean())
        phases.append(torch.stack([mean[1:][phase::4].mean() for phase in range(4)]))
    spread = torch.stack(phases)
    figures["vae_phase_spread"] = float((spread.max(1).values - spread.min(1).values).max())
    return figures
