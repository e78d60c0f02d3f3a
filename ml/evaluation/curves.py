"""Pictures of what was learned: curves as SVG paths, posters in their own shape, and a sheet of posters with captions.

Nothing here needs a plotting library: a page's curves take their colours from the page, in light and in dark.
"""

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ml.scores.metrics import Labels

POSTER_SHAPE = (160, 240)
"""Width and height in pixels of a poster to look at: datasets hold them squashed to a square."""
_JPEG_QUALITY = 72
_CURVE_POINTS = 100
_COLUMNS = 8
_CAPTION_LINES = 4
_FONT_SIZE = 13
_GAP = 8


def precision_recall_curve(probabilities: NDArray[np.floating], labels: Labels) -> NDArray[np.float64]:
    """Recall and precision, [P, 2], of one genre's posters, [N] each, from the highest threshold to the lowest.

    A point for each step that gains recall (what `average_precision` sums up), of which at most 100 are kept;
    none where no poster has the genre.
    """
    order = np.argsort(-probabilities, kind="stable")
    true_positives = labels[order].cumsum(dtype=np.int64)
    last = np.append(np.diff(probabilities[order]) != 0, True)
    found, predicted = true_positives[last], np.flatnonzero(last) + 1
    gaining = np.diff(found, prepend=0) > 0
    points = np.stack([found[gaining] / max(true_positives[-1], 1), found[gaining] / predicted[gaining]], axis=1)
    kept = np.linspace(0, len(points) - 1, min(_CURVE_POINTS, len(points))).round().astype(int)
    thinned: NDArray[np.float64] = points[kept]
    return thinned


def svg_path(points: NDArray[np.float64]) -> str:
    """An SVG path through points (x, y), [P, 2] from 0 to 1, in a square of side 1 whose y runs downwards."""
    steps = [f"{x:.3f} {1 - y:.3f}" for x, y in points.tolist()]
    return f"M{'L'.join(steps)}" if steps else ""


def poster_address(image: NDArray[np.uint8]) -> str:
    """A poster, uint8 [3, S, S], as a data: address of a JPEG in a poster's shape."""
    stream = io.BytesIO()
    _poster(image).save(stream, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def poster_sheet(images: NDArray[np.uint8], captions: Sequence[str] = ()) -> NDArray[np.uint8]:
    """Posters, uint8 [N, 3, S, S], side by side with their captions below them: uint8 [H, W, 3].

    A caption's own lines stay lines; what is longer than a poster is wide is cut.
    """
    width, height = POSTER_SHAPE
    font = ImageFont.load_default(_FONT_SIZE)
    line_height = _FONT_SIZE + 3
    texts = [_lines(caption, font, width) for caption in captions] or [[]] * len(images)
    below = max((len(text) for text in texts), default=0) * line_height
    columns = max(min(len(images), _COLUMNS), 1)
    rows = -(-len(images) // columns)
    tile = width + _GAP, height + below + _GAP
    sheet = Image.new("RGB", (columns * tile[0] + _GAP, rows * tile[1] + _GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for place, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, top = _GAP + place % columns * tile[0], _GAP + place // columns * tile[1]
        sheet.paste(_poster(image), (left, top))
        for number, line in enumerate(text):
            pen.text((left, top + height + number * line_height + 1), line, "black", font)
    return np.asarray(sheet)


def _poster(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).resize(
        POSTER_SHAPE, Image.Resampling.BICUBIC
    )


def _lines(caption: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """At most four lines, each cut to a width in pixels."""
    return [_cut(line, font, width) for line in caption.splitlines()[:_CAPTION_LINES]]


def _cut(line: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    if font.getlength(line) <= width:
        return line
    while line and font.getlength(f"{line}...") > width:
        line = line[:-1]
    return f"{line.rstrip()}..."
