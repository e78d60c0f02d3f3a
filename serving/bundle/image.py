"""Decodes posters: the bytes of an image file become pixels, uint8 [3, size, size].

Training, scoring, the command line and the deployed function all use `decode`, so that they see the same pixels.
"""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, PngImagePlugin, UnidentifiedImageError

from .budget import Budget
from .errors import PosterError, PosterFormatError, PosterSizeError
from .headers import check_header, has_partial_scans

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF")
# Memory that decoding takes, measured with Pillow 13, with alpha or as CMYK if the format has it.
_BYTES_PER_PIXEL = {"GIF": 12, "PNG": 12, "JPEG": 12, "AVIF": 16, "WEBP": 21}
_COEFFICIENTS_BYTES = 8  # of a JPEG that is progressive or has a scan per colour
# A JPEG that is scaled down during decoding takes almost no memory; this value limits the time.
_SCALED_BYTES = 2
_MAX_SIDE = 65_535  # the limit of JPEG and GIF; resizing also takes memory for each line and column
DECODING_BYTES = 176 * 1024 * 1024
"""Memory of all concurrent decoding. Together with the model it fits an instance with 512 MiB."""

_decoding = Budget(DECODING_BYTES)
_warning_filters = threading.Lock()

# Text chunks, in characters of up to four bytes. Pillow's default is 64 MB.
PngImagePlugin.MAX_TEXT_MEMORY = 2 * 1024 * 1024

# The operation for each EXIF orientation (Exif 2.32, section 4.6.4); 1 and unknown values need none.
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
    """Decode an image file to RGB pixels, uint8 [3, size, size], written to `out` if given.

    EXIF orientation is applied, transparent areas become white, 16-bit samples keep their high byte, and an
    animation gives its first frame. Pillow's antialiased bilinear filter squashes the picture to a square.

    Concurrent calls wait for each other if their images together need more than DECODING_BYTES.

    Raises:
        PosterFormatError: the data is not a JPEG, PNG, WebP, AVIF or GIF image.
        PosterSizeError: decoding would take more than DECODING_BYTES.
        PosterError: the image is empty, truncated or damaged.
    """
    return decode_with_size(data, size, out)[0]


def decode_with_size(
    data: bytes, size: int, out: NDArray[np.uint8] | None = None, wait_seconds: float | None = None
) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Like `decode`, and the width and height of the picture in the file, before it is turned.

    Raises TimeoutError if concurrent calls use the memory for longer than `wait_seconds`.
    """
    file_size = (0, 0)

    def shape(width: int, height: int) -> tuple[int, int]:
        nonlocal file_size
        file_size = width, height
        return size, size

    square = _resized(data, shape, wait_seconds)
    pixels = np.empty((3, size, size), np.uint8) if out is None else out
    for channel, name in enumerate("RGB"):  # faster than a transpose in numpy
        pixels[channel] = np.frombuffer(square.tobytes("raw", name), np.uint8).reshape(size, size)
    return pixels, file_size


def preview(data: bytes, side: int, wait_seconds: float | None = None) -> bytes:
    """A JPEG of an image file with at most `side` pixels per side, without metadata.

    Raises the errors of `decode_with_size`.
    """

    def shape(width: int, height: int) -> tuple[int, int]:
        scale = min(1.0, side / max(width, height))
        return max(1, round(scale * width)), max(1, round(scale * height))

    picture = _resized(data, shape, wait_seconds)
    picture.info.clear()  # a JPEG's comment, which Pillow would write again
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return stream.getvalue()


def _resized(data: bytes, shape: Callable[[int, int], tuple[int, int]], wait_seconds: float | None) -> Image.Image:
    """Decode an image file as RGB. `shape` maps the file's width and height to those of the picture before turning."""
    if not data:
        raise PosterError("The image is empty (0 bytes).")
    with _open(data) as image:
        target = shape(*image.size)
        with _decoding.hold(_decoding_bytes(data, image, target), wait_seconds):
            try:
                # A JPEG of at least twice the size is scaled down during decoding, which saves time and memory.
                image.draft(None, target)
                image.load()
                # Resizing before turning and compositing gives the same picture and copies less.
                picture = _resizable(image).resize(target, Image.Resampling.BILINEAR)
                orientation = _orientation(image)
            except Exception as error:  # damaged data makes Pillow raise many types, even SyntaxError
                raise PosterError(f"The image is damaged or truncated: {_reason(error)}.") from error
    if orientation in _ORIENTATIONS:
        picture = picture.transpose(_ORIENTATIONS[orientation])
    return _on_white(picture)


def image_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels, read from the header alone. Raises the errors of `decode`."""
    with _open(data) as image:
        return image.size


def _decoding_bytes(data: bytes, image: Image.Image, target: tuple[int, int]) -> int:
    """Memory that decoding takes, estimated. Raises PosterSizeError if it is more than DECODING_BYTES."""
    width, height = image.size
    file_format = "JPEG" if image.format == "MPO" else str(image.format)  # MPO: a JPEG that holds several pictures
    bytes_per_pixel = _BYTES_PER_PIXEL[file_format]
    if file_format == "JPEG" and width >= 2 * target[0] and height >= 2 * target[1]:
        keeps_coefficients = "progressive" in image.info or has_partial_scans(data)
        bytes_per_pixel = _COEFFICIENTS_BYTES if keeps_coefficients else _SCALED_BYTES
    if width * height * bytes_per_pixel > DECODING_BYTES or max(width, height) > _MAX_SIDE:
        raise PosterSizeError(
            f"The image is too large: it has {width} x {height} pixels. The limit for its format is "
            f"{DECODING_BYTES / bytes_per_pixel / 1e6:.0f} million pixels and {_MAX_SIDE:,} per side."
        )
    return width * height * bytes_per_pixel


def _open(data: bytes) -> Image.Image:
    """Check an image's parts and read its header."""
    check_header(data, DECODING_BYTES // _BYTES_PER_PIXEL["GIF"])
    try:
        with without_warnings():
            return Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        if data[4:12] in (b"ftypavif", b"ftypavis"):  # an AVIF: its decoder reads everything at once
            raise PosterError("The image is damaged or truncated.") from error
        raise PosterFormatError("This is not a JPEG, PNG, WebP, AVIF or GIF image.") from error
    except Image.DecompressionBombError as error:
        raise PosterSizeError("The image is too large: it has hundreds of millions of pixels.") from error
    except Exception as error:
        raise PosterError(f"The image's header is damaged: {_reason(error)}.") from error


def _resizable(image: Image.Image) -> Image.Image:
    """The picture in mode L, RGB or RGBA, which can be resized."""
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's versions differ in how they convert it to 8 bits
        wide = np.asarray(image)
        return Image.fromarray(((wide if wide.dtype == np.uint16 else wide.clip(0, 65535)) // 256).astype(np.uint8))
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image if image.mode in ("L", "RGB") else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":  # a conversion would copy it
        return image
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 if there is none or the EXIF block is damaged."""
    try:
        with without_warnings():
            return cast(int, image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:
        return 1


@contextmanager
def without_warnings() -> Iterator[None]:
    """Suppress Pillow's warnings about metadata, which do not affect the pixels.

    Warning filters are global to the process, so one thread at a time changes them. Only headers are read inside.
    """
    with _warning_filters, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _reason(error: BaseException) -> str:
    return str(error).strip().rstrip(".") or type(error).__name__
