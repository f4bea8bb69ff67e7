"""Images that a ComfyUI itself refuses or reads in another way: as the API keeps them, every ComfyUI reads them."""

import asyncio
import random
from collections import Counter

import pytest
from PIL import Image
from support.odd_pictures import png_16_bit
from support.request_images import data_uri, encoded, picture, take
from wan_flf2v.client.comfy import ComfyClient
from wan_flf2v.client.run import run_graph

SMALL = picture(8, 8)
NOISE = encoded(Image.frombytes("RGB", (64, 64), random.Random(1).randbytes(64 * 64 * 3)), "PNG")
ODD = {
    "16 bits": png_16_bit(8, 8),
    "16 bits of grey": encoded(Image.new("I;16", (9, 7), 30_000), "PNG"),
    "grey": encoded(SMALL.convert("L"), "PNG"),
    "grey and alpha": encoded(SMALL.convert("LA"), "PNG"),
    "grey, larger": encoded(picture(17, 16).convert("L"), "PNG"),
    "black and white, larger": encoded(picture(16, 17).convert("1"), "PNG"),
    "grey JPEG, larger": encoded(picture(33, 16).convert("L"), "JPEG"),
    "WebP, larger": encoded(picture(16, 33), "WEBP"),
    "black and white": encoded(SMALL.convert("1"), "PNG"),
    "grey JPEG": encoded(SMALL.convert("L"), "JPEG"),
    "CMYK": encoded(SMALL.convert("CMYK"), "JPEG"),
    "JPEG in RGB": encoded(SMALL, "JPEG", keep_rgb=True),
    "WebP": encoded(SMALL, "WEBP"),
    "another PNG behind it": encoded(picture(), "PNG") + encoded(SMALL, "PNG"),
    "half a PNG behind it": NOISE + NOISE[:4_000] + bytes(100_000),
    "another WebP behind it": encoded(picture(), "WEBP") * 2,
    "long": encoded(Image.new("RGB", (20_000, 2)), "PNG"),
    "one pixel": encoded(Image.new("RGB", (1, 1)), "PNG"),
}


@pytest.mark.smoke
def test_every_comfyui_reads_what_the_api_keeps(make, comfy_server):
    async def go():
        images, graph = make(), {}
        async with ComfyClient(comfy_server.url) as client:
            for name, content in ODD.items():
                image = await take(images, data_uri(content))
                uploaded = await client.upload_image(images.path(image.name))
                size = {"width": 64, "height": 112, "upscale_method": "bilinear", "crop": "center"}
                graph[f"{name}: load"] = {"class_type": "LoadImage", "inputs": {"image": uploaded}}
                graph[f"{name}: crop"] = {"class_type": "ImageScale", "inputs": {"image": [f"{name}: load", 0], **size}}
                graph[name] = {"class_type": "PreviewImage", "inputs": {"images": [f"{name}: crop", 0]}}
            return (await run_graph(client, graph)).files

    assert Counter(file.node_id for file in asyncio.run(go())) == dict.fromkeys(ODD, 1)
