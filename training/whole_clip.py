"""ComfyUI's WanVAE in a form for training: all frames of a clip at once, differentiable, without caches.

ComfyUI's own ``encode`` and ``decode`` work on chunks of frames, keep caches between them and write in place. The
functions here compute the same values from the same modules (comfy/ldm/wan/vae.py): a causal 3D convolution is one 2D
convolution over frames t-2, t-1 and t, stacked on the channels. Videos are [batch, 3, frames, height, width], -1...1,
latents [batch, 16, latent frames, height / 8, width / 8]. In between, tensors are [batch, frames, height, width,
channels], so that a convolution's channels lie together in memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from comfy.ldm.wan.vae import AttentionBlock, CausalConv3d, Resample, ResidualBlock, RMS_norm
from torch import nn


class WholeClipVAE(nn.Module):
    """A WanVAE that encodes and decodes whole clips of 4n+1 frames in the dtype of its weights."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, video: torch.Tensor, noise: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latent, and the video decoded from the latent plus ``noise`` (of the latent's shape, or None)."""
        latent = self.encode(video)
        return latent, self.decode(latent if noise is None else latent + noise)

    def encode(self, video: torch.Tensor) -> torch.Tensor:
        """Return the latent's mean, as ``WanVAE.encode`` does."""
        encoder = self.vae.encoder
        x = _conv(encoder.conv1, video.movedim(1, -1).contiguous())
        for layer in (*encoder.downsamples, *encoder.middle):
            x = _layer(layer, x)
        x = _conv(self.vae.conv1, _head(encoder.head, x))
        return x.movedim(-1, 1).chunk(2, dim=1)[0]

    def decode(self, latent: torch.Tensor) -> torch.Tensor:
        """Return the video, as ``WanVAE.decode`` does."""
        decoder = self.vae.decoder
        x = _conv(decoder.conv1, _conv(self.vae.conv2, latent.movedim(1, -1).contiguous()))
        for layer in (*decoder.middle, *decoder.upsamples):
            x = _layer(layer, x)
        return _head(decoder.head, x).movedim(-1, 1)


def _layer(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    if isinstance(layer, ResidualBlock):
        norm_1, _, conv_1, norm_2, _, _, conv_2 = layer.residual
        shortcut = x if isinstance(layer.shortcut, nn.Identity) else _conv(layer.shortcut, x)
        return shortcut + _conv(conv_2, _norm_silu(norm_2, _conv(conv_1, _norm_silu(norm_1, x))))
    if isinstance(layer, AttentionBlock):
        return x + _attention(layer, x)
    return _resample(layer, x)


def _head(head: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    norm, _, conv = head
    return _conv(conv, _norm_silu(norm, x))


def _conv(layer: CausalConv3d, x: torch.Tensor) -> torch.Tensor:
    """Apply a causal 3D convolution. A single frame sees zeros before it, so its last tap is enough."""
    weight = layer.weight
    taps = weight.shape[2]
    if taps == 1 or x.shape[1] == 1:
        return _conv2d(x, weight[:, :, -1], layer.bias, layer.padding[1])
    return _conv2d(_stack_taps(x, taps), _stacked_weight(weight), layer.bias, layer.padding[1])


def _stack_taps(x: torch.Tensor, taps: int) -> torch.Tensor:
    """Return [..., frames, height, width, taps x channels]: each frame beside those before it, zeros before frame 0."""
    frames = x.shape[1]
    padded = F.pad(x, (0, 0, 0, 0, 0, 0, taps - 1, 0))
    return torch.cat([padded[:, tap : tap + frames] for tap in range(taps)], dim=-1)


def _stacked_weight(weight: torch.Tensor) -> torch.Tensor:
    """Return [out, taps x in, height, width] of a convolution's [out, in, taps, height, width]."""
    return weight.transpose(1, 2).flatten(1, 2)


def _conv2d(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, padding: int, stride: int = 1
) -> torch.Tensor:
    frames = x.flatten(0, 1).permute(0, 3, 1, 2)  # channels_last without a copy
    y = F.conv2d(frames, weight.contiguous(memory_format=torch.channels_last), bias, stride, padding)
    return y.permute(0, 2, 3, 1).unflatten(0, x.shape[:2])


def _norm_silu(norm: RMS_norm, x: torch.Tensor) -> torch.Tensor:
    return F.silu(_norm(norm, x))


def _norm(norm: RMS_norm, x: torch.Tensor) -> torch.Tensor:
    """Normalise over the channels; the host's ``F.normalize * sqrt(channels) * gamma`` is this RMS norm."""
    return F.rms_norm(x, x.shape[-1:], norm.gamma.flatten(), eps=1e-12)


def _attention(layer: AttentionBlock, x: torch.Tensor) -> torch.Tensor:
    """Return what single-head attention within each frame adds."""
    batch, frames, height, width, _ = x.shape
    qkv = _conv2d(_norm(layer.norm, x), layer.to_qkv.weight, layer.to_qkv.bias, 0)
    q, k, v = qkv.reshape(batch * frames, 1, height * width, -1).chunk(3, dim=-1)
    y = F.scaled_dot_product_attention(q, k, v).reshape(batch, frames, height, width, -1)
    return _conv2d(y, layer.proj.weight, layer.proj.bias, 0)


def _resample(layer: Resample, x: torch.Tensor) -> torch.Tensor:
    if layer.mode == "upsample3d" and x.shape[1] > 1:
        # The first frame stays one frame and takes no part in the others' time convolution.
        later = _conv(layer.time_conv, x[:, 1:])
        later = later.unflatten(-1, (2, -1)).movedim(-2, 2).flatten(1, 2)
        x = torch.cat([x[:, :1], later], dim=1)
    padding_or_upsample, conv = layer.resample
    if layer.mode.startswith("upsample"):
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)  # nearest
        return _conv2d(x, conv.weight, conv.bias, 1)
    x = _conv2d(F.pad(x, (0, 0, *padding_or_upsample.padding)), conv.weight, conv.bias, 0, stride=2)
    if layer.mode == "downsample3d" and x.shape[1] > 1:
        windows = torch.cat([x[:, :-2:2], x[:, 1:-1:2], x[:, 2::2]], dim=-1)
        later = _conv2d(windows, _stacked_weight(layer.time_conv.weight), layer.time_conv.bias, 0)
        x = torch.cat([x[:, :1], later], dim=1)
    return x
