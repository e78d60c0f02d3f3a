"""Clients of the function: concurrent clients with persistent connections, and slow senders.

    python -m tests.soak.function_clients load|mutations --url URL --folder FOLDER --count 1000 [--clients 8] [--seed 0]

This command runs the clients in a separate process, so that they do not share memory or the GIL with the function's
tests, and prints the outcome as JSON. FOLDER holds the function's bundle and posters/, the posters of its bucket.
"""

import argparse
import http.client
import json
import random
import select
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.soak.function_process import BUCKET
from tests.soak.function_requests import Posters, Request, Requests, fault_of, fault_of_error
from tests.soak.mutations import damaged_message, mutated_request

ROOT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 120.0
REFUSALS = {400, 403, 404, 405, 408, 411, 413, 414, 415, 422, 431}
"""The statuses that a damaged request may get."""
UNAVAILABLE = 503  # by design: the function is busy or its bucket is unreachable
NOT_IMPLEMENTED = {501, 505}  # from gunicorn, for a message in an unknown version of HTTP
_CONNECTION_ERRORS = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)
_MAX_FAULTS = 30
_STALL_SECONDS = 1.0


@dataclass
class Outcome:
    """The outcome of many requests: responses by status for each kind of request, and faults.

    `resent` counts requests that were lost with a closed connection and sent again. `stalled` counts those among them
    that the function had received but not processed for a while.
    """

    responses: dict[str, Counter[int]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    faults_count: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0
    slowest_kind: str = ""
    resent: int = 0
    stalled: int = 0

    def count(self, kind: str, status: int, seconds: float, fault: str | None) -> None:
        """Record a response."""
        self.responses.setdefault(kind, Counter())[status] += 1
        if seconds > self.slowest_seconds:
            self.slowest_seconds, self.slowest_kind = seconds, kind
        if fault:
            self.faults_count += 1
            if len(self.faults) < _MAX_FAULTS:
                self.faults.append(fault)

    def statuses(self) -> Counter[int]:
        """All responses by status; 0 counts requests without a response."""
        return sum(self.responses.values(), Counter())

    def to_json(self) -> str:
        """The outcome as one line of JSON."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """Read the output of `to_json`."""
        outcome = cls(**json.loads(text))
        outcome.responses = {
            kind: Counter({int(status): count for status, count in counts.items()})
            for kind, counts in outcome.responses.items()
        }
        return outcome


class Connection:
    """A client's persistent connection."""

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_seconds)
        self.resent = 0
        self.stalled = 0

    def send(self, request: Request) -> tuple[int, bytes]:
        """The status and body of the response. Raises OSError or http.client.HTTPException if there is none."""
        reused = self._http.sock is not None
        began = time.monotonic()
        try:
            return self._send(request)
        except _CONNECTION_ERRORS:
            self.close()
            if not reused:
                raise
            # A server may close an idle connection at any time, but not after it has read a request from it.
            self.resent += 1
            self.stalled += time.monotonic() - began > _STALL_SECONDS
            return self._send(request)
        except BaseException:
            self.close()
            raise

    def _send(self, request: Request) -> tuple[int, bytes]:
        headers = {"Content-Type": request.content_type} if request.content_type is not None else {}
        body: object = request.body if request.body or request.method == "POST" else None
        if request.chunked:
            headers["Transfer-Encoding"] = "chunked"
            body = (request.body[start : start + 65_536] for start in range(0, len(request.body), 65_536))
        try:
            self._http.request(request.method, request.path, body, headers, encode_chunked=request.chunked)
        except (BrokenPipeError, ConnectionResetError):
            if self._http.sock is None:
                raise
            # Refused before the whole body was read. There may still be a response.
        response = self._http.getresponse()
        return response.status, response.read()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()


Send = Callable[[Connection, int], tuple[Request, int, bytes]]
Judge = Callable[[Request, int, bytes], str | None]


def send_all(url: str, count: int, clients: int, send: Send, judge: Judge) -> Outcome:
    """Send `count` numbered requests from `clients` threads, without pauses."""
    outcome = Outcome()
    numbers = iter(range(count))
    lock = threading.Lock()

    def client() -> None:
        connection = Connection(url)
        while True:
            with lock:
                number = next(numbers, None)
            if number is None:
                break
            began = time.perf_counter()
            try:
                request, status, body = send(connection, number)
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    outcome.count("lost", 0, time.perf_counter() - began, f"request {number} is lost: {error!r}")
                continue
            seconds = time.perf_counter() - began
            fault = judge(request, status, body)
            with lock:
                outcome.count(request.kind, status, seconds, f"request {number}: {fault}" if fault else None)
        with lock:
            outcome.resent += connection.resent
            outcome.stalled += connection.stalled
        connection.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(client) for _ in range(clients)]:
            done.result()
    outcome.seconds = time.perf_counter() - began
    return outcome


def send_load(url: str, requests: Requests, posters: Posters, count: int, clients: int) -> Outcome:
    """Send valid and invalid requests and compare every response with the expected one."""

    def send(connection: Connection, number: int) -> tuple[Request, int, bytes]:
        request = requests.numbered(number)
        return request, *connection.send(request)

    return send_all(url, count, clients, send, lambda *response: fault_of(*response, posters))


