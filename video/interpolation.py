"""ComfyUI's node that interpolates frames, called for a few at a time while others are decoded and encoded."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator
from typing import TextIO

import comfy.model_management
import comfy.utils
import torch

from .clips import Coder
from .edit import Interpolate

_LOG = logging.getLogger("wan_flf2v.video")


class Interpolation:
    """Makes the frames in between; what is no number becomes 0, as in decoded frames.

    Args:
        node: runs ComfyUI's node. It changes no image that it gets, and shows its progress for each call.
    """

    def __init__(self, node: Interpolate) -> None:
        self._node = node
        self._coded = Coder(floats=True)
        self._warned = False

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return an IMAGE, float 0...1, of (n - 1) * factor + 1 frames for one of n, at least 2.

        After out-of-memory it tries pair by pair, with nothing else loaded; if that is too much, ComfyUI's error comes
        through.
        """
        try:
            return self._coded(self._made(images))
        except Exception as error:
            if not comfy.model_management.is_oom(error):
                raise
        # Not inside `except`: the error holds the tensors of the first attempt as long as it exists.
        if not self._warned:
            self._warned = True
            _LOG.warning(
                "out of memory in the frame interpolation: all models are unloaded, and it goes on with two frames at "
                "a time"
            )
        comfy.model_management.unload_all_models()
        comfy.model_management.soft_empty_cache()
        pairs = [self._made(images[i : i + 2]) for i in range(len(images) - 1)]
        return self._coded(torch.cat([*(pair[:-1] for pair in pairs), pairs[-1][-1:]]))

    def _made(self, images: torch.Tensor) -> torch.Tensor:
        with _without_bars():
            return self._node(images)


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """Show no progress of what runs inside: the caller has a bar for all of it."""
    hook = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(None)
    try:
        with contextlib.redirect_stderr(_WithoutBars(sys.stderr)):
            yield
    finally:
        comfy.utils.set_progress_bar_global_hook(hook)


class _WithoutBars(io.TextIOBase):
    """Passes on what is written, but not the bars of tqdm, which write a line again and again and then end it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._line_is_bar = False

    def write(self, text: str) -> int:
        if text.startswith("\r"):
            self._line_is_bar = True
        elif self._line_is_bar and text == "\n":
            self._line_is_bar = False
        else:
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()
