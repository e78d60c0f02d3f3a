"""What a file's header promises, looked at before Pillow reads it: opening alone can take hundreds of megabytes."""

import struct

from .errors import PosterError, PosterSizeError

_MOST_SEGMENTS = 1000  # before the pixels; photographs have some twenty


def check_header(data: bytes, gif_pixels: int) -> None:
    """Raises PosterError for a JPEG, PNG or GIF of far too many segments, PosterSizeError for a GIF of more than
    `gif_pixels` pixels; says nothing about anything else."""
    if data.startswith(b"\xff\xd8"):
        segments = _jpeg_segments(data)
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        segments = _png_chunks(data)
    elif data.startswith((b"GIF87a", b"GIF89a")):
        segments = _gif_blocks(data, gif_pixels)
    else:
        return
    if segments > _MOST_SEGMENTS:
        raise PosterError(f"The image's header is damaged: it has more than {_MOST_SEGMENTS} parts before the pixels.")


def _jpeg_segments(data: bytes) -> int:
    """Segments up to the first scan, as far as they can be told (ITU T.81, annex B)."""
    count, at = 0, 2
    while count <= _MOST_SEGMENTS and at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        if data[at + 1] == 0xFF:  # filling
            at += 1
            continue
        count += 1
        at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return count


def _png_chunks(data: bytes) -> int:
    """Chunks up to the first pixels (https://www.w3.org/TR/png-3/#5DataRep)."""
    count, at = 0, 8
    while count <= _MOST_SEGMENTS and at + 8 <= len(data) and data[at + 4 : at + 8] != b"IDAT":
        count += 1
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    return count


def _gif_blocks(data: bytes, most_pixels: int) -> int:
    """Blocks up to the first frame (https://www.w3.org/Graphics/GIF/spec-gif89a.txt), whose place on the screen is
    looked at with the screen itself."""
    count, at = 0, 13
    if len(data) < at:
        return count
    width, height = struct.unpack_from("<HH", data, 6)
    at += _colour_table(data[10])
    while count <= _MOST_SEGMENTS and at + 10 <= len(data) and data[at] == 0x21:  # an extension
        at += 2
        while count <= _MOST_SEGMENTS and at < len(data) and data[at]:  # its blocks, the last of which is empty
            count += 1
            at += 1 + data[at]
        at += 1
    if at + 10 <= len(data) and data[at] == 0x2C:
        left, top, frame_width, frame_height = struct.unpack_from("<HHHH", data, at + 1)
        width, height = max(width, left + frame_width), max(height, top + frame_height)
    if width * height > most_pixels:
        raise PosterSizeError(f"The image is too large: it has {width} x {height} pixels.")
    return count


def _colour_table(flags: int) -> int:
    """Bytes of the table that the flags announce."""
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
