"""Preprocessing: decoding of posters to shards, compared with a plain PIL loop; rebuilding a dataset; memory.

    PYTHONPATH=. python tests/benchmarks/bench_preprocess.py [--posters 20000] [--size 256] [--runs 3] [--data FOLDER]

The first posters are real ones (`posters/anime.zip` in FOLDER: `../shared`, or ANIME_GENRE_REAL_DATA). The others are
these with rolled pixels, encoded again. Without real posters all are generated. Figures are medians of the runs. The
two sides take turns, so that other load on the machine affects both. Needs 400 KB of disk per poster.
"""

import argparse
import io
import os
import shutil
import statistics
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap
from PIL import Image

from ml.configuration import PreprocessConfig
from ml.data.dataset import build_dataset
from ml.data.decoding import Poster, decode_posters, open_pixels, perceptual_hashes
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre
from ml.data.splits import draw_part
from ml.reporting import NullReporter
from serving.bundle.files import sha256_of_file
from serving.bundle.model import available_cpus

GENRES = [Genre(number, f"Genre {number}") for number in range(14)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--posters", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    archive = Path(arguments.data) / "posters" / "anime.zip"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        posters = write_posters(folder / "posters", archive, arguments.posters)
        against_a_plain_loop(posters, folder, arguments.size, arguments.runs)
        rebuilt(posters, folder, arguments.size, arguments.runs)
        growing(posters, folder, arguments.size)


def against_a_plain_loop(posters: list[Poster], folder: Path, size: int, runs: int) -> None:
    """Compare the decoding of posters, hashes and shards included, with a plain PIL loop, in posters per second."""
    ours, plain, ratios = [], [], []
    for _ in range(runs):
        ours.append(seconds_of(lambda: decode(posters, folder / "ours", size), folder / "ours"))
        plain.append(seconds_of(lambda: plain_loop(posters, folder / "plain", size), folder / "plain"))
        ratios.append(plain[-1] / ours[-1])
    count = len(posters)
    print(
        f"preprocessing: {count / statistics.median(ours):.0f} posters per second ({count} to {size} x {size}, "
        f"{available_cpus()} CPUs), {statistics.median(ratios):.2f} times a plain PIL loop's "
        f"{count / statistics.median(plain):.0f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def rebuilt(posters: list[Poster], folder: Path, size: int, runs: int) -> None:
    """Measure building a dataset, building the next one with 1 % new posters, and finding look-alikes."""
    config, workspace = PreprocessConfig(image_size=size), folder / "workspace"
    old = posters[: len(posters) - len(posters) // 100]
    first, again = [], []
    for _ in range(runs):
        shutil.rmtree(workspace, ignore_errors=True)
        start = time.perf_counter()
        build_dataset(old, workspace, config, NullReporter())
        built = time.perf_counter()
        build_dataset(posters, workspace, config, NullReporter())
        first.append(built - start)
        again.append(time.perf_counter() - built)
    hashes = perceptual_hashes({poster.id: poster.sha256 for poster in posters}, open_pixels(workspace, size))
    start = time.perf_counter()
    pairs = look_alikes(hashes)
    searched = time.perf_counter() - start
    shutil.rmtree(workspace)
    ratio = statistics.median(one / other for one, other in zip(first, again, strict=True))
    print(
        f"dataset of {len(old)} posters: {statistics.median(first):.1f} s, the next one with 1 % new posters "
        f"{statistics.median(again):.2f} s: {ratio:.0f} times faster; {len(pairs)} pairs of look-alikes found in "
        f"{searched * 1000:.0f} ms"
    )


def growing(posters: list[Poster], folder: Path, size: int) -> None:
    """Measure time per poster and peak anonymous memory for a twentieth, a quarter and all of the posters."""
    for share in (20, 4, 1):
        part = posters[: len(posters) // share]
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            seconds, cpu_seconds, before, peak = process.submit(measured, part, folder / "grown", size).result()
        shutil.rmtree(folder / "grown")
        print(
            f"  {len(part):6} posters: {seconds / len(part) * 1e6:.0f} us per poster "
            f"({cpu_seconds / len(part) * 1e6:.0f} us CPU time), "
            f"anonymous memory {before:.0f} MB before, at most {peak:.0f} MB"
        )


def measured(posters: list[Poster], workspace: Path, size: int) -> tuple[float, float, float, float]:
    """Seconds, CPU seconds, and anonymous memory in MB before and at its peak, of decoding and reading all pixels."""
    decode(posters[:10], workspace / "warm", size)
    before, peak, ended = anonymous_mb(), [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            peak.append(anonymous_mb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start, cpu_start = time.perf_counter(), time.process_time()
    decode(posters, workspace, size)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    rows = open_pixels(workspace, size).rows([poster.sha256 for poster in posters])
    for first in range(0, len(rows), 16):
        rows[first : first + 16].sum()
    ended.set()
    watcher.join()
    return seconds, cpu_seconds, before, max(peak)


def anonymous_mb() -> float:
    """Anonymous memory of this process in MB, which is not backed by a file."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def decode(posters: list[Poster], workspace: Path, size: int) -> None:
    pixels = open_pixels(workspace, size)
    decode_posters({poster.sha256: poster.file for poster in posters}, pixels, NullReporter())


def plain_loop(posters: list[Poster], folder: Path, size: int) -> None:
    """The same work in a plain loop, without hashes."""
    folder.mkdir()
    images = open_memmap(folder / "images.npy", "w+", np.uint8, (len(posters), 3, size, size))
    for row, poster in enumerate(posters):
        with Image.open(poster.file) as image:
            pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR))
        images[row] = pixels.transpose(2, 0, 1)


def seconds_of(work: Callable[[], None], folder: Path) -> float:
    """The seconds that `work` takes. The folder is deleted afterwards."""
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    shutil.rmtree(folder)
    return seconds


def write_posters(folder: Path, archive: Path, count: int) -> list[Poster]:
    """Posters as files, each with two genres and its own franchise."""
    folder.mkdir()
    real: list[bytes] = []
    if archive.exists():
        with zipfile.ZipFile(archive) as source:
            real = [source.read(name) for name in source.namelist() if name.endswith(".jpg")]

    def write(number: int) -> Poster:
        file = folder / f"{number}.jpg"
        if number < len(real):
            file.write_bytes(real[number])
        else:
            file.write_bytes(rolled(real[number % len(real)], number) if real else drawn(number))
        genres = (GENRES[number % len(GENRES)], GENRES[number // len(GENRES) % len(GENRES)])
        return Poster(str(number), f"Title {number}", genres, "", draw_part(str(number)), file, sha256_of_file(file))

    with ThreadPoolExecutor(available_cpus()) as pool:
        posters = list(pool.map(write, range(count)))
    print(f"posters: {min(len(real), count)} real, {count - min(len(real), count)} generated")
    return [replace(poster, franchise=poster.title) for poster in posters]


def rolled(content: bytes, number: int) -> bytes:
    """A poster with its pixels rolled by a random offset: as much work to decode, but another picture."""
    pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    rng = np.random.default_rng(number)
    offset = (int(rng.integers(pixels.shape[0])), int(rng.integers(pixels.shape[1])))
    return as_jpeg(Image.fromarray(np.roll(pixels, offset, (0, 1))))


def drawn(number: int) -> bytes:
    """Noise that compresses like a picture."""
    coarse = np.random.default_rng(number).integers(0, 256, (45, 32, 3)).astype(np.uint8)
    return as_jpeg(Image.fromarray(coarse).resize((225, 318), Image.Resampling.BICUBIC))


def as_jpeg(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=90)
    return stream.getvalue()


if __name__ == "__main__":
    main()
