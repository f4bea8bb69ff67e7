"""The record of a sampler run: what its model calls returned, so that a later phase can run the sampler again.

A sampler function cannot be suspended: the solver's history is in its local variables. It can be run again. With the
same start, the same random states and the same denoised latents it takes the same path.
"""

from __future__ import annotations

import copy
import functools
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import comfy.samplers
import numpy as np
import torch

from .schedule import reached

POST_CFG = "sampler_post_cfg_function"
"""The host's key of the functions that get every guided prediction (comfy/samplers.py, cfg_function)."""
_OBJECTS = ("model", "model_options", "cond", "uncond")  # arguments that are the host's objects
RANDOM_STATES_BYTES = 40_000  # three Mersenne Twisters; Python's are objects
_INPUT = "input"  # stands for a tensor that equals the call's own latent


class _PhaseEnded(BaseException):
    """The sampler asks for a prediction of the next phase. It is no ``Exception``: a sampler must not catch it."""


class RecordDiffersError(RuntimeError):
    """A sampler that was run again does not ask what it asked before."""


class RandomStates:
    """The states of the random generators that a sampler may draw from: torch's (CPU and device), numpy's, Python's."""

    def __init__(self, device: torch.device) -> None:
        module = getattr(torch, device.type, None)  # torch.cuda, torch.xpu, torch.mps; torch.cpu has no generator
        self._device = module if hasattr(module, "get_rng_state") else None
        self._of = () if device.type == "mps" else (device,)  # MPS has one generator
        self._states: dict[str, Any] = {
            "torch": (torch.get_rng_state(),),
            "device": (self._device.get_rng_state(*self._of),) if self._device else (),
            "numpy": np.random.get_state(),
            "python": random.getstate(),
        }

    def restore(self) -> None:
        """Put the states back."""
        torch.set_rng_state(*self._states["torch"])
        if self._device:
            self._device.set_rng_state(*self._states["device"], *self._of)
        np.random.set_state(self._states["numpy"])
        random.setstate(self._states["python"])

    def differing(self, other: RandomStates) -> set[str]:
        """Return the names of the generators whose states are others."""
        pairs = ((name, zip(state, other._states[name], strict=True)) for name, state in self._states.items())
        return {name for name, parts in pairs if not all(np.array_equal(own, its) for own, its in parts)}

    def with_states(self, names: Iterable[str], other: RandomStates) -> RandomStates:
        """Return a copy in which these generators have the states of ``other``."""
        changed = copy.copy(self)
        changed._states = {**self._states, **{name: other._states[name] for name in names}}
        return changed


@dataclass(frozen=True)
class _Call:
    """One recorded model call.

    ``cfg`` is its expert's guidance scale. ``post_cfg`` holds the arguments of each call of the sampler's own post-cfg
    functions. ``random`` holds the random states after the call: the model may have drawn from a generator.
    """

    cfg: float
    sigma: float
    digest: int
    denoised: torch.Tensor
    post_cfg: list[dict[str, Any]]
    random: RandomStates


