"""The memoised Wan encoder: a layer does not run again where input and caches are bitwise those of before. Pure torch.

The encoder is causal and runs over chunks of frames; each layer has caches of the frames before. Where most of the
video is one colour, a layer soon leaves its caches as it found them: it has settled. If its next input is the same too,
so are its output and the caches that it would leave, bit for bit, whatever the weights.

Little is kept for that, since these outputs are the largest tensors of a run. Layers settle from the first to the last,
so all that a call needs of settled layers is the output of the last of them.
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


class _Caches(list):
    """The caches of one layer, which it changes itself; each is compared with the one before as soon as it is set."""

    def begin(self) -> None:
        """Begin a call of the layer."""
        self._before, self._changed = list(self), False

    def __setitem__(self, i: Any, cache: Any) -> None:
        super().__setitem__(i, cache)
        if cache is not None:  # None is a cache that is about to be used and then set
            before, self._before[i] = self._before[i], None
            self._changed |= before is None or not _same_bits(cache, before)

    def changed(self) -> bool:
        """Whether the call has left other caches than it found."""
        gone = (before is not None and cache is None for before, cache in zip(self._before, self, strict=True))
        return self._changed or any(gone)


class _Layer:
    """A layer that gives an output for each call."""

    def __init__(self, run: Callable[..., Any], *modules: torch.nn.Module) -> None:
        self.computed = 0
        self._run = run
        self._caches = _Caches(_slots(*modules))

    def __call__(self, x: torch.Tensor, *, final: bool) -> tuple[torch.Tensor, bool]:
        """Return the output, and whether the layer has settled."""
        self.computed += 1
        self._caches.begin()
        return self._run(x, self._caches, [0], final=final), not self._caches.changed()


class _Chain:
    """Layers one after another, of which only those run that have not settled."""

    def __init__(self, layers: list[_Layer], numbers: Iterator[int]) -> None:
        self.layers = layers
        self._numbers = numbers
        self._settled = 0
        self._input = -1
        self._output = _NOTHING  # of the last layer that has settled

    def __call__(self, x: _Tracked, *, final: bool) -> _Tracked:
        """Return the output of the last layer.

        The last chunk is computed in any case, since ``final`` changes what a layer does.
        """
        if final or x.number != self._input:
            self._settled, self._input, self._output = 0, x.number, x
        output, settled = self._output, True
        for layer in self.layers[self._settled :]:
            tensor, unchanged = layer(output.tensor, final=final)
            output, settled = _Tracked(tensor, next(self._numbers)), settled and unchanged
            if settled:
                self._settled, self._output = self._settled + 1, output
        return output


class _Call(NamedTuple):
    """One call of a downsampler: the numbers of what went in, what came out, and the caches it left."""

    key: tuple[int, ...]
    output: _Tracked
    caches: tuple[_Tracked, ...]


class _Downsampler:
    """A temporal downsampler. It keeps an odd frame for its next call, so it repeats every two calls."""

    def __init__(self, module: torch.nn.Module, numbers: Iterator[int]) -> None:
        self.computed = 0
        self.layers = [self]
        self._run = module
        self._numbers = numbers
        self._caches = tuple(_NOTHING for _ in _slots(module))
        self._past: deque[_Call] = deque(maxlen=2)

    def __call__(self, x: _Tracked, *, final: bool) -> _Tracked:
        """Return the output; its tensor is None where the frame is kept for the next call."""
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

    ``computed`` counts how often each layer ran: the first convolution with the first block, all others, the head.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._numbers = itertools.count(1)
        encoder = model.encoder
        first, *others = encoder.downsamples
        layers = [_Layer(_first(encoder.conv1, first), encoder.conv1, first)]
        self._parts: list[_Chain | _Downsampler] = []
        for layer in (*others, *encoder.middle):
            if getattr(layer, "mode", None) == "downsample3d":
                self._parts += [_Chain(layers, self._numbers), _Downsampler(layer, self._numbers)]
                layers = []
            else:
                layers.append(_Layer(layer, layer))
        layers.append(_Layer(_head(encoder), encoder.head))
        self._parts.append(_Chain(layers, self._numbers))

    @property
    def computed(self) -> list[int]:
        return [layer.computed for part in self._parts for layer in part.layers]

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
            for part in self._parts:
                x = part(x, final=i == chunks - 1)
                if x.tensor is None:
                    break
            else:  # joined one by one as ComfyUI does, since the memory format depends on it
                latent = x.tensor if latent is None else torch.cat([latent, x.tensor], 2)
        return self._model.conv1(latent).chunk(2, dim=1)[0]


def _slots(*modules: torch.nn.Module) -> list[None]:
    """Return empty caches: every cache belongs to a module, so there are no more caches than modules."""
    return [None for module in modules for _ in module.modules()]


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


def _first(convolution: Any, block: Any) -> Callable[..., torch.Tensor]:
    """Join the first convolution, which costs little and has one of the largest outputs, to the first block."""
    convolve = _convolution(convolution)

    def run(x: torch.Tensor, slots: list, index: list[int], final: bool = False) -> torch.Tensor:
        return block(convolve(x, slots, index), slots, index, final=final)

    return run


def _head(encoder: Any) -> Callable[..., torch.Tensor]:
    causal = type(encoder.conv1)
    steps = [_convolution(module) if isinstance(module, causal) else module for module in encoder.head]

    def run(x: torch.Tensor, slots: list, index: list[int], final: bool = False) -> torch.Tensor:
        for module, step in zip(encoder.head, steps, strict=True):
            x = step(x, slots, index) if isinstance(module, causal) else step(x)
        return x

    return run
