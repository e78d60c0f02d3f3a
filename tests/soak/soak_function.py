"""The deployed function under load, damage, bombs and slow senders: does it answer rightly, and hold?

    python tests/soak/soak_function.py [--requests 50000] [--mutations 20000] [--seed 0] [--only load ...]

The function is the zip as it is deployed, run by functions-framework beside a bucket on this machine; who asks is a
process of its own, at full load. Each part prints what it measured; the exit code is 1 where something did not hold.

load            good requests of every kind and, every tenth, a bad one, to a small network: is every answer the one
                that is due, and does memory stay
mutations       damaged images, bodies and HTTP messages
bombs           small files that declare, or really hold, far too many pixels, and the largest images that are read,
                one after the other and eight at once
slow senders    many clients that send a byte a second, while others ask for answers

All but the first are sent to a ResNet18 of 256 x 256 pixels in fp32 with random weights, with which no process of the
function may ever hold more than 512 MiB. All in all it takes some eight minutes on two idle cores.
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
sys.path.insert(0, str(Path(__file__).parents[2]))  # of which a script that is run sees only its own folder

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
    wait_for_answer,
)
from tests.soak.function_requests import MEDIA_TYPES, Posters, Request, draw_posters, fault_of
from tests.soak.mutations import declared_bombs, large_images, real_bombs
from tests.storage import storage_emulator

POSTERS = 40
CLIENTS = 8
MEMORY_LIMIT_BYTES = 512 * 2**20
MEMORY_GROWTH = 1.05  # of the last quarter's median over the second quarter's
REFUSED_IMAGE = (413, 415, 422)
PIXELS = (16_000_000, 14_000_000, 11_000_000, 8_000_000, 4_000_000)
SLOW_SENDERS = 40
SLOW_SECONDS = 60
ANSWER_SECONDS = 10.0  # for a good request while others send slowly

failures: list[str] = []


@dataclass(frozen=True)
class Soak:
    """What the parts run with."""

    folder: Path
    requests: int
    mutations: int
    seed: int


def holds(condition: bool, what: str) -> None:
    """Say whether something holds."""
    print(f"  {'holds' if condition else 'FAILS'}: {what}", flush=True)
    if not condition:
        failures.append(what)


@contextmanager
def running(folder: Path, write: Callable[[Path], Path]) -> Iterator[tuple[FunctionProcess, Posters]]:
    """The function with a bundle and posters, asked once; both stand in `folder`, for the clients' process."""
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
            wait_for_answer(function, files["posters/0.jpg"])
            yield function, posters


def small_network(folder: Path) -> Path:
    """A bundle of a network that takes next to no time."""
    return write_bundle(folder)


def watched(function: FunctionProcess, clients: ClientProcess) -> tuple[Outcome, list[int]]:
    """What came of the clients, and the function's PSS twice a second meanwhile."""
    samples = [function.pss_bytes()]
    while clients.runs(0.5):
        samples.append(function.pss_bytes())
    return clients.outcome(), samples


def report(outcome: Outcome) -> None:
    """Print what was answered."""
    total = outcome.statuses().total()
    print(
        f"  {total} requests in {outcome.seconds:.0f} s, {total / outcome.seconds:.0f} a second; the slowest answer "
        f"took {outcome.slowest_seconds:.2f} s ({outcome.slowest_kind})"
    )
    print(f"  statuses: {statuses(outcome.statuses())}; {outcome.resent} sent again over a new connection")
    holds(outcome.stalled == 0, f"no request is left lying on a connection that is kept ({outcome.stalled})")
    for fault in outcome.faults:
        print(f"    {fault}")


def statuses(counts: Counter[int]) -> str:
    """Statuses and how often they came."""
    return ", ".join(f"{counts[status]} x {status or 'none'}" for status in sorted(counts)) or "none"


def megabytes(size_bytes: float) -> str:
    """In MiB, as the limits of an instance are."""
    return f"{size_bytes / 2**20:.0f} MiB"


def check_survival(function: FunctionProcess, workers: list[int], what: str) -> None:
    """The processes are those from before."""
    holds(function.process.poll() is None and function.workers() == workers, f"{what}: no process ended")


