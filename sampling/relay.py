"""One sampler run goes on where another ended: a latent is handed over inside the functions of the host's samplers.

If it came as the latent image, the host would take it for the picture under a mask. That, and the noise, stay those of
the whole run.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch

from .record import on_cpu


def ending(sampler: Any, keep: Callable[[torch.Tensor], None]) -> Any:
    """Return a copy of a ``KSAMPLER`` that gives ``keep`` what it has at its last sigma, on the CPU."""

    def run(function: Callable, *arguments: Any, **options: Any) -> torch.Tensor:
        result: torch.Tensor = function(*arguments, **options)
        keep(on_cpu(result))
        return result

    return _with_function(sampler, run)


def beginning(sampler: Any, start: torch.Tensor) -> Any:
    """Return a copy of a ``KSAMPLER`` that begins with ``start``."""

    def run(function: Callable, model: Any, x: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:
        result: torch.Tensor = function(model, start.to(x, copy=True), *arguments, **options)
        return result

    return _with_function(sampler, run)


def _with_function(sampler: Any, around: Callable) -> Any:
    """Return a copy of a ``KSAMPLER`` whose function is called by ``around``."""
    changed = copy.copy(sampler)
    changed.sampler_function = functools.wraps(sampler.sampler_function)(
        functools.partial(around, sampler.sampler_function)
    )
    return changed
