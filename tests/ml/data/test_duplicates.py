import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from ml.data.duplicates import MAX_DISTANCE, look_alikes, perceptual_hash, thumbnail
from serving.bundle.image import decode


def drawn(seed: int) -> Image.Image:
    """A picture of 225 x 318 pixels with soft shapes. Each seed gives a different one."""
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((225, 318), Image.Resampling.BICUBIC)


def pixels(picture: Image.Image, size: int = 128, quality: int = 90) -> np.ndarray:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return decode(stream.getvalue(), size)


def hash_of(picture: np.ndarray) -> str:
    return perceptual_hash(thumbnail(picture))


def distance(one: str, other: str) -> int:
    return (int(one, 16) ^ int(other, 16)).bit_count()


def test_perceptual_hash_is_similar_for_another_size_or_compression_or_a_logo() -> None:
    for seed in range(20):
        expected = hash_of(pixels(drawn(seed)))
        with_logo = drawn(seed)
        with_logo.paste((255, 255, 255), (100, 290, 130, 302))
        others = [
            pixels(drawn(seed), quality=30),
            pixels(drawn(seed).resize((112, 159)), quality=75),
            pixels(drawn(seed), size=256),
            pixels(with_logo),
        ]
        assert [distance(expected, hash_of(other)) <= MAX_DISTANCE for other in others] == [True] * 4


def test_look_alikes_of_different_pictures_are_empty() -> None:
    hashes = {str(seed): hash_of(pixels(drawn(seed))) for seed in range(200)}
    assert look_alikes(hashes) == []


def test_perceptual_hash_of_flat_pictures_is_empty_and_matches_none() -> None:
    flat = [hash_of(pixels(Image.new("RGB", (225, 318), colour))) for colour in ("red", "white", "#808081")]
    assert flat == ["", "", ""]
    assert look_alikes({str(place): hash for place, hash in enumerate(flat)}) == []


def test_look_alikes_equal_those_of_comparing_all_pairs() -> None:
    rng = np.random.default_rng(1)
    hashes = rng.integers(0, 2**63, 60)
    for bits in range(1, 12):  # the same hashes with some bits changed; some become equal again
        changed = hashes[:60] ^ np.bitwise_or.reduce(1 << rng.integers(0, 63, (bits, 60)))
        hashes = np.concatenate([hashes, changed])
    hashes_of = {str(place): f"{hash:016x}" for place, hash in enumerate(np.unique(hashes).tolist())}
    for most in (0, 3, MAX_DISTANCE):
        near = {
            (one, other)
            for one in hashes_of
            for other in hashes_of
            if int(one) < int(other) and distance(hashes_of[one], hashes_of[other]) <= most
        }
        assert set(look_alikes(hashes_of, most)) == near
    assert near


def test_look_alikes_join_equal_hashes_as_a_chain() -> None:
    assert look_alikes(dict.fromkeys("abcd", "00000000000000ff")) == [("a", "b"), ("b", "c"), ("c", "d")]
    assert look_alikes({}) == look_alikes({"a": ""}) == look_alikes({"a": "00000000000000ff"}) == []


def test_look_alikes_of_real_posters_are_those_that_a_person_found(real_data: Path) -> None:
    with zipfile.ZipFile(real_data / "posters" / "anime.zip") as archive:
        files = [file for file in archive.namelist() if file.endswith(".jpg")]
        hashes_of = {Path(file).stem: hash_of(decode(archive.read(file), 64)) for file in files}
    assert {tuple(sorted(pair, key=int)) for pair in look_alikes(hashes_of)} == {
        ("2759", "3784"),  # two films of Evangelion: the same stairs with one more person
        ("28825", "31234"),  # Umaru-chan with and without its logo
        ("28999", "31553"),
        ("30727", "35338"),
        ("36882", "46971"),
        ("40507", "50916"),
        ("58883", "58920"),
    }
