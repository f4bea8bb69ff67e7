"""The prompt, the workflow and facts as text, and in PNG and GIF, where FFmpeg writes none.

In PNG they are text chunks, as those of ComfyUI's own nodes, which its frontend reads. It reads nothing from a GIF:
there they are a comment, as JSON.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tags = Mapping[str, Any]

_PNG_HEADER = 33  # the signature of 8 bytes and IHDR's 25: other chunks come after it
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
