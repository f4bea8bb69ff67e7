"""Muon, with its matrix products in float32: torch's own takes bfloat16, which most processors have no instruction for.

On a processor with AVX2 alone torch.optim.Muon took 97 % of a training step.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

# Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks": the quintic's coefficients, the number
# of its iterations, and the momentum, which is Nesterov's.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5
_MOMENTUM = 0.95
_EPS = 1e-7


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal; takes matrices only.

    A step is as large as AdamW's would be: 0.2·sqrt(max(rows, columns)) (Liu et al. 2025, "Muon is scalable for LLM
    training", section 2.2).
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, weight_decay: float, lr: float = 1e-3) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(matrix)
                momentum = state["momentum_buffer"]
                momentum.lerp_(matrix.grad, 1 - _MOMENTUM)
                update = orthogonalised(matrix.grad.lerp(momentum, _MOMENTUM))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(update, alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


def orthogonalised(matrix: torch.Tensor) -> torch.Tensor:
    """Return nearly U·Vᵀ of the matrix's singular value decomposition: its singular values lie around 1."""
    a, b, c = _COEFFICIENTS
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp(min=_EPS)
    for _ in range(_ITERATIONS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if matrix.shape[0] > matrix.shape[1] else wide
