"""Text in pictures stands where it should, also with the one font that Pillow had before 10.1."""

import pytest
from PIL import Image, ImageDraw, ImageFont
from wan_flf2v.drawing import draw_text


@pytest.mark.parametrize("sizes", ["any", "one"])
@pytest.mark.parametrize("anchor", ["lm", "mm", "rm"])
def test_an_anchor_says_which_point_of_the_text_is_given(monkeypatch, sizes, anchor):
    if sizes == "one":
        monkeypatch.setattr(ImageFont, "load_default", ImageFont.load_default_imagefont)  # it takes no size
    picture = Image.new("RGB", (200, 60))
    draw_text(ImageDraw.Draw(picture), 100, 30, "sigma", anchor, (255, 255, 255), 16)
    left, top, right, bottom = picture.getbbox()
    assert {"l": left, "m": (left + right) / 2, "r": right}[anchor[0]] == pytest.approx(100, abs=4)
    assert (top + bottom) / 2 == pytest.approx(30, abs=5)
