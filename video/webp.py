"""The chunks of an animated WebP file around pictures that are WebP files themselves.

All numbers are those of Google's "WebP Container Specification" (developers.google.com/speed/webp/docs/riff_container),
and of ComfyUI's SaveAnimatedWEBP, which puts prompt and workflow into EXIF, where the frontend reads them.
"""

from __future__ import annotations

import math
import struct
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image

from .tags import Tags, as_text

_ALPHA, _EXIF, _ANIMATED = 0x10, 0x08, 0x02  # flags of the chunk VP8X
_NO_BLENDING = 0x02  # a flag of the chunk ANMF: a picture replaces what was there, also where it is transparent
_RIFF_HEADER, _CHUNK_HEADER = 12, 8
MOST_BYTES = 1 << 32
# EXIF's tags Model and Make, and those below it: where ComfyUI's SaveAnimatedWEBP puts the prompt and everything else.
_EXIF_PROMPT, _EXIF_FIRST = 0x0110, 0x010F

Box = tuple[int, int, int, int]


def head(size: tuple[int, int], loops: int, *, alpha: bool, exif: bool) -> bytes:
    """Return what stands before the frames; ``loops`` 0 is for ever."""
    flags = _ANIMATED | _ALPHA * alpha | _EXIF * exif
    extended = struct.pack("<I", flags) + b"".join(_three_bytes(side - 1) for side in size)
    transparent = bytes(4)
    return b"RIFF\0\0\0\0WEBP" + _chunk(b"VP8X", extended) + _chunk(b"ANIM", transparent + struct.pack("<H", loops))


def tolerance(quality: int) -> int:
    """Return how many codes of 255 a pixel may differ and is still alike.

    It is libwebp's own number (src/mux/anim_encode.c, QualityToMaxDiff): 31 at quality 0, 4 at 80, 1 at 100.
    """
    share = math.sqrt(quality / 100)
    return int(31 * (1 - share) + share + 0.5)


def changed(shown: torch.Tensor, frame: torch.Tensor, alike: int) -> Box:
    """Return left, top, right and bottom of all of a frame that differs from what is shown by more than ``alike``.

    Both are bytes, [channels, height, width]; any other transparency differs. Left and top are even, as the file's must
    be. If nothing differs, it is the first pixel: a frame has at least that.
    """
    differs = ((shown[:3].short() - frame[:3].short()).abs() > alike).any(0) | (shown[3:] != frame[3:]).any(0)
    if not differs.any():
        return 0, 0, 1, 1
    (top, bottom), (left, right) = (_range(differs.any(axis).numpy()) for axis in (1, 0))
    return left // 2 * 2, top // 2 * 2, right, bottom


def frame_chunk(picture: bytes, place: Box, milliseconds: int) -> bytes:
    """Return the chunk of one frame: a WebP file that is shown at left and top of ``place``, and has its size."""
    left, top, width, height = place
    numbers = left // 2, top // 2, width - 1, height - 1, milliseconds
    header = b"".join(_three_bytes(number) for number in numbers) + bytes([_NO_BLENDING])
    start = _RIFF_HEADER
    if picture[start : start + 4] == b"VP8X":  # the frame's header says the same
        start += _CHUNK_HEADER + struct.unpack_from("<I", picture, start + 4)[0]
    return _chunk(b"ANMF", header + picture[start:])


def exif_chunk(tags: Tags) -> bytes:
    """Return the chunk of the prompt, the workflow and facts."""
    made = Image.Exif()
    made[_EXIF_PROMPT] = f"prompt:{as_text(tags.get('prompt', {}))}"
    others = [f"{key}:{as_text(value)}" for key, value in tags.items() if key != "prompt"]
    for tag, text in zip(range(_EXIF_FIRST, 0, -1), others, strict=False):
        made[tag] = text
    return _chunk(b"EXIF", made.tobytes().removeprefix(b"Exif\x00\x00"))


def end(file: BinaryIO) -> None:
    """Say at the file's begin how long it is."""
    size = file.tell()
    file.seek(4)
    file.write(struct.pack("<I", size - _CHUNK_HEADER))


def _range(values: np.ndarray) -> tuple[int, int]:
    """Return the first index that is true, and the one after the last."""
    return int(values.argmax()), len(values) - int(values[::-1].argmax())


def _three_bytes(number: int) -> bytes:
    return number.to_bytes(3, "little")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return kind + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)
