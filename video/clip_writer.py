"""A clip into a file: its frames encoded in a thread while the next ones are decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import comfy.model_management
import comfy.utils

from . import frames
from .encoder import Mp4Writer
from .encoder_thread import EncoderThread
from .wan_vae import Clip


def write_clip(new_writer: Callable[[], Mp4Writer], progress: comfy.utils.ProgressBar, done: int, clip: Clip) -> None:
    """Encode each frame in a thread while the next ones are decoded here; ``done`` frames of others came before."""
    writer = new_writer()

    def tick() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        progress.update_absolute(done + writer.frames_written)

    with contextlib.closing(clip.parts), writer, EncoderThread(writer, tick) as encoder:
        for part in clip.parts:
            for frame in frames.crop_to_exact(part.movedim(1, -1), writer.width, writer.height).movedim(-1, 1).cpu():
                encoder.put(frame)
    progress.update_absolute(done + writer.frames_written)
