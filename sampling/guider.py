"""One trajectory over two experts: a guider that runs the whole schedule once and changes the model under way."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sampler_helpers
import comfy.samplers
import torch

from .gate import GuidanceGate
from .memory_release import release_cast_buffers
from .nesting import nesting_obstacle
from .options import add_changes
from .replay import Recording, playing, recording
from .schedule import BOUNDARY, handover_step, reached

_LOG = logging.getLogger("wan_flf2v")


@dataclass(frozen=True)
class Guidance:
    """What guides one expert: CONDITIONING and cfg scale; ``gate`` is the fraction of its steps with full guidance."""

    positive: list
    negative: list
    cfg: float
    gate: float = 1.0


@dataclass(frozen=True)
class Handover:
    """When the low-noise expert takes over; the fields are ``schedule.handover_step``'s arguments."""

    rule: str = "boundary"
    step: int = 0
    boundary: float = BOUNDARY


@dataclass
class Position:
    """Where a run is: the sigma of its last model call and whose it was; ``None`` before the first."""

    sigma: float | None = None
    low: bool = False


class ExpertGuider(comfy.samplers.CFGGuider):
    """The host's classifier-free guidance with one expert, as if it ran alone, and its guidance gate."""

    low_noise = False

    def __init__(self, model: Any, guidance: Guidance, position: Position) -> None:
        super().__init__(model)
        self.set_conds(guidance.positive, guidance.negative)
        self.set_cfg(guidance.cfg)
        self.gate = GuidanceGate(guidance.gate)
        self.position = position

    def __call__(self, x, timestep, model_options={}, seed=None):  # noqa: B006 -- the host's signature
        """Answer one model call; a run that was interrupted ends here, whatever its sampler reports."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.position.sigma, self.position.low = float(timestep.max()), self.low_noise
        return super().__call__(x, timestep, model_options=model_options, seed=seed)

    def predict_noise(self, x: torch.Tensor, timestep: torch.Tensor, model_options: dict = {}, seed: int | None = None):  # noqa: B006, D102 -- the host's signature
        return self.gate.predict(super().predict_noise, x, timestep, model_options, seed, guider=self)


class _InnerExpert(ExpertGuider):
    """The low-noise expert inside another guider's run: its own wrappers around it, loaded at the switch."""

    low_noise = True
    run: Callable[..., torch.Tensor] | None = None

    def outer_sample(self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, *rest, **more):
        if self.run is None:
            return super().outer_sample(noise, latent_image, sampler, sigmas, denoise_mask, callback, *rest, **more)
        return self.run(noise, latent_image, sampler, sigmas, callback)

    def enter(self, inputs: _Inputs) -> None:
        """Load the expert and prepare its conditioning, as the host's guider does before its first model call."""
        self.inner_model, self.conds, self.loaded_models = comfy.sampler_helpers.prepare_sampling(
            self.model_patcher, inputs.noise.shape, self.conds, self.model_options
        )
        try:
            self._prepare(inputs)
        except BaseException:  # out of memory, as a rule
            self.leave()
            raise

    def _prepare(self, inputs: _Inputs) -> None:
        device = inputs.device
        comfy.samplers.cast_to_load_options(self.model_options, device=device, dtype=self.model_patcher.model_dtype())
        self.model_patcher.pre_run()
        latent = inputs.latent_image
        if latent is not None and torch.count_nonzero(latent) > 0:
            latent = self.inner_model.process_latent_in(latent)
        self.conds = comfy.samplers.process_conds(
            *(self.inner_model, inputs.noise, self.conds, device, latent, inputs.denoise_mask, inputs.seed),
            latent_shapes=inputs.latent_shapes,
        )
        self.call_options = comfy.model_patcher.create_model_options_clone(self.model_options)
        self.call_options.setdefault("transformer_options", {})["sample_sigmas"] = inputs.sigmas

    def leave(self) -> None:
        """Let go of what ``enter`` took."""
        self.model_patcher.cleanup()
        comfy.sampler_helpers.cleanup_models(self.conds, self.loaded_models)


@dataclass(frozen=True)
class _Inputs:
    """What the host's guider prepares an expert's conditioning from."""

    noise: torch.Tensor
    latent_image: torch.Tensor
    device: torch.device
    sigmas: torch.Tensor
    denoise_mask: torch.Tensor | None
    seed: int | None
    latent_shapes: list | None


