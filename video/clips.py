"""One clip into one MP4 file, encoded while it is decoded, with the retry after out-of-memory in the decode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import comfy.model_management
import comfy.utils
import torch

from . import frames
from .mp4 import EncoderThread, Mp4Writer, to_planar_bytes


class Clip(NamedTuple):
    """One clip of a batch: its size, and its frames as they are decoded, uint8 [frames, 3, height, width].

    ``tiled`` decodes the clip again in tiles, for when ``parts`` runs out of memory; None where ComfyUI has seen to it.
    """

    frames: int
    height: int
    width: int
    parts: Iterator[torch.Tensor]
    tiled: Callable[[], Clip] | None = None


def clip_of_images(images: torch.Tensor) -> Clip:
    """Return an IMAGE, float [frames, height, width, 3 or 4], as a clip."""
    parts = (to_planar_bytes(image[..., :3].movedim(-1, 0).unsqueeze(0)) for image in images)
    return Clip(*images.shape[:3], parts)


def write_clip(new_writer: Callable[[], Mp4Writer], progress: comfy.utils.ProgressBar, clip: Clip) -> None:
    """Write the clip, cropped to the writer's size; after out-of-memory, begin a new file from ``clip.tiled()``.

    Args:
        new_writer: makes the writer, once for each attempt.
        progress: moved on by one for each frame written.
        clip: its frames can be read only once.
    """
    done = progress.current
    try:
        _write(new_writer(), progress, done, clip)
        return
    except Exception as error:
        if clip.tiled is None or not comfy.model_management.is_oom(error):
            raise
    # Not inside `except`: the error holds the tensors of the first attempt as long as it exists.
    _write(new_writer(), progress, done, clip.tiled())


def _write(writer: Mp4Writer, progress: comfy.utils.ProgressBar, done: int, clip: Clip) -> None:
    """Encode each frame in a thread while the next ones are decoded here."""

    def tick() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update_absolute(done + writer.frames_written)

    with contextlib.closing(clip.parts), writer, EncoderThread(writer, tick) as encoder:
        for part in clip.parts:
            for frame in frames.crop_to_exact(part.movedim(1, -1), writer.width, writer.height).movedim(-1, 1).cpu():
                encoder.put(frame)
    progress.update_absolute(done + writer.frames_written)
