"""Generated pictures for tests."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image


def image_file(kind: str = "JPEG", size: tuple[int, int] = (60, 80), seed: int = 0) -> bytes:
    """The bytes of an image file; its colours depend on the seed."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colours).resize(size).save(buffer, kind)
    return buffer.getvalue()


def jpeg_with_scans(scans: int, size: tuple[int, int] = (60, 80)) -> bytes:
    """A progressive JPEG with additional scans, which are empty."""
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    return data[:-2] + b"\xff\xda\x00\x08\x01\x01\x00\x00\x00\x00" * scans + data[-2:]


def jpeg_of_three_scans(picture: Image.Image) -> bytes:
    """A baseline JPEG whose colours are not interleaved: one scan for each of Y, Cb and Cr."""
    scans, header = b"", b""
    for number, channel in enumerate(picture.convert("YCbCr").split(), start=1):
        buffer = io.BytesIO()
        channel.save(buffer, "JPEG", quality=95)
        header, _, scan = buffer.getvalue().partition(b"\xff\xda\x00\x08\x01\x01\x00")
        scans += b"\xff\xda\x00\x08\x01%c\x00" % number + scan[:-2]
    # The frame of a grey JPEG has one component: 1, sampled once in each direction, with the quantization table 0.
    before, _, after = header.partition(b"\xff\xc0\x00\x0b")
    frame = b"\xff\xc0\x00\x11" + after[:5] + b"\x03\x01\x11\x00\x02\x11\x00\x03\x11\x00"
    return before + frame + after[9:] + scans + b"\xff\xd9"


def pictures_of_all_kinds() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of pictures of every kind that people send: formats, colour modes, orientations and sizes."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    rgba = Image.fromarray(colours).resize((225, 318), Image.Resampling.BICUBIC)
    rgb = rgba.convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6  # the orientation
    grey = rgb.convert("L")
    pictures: dict[str, tuple[Image.Image, str, dict[str, object]]] = {
        "JPEG": (rgb, "JPEG", {"quality": 90}),
        "large JPEG": (rgb.resize((1000, 1400)), "JPEG", {"quality": 90}),
        "progressive JPEG": (rgb, "JPEG", {"progressive": True}),
        "grey JPEG": (grey, "JPEG", {}),
        "CMYK JPEG": (rgb.convert("CMYK"), "JPEG", {}),
        "turned JPEG": (rgb, "JPEG", {"exif": turned}),
        "JPEG of two pictures": (rgb, "MPO", {"save_all": True, "append_images": [rgba.convert("RGB").rotate(90)]}),
        "PNG": (rgb, "PNG", {}),
        "PNG with alpha": (rgba, "PNG", {}),
        "PNG with a palette": (rgb.convert("P"), "PNG", {}),
        "PNG with a transparent colour": (rgb.convert("P"), "PNG", {"transparency": 3}),
        "grey PNG with alpha": (rgba.convert("LA"), "PNG", {}),
        "PNG of 16 bits": (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG", {}),
        "PNG of 1 bit": (grey.convert("1"), "PNG", {}),
        "1 x 1": (rgb.resize((1, 1)), "PNG", {}),
        "1 x 4000": (rgb.resize((1, 4000)), "PNG", {}),
        "4000 x 1": (rgb.resize((4000, 1)), "PNG", {}),
        "WebP": (rgb, "WEBP", {}),
        "WebP with alpha": (rgba, "WEBP", {}),
        "AVIF": (rgb, "AVIF", {}),
        "GIF": (rgb.convert("P"), "GIF", {}),
    }
    for name, (picture, kind, options) in pictures.items():
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        yield name, buffer.getvalue()
