"""One clip, or several joined, into one file, encoded while decoded; the retry after out-of-memory in the decode."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import comfy.model_management
import comfy.utils
import torch

from . import frames
from .color_match import ColorMatch
from .edit import Edit
from .encoder_thread import EncoderThread
from .pictures import to_planar_bytes
from .spool import FrameSpool
from .whole_file import Writer
from .writer import WithPreview

_LOG = logging.getLogger("wan_flf2v.video")


class Clip(NamedTuple):
    """One clip of a batch: its size, and its frames as they are decoded, [frames, 3 or 4, height, width].

    They are uint8, or float 0...1 where the file or what is done to them gains by that.
    ``by_comfyui`` decodes the clip again by ComfyUI, for when ``parts`` runs out of memory; None if it came from there.
    ``last`` returns the last frame, [1, 3 or 4, height, width], where it is there without a decode; else it is None.
    """

    frames: int
    height: int
    width: int
    parts: Iterator[torch.Tensor]
    by_comfyui: Callable[[], Clip] | None = None
    last: Callable[[], torch.Tensor] | None = None


def clip_of_images(images: torch.Tensor, floats: bool = False, alpha: bool = False) -> Clip:
    """Return an IMAGE, float [frames, height, width, 3 or 4], as a clip; without ``alpha`` of three channels."""
    channels, coded = images.shape[-1] if alpha else 3, Coder(floats)

    def part(image: torch.Tensor) -> torch.Tensor:
        return coded(image[..., :channels].clone().movedim(-1, 0).unsqueeze(0))

    return Clip(*images.shape[:3], (part(image) for image in images), last=lambda: part(images[-1]))


class Coder:
    """Makes bytes, or floats 0...1, of decoded frames; what is no number becomes 0, and that is logged."""

    def __init__(self, floats: bool) -> None:
        self._floats = floats
        self._warned = False

    def __call__(self, frames: torch.Tensor) -> torch.Tensor:
        """Return the frames in the same layout; they are overwritten."""
        if not self._warned and not math.isfinite(frames.sum(dtype=torch.float32)):
            self._warned = True
            _LOG.warning(
                "frames have values that are infinite or no numbers, which are written as black or white: the model or "
                "the VAE overflowed. Run it in another precision"
            )
        if self._floats:
            return frames.float().nan_to_num_(0.0, 1.0, 0.0).clamp_(0.0, 1.0)
        return frames.mul_(255.0).round_().clamp_(0, 255).to(torch.uint8)


_Made = TypeVar("_Made")


def with_retry(attempt: Callable[[Iterable[Clip]], _Made], clips: Sequence[Clip]) -> _Made:
    """Return what ``attempt`` makes of the clips; if their decode runs out of memory, of those that ComfyUI decodes.

    What is done with the frames may run out of memory too: that error comes through.
    """
    decode_ran_out = False

    def watched(parts: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        nonlocal decode_ran_out
        try:
            yield from parts
        except Exception as error:
            decode_ran_out = comfy.model_management.is_oom(error)
            raise

    try:
        return attempt([clip._replace(parts=watched(clip.parts)) for clip in clips])
    except Exception:
        others = [clip.by_comfyui for clip in clips if clip.by_comfyui is not None]
        if not decode_ran_out or len(others) < len(clips):
            raise
    # Not inside `except`: the error holds the tensors of the first attempt as long as it exists.
    return attempt(by_comfyui() for by_comfyui in others)


class Segment(NamedTuple):
    """One clip of a file, or the only one.

    ``shared`` of its first frames are the last ones of the segment before, and left out. ``match`` corrects the
    colours, None leaves every bit as it is.
    """

    clip: Clip
    match: ColorMatch | None = None
    shared: int = 0

    @property
    def frames(self) -> int:
        """How many frames of it are in the file."""
        return self.clip.frames - self.shared


class Recipe(NamedTuple):
    """What is done to the frames of a file; ``folder`` is for those that must wait."""

    edit: Edit = Edit()
    looks_twice: bool = False
    as_bytes: bool = False
    folder: Path = Path()

    def steps(self, segments: Sequence[Segment]) -> int:
        """Return how far ``write_segments`` moves the progress bar."""
        frames = sum(segment.frames for segment in segments)
        waiting = sum(
            clip.frames for clip, match, _ in segments if match is not None and match.needs_last and clip.last is None
        )
        looked_at = self.edit.forward(frames) if self.looks_twice else 0
        return waiting + looked_at + self.edit.count(frames)


AS_IT_IS = Recipe()


def write_segments(
    new_writer: Callable[[], Writer | WithPreview],
    progress: comfy.utils.ProgressBar,
    segments: Sequence[Segment],
    recipe: Recipe = AS_IT_IS,
) -> None:
    """Write the segments one after another, cropped to the writer's size; after out-of-memory, all again by ComfyUI.

    Args:
        new_writer: makes the writer, once for each attempt.
        progress: moved on by one for each frame written, looked at, or put where it waits for the last one.
        segments: their frames can be read only once, but by ``by_comfyui``, which begins a new file.
        recipe: what is done to the frames.
    """
    done, steps = progress.current, recipe.steps(segments)

    def attempt(clips: Iterable[Clip]) -> None:
        _write(new_writer(), progress, done, segments, clips, recipe)

    with_retry(attempt, [segment.clip for segment in segments])
    progress.update_absolute(done + steps)


def _write(
    writer: Writer | WithPreview,
    progress: comfy.utils.ProgressBar,
    done: int,
    segments: Sequence[Segment],
    clips: Iterable[Clip],
    recipe: Recipe,
) -> None:
    """Encode each frame in a thread while the next ones are decoded here, from ``clips``, one for each segment."""
    edit, looked_at, matches = recipe.edit, 0, [segment.match for segment in segments if segment.match is not None]
    frames_in_all = sum(segment.frames for segment in segments)
    kept = edit.forward(frames_in_all) if recipe.looks_twice or edit.plays_again else 0
    for match in matches:
        match.waiting = 0

    def tick() -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        waiting = sum(match.waiting for match in matches)
        progress.update_absolute(done + writer.frames_written + waiting + looked_at)

    def exact(part: torch.Tensor) -> torch.Tensor:
        return frames.crop_to_exact(part.movedim(1, -1), writer.width, writer.height).movedim(-1, 1).cpu()

    def decoded() -> Iterator[torch.Tensor]:
        for segment, clip in zip(segments, clips, strict=True):
            with contextlib.closing(clip.parts):
                shown = (frame for part in clip.parts for frame in exact(part))
                if segment.match is not None:
                    last = None if clip.last is None else exact(clip.last())[0]
                    # What is decoded as floats and kept as bytes takes a quarter of the room.
                    also = -(-kept // 4) if recipe.as_bytes else kept
                    shown = segment.match.clip(shown, clip.frames, last, tick, also)
                with contextlib.closing(shown):
                    yield from itertools.islice(shown, segment.shared, None)

    def played(forward: Iterator[torch.Tensor], stack: contextlib.ExitStack) -> Iterator[torch.Tensor]:
        """Yield the frames, then those that are shown again; all are looked at first where the writer needs it."""
        nonlocal looked_at
        if not kept:
            yield from forward
            return
        owner = "ping_pong" if edit.ping_pong else "loop_count" if edit.repeats > 1 else "the palette of a gif"
        otherwise = "choose another format" if recipe.looks_twice else f"turn {owner} off"
        spool = stack.enter_context(FrameSpool(recipe.folder, kept, owner, otherwise))
        for frame in forward:
            spool.put(frame)
            if recipe.looks_twice:
                writer.look(frame)
                looked_at += 1
                tick()
            else:
                yield frame
        yield from (spool[index] for index in itertools.chain(range(kept * recipe.looks_twice), edit.again(kept)))

    with contextlib.ExitStack() as stack:
        joined = stack.enter_context(contextlib.closing(decoded()))
        shown = edit.interpolated(edit.trimmed(joined, frames_in_all))
        if recipe.as_bytes:
            shown = map(to_planar_bytes, shown)
        shown = edit.timed(played(shown, stack), frames_in_all)
        stack.enter_context(writer)
        encoder = stack.enter_context(EncoderThread(writer, tick))
        for frame in shown:
            encoder.put(frame)
