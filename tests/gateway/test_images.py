"""The images of requests: what is taken, what is refused before it can do harm, and what is kept."""

import asyncio
import hashlib
import os
import struct
import tracemalloc
import zlib

import pytest
from aiohttp import web
from PIL import Image
from support.odd_pictures import png
from support.request_images import data_uri, encoded, picture, resolve, take
from support.web_server import serve
from wan_flf2v.client.images import ImageError, plain_image
from wan_flf2v.gateway.fetch import Fetcher
from wan_flf2v.gateway.images import Images
from wan_flf2v.gateway.settings import Settings


def png_header(width, height):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


@pytest.mark.parametrize(
    ("image_format", "media_type", "suffix"),
    [("PNG", "image/png", ".png"), ("JPEG", "image/jpeg", ".jpg"), ("WEBP", "image/webp", ".webp")],
)
def test_a_data_uri_is_kept_byte_for_byte(make, image_format, media_type, suffix):
    content = encoded(picture(), image_format)
    images = make()
    image = resolve(images, data_uri(content, media_type))
    assert image.name == hashlib.sha256(content).hexdigest() + suffix
    assert (image.stored, image.content_type, image.size) == (True, media_type, len(content))
    assert images.path(image.name).read_bytes() == content


def test_the_content_decides_the_type_and_not_what_is_said_of_it(make):
    image = resolve(make(), data_uri(encoded(picture(), "JPEG"), "image/png").replace("data:", "DATA:"))
    assert image.name.endswith(".jpg") and image.content_type == "image/jpeg"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_pictures_of_all_png_modes_are_taken(make, mode):
    source = Image.new("I;16", (8, 8)) if mode == "I;16" else picture().convert(mode)
    assert resolve(make(), data_uri(encoded(source, "PNG"))).stored


def test_an_address_is_fetched_and_kept(make):
    content = encoded(picture(), "PNG")

    async def go(images):
        async def send(request):
            return web.Response(body=content, content_type="text/plain")

        async with serve(send) as port:
            return await take(images, f"http://127.0.0.1:{port}/picture")

    images = make()
    assert images.path(asyncio.run(go(images)).name).read_bytes() == content


def test_an_address_that_is_not_public_is_refused_by_default(tmp_path, store, decoders):
    settings = Settings(data=tmp_path)
    with pytest.raises(ImageError, match="not on the public Internet"):
        resolve(Images(settings, store, Fetcher(settings), decoders), "https://127.0.0.1/a.png")


def test_an_address_with_too_much_behind_it_is_refused(make):
    async def go(images):
        async def send(request):
            return web.Response(body=bytes(3 << 20))

        async with serve(send) as port:
            await take(images, f"http://127.0.0.1:{port}/picture")

    with pytest.raises(ImageError, match="more than 2 MB"):
        asyncio.run(go(make(max_image_bytes=2 << 20)))


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_turned_as_its_exif_says(make, orientation, image_format):
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # the transposition that undoes each, as Image.Transpose
    stored = picture().transpose(Image.Transpose(turns[orientation]))
    exif = Image.Exif()
    exif[0x0112] = orientation
    images = make()
    image = resolve(images, data_uri(encoded(stored, image_format, exif=exif)))
    assert image.content_type == "image/png"
    with Image.open(images.path(image.name)) as upright:
        assert upright.size == (64, 32) and upright.getexif().get(0x0112, 1) == 1
        red, _, blue = upright.convert("RGB").getpixel((2, 2))
        assert red > 200 and blue < 60
        assert upright.convert("RGB").getpixel((60, 28))[2] > 200


def test_a_picture_that_stands_upright_is_not_encoded_again(make):
    exif = Image.Exif()
    exif[0x0112] = 1
    content = encoded(picture(), "JPEG", exif=exif)
    images = make()
    assert images.path(resolve(images, data_uri(content)).name).read_bytes() == content


