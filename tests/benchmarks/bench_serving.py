"""Compares the deployed function in fp32 and int8 with the same function in torch and with ONNX Runtime alone.

    PYTHONPATH=. python tests/benchmarks/bench_serving.py [--runs 5] [--requests 200] [--data FOLDER]
        [--torch-python PYTHON]
    PYTHONPATH=. python tests/benchmarks/bench_serving.py --bundle FOLDER

The benchmark measures the seconds from process start to the first response (with the bundle in a local bucket), the
latency with one client, the responses per second with eight clients, and then the memory (PSS of all processes). Each
run starts the functions one after the other. Figures are medians of the runs, with minimum and maximum in brackets.
The clients run in a separate process with persistent connections.

The network is a ResNet18 of 256 x 256 pixels with random weights and 20 genres. The function in torch_function/ has the
same weights, and the benchmark checks that the predictions agree. It runs in this Python environment or in that of
--torch-python. The output names the build of torch, because a build for CUDA takes much longer to import. With --bundle
the benchmark measures that bundle and compares it only with ONNX Runtime alone. Posters come from posters/anime.zip in
the folder --data (`../shared`, or ANIME_GENRE_REAL_DATA). Without it they are generated, 225 x 318 pixels.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # the import path of a script contains only its own folder

from tests.soak.function_process import FunctionProcess, started, unpack_function, upload_bundle, wait_for_response
from tests.storage import storage_emulator

# Imports no library of the function: a library that two processes map counts half in the PSS of each.

ROOT = Path(__file__).parents[2]
BUCKET = "posters-bucket"
POSTERS = 50
CLIENTS = 8
CALIBRATION_POSTERS = 100
AGREEMENT = {"fp32": 1e-3}  # int8 is slightly different by design
TORCH = "torch"
GOALS = {  # ratios to torch
    "fp32": {"start": 0.25, "latency": 0.75, "throughput": 1.2, "memory": 0.6},
    "int8": {"start": 0.25, "latency": 0.5, "throughput": 2.5, "memory": 0.4},
}
BARE_GOAL = 1.25


@dataclass(frozen=True)
class Candidate:
    """A function to measure: its source, its environment and the Python that runs it."""

    name: str
    source: Path
    environment: Mapping[str, str]
    graph: Path | None
    python: str = sys.executable


@dataclass
class Figures:
    """The measurements of one candidate, one value per run."""

    start_seconds: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)  # the median of each run
    p95_milliseconds: list[float] = field(default_factory=list)
    responses_per_second: list[float] = field(default_factory=list)
    pss_mebibytes: list[float] = field(default_factory=list)


# Run in separate processes


def prepare(folder: Path, data: Path, bundle: Path | None) -> dict[str, Any]:
    """Create bundles, posters and the function's source. Returns a description of them."""
    posters, kind = read_posters(data, CALIBRATION_POSTERS)
    (folder / "posters").mkdir()
    for number, poster in enumerate(posters[:POSTERS]):
        (folder / "posters" / f"{number:03}.jpg").write_bytes(poster)
    unpack_function(folder / "function")
    about: dict[str, Any] = {"posters": f"{min(POSTERS, len(posters))} {kind} posters", "bundles": {}}
    if bundle:
        manifest = json.loads((bundle / "manifest.json").read_text())
        served = manifest.get("served", {"precision": "fp32", "file": "model.onnx"})
        about["bundles"][served["precision"]] = (str(bundle), served["file"])
        about["network"] = manifest["network"].get("backbone") or manifest["network"]["name"]
        about["size"] = manifest["preprocessing"]["size"]
        return about
    import numpy as np

    from serving.bundle.image import decode
    from tests.benchmarks.random_resnet18 import (
        PREPROCESSING,
        random_network,
        torchvision_weights,
        write_bundle,
    )

    network = random_network()
    size = PREPROCESSING.size
    fp32 = write_bundle(folder / "fp32", network)
    int8 = write_bundle(folder / "int8", network, np.stack([decode(poster, size) for poster in posters]))
    torch_bundle = folder / "torch"
    torch_bundle.mkdir()
    (torch_bundle / "manifest.json").write_bytes((fp32 / "manifest.json").read_bytes())
    (torch_bundle / "weights.safetensors").write_bytes(torchvision_weights(network))
    about["bundles"] = {
        TORCH: (str(torch_bundle), None),
        "fp32": (str(fp32), "model.onnx"),
        "int8": (str(int8), "model-int8.onnx"),
    }
    return about | {"network": "ResNet18 with random weights", "size": size}