class DualExpertGuider(ExpertGuider):
    """Guides one run over both experts; to the sampler it is one model.

    A model call goes to the low-noise expert once its sigma is at most that of the first low-noise step (1e-6
    relative), and never back. So the solver's history and its seeded noise go on across the hand-over. Until then it
    is a ``CFGGuider`` of the high-noise expert; the wrappers of both experts nest around the whole run, those of the
    high-noise one outside, each with its own expert's guider as ``class_obj``.

    Args:
        high: MODEL for the noisy steps.
        low: MODEL for the rest, on the same schedule (``schedule.follow_schedule``).
        guidance: CONDITIONING, cfg and gate of the high-noise expert.
        cfg_low: cfg scale of the low-noise expert; all else of its guidance is the same.
        handover: when the low-noise expert takes over.
    """

    def __init__(self, high: Any, low: Any, guidance: Guidance, cfg_low: float, handover: Handover) -> None:
        super().__init__(high, guidance, Position())
        self.low = _InnerExpert(low, replace(guidance, cfg=cfg_low), self.position)
        self.handover = handover
        self.obstacle: str | None = None  # why the last run took two sampler calls, if it did
        self._switch_sigma: float | None = None
        self._inputs: _Inputs | None = None
        self._switched = False

    def sample(
        self, noise, latent_image, sampler, sigmas, denoise_mask=None, callback=None, disable_pbar=False, seed=None
    ):
        """Run ``sigmas`` [steps + 1] from ``noise`` and ``latent_image``; as ``CFGGuider.sample``."""
        rest = (denoise_mask, callback, disable_pbar, seed)
        if len(sigmas) < 2:  # as the host's guider: nothing to do
            return latent_image
        first_low = self.first_low_step(sigmas)
        if first_low in (0, len(sigmas) - 1):
            alone = self.low.sample if first_low == 0 else super().sample
            with self._run(sigmas, first_low):
                return alone(noise, latent_image, sampler, sigmas, *rest)
        self.obstacle = nesting_obstacle(self, self.low, has_mask=denoise_mask is not None)
        if self.obstacle is not None:
            _LOG.info("wan-flf2v: two sampler calls, one for each expert, as %s; the trajectory is one", self.obstacle)
            record = self.record_high(noise, latent_image, sampler, sigmas, *rest)
            return self.play_low(record, noise, latent_image, sampler, sigmas, *rest)
        with self._run(sigmas, first_low):
            self._switch_sigma = float(sigmas[first_low])
            return super().sample(noise, latent_image, sampler, sigmas, *rest)

    def first_low_step(self, sigmas: torch.Tensor) -> int:
        """Return the index of the first low-noise step of ``sigmas`` [steps + 1]; ``ValueError`` if outside."""
        model_sampling = self.model_patcher.get_model_object("model_sampling")
        return handover_step(model_sampling, sigmas, self.handover.rule, self.handover.step, self.handover.boundary)

    def record_high(self, noise, latent_image, sampler, sigmas, *rest) -> Recording:
        """Run the high-noise expert alone up to the hand-over, and return what it answered; arguments as ``sample``.

        Raises:
            ValueError: ``sampler`` is no ``KSAMPLER``, the host's wrapper of a sampler function.
        """
        first_low = self.first_low_step(sigmas)
        record = Recording(float(sigmas[first_low]))
        with self._run(sigmas, first_low):
            super().sample(noise, latent_image, recording(sampler, record), sigmas, *rest)
        return record

    def play_low(self, record: Recording, noise, latent_image, sampler, sigmas, *rest) -> torch.Tensor:
        """Run the low-noise expert from the hand-over on, with the recorded run before it; arguments as ``sample``."""
        release_cast_buffers()
        with self._run(sigmas, self.first_low_step(sigmas)):
            return self.low.sample(noise, latent_image, playing(sampler, record), sigmas, *rest)

    def outer_sample(
        self,
        noise,
        latent_image,
        sampler,
        sigmas,
        denoise_mask=None,
        callback=None,
        disable_pbar=False,
        seed=None,
        latent_shapes=None,
    ):
        """Run inside the wrappers of both experts; as ``CFGGuider.outer_sample``."""
        whole = super().outer_sample

        def run(noise, latent_image, sampler, sigmas, callback):
            more = {"disable_pbar": disable_pbar, "seed": seed, "latent_shapes": latent_shapes}
            return whole(noise, latent_image, sampler, sigmas, denoise_mask, callback, **more)

        if self._switch_sigma is None:
            return run(noise, latent_image, sampler, sigmas, callback)
        self.low.run = run
        try:  # the mask is in run: it is prepared already
            return self.low.sample(noise, latent_image, sampler, sigmas, None, callback, disable_pbar, seed)
        finally:
            self.low.run = None

    def inner_sample(
        self,
        noise,
        latent_image,
        device,
        sampler,
        sigmas,
        denoise_mask,
        callback,
        disable_pbar,
        seed,
        latent_shapes=None,
    ):
        """Sample with the loaded high-noise expert, and note what the low-noise one is prepared from."""
        if self._switch_sigma is not None:
            self._inputs = _Inputs(noise, latent_image, device, sigmas, denoise_mask, seed, latent_shapes)
        rest = (denoise_mask, callback, disable_pbar, seed, latent_shapes)
        try:
            return super().inner_sample(noise, latent_image, device, sampler, sigmas, *rest)
        finally:
            if self._switched:
                self.low.leave()

    def __call__(self, x, timestep, model_options={}, seed=None):  # noqa: B006 -- the host's signature
        """Answer one model call of the sampler with the expert whose turn it is."""
        waiting = self._switch_sigma is not None and not self._switched
        if waiting and reached(float(timestep.max()), self._switch_sigma):
            self._switch()
        if not self._switched:
            return super().__call__(x, timestep, model_options=model_options, seed=seed)
        options = add_changes(self.low.call_options, model_options, self.model_options)
        return self.low(x, timestep, model_options=options, seed=seed)

    def _switch(self) -> None:
        """Clean up the high-noise expert before the low-noise one is loaded: both may share one base model."""
        assert self._inputs is not None  # noqa: S101 -- set by inner_sample
        comfy.model_management.throw_exception_if_processing_interrupted()  # before the load, which takes long
        self.model_patcher.cleanup()
        release_cast_buffers()
        self.low.enter(self._inputs)
        self.inner_model = self.low.inner_model  # the high-noise one's patches may be gone
        self._switched = True

    @contextlib.contextmanager
    def _run(self, sigmas: torch.Tensor, first_low: int) -> Iterator[None]:
        """Set both gates for a run; in the end let go of all its tensors: the host keeps guiders between prompts."""
        self.position.sigma, self.position.low = None, False
        self.gate.begin(sigmas[:first_low])
        self.low.gate.begin(sigmas[first_low:-1])
        try:
            yield
        finally:
            self._switch_sigma = self._inputs = None
            self._switched = False
            for guider in (self, self.low):
                guider.gate.end()
                for name in ("conds", "inner_model", "loaded_models", "call_options"):
                    guider.__dict__.pop(name, None)
