"""The two experts: real WanModels that learn, from the conditioning and a word, the clip's velocity.

Flow matching (Lipman et al. 2023; Wan's report, section 4.2): x_t = (1 - sigma) x_0 + sigma noise, the target is
noise - x_0, and the model gets the timestep sigma * 1000. Each expert sees the sigmas of its range.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.wan.model import WanModel

from ..wan import BOUNDARY_I2V as BOUNDARY
from ..wan import TRAIN_TIMESTEPS
from .latents import Examples
from .text import Prompts, batch_of
from .trainer import Machine, Schedule

# heads = dim / 128 in ComfyUI's detection of a Wan model; 4 layers make a file of 3.7 MB in float16.
EXPERT_CONFIG: dict[str, Any] = {
    "model_type": "t2v",  # Wan 2.2's image-to-video model has no CLIP vision branch, so ComfyUI loads it as this
    "in_dim": 36,
    "dim": 128,
    "ffn_dim": 512,
    "num_layers": 4,
    "num_heads": 1,
    "out_dim": 16,
    "text_dim": 4096,
}
SCHEDULE = Schedule(steps=2200, learning_rate=0.003)
SHIFT = 8.0  # Wan 2.2's shift, and the workflow's
TOKENS = 8 * 576  # of a batch: 8 clips of 33 frames at 128x128


class Expert(torch.nn.Module):
    """A WanModel whose attention can be trained and whose padding tokens are counted, not computed."""

    def __init__(self, seed: int, config: dict[str, Any] = EXPERT_CONFIG) -> None:
        super().__init__()
        comfy.model_management.in_training = True  # ComfyUI then uses a rotary embedding that has a gradient
        self.model = WanModel(**config, operations=comfy.ops.disable_weight_init)
        self._bias: list[torch.Tensor] = []
        for block in self.model.blocks:
            block.cross_attn.forward = types.MethodType(_cross_attention(self._bias), block.cross_attn)
        _initialise(self.model, seed)

    def forward(
        self, x: torch.Tensor, conditioning: torch.Tensor, sigma: torch.Tensor, prompts: list[torch.Tensor]
    ) -> torch.Tensor:
        """Return the velocity [batch, 16, t, h, w] of ``x``, of the same shape; ``sigma`` is [batch]."""
        context, bias = batch_of(prompts)
        self._bias[:] = [bias.to(x)]
        return self.model(torch.cat([x, conditioning], dim=1), sigma * TRAIN_TIMESTEPS, context.to(x))


def velocity_loss(
    model: Callable[..., Any],
    examples: Examples,
    prompts: Prompts,
    high_noise: bool,
    generator: torch.Generator,
    machine: Machine,
    tokens: int = TOKENS,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Return the mean squared error of the velocity over one batch; sigmas are stratified within it."""
    batch = examples.batch(tokens, generator)
    latent = torch.stack([example.latent for example in batch])
    conditioning = torch.stack([example.conditioning for example in batch])
    words = [prompts.draw(example.word, generator) for example in batch]
    sigma = draw_sigmas(len(batch), high_noise, generator)
    noise = torch.randn(latent.shape, generator=generator)
    weight = sigma.view(-1, 1, 1, 1, 1)
    noised = (1 - weight) * latent + weight * noise
    # Autocast, since the host computes the patch embedding in float32 whatever the weights are.
    with torch.autocast(machine.device, machine.dtype, enabled=machine.dtype != torch.float32):
        predicted = model(noised.to(machine.device), conditioning.to(machine.device), sigma.to(machine.device), words)
    error = (predicted.float() - (noise - latent).to(machine.device)).square().mean((1, 2, 3, 4))
    # x_0's own error is sigma times the velocity's.
    return error.mean(), {"x0_error": float((error.detach().cpu().sqrt() * sigma).mean())}


def draw_sigmas(count: int, high_noise: bool, generator: torch.Generator) -> torch.Tensor:
    """Return [count] sigmas of one expert's range: as the shifted schedule spreads them, a quarter evenly."""
    u = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    u = u[torch.randperm(count, generator=generator)]
    boundary = BOUNDARY / (SHIFT - (SHIFT - 1) * BOUNDARY)  # the u whose shifted sigma is the boundary
    low, high = (boundary, 1.0) if high_noise else (0.0, boundary)
    shifted = low + (high - low) * u
    sigma = SHIFT * shifted / (1 + (SHIFT - 1) * shifted)
    evenly = BOUNDARY + (1 - BOUNDARY) * u if high_noise else BOUNDARY * u
    return torch.where(torch.rand(count, generator=generator) < 0.25, evenly, sigma)


def _cross_attention(bias: list[torch.Tensor]) -> Callable[..., torch.Tensor]:
    def forward(self: Any, x: torch.Tensor, context: torch.Tensor, **_: Any) -> torch.Tensor:
        q, k, v = self.norm_q(self.q(x)), self.norm_k(self.k(context)), self.v(context)
        heads = [tensor.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for tensor in (q, k, v)]
        y = F.scaled_dot_product_attention(*heads, attn_mask=bias[0])
        return self.o(y.transpose(1, 2).flatten(2))

    return forward


@torch.no_grad()
def _initialise(model: WanModel, seed: int) -> None:
    """Begin as a network whose output is x_t minus half the conditioning.

    The patch embedding lays x_t's and the conditioning's values side by side, the blocks add little, and the head
    subtracts one from the other. From random weights the same number of examples leaves four times the error.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.named_parameters():
        if "norm" in name:
            value.fill_(1.0) if name.endswith("weight") else value.zero_()
        elif value.ndim < 2 or "modulation" in name:
            value.zero_()
        else:
            value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
    for block in model.blocks:
        block.modulation[:, 2] = block.modulation[:, 5] = 1.0  # the gates of attention and feed-forward
        for layer in (block.self_attn.o, block.cross_attn.o, block.ffn[2]):
            layer.weight.mul_(0.2)
    model.time_projection[1].weight.mul_(0.1)
    patch = model.patch_embedding.weight  # [128, 36, 1, 2, 2]: 16 of x_t, 4 of mask, 16 of image
    head = model.head.head.weight  # [64, 128]: each row one value of a patch, channels fastest
    patch.mul_(0.05)
    head.mul_(0.05)
    channels = torch.arange(16)
    for position, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        of_x, of_image = position * 16 + channels, 64 + position * 16 + channels
        patch[of_x, channels, 0, row, column] = 1.0
        patch[of_image, 20 + channels, 0, row, column] = 1.0
        head[of_x, of_x] = 1.0
        head[of_x, of_image] = -0.5
