"""Posters as pictures for people: a single poster in its original shape, and a sheet of posters with captions."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

POSTER_SHAPE = (160, 240)
"""Width and height of a poster picture, pixels. Datasets hold posters squashed to a square."""
_COLUMNS = 8
_CAPTION_LINES = 4
_FONT_SIZE = 13
_GAP = 8


def poster_picture(image: NDArray[np.uint8]) -> Image.Image:
    """A poster, uint8 [3, S, S], as a picture of `POSTER_SHAPE`."""
    pixels = np.ascontiguousarray(image.transpose(1, 2, 0))
    return Image.fromarray(pixels).resize(POSTER_SHAPE, Image.Resampling.BICUBIC)


def poster_sheet(images: NDArray[np.uint8], captions: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Arrange posters, uint8 [N, 3, S, S], in rows with their captions below them: uint8 [H, W, 3].

    Captions keep their line breaks. Lines wider than a poster are cut.
    """
    width, height = POSTER_SHAPE
    font = ImageFont.load_default(_FONT_SIZE)
    line_height = _FONT_SIZE + 3
    texts = [_lines(caption, font, width) for caption in captions] or [[]] * len(images)
    text_height = max((len(text) for text in texts), default=0) * line_height
    columns = max(min(len(images), _COLUMNS), 1)
    rows = -(-len(images) // columns)
    tile = width + _GAP, height + text_height + _GAP
    sheet = Image.new("RGB", (columns * tile[0] + _GAP, rows * tile[1] + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, top = _GAP + place % columns * tile[0], _GAP + place // columns * tile[1]
        sheet.paste(poster_picture(image), (left, top))
        for number, line in enumerate(text):
            pen.text((left, top + height + number * line_height + 1), line, "black", font)
    return np.asarray(sheet)


def _lines(caption: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """At most four lines, each cut to a width in pixels."""
    return [_cut(line, font, width) for line in caption.splitlines()[:_CAPTION_LINES]]


def _cut(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    fitting = bisect_left(range(1, len(line)), True, key=lambda length: font.getlength(f"{line[:length]}...") > width)
    return f"{line[:fitting].rstrip()}..."
