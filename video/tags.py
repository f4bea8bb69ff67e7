"""The prompt, the workflow and facts in the files that FFmpeg writes none into: PNG, WebP and GIF.

The places are those that ComfyUI's own nodes use and its frontend reads: text chunks in PNG, EXIF in WebP. The frontend
reads nothing from a GIF; there the tags are a comment, as JSON.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

Tags = Mapping[str, Any]

_PNG_HEADER = 33  # the signature of 8 bytes and IHDR's 25: other chunks come after it
# EXIF's tags Model and Make, and those below it: where ComfyUI's SaveAnimatedWEBP puts the prompt and everything else.
_EXIF_PROMPT, _EXIF_FIRST = 0x0110, 0x010F
# webmproject.org, "WebP Container Specification": the flags of a VP8X chunk.
_VP8X_ALPHA, _VP8X_EXIF = 0x10, 0x08
_GIF_BLOCK = 255
# The frontend restores a graph from the first 2 MiB of a WebM; before the tags and between them stand less than 4 KiB.
WEBM_BYTES = (2 << 20) - (4 << 10)


def as_text(value: Any) -> str:
    """Return what stands in the file for a tag's value: a string as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def weight(tags: Tags) -> int:
    """Return how many bytes the tags take in a file that FFmpeg writes."""
    return sum(len(f"{key}{as_text(value)}".encode()) for key, value in tags.items())


def png_chunks(tags: Tags) -> bytes:
    """Return the tags as the text chunks of a PNG file, after the one that says that its colours are sRGB."""
    return _png_chunk(b"sRGB", b"\0") + b"".join(_png_text(key, as_text(value)) for key, value in tags.items())


def in_png(png: bytes, chunks: bytes) -> bytes:
    """Return a PNG file with these chunks in it, of which FFmpeg writes none."""
    return png[:_PNG_HEADER] + chunks + png[_PNG_HEADER:]


def into_webp(path: Path, tags: Tags) -> None:
    """Add the tags to a WebP file as EXIF."""
    exif = Image.Exif()
    exif[_EXIF_PROMPT] = f"prompt:{as_text(tags.get('prompt', {}))}"
    for tag, (key, value) in zip(
        range(_EXIF_FIRST, 0, -1), ((key, value) for key, value in tags.items() if key != "prompt"), strict=False
    ):
        exif[tag] = f"{key}:{as_text(value)}"
    data = exif.tobytes().removeprefix(b"Exif\x00\x00")
    with path.open("r+b") as file:
        header = file.read(30)
        if header[12:16] != b"VP8X":
            with Image.open(path) as image:
                size, alpha = image.size, image.mode == "RGBA"
            rest = header[12:] + file.read()
            flags = _VP8X_ALPHA if alpha else 0
            extended = struct.pack("<4sII", b"VP8X", 10, flags) + b"".join((n - 1).to_bytes(3, "little") for n in size)
            header = header[:12] + extended
            file.seek(0)
            file.write(header + rest)
        file.seek(20)
        file.write(bytes([header[20] | _VP8X_EXIF]))
        file.seek(0, 2)
        file.write(struct.pack("<4sI", b"EXIF", len(data)) + data + b"\0" * (len(data) % 2))
        length = file.tell()
        file.seek(4)
        file.write(struct.pack("<I", length - 8))


def into_gif(path: Path, tags: Tags) -> None:
    """Add the tags to a GIF file as a comment, before its last byte."""
    data = json.dumps(dict(tags)).encode()
    blocks = (data[i : i + _GIF_BLOCK] for i in range(0, len(data), _GIF_BLOCK))
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x21\xfe" + b"".join(bytes([len(block)]) + block for block in blocks) + b"\0\x3b")


def _png_text(key: str, text: str) -> bytes:
    try:
        return _png_chunk(b"tEXt", key.encode("latin-1") + b"\0" + text.encode("latin-1"))
    except UnicodeEncodeError:  # iTXt: not compressed, no language, no translated keyword
        return _png_chunk(b"iTXt", key.encode() + b"\0\0\0\0\0" + text.encode())


def _png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