def check_memory(function: FunctionProcess, what: str, earlier_peak: int = 0) -> None:
    """None of the processes held too much, neither before nor after `forget_peak`."""
    peak = max(function.peak_rss_bytes(), earlier_peak)
    print(f"  {what}: at most {megabytes(peak)} in one process, now {megabytes(function.pss_bytes())} in all")
    holds(peak <= MEMORY_LIMIT_BYTES, f"{what}: never more than {megabytes(MEMORY_LIMIT_BYTES)}")


def check_load(soak: Soak) -> None:
    """Full load, every tenth request a bad one: all answers are those that are due, and memory stays."""
    with running(soak.folder, small_network) as (function, _):
        workers = function.workers()
        outcome, samples = watched(
            function, ClientProcess("load", function.url, soak.folder, soak.requests, CLIENTS, soak.seed)
        )
        report(outcome)
        for kind, counts in sorted(outcome.answers.items()):
            print(f"    {kind}: {statuses(counts)}")
        server_errors = sum(count for status, count in outcome.statuses().items() if status >= 500)
        holds(outcome.faults_count == 0, f"no answer is wrong ({outcome.faults_count})")
        holds(server_errors == 0, f"none is a server's error ({server_errors})")
        quarter = len(samples) // 4
        second, last = (
            statistics.median(part) for part in (samples[quarter : 2 * quarter + 1], samples[-quarter - 1 :])
        )
        print(f"  PSS: {megabytes(second)} in the second quarter, {megabytes(last)} in the last (medians)")
        holds(last <= MEMORY_GROWTH * second, f"memory stays: {last / second:.3f} of the second quarter's in the last")
        check_survival(function, workers, "after the load")


def check_mutations(soak: Soak) -> None:
    """Damaged images, bodies and messages are answered or refused, and harm nothing."""
    with running(soak.folder, write_resnet18) as (function, _):
        workers = function.workers()
        outcome, samples = watched(
            function, ClientProcess("mutations", function.url, soak.folder, soak.mutations, CLIENTS, soak.seed)
        )
        report(outcome)
        for kind, counts in sorted(outcome.answers.items()):
            print(f"    {kind}: {statuses(counts)}")
        holds(outcome.faults_count == 0, f"every one is answered or refused ({outcome.faults_count} are not)")
        print(f"  PSS: at most {megabytes(max(samples))}")
        check_survival(function, workers, "after the mutations")
        check_memory(function, "mutations")


def check_bombs(soak: Soak) -> None:
    """Decompression bombs are refused, and the largest images answered, within the memory of a small instance."""
    with running(soak.folder, write_resnet18) as (function, posters):
        workers = function.workers()
        print(f"  before: {megabytes(function.pss_bytes())}")
        connection = Connection(function.url)
        samples = {name.rpartition(".")[2]: data for name, data in posters.files.items()}
        for name, data in [*declared_bombs(samples).items(), *real_bombs()]:
            status, seconds = asked(connection, data)
            # A long text or profile beside the pixels, and more frames, may be passed over.
            allowed = {*REFUSED_IMAGE, *(() if "Mpx" in name or "declares" in name else (200,))}
            holds(status in allowed, f"{name}, {len(data) / 1e6:.2f} MB: {status} in {seconds:.2f} s")
        check_survival(function, workers, "after the bombs")
        check_memory(function, "bombs")
        largest, peak = largest_answered(function, connection)
        connection.close()
        check_survival(function, workers, "after the largest images, one by one")
        check_memory(function, "the largest images, one by one", peak)
        function.forget_peak()
        outcome = send_all(function.url, 4 * len(largest), 8, large_sender(largest), fault_of_large)
        report(outcome)
        holds(outcome.faults_count == 0, "all are answered, or told to come again")
        check_survival(function, workers, "after the largest images, eight at once")
        check_memory(function, "the largest images, eight at once")


