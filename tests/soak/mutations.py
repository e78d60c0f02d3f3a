"""Damaged images and requests generated from a seed, decompression bombs, and the largest supported images.

This module only generates bytes. The callers know the expected responses.
"""

import json
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from io import BytesIO

from PIL import Image

from tests.pictures import jpeg_with_scans
from tests.soak.function_requests import FORM, JSON, MEDIA_TYPES, Request, base64_of, encoded, form

HUGE = 60_000  # pixels per side; no decoder should process such an image


# Damaged images


def flipped(rng: random.Random, data: bytes) -> bytes:
    """Replace a few bytes."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 16)):
        damaged[rng.randrange(len(damaged))] = rng.randrange(256)
    return bytes(damaged)


def flipped_header(rng: random.Random, data: bytes) -> bytes:
    """Replace bytes of the header, mostly with extreme values."""
    damaged = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        damaged[rng.randrange(4, min(len(damaged), 120))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(damaged)


def truncated(rng: random.Random, data: bytes) -> bytes:
    """Remove the end."""
    return data[: rng.randrange(len(data))]


def spliced(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """Join the start of one image with the end of another."""
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def rearranged(rng: random.Random, data: bytes) -> bytes:
    """Remove, repeat, reverse or zero a piece."""
    first, last = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    piece = data[first:last]
    return data[:first] + rng.choice((b"", piece * 2, bytes(len(piece)), piece[::-1])) + data[last:]


def mutated_image(rng: random.Random, images: list[bytes]) -> bytes:
    """Damage one of the images in one or two ways."""
    data = rng.choice(images)
    for _ in range(rng.choice((1, 1, 2))):
        ways: tuple[Callable[[], bytes], ...] = (
            lambda data=data: flipped(rng, data),
            lambda data=data: flipped_header(rng, data),
            lambda data=data: truncated(rng, data),
            lambda data=data: spliced(rng, data, rng.choice(images)),
            lambda data=data: rearranged(rng, data),
            lambda data=data: with_size(data, rng.randint(1, HUGE), rng.randint(1, HUGE)),
        )
        data = rng.choice(ways)() or b"\0"
    return data


def with_size(data: bytes, width: int, height: int) -> bytes:
    """Declare another size in the image's header. An image without a readable header stays as it is."""
    edit = {b"\x89PNG": _png_size, b"\xff\xd8\xff": _jpeg_size, b"GIF8": _gif_size, b"RIFF": _webp_size}
    change = next((change for magic, change in edit.items() if data.startswith(magic)), _avif_size)
    edited = bytearray(data)
    try:
        change(edited, width, height)
    except (ValueError, IndexError, struct.error):  # damaged before
        return data
    return bytes(edited)


def _png_size(data: bytearray, width: int, height: int) -> None:
    struct.pack_into(">II", data, 16, width, height)
    struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))


def _jpeg_size(data: bytearray, width: int, height: int) -> None:
    place = 2
    while data[place + 1] not in (0xC0, 0xC1, 0xC2):
        place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    struct.pack_into(">HH", data, place + 5, min(height, 0xFFFF), min(width, 0xFFFF))


def _gif_size(data: bytearray, width: int, height: int) -> None:
    size = struct.pack("<HH", min(width, 0xFFFF), min(height, 0xFFFF))
    data[6:10] = size
    place = 13 + (3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0)
    while data[place] == 0x21:  # extensions: blocks that start with their length
        place += 2
        while data[place]:
            place += 1 + data[place]
        place += 1
    if data[place] != 0x2C:
        raise ValueError("no frame")
    data[place + 5 : place + 9] = size


def _webp_size(data: bytearray, width: int, height: int) -> None:
    kind = bytes(data[12:16])
    if kind == b"VP8X":
        data[24:30] = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        return
    width, height = min(width, 16383), min(height, 16383)
    if kind == b"VP8L":
        bits = struct.unpack_from("<I", data, 21)[0] >> 28 << 28
        struct.pack_into("<I", data, 21, bits | (height - 1) << 14 | (width - 1))
    elif kind == b"VP8 ":
        struct.pack_into("<HH", data, 26, width, height)
    else:
        raise ValueError("no frame")


