"""Judges an image for the command line and the API: type, pixels, animation, damage."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # Pillow's limit against decompression bombs (PIL.Image.MAX_IMAGE_PIXELS)


class ImageError(Exception):
    """The image cannot be used; the text says why and what to do."""


@contextmanager
def accepted_image(content: bytes, max_pixels: int = MAX_PIXELS, subject: str = "The image") -> Iterator[Image.Image]:
    """Give the completely decoded image, or raise ``ImageError``, also for damage that shows while it is used.

    A still PNG, JPEG or WebP is accepted. MPO, which many cameras and telephones write as .jpg, is a JPEG file with a
    second picture behind the first. ``subject`` is what messages call the image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > max_pixels:
                size = f"{image.width}x{image.height}"
                raise ImageError(f"{subject} has more than {max_pixels:,} pixels ({size}). Give a smaller one.")
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise ImageError(f"{subject} is animated. Give a still one.")
            image.load()
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:  # far above the limit
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
    if not path.exists():
        raise ImageError(f"{path}: there is no such file. Give the path of an image.")
    if not path.is_file():
        raise ImageError(f"{path} is not a file. Give the path of an image.")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror}. Give a file that you may read.") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the same limit is checked
        with accepted_image(content, subject=str(path)):
            pass