def largest_answered(function: FunctionProcess, connection: Connection) -> tuple[list[bytes], int]:
    """Of every kind the largest image that is answered, and the most memory that any of them took."""
    largest: dict[str, bytes] = {}
    kinds: set[str] = set()
    peaks = [function.peak_rss_bytes()]
    for pixels in PIXELS:
        for name, data in large_images(pixels):
            kinds.add(name)
            if name in largest:
                continue
            function.forget_peak()
            status, seconds = asked(connection, data)
            peaks.append(function.peak_rss_bytes())
            said = f"{name}, {pixels / 1e6:.0f} Mpx: {status} in {seconds:.2f} s, {megabytes(peaks[-1])} at most"
            if status == 200:
                largest[name] = data
                print(f"    {said}", flush=True)
            elif status not in REFUSED_IMAGE:
                holds(False, said)
    holds(largest.keys() == kinds, "of every kind large images are answered")
    return list(largest.values()), max(peaks)


def large_sender(images: list[bytes]) -> Send:
    """Sends one large image after the other."""

    def send(connection: Connection, number: int) -> tuple[Request, int, bytes]:
        request = Request("large image", images[number % len(images)], "application/octet-stream")
        return request, *connection.send(request)

    return send


def fault_of_large(request: Request, status: int, body: bytes) -> str | None:
    """What is wrong with the answer to one of many large images."""
    return None if status in (200, UNAVAILABLE) else f"{status} {body[:200]!r}"


def asked(connection: Connection, image: bytes) -> tuple[int, float]:
    """The status of an image's answer (0: none came), and the seconds that it took."""
    began = time.perf_counter()
    try:
        status, _ = connection.send(Request("image", image, "application/octet-stream"))
    except OSError:
        status = 0
    return status, time.perf_counter() - began


def check_slow_senders(soak: Soak) -> None:
    """Many who send a byte a second do not keep others from being answered."""
    with running(soak.folder, write_resnet18) as (function, posters):
        workers = function.workers()
        names = [name for name in posters.names if name.endswith(".jpg")]

        def send(connection: Connection, number: int) -> tuple[Request, int, bytes]:
            name = names[number % len(names)]
            request = Request("good", posters.files[name], MEDIA_TYPES["jpg"], answers=(name,))
            status, body = connection.send(request)
            time.sleep(0.2)  # a few good ones at any time, not as many as there can be
            return request, status, body

        with slow_senders(function.url, SLOW_SENDERS) as senders:
            ends = time.monotonic() + SLOW_SECONDS
            outcome = Outcome()
            while time.monotonic() < ends:
                part = send_all(function.url, 20, 4, send, lambda *answer: fault_of(*answer, posters))
                merge(outcome, part)
            waiting = senders.waiting
        report(outcome)
        told = Counter(status for status, _ in senders.ends.values())
        longest = max((seconds for _, seconds in senders.ends.values()), default=0.0)
        print(f"  {SLOW_SENDERS} slow senders: {statuses(told)}, the last after {longest:.0f} s; {waiting} still send")
        holds(outcome.faults_count == 0, f"every good request is answered rightly ({outcome.faults_count} are not)")
        holds(
            outcome.slowest_seconds <= ANSWER_SECONDS + 0.2,
            f"within {ANSWER_SECONDS:.0f} s ({outcome.slowest_seconds:.1f})",
        )
        holds(set(told) <= {408, 0}, "the slow ones are told so, or cut off")
        holds(waiting == 0, f"all of them within {SLOW_SECONDS} s")
        check_survival(function, workers, "after the slow senders")
        check_memory(function, "slow senders")


def merge(into: Outcome, part: Outcome) -> None:
    """Add up two outcomes."""
    for kind, counts in part.answers.items():
        into.answers.setdefault(kind, Counter()).update(counts)
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
    parser.add_argument("--requests", type=int, default=50_000, help="of the load, a tenth of them bad")
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name in arguments.only:
        print(f"{name}: {CHECKS[name].__doc__}", flush=True)
        with tempfile.TemporaryDirectory() as folder:
            CHECKS[name](Soak(Path(folder), arguments.requests, arguments.mutations, arguments.seed))
    if failures:
        sys.exit(f"{len(failures)} things did not hold.")
    print("All of it holds.")


if __name__ == "__main__":
    main()
