"""Soak test of the deployed function: load, damaged requests, decompression bombs and slow senders.

    PYTHONPATH=. python tests/soak/soak_function.py [--requests 50000] [--mutations 20000] [--seed 0] [--only load ...]

The function runs from its deployed zip with functions-framework and a storage emulator. The clients run in a separate
process at full load. Each part prints its measurements. The exit code is 1 if a check fails.

load            valid requests of every kind, and one invalid request in ten, to a small network. Every response must
                be the expected one, and memory must not grow.
mutations       damaged images, bodies and HTTP messages
bombs           small files that declare or contain far too many pixels, and the largest supported images, one by one
                and eight at a time
slow senders    many clients that send one byte per second while other clients send valid requests

All parts except the first use a ResNet18 of 256 x 256 pixels in fp32 with random weights. No process of the function
may ever use more than 512 MiB. The whole test takes about eight minutes on two idle cores.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read when ONNX Runtime is imported
sys.path.insert(0, str(Path(__file__).parents[2]))  # the import path of a script contains only its own folder

from tests.benchmarks.random_resnet18 import write_resnet18
from tests.serving.conftest import write_bundle
from tests.soak.function_clients import (
    UNAVAILABLE,
    ClientProcess,
    Connection,
    Outcome,
    Send,
    send_all,
    slow_senders,
)
from tests.soak.function_process import (
    BUCKET,
    FunctionProcess,
    started,
    unpack_function,
    upload,
    upload_bundle,
    wait_for_response,
)
from tests.soak.function_requests import MEDIA_TYPES, Posters, Request, draw_posters, fault_of
from tests.soak.mutations import declared_bombs, large_images, real_bombs
from tests.storage import storage_emulator

POSTERS = 40
CLIENTS = 8
MEMORY_LIMIT_BYTES = 512 * 2**20
MEMORY_GROWTH = 1.05  # allowed ratio of the last quarter's median to the second quarter's
REFUSED_IMAGE = (413, 415, 422)
PIXELS = (16_000_000, 14_000_000, 11_000_000, 8_000_000, 4_000_000)
SLOW_SENDERS = 40
SLOW_SECONDS = 60
MAX_RESPONSE_SECONDS = 10.0  # for a valid request while others send slowly

failures: list[str] = []


@dataclass(frozen=True)
class Soak:
    """The settings of all parts."""

    folder: Path
    requests: int
    mutations: int
    seed: int


def check(condition: bool, what: str) -> None:
    """Print whether a condition holds, and record a failure."""
    print(f"  {'ok' if condition else 'FAILED'}: {what}", flush=True)
    if not condition:
        failures.append(what)


@contextmanager
def running(folder: Path, write: Callable[[Path], Path]) -> Iterator[tuple[FunctionProcess, Posters]]:
    """Run the function with a bundle and posters, which `folder` also holds for the clients' process."""
    bundle = write(folder / "bundle")
    files = draw_posters(POSTERS)
    (folder / "posters").mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    posters = Posters.read(folder / "posters", bundle)
    with storage_emulator(folder / "storage", BUCKET) as storage_url:
        upload(storage_url, files)
        environment = upload_bundle(storage_url, bundle)
        with started(unpack_function(folder / "source"), environment, folder / "function.log") as function:
            wait_for_response(function, files["posters/0.jpg"])
            yield function, posters


def small_network(folder: Path) -> Path:
    """Write the bundle of a very fast network."""
    return write_bundle(folder)


def watch(function: FunctionProcess, clients: ClientProcess) -> tuple[Outcome, list[int]]:
    """Wait for the clients. Returns their outcome and the function's PSS, measured twice per second."""
    samples = [function.pss_bytes()]
    while clients.is_running(0.5):
        samples.append(function.pss_bytes())
    return clients.outcome(), samples


def report(outcome: Outcome) -> None:
    """Print an outcome."""
    total = outcome.statuses().total()
    print(
        f"  {total} requests in {outcome.seconds:.0f} s, {total / outcome.seconds:.0f} per second; slowest response "
        f"{outcome.slowest_seconds:.2f} s ({outcome.slowest_kind})"
    )
    print(f"  statuses: {statuses(outcome.statuses())}; {outcome.resent} sent again on a new connection")
    check(outcome.stalled == 0, f"no request stalls on a persistent connection ({outcome.stalled})")
    for fault in outcome.faults:
        print(f"    {fault}")


def statuses(counts: Counter[int]) -> str:
    """The statuses and their counts as text."""
    return ", ".join(f"{counts[status]} x {status or 'none'}" for status in sorted(counts)) or "none"


