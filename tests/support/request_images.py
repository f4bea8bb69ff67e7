"""Small pictures and the ways in which requests carry them."""

import asyncio
import base64
import io

from PIL import Image, ImageDraw


def picture(width=64, height=32):
    """A picture whose top left corner is red and whose rest is blue."""
    image = Image.new("RGB", (width, height), "blue")
    ImageDraw.Draw(image).rectangle((0, 0, width // 4, height // 4), "red")
    return image


def encoded(image, image_format, **options):
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def data_uri(content, media_type="image/png"):
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"


async def take(images, text, token="anna"):
    """Return what ``Images`` makes of an image that an accepted request names."""
    async with images.intake(token) as intake:
        return await images.resolve(images.unpack(text, intake), intake)


def resolve(images, text, token="anna"):
    """Return what ``take`` does, where no event loop runs."""
    return asyncio.run(take(images, text, token))
