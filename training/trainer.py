"""The training loop of every stage: optimisers, learning rate, checkpoints, a log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .muon import Muon

SECONDS_BETWEEN_CHECKPOINTS = 60
SECONDS_BETWEEN_LINES = 20


@dataclass(frozen=True)
class Schedule:
    """How long a stage trains and how fast: a short warm-up, a constant rate, a linear decay to zero.

    Args:
        steps: optimiser steps of the whole stage.
        learning_rate: the highest; Muon and AdamW share it, since Muon's steps are scaled to AdamW's size
            (Liu et al. 2025, "Muon is scalable for LLM training", section 2.2).
        warmup: steps until the highest rate.
        decay: the share of all steps, at the end, in which the rate falls.
    """

    steps: int
    learning_rate: float
    warmup: int = 50
    decay: float = 0.4

    def rate(self, step: int) -> float:
        """Return the learning rate of step number ``step``, from 0."""
        rising = min(1.0, (step + 1) / self.warmup)
        falling = min(1.0, (self.steps - step) / (self.steps * self.decay))
        return self.learning_rate * rising * falling


@dataclass(frozen=True)
class Machine:
    """Where to compute, and in which dtype. Weights and optimisers stay in float32."""

    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def to(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor as the module takes it."""
        return tensor.to(self.device, self.dtype)


class Trainer:
    """Trains one module with float32 weights; its loss sees them in the machine's dtype.

    ``loss`` gets the module and the step's own seeded generator, and returns a scalar and figures for the log. All
    randomness comes from that generator, so a step depends on nothing but its number and the weights: a run that was
    stopped and goes on ends with the same bits, on a processor with the same number of threads.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[Callable[..., Any], torch.Generator], tuple[torch.Tensor, Mapping[str, float]]],
        schedule: Schedule,
        folder: Path,
        seed: int,
        machine: Machine = Machine(),
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        evaluate_every: int = 500,
    ) -> None:
        self.module = module.to(machine.device)
        self.step = 0
        self.seconds = self.cpu_seconds = 0.0
        self._loss = loss
        self._schedule = schedule
        self._folder = folder
        self._seed = seed
        self._machine = machine
        self._evaluate = evaluate
        self._evaluate_every = evaluate_every
        # Muon takes matrices: a convolution's weight is seen as [out, the rest]; both share their memory.
        self._trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._matrices = {name: nn.Parameter(p.data.flatten(1)) for name, p in self._trained.items() if _is_matrix(p)}
        others = [value for name, value in self._trained.items() if name not in self._matrices]
        self._optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(others, weight_decay=0.0, betas=(0.9, 0.98))]
        if self._matrices:
            self._optimizers.append(Muon(self._matrices.values(), weight_decay=0.01))

    @property
    def finished(self) -> bool:
        """Whether all steps were made."""
        return self.step >= self._schedule.steps

    def run(self, seconds: float, say: Callable[[str], None]) -> None:
        """Train until the stage is finished or ``seconds`` have passed; the state is on disk then."""
        began = saved = spoken = time.monotonic()
        while not self.finished and time.monotonic() - began < seconds:
            step_began, cpu_began = time.monotonic(), time.process_time()
            figures = self.train_step()
            self.seconds += time.monotonic() - step_began
            self.cpu_seconds += time.process_time() - cpu_began
            evaluate = self._evaluate if self.step % self._evaluate_every == 0 or self.finished else None
            if evaluate is not None:
                figures = {**figures, **evaluate(self.module)}
            now = time.monotonic()
            if evaluate is not None or self.finished or now - spoken > SECONDS_BETWEEN_LINES:
                spoken = now
                self._log(figures)
                left = (self._schedule.steps - self.step) * self.seconds / self.step
                text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
                say(f"step {self.step} of {self._schedule.steps}, {left / 60:.0f} min left: {text}")
            if now - saved > SECONDS_BETWEEN_CHECKPOINTS:
                saved = now
                self.save()
        self.save()

    def train_step(self) -> dict[str, float]:
        """Make one step and return its figures."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self.step)
        weights = {name: value.to(self._machine.dtype) for name, value in self.module.named_parameters()}

        def model(*args: Any, **kwargs: Any) -> Any:
            return torch.func.functional_call(self.module, weights, args, kwargs)

        loss, figures = self._loss(model, generator)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._trained.values(), 1.0, error_if_nonfinite=True)
        for name, matrix in self._matrices.items():
            gradient = self._trained[name].grad
            matrix.grad = None if gradient is None else gradient.flatten(1)
        rate = self._schedule.rate(self.step)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.module.zero_grad(set_to_none=True)
        self.step += 1
        return {"loss": float(loss.detach()), **figures}

    def save(self) -> None:
        """Write the checkpoint; a crash while writing leaves the one before."""
        state = {
            "step": self.step,
            "steps": self._schedule.steps,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "weights": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / "checkpoint.unfinished"
        torch.save(state, unfinished)
        unfinished.replace(self._folder / "checkpoint.pt")

    def resume(self) -> bool:
        """Go on from the checkpoint if there is one; return whether there was."""
        try:
            state = torch.load(self._folder / "checkpoint.pt", self._machine.device, weights_only=True)
        except FileNotFoundError:
            return False
        self.module.load_state_dict(state["weights"])
        for optimizer, optimizer_state in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self.step, self.seconds, self.cpu_seconds = state["step"], state["seconds"], state["cpu_seconds"]
        self._forget_later_lines()
        return True

    def _forget_later_lines(self) -> None:
        """Remove what was logged after the checkpoint: these steps are made again."""
        log = self._folder / "log.jsonl"
        if log.exists():
            lines = log.read_text("utf-8").splitlines()
            log.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["step"] <= self.step), "utf-8")

    def _log(self, figures: Mapping[str, float]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        times = {"seconds": round(self.seconds, 1), "cpu_seconds": round(self.cpu_seconds, 1)}
        line = {"step": self.step, **times, **{name: round(value, 5) for name, value in figures.items()}}
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _is_matrix(parameter: torch.Tensor) -> bool:
    """Whether Muon trains it: weights of two and more dimensions, but no norm's gamma."""
    return parameter.ndim >= 2 and parameter.shape[0] > 1 and parameter[0].numel() > 1
