"""Judges an image for the command line and the API: type, pixels, animation, damage; and makes it plain for ComfyUI.

As a script it judges the files that its standard input names, in a process that the API can end.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import signal
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # Pillow's limit against decompression bombs (PIL.Image.MAX_IMAGE_PIXELS)
MAX_SCANS = 100  # of a JPEG file; encoders write about ten. Each costs a decoder a pass over all pixels
# ComfyUI's LoadImage widens a picture to a multiple of 32 pixels by FFmpeg's fillborders, which fails if that more than
# doubles it. It leaves PNG files with 8 bits of RGB, RGBA or palette alone.
_SURE_SIDE = 16
_SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp"}
_ORIENTATION = 0x0112  # the EXIF tag
# The next marker of a JPEG file. After FF, a 0 belongs to the pixels, D0 to D7 only divide them, and FF fills.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_JPEG_END, _JPEG_SCAN, _JPEG_ALONE = 0xD9, 0xDA, (0x01, 0xD8)  # the last are not followed by a length


class ImageError(Exception):
    """The image cannot be used; the text says why and what to do."""


def plain_image(content: bytes, max_pixels: int = MAX_PIXELS, subject: str = "The image") -> tuple[bytes, str]:
    """Return the image as a file that every ComfyUI reads alike, and the suffix of its type.

    A still PNG, JPEG or WebP is accepted. It stays as it is, without data behind the picture, if it stands upright, has
    8 bits of RGB or grey, and is not small; else it becomes a PNG file of RGB or RGBA. MPO, which many cameras
    and telephones write as .jpg, is a JPEG file with a second picture behind the first. Raises ``ImageError`` if the
    image cannot be used, where ``subject`` is what messages call it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what Pillow warns of is checked, or does no harm
            with Image.open(io.BytesIO(content), formats=tuple(_SUFFIXES)) as image:
                end = _check_before_decoding(image, content, max_pixels, subject)
                image.load()
                if _is_plain(image, content):
                    return content[:end], _SUFFIXES[image.format or ""]
                return _as_png(image), ".png"
    except Image.DecompressionBombError as error:  # far above the limit
        raise ImageError(f"{subject} has more than {max_pixels:,} pixels. Give a smaller one.") from error
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        message = f"{subject} is not a PNG, JPEG or WebP image. Give a file of one of these types."
        raise ImageError(message) from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise ImageError(f"{subject} is damaged ({error}). Save it again as PNG, JPEG or WebP.") from error


def check_image(path: Path) -> None:
    """Raise ``ImageError`` unless the file is an image that can be used."""
    plain_image(_read(path), subject=str(path))


@contextmanager
def plain_file(path: Path) -> Iterator[Path]:
    """Give a file with the image of ``path`` that every ComfyUI reads alike: itself, or one that is then deleted."""
    content = _read(path)
    plain, suffix = plain_image(content, subject=str(path))
    if plain == content:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, path.stem + suffix)
        file.write_bytes(plain)
        yield file


def _read(path: Path) -> bytes:
    if not path.exists():
        raise ImageError(f"{path}: there is no such file. Give the path of an image.")
    if not path.is_file():
        raise ImageError(f"{path} is not a file. Give the path of an image.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}. Give a file that you may read.") from error


def _check_before_decoding(image: Image.Image, content: bytes, max_pixels: int, subject: str) -> int:
    """Refuse what would cost too much to decode or cannot be used; return where the picture's data ends."""
    size = f"{image.width}x{image.height}"
    if image.width * image.height > max_pixels:
        raise ImageError(f"{subject} has more than {max_pixels:,} pixels ({size}). Give a smaller one.")
    if min(image.size) == 1 < max(image.size):  # ComfyUI's crop to another shape can leave nothing of it
        raise ImageError(f"{subject} is only a line of pixels ({size}). Give a wider one.")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ImageError(f"{subject} is animated. Give a still one.")
    if image.format == "PNG":
        return _end_of_png(content)
    if image.format == "WEBP":
        return 8 + int.from_bytes(content[4:8], "little")  # RIFF
    scans, end = _jpeg_scans(content)
    if scans > MAX_SCANS:
        raise ImageError(
            f"{subject} is a JPEG file of {scans:,} scans, allowed are {MAX_SCANS}. Save it again as PNG or JPEG."
        )
    return end


def _is_plain(image: Image.Image, content: bytes) -> bool:
    if image.format == "MPO" or image.getexif().get(_ORIENTATION, 1) != 1:
        return False
    if image.format != "PNG":
        return image.mode in ("RGB", "RGBA", "L") and min(image.size) >= _SURE_SIDE
    bits = content[24] if content[12:16] == b"IHDR" else 16
    return bits <= 8 and (image.mode in ("RGB", "RGBA", "P") or min(image.size) >= _SURE_SIDE)


def _as_png(image: Image.Image) -> bytes:
    """Return the picture upright, as RGB or RGBA of 8 bits."""
    picture = ImageOps.exif_transpose(image)
    if picture.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        picture = picture.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
        picture.info.pop("transparency", None)  # a grey of 16 bits
    transparent = "A" in picture.getbands() or "transparency" in picture.info
    stream = io.BytesIO()
    picture.convert("RGBA" if transparent else "RGB").save(stream, "PNG", compress_level=1, icc_profile=None)
    return stream.getvalue()


def _end_of_png(content: bytes) -> int:
    position, kind = 8, b""
    while kind != b"IEND" and position < len(content):
        length, kind = int.from_bytes(content[position : position + 4], "big"), content[position + 4 : position + 8]
        position += length + 12
    return position


def _jpeg_scans(content: bytes) -> tuple[int, int]:
    """Return how many scans a JPEG file's first picture has, and where its data ends, without decoding it."""
    scans, position = 0, 0
    while found := _JPEG_MARKER.search(content, position):
        marker, position = found[1][0], found.end()
        if marker == _JPEG_END:
            return scans, position
        scans += marker == _JPEG_SCAN
        if marker not in _JPEG_ALONE:
            position += int.from_bytes(content[position : position + 2], "big")
    return scans, len(content)


def _judge_named_files() -> None:
    """Reply to each line of standard input, which names a file, and write the plain image over the file.

    Lines are JSON: ``path`` and ``max_pixels``; then ``suffix``, ``size`` and ``sha256``, or ``refused`` with the
    reason, or ``errno`` if the file cannot be read or written.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the API, whose end ends the input
    for line in sys.stdin:
        order = json.loads(line)
        path = Path(order["path"])
        try:
            content = path.read_bytes()
            plain, suffix = plain_image(content, order["max_pixels"])
            if plain != content:
                path.write_bytes(plain)
            reply = {"suffix": suffix, "size": len(plain), "sha256": hashlib.sha256(plain).hexdigest()}
        except ImageError as error:
            reply = {"refused": str(error)}
        except OSError as error:
            reply = {"errno": error.errno}
        content = plain = b""  # free the memory until the next one
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    _judge_named_files()
