"""Checks an image file before it is sent anywhere."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # Pillow's own limit against decompression bombs (PIL.Image.MAX_IMAGE_PIXELS)


class ImageFileError(ValueError):
    """The file cannot serve as an image; the text says why and what to do."""


def check_image(path: Path) -> tuple[int, int]:
    """Decode the image file completely and return its width and height in pixels; ``ImageFileError`` if that fails."""
    if not path.exists():
        raise ImageFileError(f"{path}: there is no such file. Give the path of an image.")
    if not path.is_file():
        raise ImageFileError(f"{path} is not a file. Give the path of an image.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the same limit is checked below
            with Image.open(path) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ImageFileError(_huge(path, f"{width}x{height} = {width * height:,}"))
                image.load()
    except Image.DecompressionBombError as error:
        raise ImageFileError(_huge(path, f"more than {2 * MAX_PIXELS:,}")) from error
    except UnidentifiedImageError as error:
        raise ImageFileError(f"{path} is not an image that can be read. Give a PNG, JPEG or WebP file.") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on damaged files
        if isinstance(error, ImageFileError):
            raise
        raise ImageFileError(f"{path} cannot be read: {error}. Save it again as PNG, JPEG or WebP.") from error
    return width, height


def _huge(path: Path, pixels: str) -> str:
    return f"{path} is a huge image: {pixels} pixels, allowed are at most {MAX_PIXELS:,}. Make it smaller."
