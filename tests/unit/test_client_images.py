"""Image files that are refused before anything is sent."""

import pytest
from PIL import Image
from wan_flf2v.client.images import MAX_PIXELS, ImageError, check_image


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
