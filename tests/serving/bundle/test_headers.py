"""Headers that would take hundreds of megabytes to open are refused before Pillow reads them."""

import io
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from serving.bundle.errors import PosterError, PosterSizeError
from serving.bundle.headers import check_header
from serving.bundle.image import decode
from tests.pictures import image_file, jpeg_with_scans, pictures_of_all_kinds

GIF_PIXELS = 15_000_000


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(extra: bytes) -> bytes:
    """A small PNG with additional chunks after its header."""
    data = image_file("PNG")
    return data[:33] + extra + data[33:]


def gif(screen: tuple[int, int], frame: tuple[int, int, int, int], extensions: bytes = b"") -> bytes:
    """A GIF that declares sizes but has no pixels."""
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0, 0, 0) + extensions
    return head + b"," + struct.pack("<HHHHB", *frame, 0) + b"\x02\x00;"


def test_valid_and_truncated_headers_pass() -> None:
    for _, data in pictures_of_all_kinds():
        for size in (*range(40), len(data)):
            check_header(data[:size], GIF_PIXELS)


def test_gif_size_includes_its_screen_and_its_first_frame() -> None:
    comment = b"!\xfe" + b"\x05hello" * 20 + b"\x00"
    for data in (
        gif((13_000, 13_000), (0, 0, 1, 1)),
        gif((1, 1), (0, 0, 13_000, 13_000)),
        gif((1, 1), (13_000, 13_000, 1, 1), comment),
    ):
        with pytest.raises(PosterSizeError, match=r"it has 1300[01] x 1300[01] pixels"):
            decode(data, 64)
    with pytest.raises(PosterError, match="more than 1000 parts"):
        decode(gif((1, 1), (0, 0, 1, 1), b"!\xfe" + b"\x01a" * 2000 + b"\x00"), 64)


def gif_with(extensions: bytes) -> bytes:
    """A small GIF with additional extensions before its pixels."""
    data = image_file("GIF")
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)  # after the colour table
    return data[:at] + extensions + data[at:]


def xmp(text: bytes) -> bytes:
    """An application extension with text as Photoshop writes it: as it is, and a trailer that ends it anywhere."""
    return b"!\xff\x0bXMP DataXMP" + text + b"\x01" + bytes(range(255, -1, -1)) + b"\x00"


def test_gif_with_the_metadata_of_photoshop_is_decoded() -> None:
    line = b'  <rdf:li stEvt:action="saved" stEvt:when="2026-11-30T12:00:00Z"/>\n'
    assert len(line) * 1400 > 90_000
    assert decode(gif_with(xmp(line * 1400)), 64).tolist() == decode(image_file("GIF"), 64).tolist()


def test_gif_with_too_much_for_applications_is_refused() -> None:
    short = b"!\xff" + b"\x01a" * 210_000 + b"\x00"
    for extensions in (xmp(b"x" * 2_200_000), xmp(b"x" * 600_000) * 4, short):
        with pytest.raises(PosterError, match="damaged: it has more than 2 MB for applications"):
            check_header(gif_with(extensions), GIF_PIXELS)
    for extensions in (xmp(b"") * 1001, b"!\xfe" + b"\x01a" * 1001 + b"\x00", b"!\xf9\x04abcd\x00" * 1001):
        with pytest.raises(PosterError, match="more than 1000 parts"):
            check_header(gif_with(extensions), GIF_PIXELS)


def test_too_many_segments_are_refused() -> None:
    jpeg = image_file("JPEG")
    with pytest.raises(PosterError, match="more than 1000 parts"):
        decode(jpeg[:2] + b"\xff\xe1\x00\x02" * 100_000 + jpeg[2:], 64)
    with pytest.raises(PosterError, match="more than 1000 parts"):
        decode(png_with(chunk(b"abCd", b"") * 2000), 64)


SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00"


@pytest.mark.parametrize(
    "before",
    [
        b"",
        b"junk",
        b"\xff\xff",
        b"\xff\x00",
        b"\xff\xd0",
        b"\xff\x02\xff\xff",
        b"\xff\xd8\xff\xff",
        b"\xff\xfe\x00\x00",
    ],
    ids=["nothing", "junk", "fill byte", "zero", "restart", "reserved", "start", "empty comment"],
)
def test_too_many_scans_are_refused_whatever_is_between_them(before: bytes) -> None:
    with pytest.raises(PosterError, match="more than 100 scans; save it again as an ordinary JPEG"):
        decode(jpeg_with_scans(3000).replace(SCAN, before + SCAN), 64)


def test_progressive_jpeg_with_some_more_scans_is_decoded() -> None:
    assert decode(jpeg_with_scans(80), 64)[0].min() > 200, "it is red"


def test_scans_of_the_second_picture_of_a_jpeg_do_not_count() -> None:
    data = image_file("JPEG")
    assert decode(data + data[:2] + SCAN * 3000, 64).tolist() == decode(data, 64).tolist()


def png_ending_with(extra: bytes) -> bytes:
    """A small PNG with additional chunks between its pixels and its end."""
    data = image_file("PNG")
    return data[:-12] + extra + data[-12:]


def test_chunks_after_the_pixels_of_a_png_count() -> None:
    tracemalloc.start()
    with pytest.raises(PosterError, match="more than 1000 parts besides its pixels"):
        decode(png_ending_with(chunk(b"abCd", b"") * 100_000), 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000
    with pytest.raises(PosterError, match="pixels are in more than 100,000 parts"):
        decode(png_ending_with(chunk(b"IDAT", b"") * 100_001), 64)
    assert decode(png_ending_with(chunk(b"abCd", b"") * 900), 64).tolist() == decode(image_file("PNG"), 64).tolist()


def test_frames_of_an_animated_png_do_not_count() -> None:
    frames = [Image.new("L", (4, 4), 255 - shade % 250) for shade in range(1200)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:], duration=20)
    assert buffer.getvalue().count(b"fcTL") == 1200
    assert decode(buffer.getvalue(), 8).min() == 255


def test_png_texts_take_little_memory() -> None:
    text = "\N{GRINNING FACE}" + "a" * 1_000_000
    content = b"key\0\1\0\0\0" + zlib.compress(text.encode())
    tracemalloc.start()
    with pytest.raises(PosterError):
        decode(png_with(chunk(b"iTXt", content) * 60), 64)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40_000_000


def test_png_with_an_ordinary_text_is_decoded() -> None:
    buffer = io.BytesIO()
    info = PngInfo()
    info.add_itxt("Description", "A poster. " * 1000, zip=True)
    Image.new("RGB", (20, 30), "red").save(buffer, "PNG", pnginfo=info)
    assert decode(buffer.getvalue(), 8)[0].min() == 255
