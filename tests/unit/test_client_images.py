"""Image files that are refused before anything is sent, and those that are sent in another form."""

import io

import pytest
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from support.odd_pictures import jpeg_of_scans, pixels, png_16_bit
from support.request_images import encoded, picture
from wan_flf2v.client.images import MAX_PIXELS, ImageError, check_image, plain_file, plain_image


def message(path):
    with pytest.raises(ImageError) as info:
        check_image(path)
    return str(info.value)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P"])
def test_a_good_image_is_accepted(tmp_path, mode):
    Image.new(mode, (30, 20)).save(tmp_path / "a.png")
    check_image(tmp_path / "a.png")


def test_missing_image(tmp_path):
    assert message(tmp_path / "a.png") == f"{tmp_path / 'a.png'}: there is no such file. Give the path of an image."


def test_folder(tmp_path):
    assert message(tmp_path) == f"{tmp_path} is not a file. Give the path of an image."


def test_unreadable_image(tmp_path):
    path = tmp_path / "a.png"
    path.write_text("not an image")
    assert message(path) == f"{path} is not a PNG, JPEG or WebP image. Give a file of one of these types."
    path.write_bytes(b"")
    assert message(path) == f"{path} is not a PNG, JPEG or WebP image. Give a file of one of these types."


@pytest.mark.parametrize(
    ("suffix", "reason"), [("png", "image file is truncated"), ("jpg", "image file is truncated (")]
)
def test_truncated_image(tmp_path, suffix, reason):
    path = tmp_path / f"a.{suffix}"
    Image.effect_noise((200, 200), 50).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    text = message(path)
    assert text.startswith(f"{path} is damaged ({reason}")
    assert text.endswith("). Save it again as PNG, JPEG or WebP.")


def test_huge_image(tmp_path):
    assert Image.MAX_IMAGE_PIXELS == MAX_PIXELS
    path = tmp_path / "a.png"
    Image.new("1", (10000, 10000)).save(path)
    assert message(path) == f"{path} has more than 89,478,485 pixels (10000x10000). Give a smaller one."
    Image.new("1", (20000, 10000)).save(path)  # Pillow itself refuses to open this one
    assert message(path) == f"{path} has more than 89,478,485 pixels. Give a smaller one."


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(JpegImageFile, "load", lambda self: pytest.fail("it was decoded"))
    content = jpeg_of_scans(1_500)
    with pytest.raises(ImageError, match=r"The image is a JPEG file of 1,500 scans, allowed are 100\. Save it again"):
        plain_image(content)


def test_only_the_scans_of_the_picture_itself_count():
    content = jpeg_of_scans(100)
    assert plain_image(content) == (content, ".jpg")
    thumbnail = jpeg_of_scans(101)[:60_000]
    segment = b"\xff\xe3" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    content = content[:2] + segment + content[2:]
    assert plain_image(content) == (content, ".jpg")
    assert plain_image(content + jpeg_of_scans(101)) == (content, ".jpg"), "one behind it is left out"


@pytest.mark.parametrize("name", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("surplus", [b"hello", bytes(5_000), None])
def test_data_behind_the_picture_is_left_out(name, surplus):
    content = encoded(picture(), name)
    plain, _ = plain_image(content + (encoded(picture(32, 32), name) if surplus is None else surplus))
    assert plain == content


@pytest.mark.parametrize(
    ("name", "mode"),
    [("PNG", "1"), ("PNG", "L"), ("PNG", "LA"), ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"),
     ("WEBP", "RGBA")],
)  # fmt: skip
def test_what_not_every_comfyui_reads_becomes_a_png_of_8_bits(name, mode):
    image = picture(8, 8).convert(mode)
    if "A" in mode:
        image.putalpha(100)
    content = encoded(image, name)
    wanted = "RGBA" if "A" in mode else "RGB"
    with Image.open(io.BytesIO(content)) as image:
        raw = image.convert(wanted).tobytes()
    plain, suffix = plain_image(content)
    assert (suffix, pixels(plain)) == (".png", ((8, 8), wanted, raw))


@pytest.mark.parametrize(
    ("name", "mode"), [("PNG", "1"), ("PNG", "L"), ("PNG", "LA"), ("JPEG", "L"), ("JPEG", "RGB"), ("WEBP", "RGBA")]
)
def test_what_every_comfyui_reads_stays(name, mode):
    content = encoded(picture(16, 16).convert(mode), name)
    assert plain_image(content)[0] == content


@pytest.mark.parametrize("mode", ["P", "RGB", "RGBA"])
def test_a_small_png_that_every_comfyui_reads_stays(mode):
    content = encoded(picture(8, 8).convert(mode), "PNG")
    assert plain_image(content) == (content, ".png")


def test_16_bits_become_8():
    plain, _ = plain_image(png_16_bit(8, 8))
    assert plain[24] == 8, "bits, in the header"
    assert pixels(plain)[:2] == ((8, 8), "RGB")
    grey = Image.new("I;16", (2, 2))
    for place, value in enumerate((0, 257, 32_896, 65_535)):
        grey.putpixel((place % 2, place // 2), value)
    assert pixels(plain_image(encoded(grey, "PNG"))[0])[2] == bytes([0, 0, 0, 1, 1, 1, 128, 128, 128, 255, 255, 255])


@pytest.mark.parametrize(("size", "shown"), [((20_000, 1), "20000x1"), ((1, 2), "1x2")])
def test_a_line_of_pixels_is_refused(size, shown):
    with pytest.raises(ImageError, match=f"only a line of pixels .{shown}."):
        plain_image(encoded(Image.new("RGB", size), "PNG"))
    assert plain_image(encoded(Image.new("RGB", (1, 1)), "PNG"))


def test_the_command_line_sends_a_plain_image(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(picture(), "JPEG"))
    with plain_file(path) as file:
        assert file == path
    path.write_bytes(encoded(picture().convert("CMYK"), "JPEG"))
    with plain_file(path) as file:
        assert (file.name, pixels(file.read_bytes())[:2]) == ("a.png", ((64, 32), "RGB"))
    assert not file.exists()
