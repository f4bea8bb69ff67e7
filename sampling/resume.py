"""Runs that begin at the hand-over: the records of earlier runs (``WAN_FLF2V_RESUME_MB``), as long as they hold.

The last phase of a run knows of the phases before it what their record says, and nothing else. So while all that those
phases see is as it was, the last one can play the record of an earlier run: its LoRA, cfg and patches may be others.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.ldm.modules.attention
import comfy.ldm.wan.model
import comfy.samplers
import torch

from ..limits import read_limit
from .fingerprint import CannotTellError, Fingerprint
from .gate import GuidanceGate
from .record import RandomStates, Record

if TYPE_CHECKING:
    from .phases import Phase

LIMIT_VARIABLE = "WAN_FLF2V_RESUME_MB"
_DEFAULT_LIMIT_MB = 1024
_LOG = logging.getLogger("wan_flf2v.sampling")


def limit_bytes() -> int:
    """Return how many bytes may be kept; raises what ``read_limit`` raises."""
    return read_limit(LIMIT_VARIABLE, _DEFAULT_LIMIT_MB)


@dataclass(frozen=True)
class _Kept:
    """A record, the random states before its run, and references to the objects that it holds for."""

    record: Record
    before: RandomStates
    refs: list[weakref.ref]


class RecordStore:
    """Records by key, at most ``limit_bytes()`` in all; the least recently used go first.

    A record goes with the first of the objects that it holds for, so it goes when ComfyUI drops its MODEL: when it is
    asked to free memory, or runs short of it.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def get(self, key: str, now: RandomStates, sigmas: torch.Tensor) -> Record | None:
        """Return a copy of the record to play over ``sigmas``, or None.

        ``now`` are the random states before the run. They matter where the recorded run drew from a generator; where
        it did not, the copy leaves the generator as it is now.
        """
        kept = self._kept.get(key)
        if kept is None:
            return None
        drawn = kept.record.drawn(kept.before)
        if drawn & now.differing(kept.before):
            return None
        self._kept.move_to_end(key)
        return kept.record.to_play(sigmas, now, drawn)

    def put(self, key: str, refs: Sequence[weakref.ref], before: RandomStates, record: Record) -> None:
        """Keep a copy of the record, and drop old ones until all fit; one above the limit is not kept."""
        limit = limit_bytes()
        objects = [ref() for ref in refs]
        if record.nbytes > limit or any(each is None for each in objects):
            return

        def drop(_: weakref.ref) -> None:
            self._kept.pop(key, None)

        self._kept.pop(key, None)  # first, since its references drop the key
        self._kept[key] = _Kept(record.copy(), before, [weakref.ref(each, drop) for each in objects])
        while self.size_bytes() > limit:
            self._kept.popitem(last=False)

    def drop(self, key: str) -> None:
        """Drop a record that does not hold after all."""
        self._kept.pop(key, None)

    def size_bytes(self) -> int:
        """Return how many bytes are kept."""
        return sum(kept.record.nbytes for kept in list(self._kept.values()))


STORE = RecordStore()


class Resume:
    """One run's way to the store: what its seeds find there, and what they leave.

    Args:
        phases: the run's phases, at least two.
        sampler, latent_image, denoise_mask: as the run gets them.
    """

    def __init__(
        self, phases: Sequence[Phase], sampler: Any, latent_image: torch.Tensor, denoise_mask: torch.Tensor | None
    ) -> None:
        self._sigmas = phases[0].sigmas.clone()  # some samplers change them in place
        self._device = phases[0].expert.model.load_device
        self._keys: dict[int, tuple[str, list[weakref.ref], RandomStates]] = {}
        self._shared: Fingerprint | None = Fingerprint()
        try:
            for phase in phases[:-1]:
                _add_phase(self._shared, phase)
            _add_host(self._shared)
            # The phases are told the sigmas up to their end. A patch could look at all of them.
            if self._shared.has_code:
                self._shared.add(self._sigmas)
            plain = type(sampler) is comfy.samplers.KSAMPLER  # node 57 makes one for each run
            self._shared.add(list(vars(sampler).items()) if plain else sampler)
            self._shared.add([latent_image, denoise_mask])
        except CannotTellError as error:
            _LOG.info("the steps before the hand-over are not kept for a later run: %s among what they see", error)
            self._shared = None

    def find(self, number: int, noise: torch.Tensor, seed: int | None) -> Record | None:
        """Return the record that seed ``number`` can play, or None; its ``noise`` was made just now."""
        if self._shared is None:
            return None
        fingerprint, now = self._shared.copy(), RandomStates(self._device)
        fingerprint.add([noise, seed])
        key = fingerprint.digest()
        self._keys[number] = (key, fingerprint.refs, now)
        return STORE.get(key, now, self._sigmas)

    def keep(self, number: int, record: Record) -> None:
        """Keep the record of seed ``number``, whose phases but the last have run."""
        if number in self._keys and record.may_be_kept(self._sigmas):
            key, refs, before = self._keys[number]
            STORE.put(key, refs, before, record)

    def drop(self, number: int) -> None:
        """Drop the record that was found for seed ``number``."""
        STORE.drop(self._keys[number][0])


def _add_phase(fingerprint: Fingerprint, phase: Phase) -> None:
    """Add all that a phase before the last one sees, but for what the whole run shares."""
    expert = phase.expert
    closes = None
    if expert.gate < 1 and not math.isclose(expert.cfg, 1.0):
        closes = GuidanceGate(expert.gate, phase.sigmas[phase.first : phase.end]).close_sigma
    fingerprint.add([expert.name, expert.cfg, closes, phase.first, phase.end, phase.sigmas[: phase.end + 1]])
    fingerprint.add([expert.model, expert.positive, expert.negative])


def _add_host(fingerprint: Fingerprint) -> None:
    """Add the settings of ComfyUI and PyTorch that arithmetic depends on and that can change while they run."""
    for module in (comfy.ldm.modules.attention, comfy.ldm.wan.model):
        fingerprint.add_identity(module.optimized_attention)
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    kernels = ("flash_sdp", "mem_efficient_sdp", "math_sdp", "cudnn_sdp")
    exactness = ("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction")
    facts: list[Any] = [
        *(getattr(cuda, f"{kernel}_enabled")() for kernel in kernels if hasattr(cuda, f"{kernel}_enabled")),
        *(getattr(cuda.matmul, name, None) for name in (*exactness, "allow_fp16_accumulation")),
        *(getattr(cudnn, name) for name in ("enabled", "allow_tf32", "benchmark", "deterministic")),
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    ]
    fingerprint.add([repr(fact) for fact in facts])
