"""Checks an image's header before Pillow reads it: opening a malicious file can take hundreds of megabytes."""

import struct

from .errors import PosterError, PosterSizeError

_MAX_SEGMENTS = 1000  # before the pixels; photographs have about twenty
_MAX_APPLICATION_BYTES = 2 * 1024 * 1024  # of a GIF's application extensions, as of the texts of a PNG
_APPLICATION = 0xFF


def check_header(data: bytes, max_gif_pixels: int) -> None:
    """Check the header of a JPEG, PNG or GIF. Other data passes unchecked.

    Raises:
        PosterError: the header has too many segments, or a GIF too many bytes for applications.
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
        raise PosterError(f"The image's header is damaged: it has more than {_MAX_SEGMENTS} parts before the pixels.")


def _count_jpeg_segments(data: bytes) -> int:
    """Segments before the first scan, as far as the data can be read (ITU T.81, annex B)."""
    count, at = 0, 2
    while count <= _MAX_SEGMENTS and at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # a fill byte
            at += 1
            continue
        count += 1
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return count


def _count_png_chunks(data: bytes) -> int:
    """Chunks before the first pixels (https://www.w3.org/TR/png-3/#5DataRep)."""
    count, at = 0, 8
    while count <= _MAX_SEGMENTS and at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        count += 1
        at += 12 + int.from_bytes(data[at : at + 4], "big")
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
