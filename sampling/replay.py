"""A run in two parts: what the model answered in the first is answered again in the second.

A sampler function cannot be suspended, its solver history is in local variables. It can be run again: with the same
start and the same answers it takes the same path, noise included, since that is seeded. So the first part ends at the
hand-over, and the second runs the sampler from its start but asks the model only from the hand-over on.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import comfy.samplers
import torch

from .options import POST_CFG, appended_to
from .schedule import reached


class _HandoverReachedError(Exception):
    """The sampler asks for the first low-noise prediction."""


@dataclass
class _Call:
    """One answered model call: its sigma, the answer, and the arguments of post-cfg functions called meanwhile."""

    sigma: float
    answer: torch.Tensor
    post_cfg: list[dict[str, Any]]


@dataclass
class Recording:
    """What the sampler function got in its first part, up to the call at ``switch_sigma``; tensors are on the CPU."""

    switch_sigma: float
    start: dict[str, torch.Tensor | None] = field(default_factory=dict)
    random: list[torch.Tensor] = field(default_factory=list)  # states of torch's own generators, on which some draw
    calls: list[_Call] = field(default_factory=list)


def recording(sampler: Any, record: Recording) -> Any:
    """Return ``sampler`` (KSAMPLER) so that it fills ``record`` and ends at the hand-over, with a result of no use."""

    def run(function: Callable, model: Any, x: torch.Tensor, sigmas: torch.Tensor, **options: Any) -> torch.Tensor:
        record.start = {
            name: None if tensor is None else _kept(tensor)
            for name, tensor in (("x", x), ("sigmas", sigmas), ("noise", model.noise), ("latent", model.latent_image))
        }
        record.random = _random_states(x)
        try:
            return function(_Recorder(model, record), x, sigmas, **options)
        except _HandoverReachedError:
            return x

    return _with_function(sampler, run)


def playing(sampler: Any, record: Recording) -> Any:
    """Return ``sampler`` (KSAMPLER) so that it begins with the run in ``record`` and goes on with the model."""

    def run(function: Callable, model: Any, x: torch.Tensor, sigmas: torch.Tensor, **options: Any) -> torch.Tensor:
        start = {name: None if tensor is None else tensor.to(x.device) for name, tensor in record.start.items()}
        model.noise, model.latent_image = start["noise"], start["latent"]
        torch.set_rng_state(record.random[0])
        if x.is_cuda:
            torch.cuda.set_rng_state(record.random[1], x.device)
        return function(_Player(model, record), start["x"], start["sigmas"], **options)

    return _with_function(sampler, run)


def _with_function(sampler: Any, run: Callable) -> Any:
    if not isinstance(sampler, comfy.samplers.KSAMPLER):
        raise ValueError(
            f"The sampler is a {type(sampler).__name__}, which cannot be run in two parts. Take one of KSamplerSelect."
        )
    changed = copy.copy(sampler)
    changed.sampler_function = functools.partial(run, sampler.sampler_function)
    return changed


class _Model:
    """Stands for the model that a sampler function is given."""

    def __init__(self, model: Any, record: Recording) -> None:
        self._model = model
        self._record = record

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class _Recorder(_Model):
    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **arguments: Any) -> torch.Tensor:
        at = float(sigma.max())
        if reached(at, self._record.switch_sigma):
            raise _HandoverReachedError
        post_cfg: list[dict[str, Any]] = []

        def spy(call: dict[str, Any]) -> torch.Tensor:
            post_cfg.append({key: _kept(value) for key, value in call.items() if torch.is_tensor(value)})
            return call["denoised"]

        options, injected = _injected(self._model, arguments)
        if injected:
            functions = options[POST_CFG]
            functions = [*functions[: len(functions) - len(injected)], spy, *injected]
            arguments = {**arguments, "model_options": {**options, POST_CFG: functions}}
        answer = self._model(x, sigma, **arguments)
        self._record.calls.append(_Call(at, _kept(answer), post_cfg))
        return answer


class _Player(_Model):
    def __init__(self, model: Any, record: Recording) -> None:
        super().__init__(model, record)
        self._left = iter(record.calls)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **arguments: Any) -> torch.Tensor:
        call = next(self._left, None)
        if call is None:
            return self._model(x, sigma, **arguments)
        at = float(sigma.max())
        if call.sigma != at:
            raise RuntimeError(
                f"The sampler asked for sigma {at} where it asked for {call.sigma} in its first run. "
                "It does not repeat itself, so several seeds cannot share the models: set seed_count to 1."
            )
        options, injected = _injected(self._model, arguments)
        for kept in call.post_cfg:
            again = {**_host_arguments(self._model.inner_model), "model_options": options}
            again |= {key: value.to(x.device) for key, value in kept.items()}
            for function in injected:
                again["denoised"] = function(again)
        return call.answer.to(x.device)


def _injected(model: Any, arguments: dict[str, Any]) -> tuple[dict[str, Any], list]:
    """Return a call's model options, and the post-cfg functions in them that are the sampler's own."""
    options = arguments.get("model_options") or {}
    given = model.inner_model.model_options.get(POST_CFG)
    return options, appended_to(given, options.get(POST_CFG) or [])


def _host_arguments(guider: Any) -> dict[str, Any]:
    """Return what the host gives to post-cfg functions besides tensors and options."""
    conds = guider.conds
    return {
        "model": guider.inner_model,
        "cond": conds.get("positive"),
        "uncond": conds.get("negative"),
        "cond_scale": guider.cfg,
    }


def _random_states(x: torch.Tensor) -> list[torch.Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(x.device)] if x.is_cuda else states


def _kept(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu", copy=True)
