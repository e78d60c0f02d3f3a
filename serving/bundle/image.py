"""A poster becomes pixels: bytes of an image file in, uint8 [3, size, size] out.

The one decoder of the project: training, scoring, the command line and the deployed function all see a poster
through `decode`, so that no skew between them is possible.
"""

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from .budget import Budget
from .errors import PosterError, PosterFormatError, PosterSizeError
from .headers import check_header

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF")
# What decoding takes, measured with Pillow 13; with alpha, or as CMYK, where there is that.
_BYTES_A_PIXEL = {"GIF": 12, "PNG": 12, "JPEG": 12, "AVIF": 16, "WEBP": 21}
_PROGRESSIVE_BYTES = 8
# A JPEG that is scaled down while it is decoded takes next to nothing: this limits the time.
_SCALED_BYTES = 2
_LONGEST_SIDE = 65_535  # as JPEG and GIF have it; resizing takes memory for each line and column, too
DECODING_BYTES = 176 * 1024 * 1024
"""What all decoding at one time may take: with the model's own memory it fits an instance of 512 MiB."""

_decoding = Budget(DECODING_BYTES)
_filters = threading.Lock()

# Texts beside the pixels, each letter of which can take four bytes; Pillow's own limit is 64 MB of letters.
PngImagePlugin.MAX_TEXT_MEMORY = 2 * 1024 * 1024

# What each EXIF orientation asks for (Exif 2.32, section 4.6.4); 1 and unknown values ask for nothing.
_ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, size: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Decode an image file to RGB pixels, uint8 [3, size, size]; written to `out`, where it is given.

    EXIF orientation is applied, transparency is laid on white, 16-bit samples keep their high byte, an
    animation gives its first frame. The picture is squashed to a square with Pillow's antialiased bilinear
    filter.

    Threads that decode at the same time wait for each other where their images would take more than DECODING_BYTES.

    Raises PosterFormatError for what is no JPEG, PNG, WebP, AVIF or GIF, PosterSizeError for an image that takes more
    than DECODING_BYTES to decode, and PosterError for an empty, truncated or damaged one.
    """
    if not data:
        raise PosterError("The image is empty (0 bytes).")
    with _open(data) as image, _decoding.hold(_decoding_bytes(image, size)):
        try:
            # A JPEG at least twice the size is scaled down while it is decoded: less time, less memory.
            image.draft(None, (size, size))
            image.load()
            # Resized before it is turned and laid on white, which gives the same picture and copies less.
            square = _samples(image).resize((size, size), Image.Resampling.BILINEAR)
            orientation = _orientation(image)
        except Exception as error:  # Pillow raises whatever damaged data leads it to, SyntaxError included
            raise PosterError(f"The image is damaged or cut short: {_reason(error)}.") from error
    if orientation in _ORIENTATIONS:
        square = square.transpose(_ORIENTATIONS[orientation])
    square = _on_white(square)
    pixels = np.empty((3, size, size), np.uint8) if out is None else out
    for channel, name in enumerate("RGB"):  # Pillow takes a channel out faster than numpy transposes
        pixels[channel] = np.frombuffer(square.tobytes("raw", name), np.uint8).reshape(size, size)
    return pixels


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, from the header alone; raises as `decode` where that cannot be read."""
    with _open(data) as image:
        return image.size


def _decoding_bytes(image: Image.Image, size: int) -> int:
    """About how much memory decoding takes; PosterSizeError where that is too much."""
    width, height = image.size
    kind = "JPEG" if image.format == "MPO" else str(image.format)  # a JPEG with more pictures behind the first
    each = _BYTES_A_PIXEL[kind]
    if kind == "JPEG" and min(width, height) >= 2 * size:
        each = _PROGRESSIVE_BYTES if "progressive" in image.info else _SCALED_BYTES
    if width * height * each > DECODING_BYTES or max(width, height) > _LONGEST_SIDE:
        raise PosterSizeError(
            f"The image is too large: it has {width} x {height} pixels, and of its kind "
            f"{DECODING_BYTES / each / 1e6:.0f} million are read, {_LONGEST_SIDE:,} a side."
        )
    return width * height * each


def _open(data: bytes) -> Image.Image:
    """Read an image's header."""
    check_header(data, DECODING_BYTES // _BYTES_A_PIXEL["GIF"])
    try:
        with _without_warnings():
            return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data[4:12] in (b"ftypavif", b"ftypavis"):  # of which the decoder reads all at once
            raise PosterError("The image is damaged or cut short.") from error
        raise PosterFormatError("This is not a JPEG, PNG, WebP, AVIF or GIF image.") from error
    except Image.DecompressionBombError as error:
        raise PosterSizeError("The image is too large: it has hundreds of millions of pixels.") from error
    except Exception as error:
        raise PosterError(f"The image's header is damaged: {_reason(error)}.") from error


def _samples(image: Image.Image) -> Image.Image:
    """The picture in a mode that can be resized: L, RGB or RGBA."""
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow's versions convert to 8 bits differently
        wide = np.asarray(image)
        return Image.fromarray(((wide if wide.dtype == np.uint16 else wide.clip(0, 65535)) // 256).astype(np.uint8))
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":  # converting would copy it
        return image
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or only the EXIF block is damaged."""
    try:
        with _without_warnings():
            return cast(int, image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Keep Pillow's warnings about metadata to ourselves: they say nothing about the pixels.

    The filters belong to the whole process, so one thread at a time; only headers are read meanwhile.
    """
    with _filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
