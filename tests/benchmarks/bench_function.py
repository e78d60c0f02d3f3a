"""Latency of the deployed function, beside a bare ONNX Runtime session that decodes and runs the same posters.

    python tests/benchmarks/bench_function.py [--bundle FOLDER] [--data FOLDER] [--requests 100] [--runs 3]

Without --bundle the network is a ResNet18 of 256 x 256 pixels with random weights and 20 genres. The posters are
real ones from posters/anime.zip in the folder --data (`../shared`, or where ANIME_GENRE_REAL_DATA points); where
that is absent, drawn ones of 225 x 318 pixels. The function is the zip as it is deployed, run by functions-framework
on this machine. Each figure is the median over the runs, which take turns.
"""

import argparse
import hashlib
import io
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import requests
from google.auth.credentials import AnonymousCredentials
from google.cloud.storage import Client
from PIL import Image

import serving.function.model
from infra.functions import source_zip
from infra.local.processes import Processes, free_port
from serving.function.model import MANIFEST, MODEL, Model, Preprocessing, available_cpus

Ask = Callable[[bytes], object]
CLIENTS = (1, 8)
GENRES = 20
BUCKET = "bench"


def random_resnet18(folder: Path) -> Path:
    """A bundle of a ResNet18 with random weights."""
    from ml.bundle import export_onnx
    from ml.networks import GenreNetwork, backbone, head

    preprocessing = Preprocessing(256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "squash-bilinear", 1)
    top = head(512, np.full(GENRES, 0.2), hidden=0, dropout=0.0)
    graph = export_onnx(GenreNetwork(backbone("resnet18").body, top, preprocessing, frozen=True), preprocessing.size)
    manifest = {
        "format": 1,
        "genres": [{"id": number, "name": f"Genre {number}", "threshold": 0.5} for number in range(GENRES)],
        "preprocessing": {
            "size": preprocessing.size,
            "mean": preprocessing.mean,
            "std": preprocessing.std,
            "resize": preprocessing.resize,
            "version": preprocessing.version,
        },
        "network": {"name": "transfer", "backbone": "resnet18"},
        "dataset_key": "none",
        "files": {MODEL: hashlib.sha256(graph).hexdigest()},
    }
    (folder / MODEL).write_bytes(graph)
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def read_posters(data: Path, count: int) -> tuple[list[bytes], str]:
    """Poster files and where they are from."""
    archive = data / "posters" / "anime.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as file:
            names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
            return [file.read(name) for name in names[:: max(1, len(names) // count)][:count]], "real"
    posters = []
    for seed in range(count):
        buffer = io.BytesIO()
        blocks = np.random.default_rng(seed).integers(0, 256, (20, 14, 3), dtype=np.uint8)
        Image.fromarray(blocks).resize((225, 318), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        posters.append(buffer.getvalue())
    return posters, "drawn"


@contextmanager
def running_function(bundle: Path, folder: Path) -> Iterator[tuple[str, float]]:
    """The deployed zip as a process: its address, and the seconds from its start to its first answer."""
    with zipfile.ZipFile(io.BytesIO(source_zip(Path(serving.function.model.__file__).parent))) as archive:
        archive.extractall(folder / "source")
    sha256 = hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    storage_port, port = free_port(), free_port()
    storage_url, url = f"http://127.0.0.1:{storage_port}", f"http://127.0.0.1:{port}"
    environment = {
        "STORAGE_EMULATOR_HOST": storage_url,
        "BUNDLE_URI": f"gs://{BUCKET}/{sha256}",
        "BUNDLE_SHA256": sha256,
        "XDG_RUNTIME_DIR": str(folder),  # where gunicorn keeps its control socket, else in the home folder
    }
    python = sys.executable
    storage = [python, "-m", "infra.local.storage", "--port", str(storage_port), "--bucket", BUCKET]
    function = [python, "-m", "functions_framework", "--target", "predict", "--source", "main.py"]
    with Processes(folder / "logs") as processes:
        processes.start("storage", [*storage, "--folder", str(folder / "data")], {}, f"{storage_url}/storage/v1/b")
        processes.wait_ready()
        options = {"api_endpoint": storage_url}
        client = Client(project="bench", credentials=AnonymousCredentials(), client_options=options)
        for name in (MANIFEST, MODEL):
            client.bucket(BUCKET).blob(f"{sha256}/{name}").upload_from_filename(str(bundle / name))
        began = time.perf_counter()
        command = [*function, "--host", "127.0.0.1", "--port", str(port)]
        processes.start("function", command, environment, f"{url}/healthz", folder / "source")
        processes.wait_ready()
        yield url, time.perf_counter() - began


def latencies_ms(ask: Ask, posters: list[bytes], clients: int, requests_count: int) -> tuple[float, float]:
    """Median latency in milliseconds, and answers a second, of this many clients that ask without a pause."""

    def timed(number: int) -> float:
        began = time.perf_counter()
        ask(posters[number % len(posters)])
        return (time.perf_counter() - began) * 1000

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(timed, range(2 * clients)))  # warm up
        began = time.perf_counter()
        times = list(pool.map(timed, range(requests_count)))
        return statistics.median(times), requests_count / (time.perf_counter() - began)


def http_client(url: str) -> Ask:
    """Ask the function with the poster as the body, each thread over a connection of its own."""
    local = threading.local()

    def ask(poster: bytes) -> object:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        response = local.session.post(url, data=poster, headers={"Content-Type": "image/jpeg"}, timeout=60)
        response.raise_for_status()
        return response.json()

    return ask


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder of the bundle to measure")
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--requests", type=int, default=100, help="requests a run")
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    posters, kind = read_posters(Path(arguments.data), 50)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = arguments.bundle or random_resnet18(folder)
        model = Model.load(bundle)
        with running_function(bundle, folder) as (url, start_seconds):
            candidates: dict[str, Ask] = {
                "bare ONNX Runtime": lambda poster: model.predict([poster]),
                "function over HTTP": http_client(url),
            }
            network = model.manifest.network
            print(f"{available_cpus()} CPUs, {len(posters)} {kind} posters, {network['backbone'] or network['name']}")
            print(f"function: {start_seconds:.2f} s from its start to a checked model (bucket on this machine)")
            for clients in CLIENTS:
                figures: dict[str, list[tuple[float, float]]] = {name: [] for name in candidates}
                for _ in range(arguments.runs):
                    for name, ask in candidates.items():
                        figures[name].append(latencies_ms(ask, posters, clients, arguments.requests))
                medians = {
                    name: [statistics.median(column) for column in zip(*runs, strict=True)]
                    for name, runs in figures.items()
                }
                bare = medians["bare ONNX Runtime"][0]
                for name, (milliseconds, rate) in medians.items():
                    print(
                        f"{clients} clients, {name}: p50 {milliseconds:.1f} ms ({milliseconds / bare:.2f} of bare), "
                        f"{rate:.1f} answers a second"
                    )


if __name__ == "__main__":
    main()