def _avif_size(data: bytearray, width: int, height: int) -> None:
    place = data.index(b"ispe")
    struct.pack_into(">II", data, place + 8, width, height)


# Damaged requests


def mutated_request(rng: random.Random, posters: Mapping[str, bytes]) -> Request:
    """A request with one damaged part. It may succeed or be refused."""
    images = list(posters.values())
    image = mutated_image(rng, images)
    whole = rng.choice(images)
    draws: tuple[tuple[Callable[[], Request], float], ...] = (
        (lambda: Request("image", image, rng.choice((*MEDIA_TYPES.values(), "application/octet-stream"))), 10),
        (lambda: Request("image", image, "image/jpeg", chunked=True), 1),
        (lambda: Request("image in a form", form(image), FORM), 2),
        (lambda: Request("image in JSON", _json({"image": base64_of(image)}), JSON), 2),
        (lambda: Request("image in a batch", _json(_batch(rng, images)), JSON), 1),
        (lambda: Request("form", _damaged_text(rng, form(whole)), FORM), 2),
        (lambda: Request("content type", whole, _content_type(rng)), 1),
        (lambda: Request("form", form(whole), _content_type(rng)), 1),
        (lambda: Request("JSON", _damaged_text(rng, _json({"image": base64_of(whole)})), JSON), 1),
        (lambda: Request("JSON", _damaged_text(rng, _json({"name": rng.choice(list(posters))})), JSON), 1),
        (lambda: Request("JSON", _json(_any_json(rng, 4)), JSON), 2),
        (lambda: Request("query", whole, "image/jpeg", path=f"/?{_query(rng)}"), 1),
        (lambda: Request("page", method=rng.choice(("GET", "HEAD", "POST", "OPTIONS")), path=_path(rng)), 0.5),
    )
    (draw,) = rng.choices([draw for draw, _ in draws], [weight for _, weight in draws])
    return replace(draw(), statuses=())