def send_mutations(url: str, posters: Posters, count: int, clients: int, seed: int) -> Outcome:
    """Send damaged requests. Each must be processed or refused."""

    def send(connection: Connection, number: int) -> tuple[Request, int, bytes]:
        rng = random.Random(f"{seed}:{number}")
        if number % 20 == 19:
            return Request("message", statuses=(0,)), send_message(url, damaged_message(rng, posters.files)), b""
        request = mutated_request(rng, posters.files)
        return request, *connection.send(request)

    return send_all(url, count, clients, send, fault_of_mutation)


def fault_of_mutation(request: Request, status: int, body: bytes) -> str | None:
    """The fault in the response to a damaged request; None if there is none."""
    if request.kind == "message":  # may not be HTTP at all; then gunicorn closes the connection or responds itself
        known = status in {0, 200, UNAVAILABLE} | REFUSALS | NOT_IMPLEMENTED
        return None if known else f"a damaged message gets the status {status}"
    description = f"{request.kind} {request.method} {request.path}: {status} {body[:200]!r}"
    if request.method in ("HEAD", "OPTIONS"):
        return None if status in {200, 204} | REFUSALS else description
    if status not in {200, UNAVAILABLE} | REFUSALS:
        return f"{description} for {request.content_type} {request.body[:60]!r}"
    try:
        document = json.loads(body)
    except ValueError:
        return f"{description} is not JSON"
    if status == 200:
        return None
    return fault_of_error(document, None, description)


def send_message(url: str, message: bytes, timeout_seconds: float = 30) -> int:
    """Send raw bytes. Returns the status of the response, or 0 if there is none."""
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=timeout_seconds) as connection:
        try:
            connection.sendall(message)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while b"\r\n" not in received and (piece := connection.recv(65_536)):
                received = (received + piece).removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            return _status(received)
        except (ConnectionResetError, BrokenPipeError):
            return 0


def _status(response: bytes) -> int:
    words = response.split(maxsplit=2)
    return int(words[1]) if len(words) > 1 and words[0].startswith(b"HTTP/") and words[1].isdigit() else 0


@dataclass
class SlowSenders:
    """Clients that send one byte per second, and their status and duration: 0 if the connection was closed."""

    count: int
    results: dict[int, tuple[int, float]] = field(default_factory=dict)

    @property
    def waiting(self) -> int:
        """The number of clients that are still sending."""
        return self.count - len(self.results)


@contextmanager
def slow_senders(url: str, count: int, interval_seconds: float = 1.0) -> Iterator[SlowSenders]:
    """Send the headers of a request and then, inside the block, one byte of its body per interval."""
    address = urlsplit(url)
    senders = SlowSenders(count)
    ended = threading.Event()
    began = time.monotonic()
    connections = [socket.create_connection((address.hostname, address.port), timeout=30) for _ in range(count)]
    for connection in connections:
        connection.sendall(
            b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 100000\r\n\r\n\xff"
        )

    def drip() -> None:
        while not ended.wait(interval_seconds):
            for number, connection in enumerate(connections):
                if number in senders.results:
                    continue
                try:
                    if select.select([connection], [], [], 0)[0]:
                        senders.results[number] = (_status(connection.recv(64)), time.monotonic() - began)
                    else:
                        connection.sendall(b"\xd8")
                except OSError:
                    senders.results[number] = (0, time.monotonic() - began)

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield senders
    finally:
        ended.set()
        thread.join()
        for connection in connections:
            connection.close()


def size_limit_bytes(url: str) -> int:
    """The largest poster that the function accepts, according to its description."""
    connection = Connection(url)
    _, body = connection.send(Request("page", method="GET"))
    connection.close()
    limit: int = json.loads(body)["limits"]["size_bytes"]
    return limit


class ClientProcess:
    """Runs the clients in a separate process."""

    def __init__(self, what: str, url: str, folder: Path, count: int, clients: int, seed: int) -> None:
        command = [sys.executable, "-m", "tests.soak.function_clients", what, "--url", url, "--folder", str(folder)]
        command += ["--count", str(count), "--clients", str(clients), "--seed", str(seed)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def is_running(self, seconds: float) -> bool:
        """Wait for some seconds. Returns whether the process is still running then."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def outcome(self) -> Outcome:
        """Wait for the process and return its outcome."""
        output, _ = self._process.communicate()
        if self._process.returncode:
            raise RuntimeError(f"The clients exited with code {self._process.returncode}.")
        return Outcome.from_json(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("load", "mutations"))
    parser.add_argument("--url", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    posters = Posters.read(arguments.folder / "posters", arguments.folder / "bundle")
    url, count, clients, seed = arguments.url, arguments.count, arguments.clients, arguments.seed
    if arguments.what == "load":
        requests = Requests(posters, BUCKET, size_limit_bytes(url), seed)
        outcome = send_load(url, requests, posters, count, clients)
    else:
        outcome = send_mutations(url, posters, count, clients, seed)
    print(outcome.to_json())


if __name__ == "__main__":
    main()
