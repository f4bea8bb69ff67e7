"""From trained weights to the files that ComfyUI's loaders take: float16, the VAE with the host's latent statistics."""

from __future__ import annotations

from pathlib import Path

import torch
from comfy.latent_formats import Wan21
from safetensors.torch import load_file, save_file
from torch import nn

from ..wan import LATENT_CHANNELS
from .whole_clip import WholeClipVAE

FILES = {
    "vae": "vae/demo_wan_vae.safetensors",
    "high": "diffusion_models/demo_wan22_high_noise.safetensors",
    "low": "diffusion_models/demo_wan22_low_noise.safetensors",
}


def host_statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation, each [16], that ComfyUI's Wan latent format takes away."""
    wan = Wan21()
    return wan.latents_mean.flatten(), wan.latents_std.flatten()


def trained_statistics() -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and deviation, each [16], that a latent has while training."""
    return torch.zeros(LATENT_CHANNELS), torch.ones(LATENT_CHANNELS)


@torch.no_grad()
def rescale_latent(
    vae: nn.Module, mean: torch.Tensor, deviation: torch.Tensor, to_mean: torch.Tensor, to_deviation: torch.Tensor
) -> None:
    """Give a WanVAE's latent another mean and deviation; its decoded video does not change.

    Both 1x1x1 convolutions around the latent take over scale and shift.

    Args:
        vae: a ``WanVAE``; changed in place.
        mean: [16], of its latent's channels.
        deviation: [16].
        to_mean: [16], what they will have.
        to_deviation: [16].
    """
    scale = to_deviation / deviation
    shift = to_mean - mean * scale
    into, out = vae.conv1, vae.conv2
    channels = len(mean)
    into.weight[:channels] *= scale.view(-1, 1, 1, 1, 1)
    into.bias[:channels] = into.bias[:channels] * scale + shift
    out.weight /= scale.view(1, -1, 1, 1, 1)
    out.bias -= out.weight[:, :, 0, 0, 0] @ shift


def model_file(folder: Path, name: str) -> Path:
    """Return the file of ``vae``, ``high`` or ``low`` in an exported folder.

    Raises:
        FileNotFoundError: the folder lacks it.
    """
    file = folder / FILES[name]
    if not file.exists():
        raise FileNotFoundError(f"--start-from {folder}: there is no {FILES[name]}; give a folder like demo/models")
    return file


def load_weights(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Return the weights of ``vae``, ``high`` or ``low`` in an exported folder, in float32.

    Raises:
        FileNotFoundError: the folder lacks the file.
    """
    return {key: value.float() for key, value in load_file(model_file(folder, name)).items()}


def load_vae(folder: Path, module: WholeClipVAE) -> WholeClipVAE:
    """Load the exported VAE into ``module``; its latent gets mean 0 and deviation 1 again, as the training wants it."""
    module.vae.load_state_dict(load_weights(folder, "vae"))
    rescale_latent(module.vae, *host_statistics(), *trained_statistics())
    return module


# What an expert's file calls itself, in the ModelSpec standard's key: preflight then knows how many steps fit it.
TITLES = {name: {"modelspec.title": f"wan-flf2v demo, {name} noise, 6 steps"} for name in ("high", "low")}


def save_half(state: dict[str, torch.Tensor], target: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as float16 safetensors."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".unfinished")
    half = {name: value.detach().half().cpu().contiguous() for name, value in state.items()}
    save_file(half, unfinished, metadata)
    unfinished.replace(target)
