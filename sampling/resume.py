"""Runs that need not begin at their start: records and results of earlier runs (``WAN_FLF2V_RESUME_MB``) that hold.

The last phase of a run knows of the phases before it what their record says, and nothing else. So while all that those
phases see is as it was, the last one can play the record of an earlier run: its LoRA, cfg and patches may be others.
The same goes for a prelude, of which the phases after it know its latent, and for the seeds and segments that had
finished when a run of several was interrupted.
"""

from __future__ import annotations

import logging
import math
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import comfy.ldm.modules.attention
import comfy.ldm.wan.model
import comfy.samplers
import torch

from ..limits import read_limit
from .fingerprint import CannotTellError, Fingerprint
from .record import RANDOM_STATES_BYTES, RandomStates, Record
from .schedule import in_words

if TYPE_CHECKING:
    from .phases import Phase, Run, Seed

LIMIT_VARIABLE = "WAN_FLF2V_RESUME_MB"
_DEFAULT_LIMIT_MB = 1024
_LOG = logging.getLogger("wan_flf2v.sampling")


def limit_bytes() -> int:
    """Return how many bytes may be kept; raises what ``read_limit`` raises."""
    return read_limit(LIMIT_VARIABLE, _DEFAULT_LIMIT_MB)


@dataclass(frozen=True)
class Result:
    """What a finished run gave: its latent, on the CPU, and the random states after it that it has changed."""

    latent: torch.Tensor
    changed: set[str]
    after: RandomStates

    @property
    def nbytes(self) -> int:
        """The bytes of what is stored."""
        return self.latent.nbytes + RANDOM_STATES_BYTES

    def drawn(self, _before: RandomStates) -> set[str]:
        """Return which generators the run drew from."""
        return self.changed

    def copy(self) -> Result:
        """Return itself: nothing changes it."""
        return self

    def give(self, device: torch.device) -> torch.Tensor:
        """Return the latent, and leave the random states as the run would; ``device`` has the generator."""
        RandomStates(device).with_states(self.changed, self.after).restore()
        return self.latent


@dataclass(frozen=True)
class _Kept:
    """What is kept, the random states before its run, and references to the objects that it holds for."""

    value: Record | Result
    before: RandomStates
    refs: list[weakref.ref]