def test_the_second_picture_of_a_cameras_file_is_left_out(make):
    content = encoded(picture(), "MPO", save_all=True, append_images=[picture(16, 16)])
    images = make()
    with Image.open(images.path(resolve(images, data_uri(content)).name)) as image:
        assert (image.format, image.size) == ("PNG", (64, 32))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"hello", bytes(1000), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n",
        *(encoded(picture(), name) for name in ("GIF", "BMP", "TIFF", "ICO", "PPM", "TGA", "JPEG2000", "PDF")),
    ],
)  # fmt: skip
def test_other_types_are_refused(make, content, tmp_path):
    with pytest.raises(ImageError, match="not a PNG, JPEG or WebP image"):
        resolve(make(), data_uri(content))
    assert not list((tmp_path / "inputs").iterdir())


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_animations_are_refused(make, image_format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    with pytest.raises(ImageError, match="animated"):
        resolve(make(), data_uri(encoded(frames[0], image_format, save_all=True, append_images=frames[1:])))


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_damaged_files_are_refused(make, image_format):
    noise = Image.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3))
    content = encoded(noise, image_format)
    with pytest.raises(ImageError, match=r"damaged|not an image"):
        resolve(make(), data_uri(content[: len(content) // 2]))


@pytest.mark.parametrize(
    "content",
    [
        png(png_header(100_000, 100_000), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")),
        png(png_header(2**31 - 1, 2**31 - 1), (b"IDAT", b""), (b"IEND", b"")),
        png(png_header(9_460, 9_460), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")),
        png(png_header(10_000, 10_000), (b"IDAT", zlib.compress(bytes(10_000 * 30_001))), (b"IEND", b"")),
    ],
    ids=["10 gigapixels", "2^62 pixels", "a little too many", "a real bomb of 300 MB in 300 KB"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pixel_bombs_are_refused_before_they_are_decoded(make, content):
    with pytest.raises(ImageError, match="more than 89,478,485 pixels"):
        resolve(make(), data_uri(content))


def test_the_pixel_limit_can_be_set(make):
    assert resolve(make(max_image_pixels=64 * 32), data_uri(encoded(picture(), "WEBP"))).stored
    with pytest.raises(ImageError, match="more than 2,047 pixels"):
        resolve(make(max_image_pixels=64 * 32 - 1), data_uri(encoded(picture(), "WEBP")))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_png_bombs_in_text_and_profiles_are_not_blown_up(kind):
    packed = zlib.compress(bytes(200_000_000))
    head = {b"zTXt": b"a\0\0", b"iTXt": b"a\0\1\0\0\0", b"iCCP": b"a\0\0"}[kind]
    content = png(png_header(8, 8), (kind, head + packed), (b"IDAT", zlib.compress(bytes(8 * 25))), (b"IEND", b""))
    tracemalloc.start()
    try:
        with pytest.raises(ImageError, match="damaged"):
            plain_image(content)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,*not base64*", "data:image/png;base64,aGFsb", "data:image/png;base64,aGF=sbG8=",
        "data:image/png,hello", "data:image/png;base64", "data:,", "data:", "data:text/html;base64,aGFsbG8=",
        "data:image/png\0;base64,aGFsbG8=", "data:image/png;charset=x;base64,aGFsbG8=", "data:image/png;base64,é",
    ],
)  # fmt: skip
def test_data_uris_that_are_none(make, uri):
    with pytest.raises(ImageError, match="data URI"):
        resolve(make(), uri)


@pytest.mark.parametrize("blank", ["\n", "\r\n", " ", "\t"])
def test_a_data_uri_may_have_line_breaks_and_no_padding(make, blank):
    content = encoded(picture(63, 32), "PNG")
    content = next(content + bytes(n) for n in range(3) if (len(content) + n) % 3 == 1)  # needs two characters more
    head, _, code = data_uri(content).partition(",")
    lines = blank.join(code.rstrip("=")[start : start + 76] for start in range(0, len(code), 76))
    image = resolve(make(), f"{head},{blank}{lines}{blank}")
    assert image == resolve(make(), data_uri(content))


def test_a_data_uri_over_the_limit_is_refused(make):
    content = encoded(picture(), "PNG")
    assert resolve(make(max_image_bytes=len(content)), data_uri(content)).stored
    for limit in (len(content) - 1, 10):
        with pytest.raises(ImageError, match="larger than"):
            resolve(make(max_image_bytes=limit), data_uri(content))


def test_the_same_image_from_many_requests_at_once_is_kept_once(make, tmp_path):
    images, uri = make(), data_uri(encoded(picture(), "PNG"))

    async def go():
        return await asyncio.gather(*(take(images, uri) for _ in range(50)))

    assert len(set(asyncio.run(go()))) == 1
    assert len(list((tmp_path / "inputs").iterdir())) == 1