def megabytes(size_bytes: float) -> str:
    """A size in MiB, the unit of an instance's limits."""
    return f"{size_bytes / 2**20:.0f} MiB"


def check_survival(function: FunctionProcess, workers: list[int], what: str) -> None:
    """Check that no worker process was replaced."""
    check(function.process.poll() is None and function.workers() == workers, f"{what}: no process exited")


def check_memory(function: FunctionProcess, what: str, earlier_peak: int = 0) -> None:
    """Check the highest memory use of the processes. `earlier_peak` is one from before `reset_peak`."""
    peak = max(function.peak_rss_bytes(), earlier_peak)
    print(f"  {what}: at most {megabytes(peak)} in one process, now {megabytes(function.pss_bytes())} in total")
    check(peak <= MEMORY_LIMIT_BYTES, f"{what}: never more than {megabytes(MEMORY_LIMIT_BYTES)}")


def check_load(soak: Soak) -> None:
    """Full load, one invalid request in ten: every response is the expected one, and memory does not grow."""
    with running(soak.folder, small_network) as (function, _):
        workers = function.workers()
        outcome, samples = watch(
            function, ClientProcess("load", function.url, soak.folder, soak.requests, CLIENTS, soak.seed)
        )
        report(outcome)
        for kind, counts in sorted(outcome.responses.items()):
            print(f"    {kind}: {statuses(counts)}")
        server_errors = sum(count for status, count in outcome.statuses().items() if status >= 500)
        check(outcome.faults_count == 0, f"every response is the expected one ({outcome.faults_count} are not)")
        check(server_errors == 0, f"no response is a server error ({server_errors})")
        quarter = len(samples) // 4
        second, last = (
            statistics.median(part) for part in (samples[quarter : 2 * quarter + 1], samples[-quarter - 1 :])
        )
        print(f"  PSS: {megabytes(second)} in the second quarter, {megabytes(last)} in the last (medians)")
        check(
            last <= MEMORY_GROWTH * second,
            f"memory does not grow: the last quarter uses {last / second:.3f} times the second quarter's",
        )
        check_survival(function, workers, "after the load")


def check_mutations(soak: Soak) -> None:
    """Damaged images, bodies and messages are processed or refused and do no harm."""
    with running(soak.folder, write_resnet18) as (function, _):
        workers = function.workers()
        outcome, samples = watch(
            function, ClientProcess("mutations", function.url, soak.folder, soak.mutations, CLIENTS, soak.seed)
        )
        report(outcome)
        for kind, counts in sorted(outcome.responses.items()):
            print(f"    {kind}: {statuses(counts)}")
        check(outcome.faults_count == 0, f"every request is processed or refused ({outcome.faults_count} are not)")
        print(f"  PSS: at most {megabytes(max(samples))}")
        check_survival(function, workers, "after the mutations")
        check_memory(function, "mutations")


def check_bombs(soak: Soak) -> None:
    """Decompression bombs are refused and the largest images are processed, within a small instance's memory."""
    with running(soak.folder, write_resnet18) as (function, posters):
        workers = function.workers()
        print(f"  before: {megabytes(function.pss_bytes())}")
        connection = Connection(function.url)
        samples = {name.rpartition(".")[2]: data for name, data in posters.files.items()}
        for name, data in [*declared_bombs(samples).items(), *real_bombs()]:
            status, seconds = send_image(connection, data)
            # A long text, a large profile and additional frames may be ignored.
            allowed = {*REFUSED_IMAGE, *(() if "Mpx" in name or "declares" in name else (200,))}
            check(status in allowed, f"{name}, {len(data) / 1e6:.2f} MB: {status} in {seconds:.2f} s")
        check_survival(function, workers, "after the bombs")
        check_memory(function, "bombs")
        largest, peak = largest_processed(function, connection)
        connection.close()
        check_survival(function, workers, "after the largest images, one by one")
        check_memory(function, "the largest images, one by one", peak)
        function.reset_peak()
        outcome = send_all(function.url, 4 * len(largest), 8, large_sender(largest), fault_of_large)
        report(outcome)
        check(outcome.faults_count == 0, "every image is processed or gets a 503")
        check_survival(function, workers, "after the largest images, eight at a time")
        check_memory(function, "the largest images, eight at a time")


