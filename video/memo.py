"""The memoised Wan encoder: a layer does not run again where input and caches are bitwise those of before. Pure torch.

The encoder is causal and runs over chunks of frames; each layer has caches of the frames before. Where most of the
video is one colour, a layer soon gets the same input with the same caches again. Then its output and the caches that
it leaves are the same too, bit for bit, whatever the weights.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch

# comfy/ldm/wan/vae.py, CACHE_T: how many frames of its input a convolution keeps for the next chunk.
_CACHED_FRAMES = 2

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class _Tracked(NamedTuple):
    """A tensor and its number: within one encode, equal numbers mean bitwise equal tensors."""

    tensor: torch.Tensor | None
    number: int


_NOTHING = _Tracked(None, 0)


class _Call(NamedTuple):
    """One call of a layer: the numbers of what went in, what came out, and the caches it left."""

    key: tuple[int, ...]
    output: _Tracked
    caches: tuple[_Tracked, ...]


class _Layer:
    """One layer of the encoder with its caches and its last calls."""

    def __init__(self, run: Callable[..., Any], module: torch.nn.Module, numbers: Iterator[int]) -> None:
        self.calls = self.computed = 0
        self._run = run
        self._numbers = numbers
        # Every cache belongs to a module, so a layer has no more caches than modules.
        self._caches = (_NOTHING,) * sum(1 for _ in module.modules())
        # A temporal downsampler keeps an odd frame for its next call, so it repeats every two calls; others every call.
        self._past: deque[_Call] = deque(maxlen=2 if getattr(module, "mode", None) == "downsample3d" else 1)

    def __call__(self, x: _Tracked, *, final: bool) -> _Tracked:
        """Return the layer's output; its tensor is None where a downsampler keeps the frame for its next call.

        The last chunk is computed in any case, since ``final`` changes what a layer does.
        """
        self.calls += 1
        key = (x.number, *(cache.number for cache in self._caches))
        call = None if final else next((past for past in self._past if past.key == key), None)
        if call is None:
            call = self._compute(key, x, final)
            self._past.append(call)
        self._caches = call.caches
        return call.output

    def _compute(self, key: tuple[int, ...], x: _Tracked, final: bool) -> _Call:
        self.computed += 1
        slots = [cache.tensor for cache in self._caches]
        output = self._run(x.tensor, slots, [0], final=final)
        tracked = _track(output, (past.output for past in self._past), self._numbers)
        caches = (_track(slot, (past.caches[i] for past in self._past), self._numbers) for i, slot in enumerate(slots))
        return _Call(key, tracked, tuple(caches))


class MemoisedEncoder:
    """Encode one video with ``model``, ComfyUI's Wan VAE, in eval mode and on its device.

    Each of ``layers`` counts its ``calls`` and how many of them it ``computed``.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._numbers = itertools.count(1)
        encoder = model.encoder
        self.layers = [
            _Layer(_convolution(encoder.conv1), encoder.conv1, self._numbers),
            *(_Layer(layer, layer, self._numbers) for layer in (*encoder.downsamples, *encoder.middle)),
            _Layer(_head(encoder), encoder.head, self._numbers),
        ]

    def encode(self, chunk: Callable[[int], torch.Tensor], chunks: int) -> torch.Tensor:
        """Return the latent mean, [1, latent channels, latent frames, height / 8, width / 8], as ``model.encode`` does.

        Args:
            chunk: returns chunk ``i`` (its frames are ``chunk_bounds(i)``), [1, 3, frames, height, width], -1...1, of
                the model's dtype and on its device. Returning the same tensor again saves the comparison.
            chunks: how many chunks there are, at least 2.
        """
        latent, previous = None, _NOTHING
        for i in range(chunks):
            x = previous = _track(chunk(i), (previous,), self._numbers)
            for layer in self.layers:
                x = layer(x, final=i == chunks - 1)
                if x.tensor is None:
                    break
            else:  # joined one by one as ComfyUI does, since the memory format depends on it
                latent = x.tensor if latent is None else torch.cat([latent, x.tensor], 2)
        return self._model.conv1(latent).chunk(2, dim=1)[0]


def _track(tensor: torch.Tensor | None, known: Iterable[_Tracked], numbers: Iterator[int]) -> _Tracked:
    """Number a tensor; one with the bits of a known one becomes that one."""
    if tensor is None:
        return _NOTHING
    same = next((other for other in known if other.tensor is not None and _same_bits(tensor, other.tensor)), None)
    return same or _Tracked(tensor, next(numbers))


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Compare as integers, for which -0 is not 0 and a NaN is itself; strides count, as kernels are chosen by them."""
    if a is b:
        return True
    if a.dtype != b.dtype or a.shape != b.shape or a.stride() != b.stride():
        return False
    integers = _INTEGERS[a.element_size()]
    return torch.equal(a.view(integers), b.view(integers))


def _convolution(convolution: Any) -> Callable[..., torch.Tensor]:
    """Give a causal convolution the arguments of the other layers, as ComfyUI's encoder calls it."""

    def run(x: torch.Tensor, slots: list, index: list[int], final: bool = False) -> torch.Tensor:
        cache, slots[index[0]] = slots[index[0]], x[:, :, -_CACHED_FRAMES:]
        index[0] += 1
        return convolution(x, cache)

    return run


def _head(encoder: Any) -> Callable[..., torch.Tensor]:
    causal = type(encoder.conv1)
    steps = [_convolution(module) if isinstance(module, causal) else module for module in encoder.head]

    def run(x: torch.Tensor, slots: list, index: list[int], final: bool = False) -> torch.Tensor:
        for module, step in zip(encoder.head, steps, strict=True):
            x = step(x, slots, index) if isinstance(module, causal) else step(x)
        return x

    return run
