"""Text in the pictures of plans and reports, in Pillow's own font."""

from __future__ import annotations

from PIL import ImageDraw, ImageFont


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Return Pillow's own font, ``size`` pixels high; before Pillow 10.1 it has one size."""
    try:
        return ImageFont.load_default(size)
    except TypeError:
        return ImageFont.load_default()


def draw_text(
    draw: ImageDraw.ImageDraw, x: float, y: float, text: str, anchor: str, colour: tuple[int, int, int], size: int
) -> None:
    """Draw a line of text; ``anchor`` says which point of it is at (x, y), by Pillow's letters: lmr, then amsd."""
    chosen = font(size)
    if isinstance(chosen, ImageFont.FreeTypeFont):
        draw.text((x, y), text, colour, font=chosen, anchor=anchor)
    else:  # Pillow's font of one size knows no anchors
        wide, tall = draw.textbbox((0, 0), text, font=chosen)[2:]
        left = x - wide * {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]]
        top = y - tall * {"a": 0.0, "m": 0.5, "d": 1.0, "s": 1.0}[anchor[1]]
        draw.text((left, top), text, colour, font=chosen)
