"""Checks an image file before Pillow reads it: a malicious one can take hundreds of megabytes of memory, or hours."""

import re
import struct
from collections.abc import Iterator

from .errors import PosterError, PosterSizeError

_MAX_SEGMENTS = 1000  # besides the pixels; photographs have about twenty
_MAX_SCANS = 100  # of a JPEG; progressive ones have about ten, and each takes as long as the whole picture
_MAX_PIXEL_CHUNKS = 100_000  # of a PNG; libpng writes one for every 8 KB
_MAX_APPLICATION_BYTES = 2 * 1024 * 1024  # of a GIF's application extensions, as of the texts of a PNG
_APPLICATION = 0xFF

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# A marker that a length follows, or the end of the image (ITU T.81, annex B). Decoders skip everything else until then:
# pixels, in which 00 follows FF, restart markers, fill bytes and junk.
_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xc7\xc9-\xcf\xd9-\xef\xfe]")
_PNG_PIXELS = (b"IDAT", b"fdAT", b"fcTL")  # the last two are the frames of an animation


def check_header(data: bytes, max_gif_pixels: int) -> None:
    """Check the parts of a JPEG or PNG, or the header of a GIF. Other data passes unchecked.

    Raises:
        PosterError: the image has too many parts or scans, or a GIF too many bytes for applications.
        PosterSizeError: a GIF declares more than `max_gif_pixels` pixels.
    """
    if data.startswith(b"\xff\xd8"):
        segments = _count_jpeg_segments(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        segments = _count_png_chunks(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        segments = _count_gif_blocks(data, max_gif_pixels)
    else:
        return
    if segments > _MAX_SEGMENTS:
        raise PosterError(f"The image is damaged: it has more than {_MAX_SEGMENTS} parts besides its pixels.")


def has_partial_scans(data: bytes) -> bool:
    """Whether the first scan of a JPEG lacks some of its colours. Decoding then keeps all coefficients in memory."""
    colours = 0
    for marker, at in _jpeg_segments(data):
        if marker in _START_OF_FRAME:
            colours = int.from_bytes(data[at + 7 : at + 8])
        elif marker == _START_OF_SCAN:
            return int.from_bytes(data[at + 2 : at + 3]) < colours
    return False


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """The marker of each segment of a JPEG's first picture, and the offset of its length."""
    at, has_scan = 2, False
    while found := _JPEG_MARKER.search(data, at):
        at = found.end()
        marker = data[at - 1]
        if marker != _END_OF_IMAGE:
            yield marker, at
            has_scan = has_scan or marker == _START_OF_SCAN
            at += max(2, int.from_bytes(data[at : at + 2]))
        elif has_scan:  # before the first scan, Pillow reads on
            return


def _count_jpeg_segments(data: bytes) -> int:
    """Segments of a JPEG's first picture, as far as the data can be read.

    Raises:
        PosterError: it has too many scans.
    """
    count = scans = 0
    for marker, _ in _jpeg_segments(data):
        count += 1
        scans += marker == _START_OF_SCAN
        if scans > _MAX_SCANS:
            raise PosterError(f"The image has more than {_MAX_SCANS} scans; save it again as an ordinary JPEG.")
        if count > _MAX_SEGMENTS:
            break
    return count


def _count_png_chunks(data: bytes) -> int:
    """Chunks without pixels (https://www.w3.org/TR/png-3/#5DataRep).

    Raises:
        PosterError: there are too many chunks with pixels.
    """
    count = of_pixels = 0
    at, kind = 8, b""
    while count <= _MAX_SEGMENTS and at + 8 <= len(data) and kind != b"IEND":
        kind = data[at + 4 : at + 8]
        if kind in _PNG_PIXELS:
            of_pixels += 1
            if of_pixels > _MAX_PIXEL_CHUNKS:
                raise PosterError(f"The image is damaged: its pixels are in more than {_MAX_PIXEL_CHUNKS:,} parts.")
        else:
            count += 1
        at += 12 + int.from_bytes(data[at : at + 4])
    return count


def _count_gif_blocks(data: bytes, max_pixels: int) -> int:
    """Blocks before the first frame (https://www.w3.org/Graphics/GIF/spec-gif89a.txt).

    The pixels that count are those of the screen and of the first frame, which may reach beyond it. An application
    extension is one block, and its bytes are limited: XMP is plain text in it, whose letters are read as the lengths of
    thousands of blocks (XMP specification, part 3).

    Raises:
        PosterError: the application extensions have too many bytes.
        PosterSizeError: see `check_header`.
    """
    count, application_bytes, at = 0, 0, 13
    if len(data) < at:
        return count
    width, height = struct.unpack_from("<HH", data, 6)
    at += _colour_table_bytes(data[10])
    while count <= _MAX_SEGMENTS and at + 10 <= len(data) and data[at] == 0x21:  # an extension
        is_application = data[at + 1] == _APPLICATION
        count += is_application
        at += 2
        while count <= _MAX_SEGMENTS and at < len(data) and data[at]:  # its blocks; an empty one ends it
            if is_application:
                application_bytes += max(10, 1 + data[at])  # a block takes time, however short it is
                if application_bytes > _MAX_APPLICATION_BYTES:
                    raise PosterError("The image's header is damaged: it has more than 2 MB for applications.")
            else:
                count += 1
            at += 1 + data[at]
        at += 1
    if at + 10 <= len(data) and data[at] == 0x2C:
        left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
        width, height = max(width, left + frame_width), max(height, top + frame_height)
    if width * height > max_pixels:
        raise PosterSizeError(f"The image is too large: it has {width} x {height} pixels.")
    return count


def _colour_table_bytes(flags: int) -> int:
    """Size of the colour table that the flags declare, in bytes."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