class Record:
    """The start and the recorded calls of one sampler run, on the CPU.

    Args:
        known: tensors that the caller holds anyway (noise, latent image); equal ones are not stored again.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        self._known = tuple(known)
        self._start: dict[str, torch.Tensor | None] = {}
        self._random: RandomStates | None = None
        self._calls: deque[_Call] = deque()
        self._steps = 0  # step callbacks that were passed on
        self._until: float | None = None  # where the next phase takes over, until it has

    def begin(self, start: dict[str, torch.Tensor | None], device: torch.device) -> dict[str, torch.Tensor | None]:
        """Store the start of the first run and return it; in a later run, put the random states back and return it."""
        if self._random is None:
            self._start = {name: self._stored(tensor) for name, tensor in start.items()}
            self._random = RandomStates(device)
            return start
        self._random.restore()
        # A copy: samplers may change it in place.
        return {name: None if kept is None else kept.to(device, copy=True) for name, kept in self._start.items()}

    def _stored(self, tensor: torch.Tensor | None) -> torch.Tensor | None:
        if tensor is None:
            return None
        kept = on_cpu(tensor)
        return next((other for other in self._known if _equal(other, kept)), kept)

    @property
    def nbytes(self) -> int:
        """The bytes of what is stored: each tensor once, and the random states."""
        tensors = [*self._start.values()]
        for call in self._calls:
            tensors += [call.denoised, *(value for stored in call.post_cfg for value in stored.values())]
        sizes = {tensor.data_ptr(): tensor.nbytes for tensor in tensors if torch.is_tensor(tensor)}
        return sum(sizes.values()) + len(self._calls) * RANDOM_STATES_BYTES

    def may_be_kept(self, sigmas: torch.Tensor) -> bool:
        """Whether the run has come to the next phase, over these sigmas [steps + 1]: no patch has changed them."""
        start = self._start.get("sigmas")
        return self._until is not None and start is not None and _equal(start, on_cpu(sigmas))

    def drawn(self, before: RandomStates) -> set[str]:
        """Return which generators the run drew from; ``before`` are the random states before it."""
        states = [self._random, *(call.random for call in self._calls)]
        return {name for state in states if state is not None for name in state.differing(before)}

    def copy(self) -> Record:
        """Return a record of the same tensors; to play one of both leaves the other as it is."""
        other = copy.copy(self)
        other._calls = deque(self._calls)
        return other

    def to_play(self, sigmas: torch.Tensor, now: RandomStates, drawn: Iterable[str]) -> Record:
        """Return a copy for a run over ``sigmas`` in which only the generators in ``drawn`` are not as they are now."""
        if self._random is None:
            raise ValueError("the record has no start: its run has not begun")
        other = self.copy()
        other._start = {**self._start, "sigmas": on_cpu(sigmas)}
        other._random = now.with_states(drawn, self._random)
        other._calls = deque(replace(call, random=now.with_states(drawn, call.random)) for call in self._calls)
        return other


class PhaseSampler:
    """One phase's run of a sampler: it plays ``record``, asks the model until ``end_sigma``, and stops there.

    Args:
        record: the calls of the earlier phases; those of this phase are added.
        end_sigma: where the phase ends; ``None`` in the last one, which drops each recorded call once it is played.
        guider: the phase's ``ExpertGuider``.
    """

    def __init__(self, record: Record, end_sigma: float | None, guider: Any) -> None:
        self.record, self.end_sigma, self.guider = record, end_sigma, guider
        self.name = ""
        self._cfg = guider.cfg
        self._left: deque[_Call] = deque()

    def around(self, sampler: Any) -> Any:
        """Return a copy of the host's SAMPLER ``sampler`` that runs this phase.

        The model calls of a ``KSAMPLER`` are recorded where its function makes them: inside its treatment of the noise
        mask. Those of any other ``Sampler`` are recorded at the guider.
        """
        changed = copy.copy(sampler)
        if type(sampler).sample is comfy.samplers.KSAMPLER.sample and "sample" not in vars(sampler):
            function = sampler.sampler_function
            self.name = getattr(function, "__name__", type(sampler).__name__)
            changed.sampler_function = functools.partial(self._run_function, function)
        else:
            self.name = type(sampler).__name__
            changed.sample = functools.partial(self._run_sampler, sampler.sample)
        return changed

    def _run_function(self, function: Callable, model: Any, x: torch.Tensor, sigmas: torch.Tensor, **options: Any):
        """Run a ``KSAMPLER``'s function; ``model`` is the host's KSamplerX0Inpaint."""
        start = {"x": x, "sigmas": sigmas, "noise": model.noise, "latent_image": model.latent_image}
        start = self.record.begin(start, x.device)
        model.noise, model.latent_image = start["noise"], start["latent_image"]
        sigmas.copy_(start["sigmas"])  # the host's own: uni_pc changes the last one, by which the host divides then
        options["callback"] = self._callback(options.get("callback"))
        return self._run(lambda ask: function(_Model(model, ask(model)), start["x"], sigmas, **options), x)

    def _run_sampler(self, sample: Callable, guider: Any, sigmas, extra_args, callback, noise, *rest, **more):
        """Run another ``Sampler``'s ``sample``, whose arguments these are."""
        start = self.record.begin({"noise": noise, "sigmas": sigmas}, noise.device)

        def run(ask: Callable) -> torch.Tensor:
            guider.intercept = ask
            try:
                arguments = (start["sigmas"], extra_args, self._callback(callback), start["noise"], *rest)
                return sample(guider, *arguments, **more)
            finally:
                guider.intercept = None

        return self._run(run, noise)

    def _run(self, run: Callable, unfinished: torch.Tensor) -> torch.Tensor:
        """Run the sampler to the phase's end. If the run goes on after it, return ``unfinished``, which nobody uses."""
        self._left = deque(self.record._calls)
        self._show_cfg()
        try:
            result = run(lambda model: functools.partial(self._call, model))
        except _PhaseEnded:
            self.record._until = self.end_sigma
            return unfinished
        if self._left:
            raise self._differs("it ended early")
        if self.end_sigma is not None and not self.record._calls:
            raise RuntimeError(
                f"The sampler {self.name} asks the model past the guider, so it cannot run over two experts. Choose a "
                "sampler of KSamplerSelect, or set the hand-over so that one expert makes all steps."
            )
        return result

    def _show_cfg(self) -> None:
        """Give the guider the cfg of the next call's expert; some samplers compute their sigmas from it."""
        self.guider.cfg = self._left[0].cfg if self._left else self._cfg

    def _call(self, model: Callable, x: torch.Tensor, sigma: torch.Tensor, **arguments: Any) -> torch.Tensor:
        """Play one call of the sampler from the record, else ask ``model``."""
        at = float(sigma.max())
        if self._left:
            call = self._left.popleft()
            self._show_cfg()
            return self._play(call, x, at, arguments)
        if self.record._until is not None:
            if not reached(at, self.record._until):
                raise self._differs(f"at sigma {at:g} it asked for a prediction more than before")
            self.record._until = None
        if self.end_sigma is None:
            return model(x, sigma, **arguments)
        if reached(at, self.end_sigma):
            raise _PhaseEnded
        return self._ask(model, x, sigma, at, arguments)

    def _ask(self, model: Callable, x: torch.Tensor, sigma: torch.Tensor, at: float, arguments: dict[str, Any]):
        """Ask the model, and record what it and the sampler's post-cfg functions got."""
        digest, seen = _digest(x), []

        def spy(call: dict[str, Any]) -> torch.Tensor:
            seen.append(dict(call))
            return call["denoised"]

        options, own = self._own_post_cfg(arguments)
        if own:
            functions = options[POST_CFG]
            functions = [*functions[: len(functions) - len(own)], spy, *own]
            arguments = {**arguments, "model_options": {**options, POST_CFG: functions}}
        denoised = model(x, sigma, **arguments)
        random_states = RandomStates(x.device)
        kept = on_cpu(denoised)
        post_cfg = [_stored_arguments(call, x, denoised, kept) for call in seen]
        self.record._calls.append(_Call(self._cfg, at, digest, kept, post_cfg, random_states))
        return denoised

    def _play(self, call: _Call, x: torch.Tensor, at: float, arguments: dict[str, Any]) -> torch.Tensor:
        """Return a recorded prediction after the sampler's post-cfg functions got what they got then."""
        if call.sigma != at or call.digest != _digest(x):
            raise self._differs(f"at sigma {at:g} it asked for another latent than before")
        if self.end_sigma is None:
            self.record._calls.popleft()
        options, own = self._own_post_cfg(arguments)
        for stored in call.post_cfg:
            again = self._again(stored, x, options)
            for function in own:
                again = {**again, "denoised": function(again)}
        call.random.restore()
        return call.denoised.to(x.device, copy=True)

    def _again(self, stored: dict[str, Any], x: torch.Tensor, options: dict[str, Any]) -> dict[str, Any]:
        """Return a post-cfg function's arguments: tensors as recorded, the host's objects those of this phase."""
        conds = self.guider.conds
        present = {
            "model": self.guider.inner_model,
            "model_options": options,
            "cond": conds.get("positive"),
            "uncond": conds.get("negative"),
        }
        again: dict[str, Any] = {}
        for key, value in stored.items():
            if value is _INPUT:
                again[key] = x
            elif torch.is_tensor(value):
                again[key] = value.to(x.device)
            else:
                again[key] = value if value is None else present.get(key, value)
        return again

    def _own_post_cfg(self, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[Callable]]:
        """Return a call's model options, and those of its post-cfg functions that the sampler added."""
        options = arguments.get("model_options") or {}
        functions, given = options.get(POST_CFG) or [], self.guider.model_options.get(POST_CFG) or []
        begins = len(functions) >= len(given) and all(a is b for a, b in zip(given, functions, strict=False))
        return options, functions[len(given) :] if begins else functions

    def _callback(self, callback: Callable | None) -> Callable:
        """Return the step callback of this phase: it leaves out the steps that an earlier phase passed on."""
        steps = 0

        def on_step(*arguments: Any, **more: Any) -> None:
            nonlocal steps
            steps += 1
            if steps > self.record._steps:
                self.record._steps = steps
                if callback is not None:
                    callback(*arguments, **more)

        return on_step

    def _differs(self, how: str) -> RecordDiffersError:
        return RecordDiffersError(
            f"The sampler {self.name} does not repeat itself: run again for the next expert, {how}. It probably draws "
            "noise from its own generator. Choose a sampler of KSamplerSelect, or set the hand-over so that one "
            "expert makes all steps."
        )


