"""Posters preprocessed per second: files to the dataset's uint8 array, beside a plain PIL loop.

    python tests/benchmarks/bench_preprocess.py [--posters 500] [--size 256] [--runs 5] [--data FOLDER]

The posters are real ones (`posters/anime.zip` in FOLDER: `../shared`, or where ANIME_GENRE_REAL_DATA points),
drawn ones of the same size where there are none. Medians over the runs, which take turns.
"""

import argparse
import io
import os
import statistics
import tempfile
import time
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ml.posters import Poster, decode_posters, file_sha256
from ml.reporting import NullReporter
from serving.function.model import available_cpus


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--posters", type=int, default=500)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    archive = Path(arguments.data) / "posters" / "anime.zip"
    with tempfile.TemporaryDirectory() as folder:
        files = write_posters(Path(folder), archive, arguments.posters)
        posters = [Poster(file.stem, "", (), "", "", file, file_sha256(file)) for file in files]
        images = np.empty((len(posters), 3, arguments.size, arguments.size), np.uint8)
        decode_posters(posters, images, NullReporter())  # files are in the system's cache from here on
        ours, plain = [], []
        for _ in range(arguments.runs):
            start = time.perf_counter()
            broken = decode_posters(posters, images, NullReporter())
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            plain_loop(files, images)
            plain.append(time.perf_counter() - start)
    if broken:
        raise SystemExit(f"{len(broken)} posters could not be decoded")
    kind = "real" if archive.exists() else "drawn"
    rate, plain_rate = len(files) / statistics.median(ours), len(files) / statistics.median(plain)
    print(
        f"preprocessing: {rate:.0f} posters a second ({len(files)} {kind} ones to {arguments.size} x {arguments.size}, "
        f"{available_cpus()} CPUs), {rate / plain_rate:.2f} times a plain PIL loop's {plain_rate:.0f}"
    )


def plain_loop(files: list[Path], images: NDArray[np.uint8]) -> None:
    """The same work as it is usually written."""
    size = images.shape[-1]
    for row, file in enumerate(files):
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        images[row] = pixels.transpose(2, 0, 1)


def write_posters(folder: Path, archive: Path, count: int) -> list[Path]:
    """Posters as files: from the archive where it is there, else drawn as noise that compresses like a picture."""
    if archive.exists():
        with zipfile.ZipFile(archive) as source:
            names = [name for name in source.namelist() if name.endswith(".jpg")][:count]
            contents = [source.read(name) for name in names]
    else:
        contents = [drawn_poster(number) for number in range(count)]
    files = []
    for number, content in enumerate(contents):
        files.append(folder / f"{number}.jpg")
        files[-1].write_bytes(content)
    return files


def drawn_poster(number: int) -> bytes:
    coarse = np.random.default_rng(number).integers(0, 256, (45, 32, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(coarse).resize((225, 318), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    main()