def damaged_message(rng: random.Random, posters: Mapping[str, bytes]) -> bytes:
    """A whole HTTP message with damaged headers. It needs a new connection."""
    body = rng.choice(list(posters.values()))
    headers = [
        b"POST / HTTP/1.1",
        b"Host: 127.0.0.1",
        b"Content-Type: image/jpeg",
        b"Content-Length: %d" % len(body),
        b"Connection: close",
    ]
    odd = (
        b"Content-Length: %d" % (len(body) // 2),
        b"Content-Length: %d" % (len(body) * 2),
        b"Content-Length: -1",
        b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked",
        b"Content-Encoding: gzip",
        b"Expect: 100-continue",
        b"Content-Type: multipart/form-data; boundary=",
        b"Content-Type: " + bytes(rng.randrange(32, 256) for _ in range(60)),
        b"X-Cloud-Trace-Context: \xff\xfe" + b"x" * rng.randint(0, 10_000),
        b"Host: " + rng.randbytes(8),
        b"X: " + b"y" * 70_000,
    )
    rng.choice(
        (
            lambda: headers.insert(rng.randint(1, len(headers)), rng.choice(odd)),
            lambda: headers.__setitem__(rng.randrange(len(headers)), rng.choice(odd)),
            lambda: headers.pop(rng.randrange(len(headers))),
        )
    )()
    head = b"\r\n".join(headers) + b"\r\n\r\n"
    if rng.random() < 0.4:
        head = flipped(rng, head)
    return head + body


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _batch(rng: random.Random, images: list[bytes]) -> object:
    count = rng.randint(1, 6)
    return {"instances": [rng.choice((_any_json(rng, 2), {"image": base64_of(mutated_image(rng, images))}))] * count}


def _damaged_text(rng: random.Random, text: bytes) -> bytes:
    return rng.choice((flipped, flipped_header, truncated, rearranged))(rng, text)


def _any_json(rng: random.Random, depth: int) -> object:
    """JSON of any shape, often with the member names that the function reads."""
    leaves: tuple[object, ...] = (
        None,
        True,
        -1,
        1e308,
        10**400,
        float("nan"),
        "",
        "posters/0.jpg",
        "gs://",
        "gs:///",
        "https://",
        "https://[",
        "https://cdn.myanimelist.net.example.com/a.jpg",
        "https://cdn.myanimelist.net@example.com/a.jpg",
        "https://example.com\\@cdn.myanimelist.net/a.jpg",
        "http://example.com/a.jpg",
        "file:///etc/passwd",
        "data:image/png;base64,AAAA",
        "\ud800",
        "a\x00b",
        "é" * 600,
        "=" * 50,
    )
    if depth == 0 or rng.random() < 0.3:
        return rng.choice(leaves)
    if rng.random() < 0.3:
        return [_any_json(rng, depth - 1) for _ in range(rng.randint(0, 4))]
    names = ("name", "image", "instances", "genres", "")
    return {rng.choice(names): _any_json(rng, depth - 1) for _ in range(rng.randint(1, 3))}


def _content_type(rng: random.Random) -> str:
    kind = rng.choice(
        ("image/", "image/svg+xml", "image", "/", "application/json", "application/", "IMAGE/PNG", ";", "")
    )
    kind = rng.choice((kind, "multipart/form-data", "multipart/mixed", FORM))
    options = (
        "",
        ";",
        "; boundary=",
        '; boundary="',
        "; boundary=" + "b" * 300,
        "; charset=utf-7",
        "; charset=none",
        ";;=",
    )
    return kind + rng.choice(options)


def _query(rng: random.Random) -> str:
    names = ("top", "explain", "top[]", "%00", "")
    values = (
        "1",
        "0",
        "-1",
        "nan",
        "1e400",
        "9" * 5000,
        "%ff",
        "%F0%9F%98%80",
        "",
        "None",
        "1&top=2",
        "Action&explain=Drama",
    )
    return "&".join(f"{rng.choice(names)}={rng.choice(values)}" for _ in range(rng.randint(1, 3)))


def _path(rng: random.Random) -> str:
    return rng.choice(
        ("/model", "/healthz", "/openapi.json", "/", "//", "/%ff", "/.", "/model/", "/healthz?x=%ff", "/%2e%2e/")
    )


# Bombs


def declared_bombs(images: Mapping[str, bytes]) -> dict[str, bytes]:
    """One small file per format that declares 60,000 x 60,000 pixels, or the most its format can declare."""
    bombs = {f"{suffix} that declares a huge size": with_size(data, HUGE, HUGE) for suffix, data in images.items()}
    assert all(bomb != data for bomb, data in zip(bombs.values(), images.values(), strict=True))
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    animation = encoded(frames[0], "webp", save_all=True, append_images=frames[1:], duration=100)
    # An animation's canvas may be larger than its frames.
    return bombs | {"animated webp that declares a huge size": with_size(animation, HUGE, HUGE)}


def real_bombs() -> Iterator[tuple[str, bytes]]:
    """Small files of every format that contain far too many pixels or too much other data."""
    yield "png of 400 Mpx", png(20_000, 20_000, bits=1, colours=0)
    yield "png of 14 Mpx in one row", png(14_000_000, 1, bits=8, colours=6)
    yield "png of 14 Mpx in one column", png(1, 14_000_000, bits=8, colours=6)
    yield "png of 100 Mpx with alpha", png(10_000, 10_000, bits=8, colours=6)
    yield (
        "png with 100 MB of text",
        png(64, 64, bits=8, colours=2, chunk=(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
    )
    yield (
        "png with a profile of 100 MB",
        png(64, 64, bits=8, colours=2, chunk=(b"iCCP", b"a\0\0" + zlib.compress(bytes(10**8)))),
    )
    emoji = zlib.compress(("\N{GRINNING FACE}" + "a" * 10**6).encode())
    yield "png with 60 MB of texts", png(64, 64, bits=8, colours=2, chunk=(b"iTXt", b"a\0\1\0\0\0" + emoji), times=60)
    small = encoded(Image.new("RGB", (64, 64), "red"), "jpg")
    yield "jpg of a million segments", small[:2] + b"\xff\xe1\x00\x02" * 10**6 + small[2:]
    yield "progressive jpg of 22 Mpx in 10,000 scans", jpeg_with_scans(10_000, (4700, 4700))
    private = struct.pack(">I", 0) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    whole = png(64, 64, bits=8, colours=2)
    yield "png of a million chunks after its pixels", whole[:-12] + private * 10**6 + whole[-12:]
    yield (
        "gif that declares a frame of 169 Mpx",
        (
            b"GIF89a"
            + struct.pack("<HHBBB", 13_000, 13_000, 0, 0, 0)
            + b"!\xf9\x04\x08\0\0\0\0,"
            + struct.pack("<HHHHB", 0, 0, 13_000, 13_000, 0)
            + b"\x02\x02\x44\x01\0;"
        ),
    )
    yield "jpg of 100 Mpx", encoded(Image.new("RGB", (10_000, 10_000), "red"), "jpg", quality=30)
    yield (
        "progressive jpg of 36 Mpx",
        encoded(Image.new("RGB", (6000, 6000), "red"), "jpg", quality=30, progressive=True),
    )
    yield "gif of 100 Mpx", encoded(Image.new("P", (10_000, 10_000)), "gif")
    frames = [Image.new("P", (64, 64), index % 2) for index in range(2000)]
    yield "gif of 2000 frames", encoded(frames[0], "gif", save_all=True, append_images=frames[1:], optimize=False)
    yield "webp of 36 Mpx", encoded(Image.new("RGB", (6000, 6000), "red"), "webp", quality=10, method=0)
    yield "avif of 25 Mpx", encoded(Image.new("RGB", (5000, 5000), "red"), "avif", quality=10, speed=10)


def large_images(pixels: int) -> Iterator[tuple[str, bytes]]:
    """Valid images with `pixels` pixels, in every format and in the modes whose decoding takes most memory."""
    side = int(pixels**0.5)
    size = (side, side)
    half = Image.new("RGBA", size, (200, 30, 60, 128))
    yield "webp with alpha", encoded(half, "webp", lossless=True, quality=0, method=0)
    yield "avif with alpha", encoded(half, "avif", quality=10, speed=10)
    yield "jpg, progressive", encoded(half.convert("RGB"), "jpg", progressive=True, subsampling=0)
    yield "jpg, progressive, cmyk", encoded(Image.new("CMYK", size), "jpg", progressive=True)
    yield "jpg", encoded(half.convert("RGB"), "jpg", subsampling=0)
    palette = Image.new("P", size)
    yield "png, palette with alpha", encoded(palette, "png", transparency=b"\x80" * 256)
    yield "gif, transparent", encoded(palette, "gif", transparency=0)
    del half, palette
    yield "png with alpha", png(side, side, bits=8, colours=6)
    yield "png with alpha, 16 bits", png(side, side, bits=16, colours=6)
    yield "png, grey of 16 bits", png(side, side, bits=16, colours=0)
    yield "png, wide", png(65_535, pixels // 65_535, bits=8, colours=6)
    yield "png, high", png(pixels // 65_535, 65_535, bits=8, colours=6)
    # Too narrow to be scaled down during decoding.
    narrow = (min(pixels // 300, 65_535), 300)
    yield "jpg, narrow", encoded(Image.new("CMYK", narrow), "jpg", progressive=True)


def png(
    width: int, height: int, bits: int, colours: int, chunk: tuple[bytes, bytes] | None = None, times: int = 1
) -> bytes:
    """A PNG of zeros, written row by row to save memory here. `colours` is its colour type."""

    def part(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    samples = {0: 1, 2: 3, 6: 4}[colours]
    row = bytes(1 + (width * samples * bits + 7) // 8)
    deflate = zlib.compressobj(9 if width * height < 10**6 else 1)
    pixels = BytesIO()
    for _ in range(height):
        pixels.write(deflate.compress(row))
    pixels.write(deflate.flush())
    header = part(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0))
    extra = part(*chunk) * times if chunk else b""
    return b"\x89PNG\r\n\x1a\n" + header + extra + part(b"IDAT", pixels.getvalue()) + part(b"IEND", b"")