def read_posters(data: Path, count: int) -> tuple[list[bytes], str]:
    """Poster files and their origin."""
    import zipfile

    archive = data / "posters" / "anime.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as file:
            names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
            return [file.read(name) for name in names[:: max(1, len(names) // count)][:count]], "real"
    import numpy as np
    from PIL import Image

    from tests.soak.function_requests import encoded

    drawn = []
    for seed in range(count):
        blocks = np.random.default_rng(seed).integers(0, 256, (20, 14, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks).resize((225, 318), Image.Resampling.BICUBIC)
        drawn.append(encoded(picture, "jpg", quality=90))
    return drawn, "drawn"


# Measuring


def aside(function: Callable[..., Any], *arguments: object) -> Any:
    """Call a function in a new process, so that its imports do not stay in this one."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def load(posters: Path, *options: object) -> tuple[list[float], float]:
    """Run the clients. Returns the milliseconds per poster and the responses per second."""
    command = [sys.executable, "-m", "tests.benchmarks.serving_load", str(posters), *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)
    result = json.loads(done.stdout)
    return result["milliseconds"], len(result["milliseconds"]) / result["seconds"]


def measure(candidate: Candidate, posters: Path, requests: int, log: Path, into: Figures) -> dict[str, float]:
    """Measure one run of a function. Returns its prediction for the first poster: a probability per genre."""
    poster = sorted(posters.iterdir())[0].read_bytes()
    began = time.perf_counter()
    with started(candidate.source, candidate.environment, log, candidate.python) as function:
        prediction = json.loads(wait_for_response(function, poster))
        into.start_seconds.append(time.perf_counter() - began)
        measure_running(function, posters, requests, into)
    return {genre["name"]: genre["probability"] for genre in prediction["genres"]}


def measure_running(function: FunctionProcess, posters: Path, requests: int, into: Figures) -> None:
    """Measure latency, throughput and memory of a running function."""
    milliseconds, _ = load(posters, "--url", function.url, "--requests", requests)
    into.milliseconds.append(statistics.median(milliseconds))
    into.p95_milliseconds.append(statistics.quantiles(milliseconds, n=20)[-1])
    _, responses_per_second = load(posters, "--url", function.url, "--requests", requests, "--clients", CLIENTS)
    into.responses_per_second.append(responses_per_second)
    into.pss_mebibytes.append(function.pss_bytes() / 2**20)


def torch_build(python: str) -> str:
    """Version and build of torch in a Python environment."""
    program = (
        "import torch; cuda = torch.version.cuda; "
        "print(torch.__version__, f'(built for CUDA {cuda})' if cuda else '(built for CPUs)')"
    )
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def check_agreement(predictions: Mapping[str, dict[str, float]]) -> None:
    """Print the largest difference to torch's predictions. With the same weights it must be small."""
    if TORCH not in predictions:
        return
    for name, prediction in predictions.items():
        assert prediction.keys() == predictions[TORCH].keys()
        distance = max(abs(prediction[genre] - probability) for genre, probability in predictions[TORCH].items())
        if name in AGREEMENT:
            assert distance <= AGREEMENT[name], f"{name} differs by {distance:.2g} from torch"
        if name != TORCH:
            print(f"{name}: probabilities differ by at most {distance:.2g} from torch")


# Reporting


def spread(values: list[float], digits: int) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def report(figures: Mapping[str, Figures], bare: Mapping[str, list[float]]) -> None:
    """Print the figures, their ratios to torch's, and the goals."""
    rows = (
        ("start", "start to first response, s", "start_seconds", 2),
        ("latency", "latency with 1 client, ms", "milliseconds", 1),
        ("", "95th percentile of it, ms", "p95_milliseconds", 1),
        ("throughput", f"responses per second, {CLIENTS} clients", "responses_per_second", 1),
        ("memory", "memory under load (PSS), MiB", "pss_mebibytes", 0),
    )
    for key, title, attribute, digits in rows:
        print(title)
        for name, found in figures.items():
            values = getattr(found, attribute)
            line = f"  {name:6}{spread(values, digits)}"
            if TORCH in figures and name != TORCH and key:
                ratio = statistics.median(values) / statistics.median(getattr(figures[TORCH], attribute))
                line += f"  {ratio:.2f} of torch{judged(ratio, GOALS[name][key], key == 'throughput')}"
            print(line)
    print("latency compared with ONNX Runtime alone in one process, both with decoding")
    for name, values in bare.items():
        ratio = statistics.median(figures[name].milliseconds) / statistics.median(values)
        print(f"  {name:6}{spread(values, 1)} ms bare  {ratio:.2f} of that{judged(ratio, BARE_GOAL, False)}")


def judged(ratio: float, goal: float, more_is_better: bool) -> str:
    """The goal, and whether it is met, as text."""
    met = ratio >= goal if more_is_better else ratio <= goal
    return f" (goal: at {'least' if more_is_better else 'most'} {goal}; {'met' if met else 'NOT MET'})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder of the bundle to measure")
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--requests", type=int, default=200, help="requests per run, with one client and with eight")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--torch-python", default=sys.executable, help="the Python that runs the torch function")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        about = aside(prepare, folder, Path(arguments.data), arguments.bundle)
        storage_url = stack.enter_context(storage_emulator(folder / "storage", BUCKET))
        candidates = []
        for name, (bundle, graph) in about["bundles"].items():
            environment = aside(upload_bundle, storage_url, Path(bundle), BUCKET)
            if name == TORCH:
                source = Path(__file__).parent / "torch_function"
                candidates.append(Candidate(name, source, environment, None, arguments.torch_python))
            else:
                candidates.append(Candidate(name, folder / "function", environment, Path(bundle) / graph))
        pixels = f"{about['size']} x {about['size']} pixels"
        print(f"{len(os.sched_getaffinity(0))} CPUs, {about['posters']}, {about['network']}, {pixels}")
        print(f"{arguments.runs} runs of {arguments.requests} requests: medians (minimum-maximum)")
        if any(candidate.name == TORCH for candidate in candidates):
            print(f"torch {torch_build(arguments.torch_python)}")
        figures = {candidate.name: Figures() for candidate in candidates}
        bare: dict[str, list[float]] = {candidate.name: [] for candidate in candidates if candidate.graph}
        predictions: dict[str, dict[str, float]] = {}
        posters = folder / "posters"
        for _ in range(arguments.runs):
            for candidate in candidates:
                log = folder / f"{candidate.name}.log"
                name = candidate.name
                predictions[name] = measure(candidate, posters, arguments.requests, log, figures[name])
                if candidate.graph:
                    options = ("--graph", candidate.graph, "--size", about["size"], "--requests", arguments.requests)
                    milliseconds, _ = load(posters, *options)
                    bare[name].append(statistics.median(milliseconds))
        check_agreement(predictions)
        report(figures, bare)


if __name__ == "__main__":
    main()