class RecordStore:
    """Records and results by key, at most ``limit_bytes()`` in all; the least recently used go first.

    One goes with the first of the objects that it holds for, so it goes when ComfyUI drops its MODEL: when it is asked
    to free memory, or runs short of it.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._of_run: set[str] = set()
        self._said = False

    def begin_run(self) -> None:
        """Begin a run of the node: if not all that it leaves fits, the log says so once."""
        self._of_run, self._said = set(), False

    def get(self, key: str, now: RandomStates) -> tuple[Any, set[str]] | None:
        """Return what is kept and which generators its run drew from, or None.

        ``now`` are the random states before the run. They matter where the kept run drew from a generator.
        """
        kept = self._kept.get(key)
        if kept is None:
            return None
        drawn = kept.value.drawn(kept.before)
        if drawn & now.differing(kept.before):
            return None
        self._kept.move_to_end(key)
        return kept.value, drawn

    def put(self, key: str, refs: Sequence[weakref.ref], before: RandomStates, value: Record | Result) -> None:
        """Keep a copy, and drop old ones until all fit; one above the limit is not kept."""
        limit = limit_bytes()
        objects = [ref() for ref in refs]
        if any(each is None for each in objects):
            return

        def drop(_: weakref.ref) -> None:
            self._kept.pop(key, None)

        self._kept.pop(key, None)  # first, since its references drop the key
        needed = value.nbytes + sum(kept.value.nbytes for name, kept in self._kept.items() if name in self._of_run)
        self._of_run.add(key)
        if needed > limit and not self._said:
            self._said = True
            _LOG.info(
                "not all that steps give is kept for a later run needed_mb=%d limit_mb=%d: set %s to more",
                math.ceil(needed / 10**6),
                limit // 10**6,
                LIMIT_VARIABLE,
            )
        if value.nbytes > limit:
            return
        self._kept[key] = _Kept(value.copy(), before, [weakref.ref(each, drop) for each in objects])
        while self.size_bytes() > limit:
            self._kept.popitem(last=False)

    def drop(self, key: str) -> None:
        """Drop what does not hold after all, or is of no more use."""
        self._kept.pop(key, None)

    def size_bytes(self) -> int:
        """Return how many bytes are kept."""
        return sum(kept.value.nbytes for kept in list(self._kept.values()))


STORE = RecordStore()


class _Key(NamedTuple):
    """Where something of one seed is kept, the objects that it holds for, and the random states before the run."""

    digest: str
    refs: list[weakref.ref]
    before: RandomStates


class Resume:
    """One run's way to the store: what its seeds find there, and what they leave.

    Args:
        run: the run.
        keeps_results: whether the results of its seeds are kept too.
    """

    def __init__(self, run: Run, *, keeps_results: bool) -> None:
        phases = run.phases
        self._sigmas = phases[0].sigmas.clone()  # some samplers change them in place
        self._device = phases[0].expert.model.load_device
        self._records: dict[int, _Key] = {}
        self._results: dict[int, _Key] = {}
        self._shared: list[Fingerprint | None] = [None, None]
        *earlier, last = phases
        told = phases[0]
        try:
            shared = Fingerprint()
            for told in earlier:
                _add_phase(shared, told)
            _add_host(shared)
            # The phases are told the sigmas up to their end. A patch could look at all of them.
            if shared.has_code:
                shared.add(self._sigmas)
            plain = type(run.sampler) is comfy.samplers.KSAMPLER  # node 57 makes one for each run
            shared.add(list(vars(run.sampler).items()) if plain else run.sampler)
            shared.add([run.latent_image, run.denoise_mask])
            if earlier:
                self._shared[0] = shared
            if keeps_results:
                told, whole = last, shared.copy()
                _add_phase(whole, last)
                self._shared[1] = whole
        except CannotTellError as error:
            steps = in_words(told.expert.name)
            _LOG.info("what steps give is not kept for a later run steps=%s: %s among what they see", steps, error)

    def find(self, number: int, seed: Seed) -> Result | Record | None:
        """Return the result of seed ``number``, or the record that it can play, or None."""
        noise = seed.make_noise()
        now = RandomStates(self._device)
        record, result = (_key(shared, noise, seed, now) for shared in self._shared)
        if record is not None:
            self._records[number] = record
        if result is not None:
            self._results[number] = result
            found = STORE.get(result.digest, now)
            if found is not None:
                return found[0]
        found = STORE.get(record.digest, now) if record is not None else None
        return None if found is None else found[0].to_play(self._sigmas, now, found[1])

    def keep(self, number: int, record: Record) -> None:
        """Keep the record of seed ``number``, whose phases but the last have run."""
        if number in self._records and record.may_be_kept(self._sigmas):
            STORE.put(*self._records[number], record)

    def keep_result(self, number: int, latent: torch.Tensor) -> None:
        """Keep what seed ``number`` gave just now; nobody changes it in place."""
        if number in self._results:
            key, now = self._results[number], RandomStates(self._device)
            STORE.put(*key, Result(latent.to("cpu"), now.differing(key.before), now))

    def drop(self, number: int) -> None:
        """Drop the record that was found for seed ``number``."""
        STORE.drop(self._records[number].digest)

    def drop_results(self) -> None:
        """Drop the results of all seeds."""
        for key in self._results.values():
            STORE.drop(key.digest)


def _key(shared: Fingerprint | None, noise: torch.Tensor, seed: Seed, now: RandomStates) -> _Key | None:
    if shared is None:
        return None
    fingerprint = shared.copy()
    fingerprint.add([noise, seed.seed, seed.start])
    return _Key(fingerprint.digest(), fingerprint.refs, now)


def _add_phase(fingerprint: Fingerprint, phase: Phase) -> None:
    """Add all that a phase sees, but for what the whole run shares."""
    expert = phase.expert
    closes = phase.gate().close_sigma if expert.is_gated else None
    fingerprint.add([expert.name, expert.cfg, closes, phase.first, phase.end, phase.sigmas[: phase.end + 1]])
    fingerprint.add([expert.source, expert.model.get_model_object("model_sampling")])
    fingerprint.add([expert.positive, expert.negative])


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
