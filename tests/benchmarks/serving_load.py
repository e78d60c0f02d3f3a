"""The clients of bench_serving.py, as a process of their own: what they time, they do not slow down.

    python -m tests.benchmarks.serving_load POSTERS --url URL [--clients 8] [--requests 200]
    python -m tests.benchmarks.serving_load POSTERS --graph model.onnx --size 256 [--requests 100]

POSTERS is a folder. The first asks a function for their genres, each client over a connection that it keeps; the
second runs a bare ONNX Runtime session on them, in this process. Both print the milliseconds of each poster and the
seconds of all of them as JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path

from tests.soak.function_clients import Connection
from tests.soak.function_requests import Request

Ask = Callable[[bytes], object]
WARM_UP = 10  # posters a client


def function_client(url: str) -> Ask:
    """Ask a function over a connection."""
    connection = Connection(url)

    def ask(poster: bytes) -> object:
        status, body = connection.send(Request("poster", poster, "image/jpeg"))
        assert status == 200, body
        return json.loads(body)

    return ask


def bare_session(graph: Path, size: int) -> Ask:
    """Decode, and run a session with nothing around it.

    It has a thread a CPU, where it would take one a physical core, and they do not spin: the function's settings, so
    that the difference is what the function adds.
    """
    from onnxruntime import InferenceSession, SessionOptions

    from serving.bundle.image import decode

    options = SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda poster: session.run(["probabilities"], {"images": decode(poster, size)[None]})


def timed(ask: Ask, posters: list[bytes]) -> list[float]:
    """Milliseconds of each."""
    milliseconds = []
    for poster in posters:
        began = time.perf_counter()
        ask(poster)
        milliseconds.append((time.perf_counter() - began) * 1000)
    return milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("posters", type=Path)
    parser.add_argument("--url")
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--requests", type=int, default=100)
    arguments = parser.parse_args()
    posters = [path.read_bytes() for path in sorted(arguments.posters.iterdir())]
    if arguments.url:
        asks = [function_client(arguments.url) for _ in range(arguments.clients)]
    else:
        asks = [bare_session(arguments.graph, arguments.size)]
    # Each client begins elsewhere, so that they do not all ask for the same poster.
    each = arguments.requests // len(asks)
    shares = [list(islice(cycle(posters), number * each, (number + 1) * each)) for number in range(len(asks))]
    with ThreadPoolExecutor(len(asks)) as pool:
        list(pool.map(timed, asks, [share[:WARM_UP] for share in shares]))
        began = time.perf_counter()
        milliseconds = [each for times in pool.map(timed, asks, shares) for each in times]
        seconds = time.perf_counter() - began
    print(json.dumps({"milliseconds": milliseconds, "seconds": seconds}))


if __name__ == "__main__":
    main()
