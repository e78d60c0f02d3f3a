"""Every kind of image is decoded to the pixels of a simple reference implementation."""

import struct
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from serving.bundle.errors import PosterError, PosterFormatError, PosterSizeError
from serving.bundle.image import DECODING_BYTES, _decoding, decode, decode_with_size, preview
from tests.pictures import jpeg_of_three_scans

SIZE = 48


def smooth_picture(width: int = 90, height: int = 128) -> Image.Image:
    """A picture without fine detail, so that compression changes it little."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = np.stack([x, y, 0.5 + 0.5 * np.sin(4 * x * y)], axis=-1)
    return Image.fromarray((waves * 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reference(data: bytes, size: int = SIZE) -> np.ndarray:
    """Decode at full size, turn, composite on white, then resize: int [3, size, size]."""
    with Image.open(BytesIO(data)) as image:
        turned = ImageOps.exif_transpose(image)
        if turned.mode == "I;16":
            turned = Image.fromarray((np.asarray(turned) >> 8).astype(np.uint8))
        rgba = turned.convert("RGB").convert("RGBA") if turned.mode == "CMYK" else turned.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    square = Image.alpha_composite(white, rgba).convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(square).astype(int).transpose(2, 0, 1)


def with_alpha() -> Image.Image:
    picture = smooth_picture().convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    return picture


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 60 * 80).astype(np.uint16).reshape(80, 60))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(encoded(smooth_picture(), "JPEG", quality=95), id="jpeg"),
        pytest.param(encoded(smooth_picture().convert("L"), "JPEG"), id="grey jpeg"),
        pytest.param(jpeg_of_three_scans(smooth_picture()), id="jpeg with a scan per colour"),
        pytest.param(encoded(smooth_picture().convert("CMYK"), "JPEG"), id="cmyk jpeg"),
        pytest.param(encoded(smooth_picture(), "PNG"), id="png"),
        pytest.param(encoded(with_alpha(), "PNG"), id="png with alpha"),
        pytest.param(encoded(with_alpha().convert("LA"), "PNG"), id="grey png with alpha"),
        pytest.param(encoded(smooth_picture().quantize(32), "PNG"), id="palette"),
        pytest.param(
            encoded(smooth_picture().quantize(32), "PNG", transparency=bytes(range(0, 256, 8))),
            id="palette with alpha",
        ),
        pytest.param(encoded(smooth_picture().convert("L"), "PNG"), id="grey png"),
        pytest.param(encoded(smooth_picture().convert("1"), "PNG"), id="one bit"),
        pytest.param(encoded(sixteen_bits(), "PNG"), id="16 bits"),
        pytest.param(encoded(smooth_picture(), "GIF"), id="gif"),
        pytest.param(encoded(with_alpha(), "WEBP", lossless=True), id="webp with alpha"),
        pytest.param(encoded(smooth_picture(), "AVIF"), id="avif"),
        pytest.param(encoded(smooth_picture(1, 1), "PNG"), id="1x1"),
        pytest.param(encoded(smooth_picture(1, 4000), "PNG"), id="1x4000"),
        pytest.param(encoded(smooth_picture(4000, 1), "JPEG", quality=95), id="4000x1"),
    ],
)
def test_decode_matches_the_reference_in_every_mode(data: bytes) -> None:
    pixels = decode(data, SIZE)
    assert pixels.shape == (3, SIZE, SIZE)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    # The colour of partly transparent pixels is rounded in another order.
    assert np.abs(pixels.astype(int) - reference(data)).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(smooth_picture(), "JPEG", quality=95, exif=exif)
    assert np.abs(decode(data, SIZE).astype(int) - reference(data)).max() <= 2


@pytest.mark.parametrize("size, expected", [((900, 1280), (1280 * 64 // 900, 64)), ((40, 30), (30, 40))])
def test_preview_is_a_small_turned_jpeg_without_metadata(size: tuple[int, int], expected: tuple[int, int]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    exif[0x010E] = "a private note"
    picture = smooth_picture(*size)
    data = preview(encoded(picture, "JPEG", exif=exif, icc_profile=b"profile", comment=b"note"), 91)
    with Image.open(BytesIO(data)) as small:
        assert (small.format, small.size) == ("JPEG", expected)
        assert not small.getexif() and not {"icc_profile", "comment"} & small.info.keys()
        turned = picture.transpose(Image.Transpose.ROTATE_270).resize(small.size)
        assert np.abs(np.asarray(small).astype(int) - np.asarray(turned)).mean() < 3


def test_damaged_exif_block_is_ignored() -> None:
    garbage = b"Exif\x00\x00II*\x00garbage, not a directory"
    data = encoded(smooth_picture(), "JPEG", quality=95, exif=garbage)
    plain = encoded(smooth_picture(), "JPEG", quality=95)
    assert np.array_equal(decode(data, SIZE), decode(plain, SIZE))


def test_large_jpeg_matches_the_reference_when_scaled_down() -> None:
    data = encoded(smooth_picture(1000, 1400), "JPEG", quality=95)
    assert np.abs(decode(data, SIZE).astype(int) - reference(data)).max() <= 4


def test_animation_gives_its_first_frame() -> None:
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    for kind in ("GIF", "WEBP"):
        data = encoded(red, kind, save_all=True, append_images=[blue], duration=100)
        middle = decode(data, 8)[:, 4, 4].astype(int)
        assert middle[0] > 240 and middle[2] < 15, kind


def test_jpeg_with_several_pictures_gives_the_first() -> None:
    red, blue = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    data = encoded(red, "MPO", save_all=True, append_images=[blue])
    assert Image.open(BytesIO(data)).format == "MPO"
    assert decode(data, 8)[0].min() > 240


def test_transparent_pixels_become_white() -> None:
    data = encoded(Image.new("RGBA", (10, 10), (200, 0, 0, 0)), "PNG")
    assert (decode(data, 4) == 255).all()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size but has no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("width", "height"), [(4001, 4000), (10_000, 10_000), (60_000, 60_000), (1, 70_000), (70_000, 1)]
)
def test_too_many_pixels_are_refused_before_decoding(width: int, height: int) -> None:
    with pytest.raises(PosterSizeError, match=r"^The image is too large: it has .* pixels"):
        decode(png_header(width, height), SIZE)


@pytest.mark.parametrize(
    ("kind", "options", "fits", "too_large"),
    [
        ("PNG", {"compress_level": 1}, (3900, 3900), (3930, 3930)),
        ("WEBP", {"method": 0}, (2950, 2950), (2970, 2970)),
        ("AVIF", {"speed": 10}, (3380, 3380), (3410, 3410)),
        ("GIF", {}, (3900, 3900), (3930, 3930)),
        ("JPEG", {}, (9500, 9500), (9700, 9700)),
        ("JPEG", {"progressive": True}, (4780, 4780), (4820, 4820)),
        ("JPEG", {}, (280, 50_000), (280, 60_000)),
    ],
)
def test_pixel_limit_follows_from_the_formats_memory(
    kind: str, options: dict[str, object], fits: tuple[int, int], too_large: tuple[int, int]
) -> None:
    decode(encoded(Image.new("L", fits), kind, **options), 256)
    with pytest.raises(PosterSizeError, match=f"it has {too_large[0]} x {too_large[1]} pixels"):
        decode(encoded(Image.new("L", too_large), kind, **options), 256)


def test_pixel_limit_of_a_jpeg_with_a_scan_per_colour_is_that_of_a_progressive_one() -> None:
    decode(jpeg_of_three_scans(Image.new("RGB", (4780, 4780))), 256)
    with pytest.raises(PosterSizeError, match="The limit for its format is 23 million pixels"):
        decode(jpeg_of_three_scans(Image.new("RGB", (4820, 4820))), 256)


def test_decoding_waits_for_memory_no_longer_than_it_may() -> None:
    data = encoded(smooth_picture(), "PNG")
    with _decoding.hold(DECODING_BYTES):
        with pytest.raises(TimeoutError):
            decode_with_size(data, SIZE, wait_seconds=0.01)
        with pytest.raises(TimeoutError):
            preview(data, SIZE, wait_seconds=0.01)
    assert np.array_equal(decode_with_size(data, SIZE, wait_seconds=0.01)[0], decode(data, SIZE))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_image_is_an_error(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8))
    data = encoded(noise, kind)
    with pytest.raises(PosterError):
        decode(data[: int(len(data) * share)], SIZE)


@pytest.mark.parametrize(
    "data", [b"not an image", b"<html>404</html>", encoded(smooth_picture(), "BMP"), b"%PDF-1.7\n"]
)
def test_unsupported_format_is_an_error(data: bytes) -> None:
    with pytest.raises(PosterFormatError, match="not a JPEG, PNG, WebP, AVIF or GIF"):
        decode(data, SIZE)


def test_empty_data_is_an_error() -> None:
    with pytest.raises(PosterError, match="empty"):
        decode(b"", SIZE)


@pytest.mark.parametrize("make", [smooth_picture, with_alpha])
def test_flipped_bytes_give_pixels_or_a_poster_error(make: Callable[[], Image.Image]) -> None:
    random = np.random.default_rng(1)
    for kind in ("PNG", "WEBP", "GIF", "AVIF"):
        original = np.frombuffer(encoded(make(), kind), np.uint8)
        for _ in range(25):
            damaged = original.copy()
            places = random.integers(0, len(damaged), 6)
            damaged[places] = random.integers(0, 256, 6)
            try:
                assert decode(damaged.tobytes(), 8).shape == (3, 8, 8)
            except PosterError as error:
                assert str(error).endswith(".")


def test_decode_matches_the_reference_on_real_posters(real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "posters" / "anime.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")][:20]
        for name in names:
            data = archive.read(name)
            assert np.abs(decode(data, 256).astype(int) - reference(data, 256)).max() <= 2