class _Model:
    """The model for a sampler function: its calls go to ``ask``, all else to ``model``."""

    _ARGUMENTS = ("denoise_mask", "model_options", "seed")  # KSamplerX0Inpaint's, after x and sigma

    def __init__(self, model: Any, ask: Callable) -> None:
        vars(self).update(_model=model, _ask=ask)

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._ask(x, sigma, **dict(zip(self._ARGUMENTS, args, strict=False)), **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._model, name, value)


def _digest(x: torch.Tensor) -> int:
    """Return a sum over the bits of ``x``: the same for equal tensors, and the same on every run of a device."""
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return int(x.detach().contiguous().view(words).sum(dtype=torch.int64))


def on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy on the CPU."""
    return tensor.detach().to("cpu", copy=True)


def _stored_arguments(call: dict[str, Any], x: torch.Tensor, denoised: torch.Tensor, kept: torch.Tensor) -> dict:
    """Return a post-cfg function's arguments to store: each tensor once, no objects of the host."""
    stored: dict[str, Any] = {}
    done: list[tuple[torch.Tensor, Any]] = [(x, _INPUT), (denoised, kept)]
    for key, value in call.items():
        if not torch.is_tensor(value):
            stored[key] = None if value is None else key if key in _OBJECTS else value
            continue
        known = next((its for other, its in done if _equal(other, value)), None)
        if known is None:
            known = on_cpu(value)
            done.append((value, known))
        stored[key] = known
    return stored


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    same_kind = one.device == other.device and one.dtype == other.dtype and one.shape == other.shape
    return same_kind and torch.equal(one, other)
