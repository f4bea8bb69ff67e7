"""Image files that are out of the ordinary: many scans, many bits, few pixels, data behind the picture."""

import io
import os
import re
import struct
import zlib

from PIL import Image

from support.request_images import encoded, picture


def png(*chunks):
    """Return a PNG file of (kind, body) chunks."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


def png_16_bit(width, height):
    """Return a PNG file with 16 bits of random RGB."""
    rows = b"".join(b"\0" + os.urandom(width * 6) for _ in range(height))
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return png((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def jpeg_of_scans(count, image=None):
    """Return a progressive JPEG file whose last scan is repeated until it has ``count``."""
    content = encoded(image or picture(), "JPEG", progressive=True, quality=1)
    starts = [found.start() for found in re.finditer(rb"\xff\xda", content)]
    last, end = content[starts[-1] : -2], content[-2:]
    return content[:-2] + last * (count - len(starts)) + end


def pixels(content):
    """Return size, mode and pixels of an image file."""
    with Image.open(io.BytesIO(content)) as image:
        return image.size, image.mode, image.tobytes()
