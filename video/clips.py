"""One clip into one MP4 file, encoded while it is decoded, with the retry after out-of-memory in the decode."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import comfy.model_management
import comfy.utils
import torch

from . import frames
from .color_match import ColorMatch
from .mp4 import EncoderThread, Mp4Writer, to_planar_bytes


class Clip(NamedTuple):
    """One clip of a batch: its size, and its frames as they are decoded, uint8 [frames, 3, height, width].

    ``by_comfyui`` decodes the clip again by ComfyUI, for when ``parts`` runs out of memory; None if it came from there.
    ``last`` returns the last frame, [1, 3, height, width], where it is there without a decode; else it is None.
    """

    frames: int
    height: int
    width: int
    parts: Iterator[torch.Tensor]
    by_comfyui: Callable[[], Clip] | None = None
    last: Callable[[], torch.Tensor] | None = None

    def steps(self, match: ColorMatch | None) -> int:
        """Return how far ``write_clip`` moves the progress bar."""
        return self.frames * (2 if match is not None and match.needs_last and self.last is None else 1)


def clip_of_images(images: torch.Tensor) -> Clip:
    """Return an IMAGE, float [frames, height, width, 3 or 4], as a clip."""

    def part(image: torch.Tensor) -> torch.Tensor:
        return to_planar_bytes(image[..., :3].movedim(-1, 0).unsqueeze(0))

    return Clip(*images.shape[:3], (part(image) for image in images), last=lambda: part(images[-1]))


def write_clip(
    new_writer: Callable[[], Mp4Writer],
    progress: comfy.utils.ProgressBar,
    clip: Clip,
    match: ColorMatch | None = None,
) -> None:
    """Write the clip, cropped to the writer's size; after out-of-memory, begin a new file from ``clip.by_comfyui()``.

    Args:
        new_writer: makes the writer, once for each attempt.
        progress: moved on by one for each frame written, and for each that waits for the last one.
        clip: its frames can be read only once.
        match: corrects the colours; None leaves every bit as it is.
    """
    done, steps = progress.current, clip.steps(match)
    try:
        _write(new_writer(), progress, done, clip, match)
        progress.update_absolute(done + steps)
        return
    except Exception as error:
        if clip.by_comfyui is None or not comfy.model_management.is_oom(error):
            raise
    # Not inside `except`: the error holds the tensors of the first attempt as long as it exists.
    _write(new_writer(), progress, done, clip.by_comfyui(), match)
    progress.update_absolute(done + steps)


def _write(
    writer: Mp4Writer, progress: comfy.utils.ProgressBar, done: int, clip: Clip, match: ColorMatch | None
) -> None:
    """Encode each frame in a thread while the next ones are decoded here."""

    def tick() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update_absolute(done + writer.frames_written + (0 if match is None else match.waiting))

    def exact(part: torch.Tensor) -> torch.Tensor:
        return frames.crop_to_exact(part.movedim(1, -1), writer.width, writer.height).movedim(-1, 1).cpu()

    def decoded() -> Iterator[torch.Tensor]:
        for part in clip.parts:
            yield from exact(part)

    shown = decoded()
    if match is not None:
        last = None if clip.last is None else exact(clip.last())[0]
        shown = match.clip(shown, clip.frames, last, tick)
    with contextlib.closing(clip.parts), contextlib.closing(shown), writer, EncoderThread(writer, tick) as encoder:
        for frame in shown:
            encoder.put(frame)