def largest_processed(function: FunctionProcess, connection: Connection) -> tuple[list[bytes], int]:
    """The largest image of every kind that is processed, and the highest memory use."""
    largest: dict[str, bytes] = {}
    kinds: set[str] = set()
    peaks = [function.peak_rss_bytes()]
    for pixels in PIXELS:
        for name, data in large_images(pixels):
            kinds.add(name)
            if name in largest:
                continue
            function.reset_peak()
            status, seconds = send_image(connection, data)
            peaks.append(function.peak_rss_bytes())
            result = f"{name}, {pixels / 1e6:.0f} Mpx: {status} in {seconds:.2f} s, {megabytes(peaks[-1])} at most"
            if status == 200:
                largest[name] = data
                print(f"    {result}", flush=True)
            elif status not in REFUSED_IMAGE:
                check(False, result)
    check(largest.keys() == kinds, "large images of every kind are processed")
    return list(largest.values()), max(peaks)


def large_sender(images: list[bytes]) -> Send:
    """A function that sends the images in turn."""

    def send(connection: Connection, number: int) -> tuple[Request, int, bytes]:
        request = Request("large image", images[number % len(images)], "application/octet-stream")
        return request, *connection.send(request)

    return send


def fault_of_large(request: Request, status: int, body: bytes) -> str | None:
    """The fault in the response to one of many large images."""
    return None if status in (200, UNAVAILABLE) else f"{status} {body[:200]!r}"


def send_image(connection: Connection, image: bytes) -> tuple[int, float]:
    """Send an image. Returns the status (0 without a response) and the seconds it took."""
    began = time.perf_counter()
    try:
        status, _ = connection.send(Request("image", image, "application/octet-stream"))
    except OSError:
        status = 0
    return status, time.perf_counter() - began


def check_slow_senders(soak: Soak) -> None:
    """Many clients that send one byte per second do not delay others."""
    with running(soak.folder, write_resnet18) as (function, posters):
        workers = function.workers()
        names = [name for name in posters.names if name.endswith(".jpg")]

        def send(connection: Connection, number: int) -> tuple[Request, int, bytes]:
            name = names[number % len(names)]
            request = Request("good", posters.files[name], MEDIA_TYPES["jpg"], expected=(name,))
            status, body = connection.send(request)
            time.sleep(0.2)  # a few valid requests at a time, not full load
            return request, status, body

        with slow_senders(function.url, SLOW_SENDERS) as senders:
            deadline = time.monotonic() + SLOW_SECONDS
            outcome = Outcome()
            while time.monotonic() < deadline:
                part = send_all(function.url, 20, 4, send, lambda *response: fault_of(*response, posters))
                merge(outcome, part)
            waiting = senders.waiting
        report(outcome)
        ends = Counter(status for status, _ in senders.results.values())
        longest = max((seconds for _, seconds in senders.results.values()), default=0.0)
        print(
            f"  {SLOW_SENDERS} slow senders: {statuses(ends)}, the last after {longest:.0f} s; {waiting} still sending"
        )
        check(
            outcome.faults_count == 0, f"every valid request gets the expected response ({outcome.faults_count} do not)"
        )
        check(
            outcome.slowest_seconds <= MAX_RESPONSE_SECONDS + 0.2,
            f"within {MAX_RESPONSE_SECONDS:.0f} s ({outcome.slowest_seconds:.1f})",
        )
        check(set(ends) <= {408, 0}, "slow senders get a 408 or are disconnected")
        check(waiting == 0, f"all of them within {SLOW_SECONDS} s")
        check_survival(function, workers, "after the slow senders")
        check_memory(function, "slow senders")


def merge(into: Outcome, part: Outcome) -> None:
    """Add the second outcome to the first."""
    for kind, counts in part.responses.items():
        into.responses.setdefault(kind, Counter()).update(counts)
    into.faults += part.faults
    into.faults_count += part.faults_count
    into.seconds += part.seconds
    into.resent += part.resent
    into.stalled += part.stalled
    if part.slowest_seconds > into.slowest_seconds:
        into.slowest_seconds, into.slowest_kind = part.slowest_seconds, part.slowest_kind


CHECKS = {
    "load": check_load,
    "mutations": check_mutations,
    "bombs": check_bombs,
    "slow senders": check_slow_senders,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--requests", type=int, default=50_000, help="number of requests of the load, of which a tenth are invalid"
    )
    parser.add_argument("--mutations", type=int, default=20_000, help="number of damaged requests")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.only:
        print(f"{name}: {CHECKS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            CHECKS[name](Soak(Path(folder), arguments.requests, arguments.mutations, arguments.seed))
    if failures:
        sys.exit(f"{len(failures)} checks failed.")
    print("All checks passed.")


if __name__ == "__main__":
    main()
