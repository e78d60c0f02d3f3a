"""The clients of bench_serving.py, in a separate process, so that they do not slow down what they measure.

    python -m tests.benchmarks.serving_load POSTERS --url URL [--clients 8] [--requests 200]
    python -m tests.benchmarks.serving_load POSTERS --graph model.onnx --size 256 [--requests 100]

POSTERS is a folder. The first command sends the posters to a function; each client has a persistent connection. The
second command runs ONNX Runtime on them in this process. Both print the milliseconds per poster and the total seconds
as JSON.
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

Predict = Callable[[bytes], object]
WARM_UP = 10  # posters per client


def function_client(url: str) -> Predict:
    """Predict with a function over one connection."""
    connection = Connection(url)

    def predict(poster: bytes) -> object:
        status, body = connection.send(Request("poster", poster, "image/jpeg"))
        assert status == 200, body
        return json.loads(body)

    return predict


def bare_session(graph: Path, size: int) -> Predict:
    """Decode a poster and run ONNX Runtime on it.

    The session has the function's settings (one thread per CPU, no spinning), so that the difference is the overhead
    of the function.
    """
    from onnxruntime import InferenceSession, SessionOptions

    from serving.bundle.image import decode

    options = SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = InferenceSession(graph.read_bytes(), options, providers=["CPUExecutionProvider"])
    return lambda poster: session.run(["probabilities"], {"images": decode(poster, size)[None]})


def timed(predict: Predict, posters: list[bytes]) -> list[float]:
    """Milliseconds per poster."""
    milliseconds = []
    for poster in posters:
        began = time.perf_counter()
        predict(poster)
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
        predicts = [function_client(arguments.url) for _ in range(arguments.clients)]
    else:
        predicts = [bare_session(arguments.graph, arguments.size)]
    # Each client starts at another poster.
    each = arguments.requests // len(predicts)
    shares = [list(islice(cycle(posters), number * each, (number + 1) * each)) for number in range(len(predicts))]
    with ThreadPoolExecutor(len(predicts)) as pool:
        list(pool.map(timed, predicts, [share[:WARM_UP] for share in shares]))
        began = time.perf_counter()
        milliseconds = [each for times in pool.map(timed, predicts, shares) for each in times]
        seconds = time.perf_counter() - began
    print(json.dumps({"milliseconds": milliseconds, "seconds": seconds}))


if __name__ == "__main__":
    main()
