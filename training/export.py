"""From trained weights to the files that ComfyUI's loaders take: float16, the VAE with the host's latent statistics."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy.latent_formats import Wan21
from safetensors.torch import save_file
from torch import nn

FILES = {
    "vae": "vae/demo_wan_vae.safetensors",
    "high": "diffusion_models/demo_wan22_high_noise.safetensors",
    "low": "diffusion_models/demo_wan22_low_noise.safetensors",
}


@torch.no_grad()
def fold_statistics(vae: nn.Module, mean: torch.Tensor, deviation: torch.Tensor) -> None:
    """Give a WanVAE's latent the mean and deviation that ComfyUI's Wan latent format takes away.

    Both 1x1x1 convolutions around the latent take over scale and shift, so the decoded video does not change.

    Args:
        vae: a ``WanVAE``; changed in place.
        mean: [16], of its latent's channels.
        deviation: [16].
    """
    wan = Wan21()
    scale = wan.latents_std.flatten() / deviation
    shift = wan.latents_mean.flatten() - mean * scale
    into, out = vae.conv1, vae.conv2
    channels = len(mean)
    into.weight[:channels] *= scale.view(-1, 1, 1, 1, 1)
    into.bias[:channels] = into.bias[:channels] * scale + shift
    out.weight /= scale.view(1, -1, 1, 1, 1)
    out.bias -= out.weight[:, :, 0, 0, 0] @ shift


def save_half(state: dict[str, torch.Tensor], target: Path) -> None:
    """Write a state dict as float16 safetensors."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    save_file({name: value.detach().half().cpu().contiguous() for name, value in state.items()}, unfinished)
    unfinished.replace(target)
