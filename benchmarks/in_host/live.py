"""Bytes of the tensors that live at one time, at most: in the encode of ComfyUI's Wan VAE, and in the memoised one."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ._stage import PARAMETERS, new_vae, noise, report  # isort: skip -- first, it prepares the host
from ...video.chunks import chunk_bounds, chunk_count
from ...video.memo import MemoisedEncoder


class _LivePeak(TorchDispatchMode):
    """Counts each storage that an operation returns, from then until it is freed; ``known`` ones are left out."""

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._counted = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in self._counted:
                self._counted.add(storage._cdata)
                self._live += storage.nbytes()
                weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self._live)
        return result

    def _free(self, storage: int, size: int) -> None:
        self._counted.discard(storage)
        self._live -= size


def main(dim: int, side: int, frames: int) -> None:
    """Measure both; weights, and the pixels of the video, are not counted."""
    model = new_vae(dim).first_stage_model
    video = torch.zeros(1, 3, frames, side, side)
    video[:, :, (0, -1)] = noise(1, 3, 2, side, side) * 2 - 1
    grey = video[:, :, 1:3].clone()

    def chunk(i: int) -> torch.Tensor:
        first, end = chunk_bounds(i)
        return grey if first > 0 and end < frames else video[:, :, first:end]

    peaks, latents = [], []
    for encode in (lambda: model.encode(video), lambda: MemoisedEncoder(model).encode(chunk, chunk_count(frames))):
        with _LivePeak((*model.parameters(), *model.buffers(), video, grey)) as live:
            latents.append(encode())
        peaks.append(live.peak)
    if not torch.equal(*latents):
        raise RuntimeError("the two latents differ")
    report({"peaks": peaks})


if __name__ == "__main__":
    with torch.inference_mode():
        main(**PARAMETERS)
