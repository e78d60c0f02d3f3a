"""Processes that a context manager starts, waits for and ends, with all their children."""

import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import psutil

from infra.errors import StackError
from infra.files import write_bytes

_PORTS = (10_000, 32_768)
_drawn_ports: set[int] = set()
_POLL_SECONDS = 0.1


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at the moment, another one at each call.

    Ports are drawn below the range that systems use for outgoing connections, one of which could take the port before
    a process that starts slowly listens on it. For the same reason no port is drawn twice.
    """
    while True:
        port = random.randrange(*_PORTS)
        if port in _drawn_ports:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _drawn_ports.add(port)
            return port


def claim_port(port: int, name: str, option: str) -> int:
    """The port itself, or a free one where it is 0.

    Raises:
        StackError: another program listens on it; the sentence names the option that gives another.
    """
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise StackError(
                f"Port {port} for {name} is taken or not allowed ({error}); give another one with "
                f"{option} (0 for any free one)."
            ) from None
    return port


class Processes:
    """Processes that live as long as the `with` block; each writes a log file of its own.

    Started with `start`, all at once, and awaited with `wait_ready`; the block's end terminates them with their
    children and kills what does not end in time. A note beside the logs says who runs: where this process is
    killed itself, the next block with the same folder ends what it left.
    """

    def __init__(self, log_folder: Path, ending_seconds: float = 10) -> None:
        self._log_folder = log_folder
        self._note = log_folder / "running.json"
        self._ending_seconds = ending_seconds
        self._started: list[tuple[str, subprocess.Popen[bytes], str | None]] = []

    def __enter__(self) -> "Processes":
        self._log_folder.mkdir(parents=True, exist_ok=True)
        self._end_leftovers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _undisturbed():
            end_trees([process.pid for _, process, _ in self._started], self._ending_seconds)
            for _, process, _ in self._started:
                process.wait()
            self._note.unlink(missing_ok=True)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        ready_url: str | None = None,
        folder: Path | None = None,
    ) -> None:
        """Start a command in a session of its own, so that Ctrl-C reaches us and not it.

        Args:
            name: what people call it; also the log file's name.
            command: program and arguments.
            environment: added to this process's environment.
            ready_url: answers 2xx once the process is ready.
            folder: its working folder; this process's own if None.
        """
        with self.log(name).open("ab") as log:
            process = subprocess.Popen(
                list(command),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **environment},
                cwd=folder,
                start_new_session=True,
            )
        self._started.append((name, process, ready_url))
        self._write_note()

    def wait_ready(self, timeout_seconds: float = 180) -> None:
        """Wait until every started process answers on its address.

        Raises:
            StackError: one ended, or did not answer in time; names its log.
        """
        deadline = time.monotonic() + timeout_seconds
        for name, process, ready_url in self._started:
            while ready_url is not None and not is_reachable(ready_url):
                if process.poll() is not None:
                    raise StackError(self._end_of(name, process.returncode))
                if time.monotonic() > deadline:
                    raise StackError(f"{name} did not answer in {timeout_seconds:.0f} s; see {self.log(name)}.")
                time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise StackError where a process ended by itself; names its log."""
        for name, process, _ in self._started:
            if process.poll() is not None:
                raise StackError(self._end_of(name, process.returncode))

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self._log_folder / f"{name.lower().replace(' ', '-')}.log"

    def _end_of(self, name: str, code: int) -> str:
        lines = self.log(name).read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        return f"{name} ended with code {code} ({last}); see {self.log(name)}."

    def _write_note(self) -> None:
        created = {}
        for _, process, _ in self._started:
            with suppress(psutil.NoSuchProcess):
                created[process.pid] = psutil.Process(process.pid).create_time()
        write_bytes(self._note, json.dumps(created).encode())

    def _end_leftovers(self) -> None:
        """End what a killed process left; a process id that someone else has got since is left alone."""
        with suppress(OSError, ValueError):
            left = []
            for pid, created in json.loads(self._note.read_text()).items():
                with suppress(psutil.NoSuchProcess):
                    if abs(psutil.Process(int(pid)).create_time() - created) < 1:
                        left.append(int(pid))
            end_trees(left, self._ending_seconds)


def is_reachable(url: str) -> bool:
    """Whether an address answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def end_trees(pids: Sequence[int], timeout_seconds: float) -> None:
    """End processes with their children: the parents are asked, who is left after the time is killed."""
    families = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            families += [parent, *parent.children(recursive=True)]
            parent.terminate()
    _, alive = psutil.wait_procs(families, timeout=timeout_seconds)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_seconds)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let an impatient second Ctrl-C wait: it would leave running what is just being ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
