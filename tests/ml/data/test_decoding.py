import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ml.data.decoding import Poster, broken_posters, decode_posters, open_pixels, perceptual_hashes
from ml.data.shards import Shards
from ml.data.table_images import in_served_format
from ml.errors import DatasetError
from ml.reporting import NullReporter
from serving.bundle.errors import PosterError, PosterFormatError, PosterSizeError
from serving.bundle.files import sha256_of_file
from serving.bundle.image import decode

Make = Callable[[Path, int], list[Poster]]


class Decoded(NullReporter):
    """Records the number of posters to decode."""

    def __init__(self) -> None:
        self.total = 0

    def progress(self, done: int, total: int, what: str, unit: str = "") -> None:
        assert 0 <= done <= total and what == "decoding posters"
        self.total = total


def opened(workspace: Path) -> Shards:
    return open_pixels(workspace, 32)


def decoded(posters: list[Poster], workspace: Path) -> int:
    reporter = Decoded()
    decode_posters({poster.sha256: poster.file for poster in posters}, opened(workspace), reporter)
    return reporter.total


def test_decoding_gives_the_pixels_of_serving(tmp_path: Path, make: Make) -> None:
    posters = make(tmp_path / "posters", 50)
    assert decoded(posters, tmp_path) == 50
    rows = opened(tmp_path).rows([poster.sha256 for poster in posters])
    for row, poster in enumerate(posters):
        assert np.array_equal(rows[row], decode(poster.file.read_bytes(), 32))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1", "P", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("form", ["BMP", "TIFF"])
def test_bmp_and_tiff_posters_are_decoded(mode: str, form: str) -> None:
    picture = Image.fromarray(np.linspace(0, 255, 64 * 48 * 3).reshape(64, 48, 3).astype(np.uint8))
    expected = decode(
        encoded(picture.convert(mode if mode in "RGBA L 1 P" else "L" if mode in "I;16 F" else "RGB"), "PNG"), 32
    )
    grey = np.asarray(picture.convert("L"))
    image = (
        Image.fromarray(grey.astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(grey.astype(np.float32) / 255)
        if mode == "F"
        else picture.convert(mode)
    )
    if form == "BMP" and mode in ("CMYK", "I;16", "F"):
        return  # BMP has no such pixels
    pixels = decode(in_served_format(encoded(image, form)), 32)
    assert np.abs(pixels.astype(int) - expected).max() <= 2


def test_orientation_of_a_tiff_is_applied_and_damage_is_an_error() -> None:
    picture = Image.fromarray(np.linspace(0, 255, 64 * 48 * 3).reshape(64, 48, 3).astype(np.uint8))
    exif = picture.getexif()
    exif[274] = 6
    data = encoded(picture, "TIFF", exif=exif)
    turned = decode(in_served_format(data), 32)
    assert np.array_equal(turned, decode(encoded(picture.transpose(Image.Transpose.ROTATE_270), "PNG"), 32))
    for broken in (data[:10], data[: len(data) // 2], encoded(picture, "BMP")[:500]):
        with pytest.raises(PosterError, match="damaged or truncated"):
            decode(in_served_format(broken), 32)
    with pytest.raises(PosterFormatError):
        decode(in_served_format(b"BM, a text"), 32)
    large = Image.new("1", (5000, 5000))
    with pytest.raises(PosterSizeError, match="5000 x 5000"):
        in_served_format(encoded(large, "TIFF", compression="group4"))


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def test_decoding_skips_known_posters(tmp_path: Path, make: Make) -> None:
    posters = make(tmp_path / "posters", 30)
    assert decoded(posters[:20], tmp_path) == 20
    assert decoded(posters[:20], tmp_path) == 0
    posters[3].file.write_bytes(posters[25].file.read_bytes() + b"\0")
    posters[3] = replace(posters[3], sha256=sha256_of_file(posters[3].file))
    assert decoded(posters, tmp_path) == 11
    assert decoded(posters, tmp_path) == 0


def test_decoding_records_a_broken_poster_and_does_not_repeat_it(tmp_path: Path, make: Make) -> None:
    posters = make(tmp_path / "posters", 5)
    posters[2].file.write_text("<html>")
    posters[2] = replace(posters[2], sha256=sha256_of_file(posters[2].file))
    assert decoded(posters, tmp_path) == 5
    assert decoded(posters, tmp_path) == 0
    assert broken_posters(posters, opened(tmp_path)) == {"2": "This is not a JPEG, PNG, WebP, AVIF or GIF image."}
    hashes = perceptual_hashes({poster.id: poster.sha256 for poster in posters}, opened(tmp_path))
    assert hashes.pop("2") == ""
    assert all(len(hash) == 16 for hash in hashes.values())


def test_decoding_tries_broken_posters_again_if_other_formats_are_read(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    posters = make(tmp_path / "posters", 5)
    Image.new("RGB", (40, 60), "red").save(posters[2].file, "BMP")
    posters[3].file.write_text("<html>")
    for place in (2, 3):
        posters[place] = replace(posters[place], sha256=sha256_of_file(posters[place].file))
    with monkeypatch.context() as patch:  # as it was before BMP and TIFF were read
        patch.setattr("ml.data.decoding.in_served_format", lambda data: data)
        patch.setattr("ml.data.decoding.READABLE_FORMATS", "JPEG PNG")
        assert decoded(posters, tmp_path) == 5
        assert set(broken_posters(posters, opened(tmp_path))) == {"2", "3"}
    assert decoded(posters, tmp_path) == 2
    assert set(broken_posters(posters, opened(tmp_path))) == {"3"}
    assert decoded(posters, tmp_path) == 0


def test_decoding_handles_a_file_shared_by_two_titles_once(tmp_path: Path, make: Make) -> None:
    posters = make(tmp_path / "posters", 3)
    posters[1] = replace(posters[1], file=posters[0].file, sha256=posters[0].sha256)
    assert decoded(posters, tmp_path) == 2


def test_decoding_continues_after_the_complete_shards_of_a_failed_run(tmp_path: Path, make: Make) -> None:
    posters = sorted(make(tmp_path / "posters", 30), key=lambda poster: poster.sha256)
    whole = posters[20].file.read_bytes()
    decoded(posters[:20], tmp_path)
    posters[20].file.unlink()
    with pytest.raises(DatasetError, match="cannot be read"):
        decoded(posters, tmp_path)
    assert opened(tmp_path).missing(poster.sha256 for poster in posters) == [p.sha256 for p in posters[20:]]
    posters[20].file.write_bytes(whole)
    assert decoded(posters, tmp_path) == 10
