"""Child processes for the duration of a `with` block, and free ports for them."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from types import TracebackType

import psutil

from infra.errors import StackError
from infra.files import write_bytes

_PORTS = (10_000, 32_768)
_drawn_ports: set[int] = set()
_POLL_SECONDS = 0.1
_RUN_SECONDS = 30.0  # a run that is stopped may be loading libraries, and then reports its end
_SILENCE_SECONDS = 8.0  # a wait that is longer is printed
_RESTART_SECONDS = (1.0, 60.0)  # the first and the longest pause before a viewer is started again
_MAX_LOG_BYTES = 10_000_000  # of a log; the log before it is kept as well
_STABLE_SECONDS = 60.0  # a viewer that ran this long starts again after the shortest pause


def free_port() -> int:
    """Return a free port of the loopback interface, a different one in each call.

    The port is below the range that systems use for outgoing connections, because such a connection could take it
    before a slow process listens. For the same reason no port is returned twice.
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
    """Return `port` after checking that it is free, or a free port if it is 0.

    Args:
        port: the requested port.
        name: what the port is for, for the error message.
        option: the command-line option that sets the port, for the error message.

    Raises:
        StackError: the port is taken or invalid.
    """
    if port == 0:
        return free_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError) as error:
            raise StackError(
                f"Port {port} for {name} is taken or not allowed ({error}). Choose another port with {option}; "
                "0 chooses a free one."
            ) from None
    return port


@dataclass
class _Child:
    """A started process, and what is needed to start it again."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: str | Callable[[], bool] | None
    folder: Path | None
    is_viewer: bool
    process: "subprocess.Popen[bytes]" = field(init=False)
    started: float = field(init=False)
    pause_seconds: float = _RESTART_SECONDS[0]
    restart_at: float | None = None

    def is_ready(self) -> bool:
        """Whether the process is ready. A viewer that has exited counts as ready: nothing waits for it."""
        if self.is_viewer and self.process.poll() is not None:
            return True
        if isinstance(self.ready, str):
            return is_reachable(self.ready)
        return self.ready is None or self.ready()


class Processes:
    """Processes that run until the end of the `with` block. Each has a log file in `log_folder`, which is rotated.

    `start` does not wait, so that all processes start at the same time; `wait_ready` waits for all. At the end of the
    block, the processes and their children are terminated, and killed if they do not exit within
    `shutdown_timeout_seconds`.

    The file running.json in `log_folder` lists the processes. If this process is killed, the next block with the
    same folder terminates the processes that are left.
    """

    def __init__(self, log_folder: Path, shutdown_timeout_seconds: float = 10) -> None:
        self._log_folder = log_folder
        self._pid_file = log_folder / "running.json"
        self._shutdown_timeout_seconds = shutdown_timeout_seconds
        self._children: list[_Child] = []

    def __enter__(self) -> "Processes":
        self._log_folder.mkdir(parents=True, exist_ok=True)
        self._terminate_leftovers()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _signals_ignored():
            self._stop(self._children)
            self._pid_file.unlink(missing_ok=True)

    def start(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        ready: str | Callable[[], bool] | None = None,
        folder: Path | None = None,
        is_viewer: bool = False,
    ) -> None:
        """Start a command in a new session, so that Ctrl-C in the terminal does not reach it.

        Args:
            name: the name in messages; the log file is named after it.
            command: the program and its arguments.
            environment: variables to add to this process's environment.
            ready: an address that responds with 2xx when the process is ready, or a function that returns True then;
                None if there is none.
            folder: the working folder; None for the one of this process.
            is_viewer: `check` starts the process again when it exits, because only people need it.
        """
        child = _Child(name, list(command), environment, ready, folder, is_viewer)
        self._launch(child)
        self._children.append(child)
        self._write_pid_file()

    def _launch(self, child: _Child) -> None:
        rotate_log(self.log(child.name))
        with self.log(child.name).open("ab") as log:
            child.process = subprocess.Popen(
                child.command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                # A file ml.py in the current folder must not replace the package.
                env={**os.environ, "PYTHONSAFEPATH": "1", **child.environment},
                cwd=child.folder,
                start_new_session=True,
            )
        child.started = time.monotonic()

    def stop(self, name: str) -> None:
        """Stop one process before the others, and what it started before itself, so that this can still report."""
        with _signals_ignored():
            stopped = [child for child in self._children if child.name == name]
            for child in stopped:
                with suppress(psutil.NoSuchProcess):
                    inner = psutil.Process(child.process.pid).children()
                    terminate_trees([each.pid for each in inner], _RUN_SECONDS)
            self._stop(stopped)
            self._children = [child for child in self._children if child not in stopped]

    def _stop(self, children: Sequence[_Child]) -> None:
        terminate_trees([child.process.pid for child in children], self._shutdown_timeout_seconds)
        for child in children:
            child.process.wait()

    def wait_ready(self, timeout_seconds: float = 180) -> None:
        """Wait until every process is ready. A long wait is printed.

        Raises:
            StackError: a process exited or is not ready in time; the message names its log.
        """
        began = said = time.monotonic()
        deadline = began + timeout_seconds
        for child in self._children:
            while not child.is_ready():
                if time.monotonic() - said > _SILENCE_SECONDS:
                    said = time.monotonic()
                    print(f"Waiting for {child.name} ({said - began:.0f} s) ...", flush=True)
                if child.process.poll() is not None:
                    raise self._exit_error(child)
                if time.monotonic() > deadline:
                    raise StackError(
                        f"{child.name} was not ready within {timeout_seconds:.0f} s; see {self.log(child.name)}."
                    )
                time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Raise StackError if a process has exited; the message names its log.

        A viewer that has exited is started again, after a pause that doubles with each exit. Long logs are rotated.
        """
        for child in self._children:
            rotate_log(self.log(child.name))
            if child.process.poll() is None:
                continue
            if not child.is_viewer:
                raise self._exit_error(child)
            now = time.monotonic()
            if child.restart_at is None:
                shortest, longest = _RESTART_SECONDS
                if now - child.started > _STABLE_SECONDS:
                    child.pause_seconds = shortest
                child.restart_at = now + child.pause_seconds
                print(f"{self._exit_message(child)} It restarts in {child.pause_seconds:.0f} s.", file=sys.stderr)
                child.pause_seconds = min(2 * child.pause_seconds, longest)
            elif now >= child.restart_at:
                child.restart_at = None
                self._launch(child)
                self._write_pid_file()

    def log(self, name: str) -> Path:
        """The log file of a process."""
        return self._log_folder / f"{name.lower().replace(' ', '-')}.log"

    def _exit_message(self, child: _Child) -> str:
        return f"{child.name} exited with code {child.process.returncode}; see {self.log(child.name)}."

    def _exit_error(self, child: _Child) -> StackError:
        """The details are the last line of the process's log."""
        lines = self.log(child.name).read_text(errors="replace").split("\n")
        last_line = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return StackError(self._exit_message(child), last_line)

    def _write_pid_file(self) -> None:
        started = {}
        for child in self._children:
            with suppress(psutil.NoSuchProcess):
                started[child.process.pid] = _start_of(child.process.pid)
        write_bytes(self._pid_file, json.dumps(started).encode())

    def _terminate_leftovers(self) -> None:
        """Terminate the processes that a killed process left.

        The start of a process shows whether the system has given its id to another program since. Versions before
        December 2026 wrote the seconds of its creation on Linux too.
        """
        with suppress(OSError, ValueError):
            leftovers = []
            for pid, started in json.loads(self._pid_file.read_text()).items():
                with suppress(psutil.NoSuchProcess):
                    if isinstance(started, str):
                        is_same = _start_of(int(pid)) == started
                    else:
                        is_same = abs(psutil.Process(int(pid)).create_time() - started) < 1
                    if is_same:
                        leftovers.append(int(pid))
            terminate_trees(leftovers, self._shutdown_timeout_seconds)


def _start_of(pid: int) -> str | float:
    """When a process started. On Linux, these are the id of the system's start and clock ticks since then.

    psutil gives seconds of the clock, and reckons them from the ticks: they change when the clock is set.

    Raises:
        psutil.NoSuchProcess: it has ended.
    """
    try:
        # The name of the program is in parentheses, and may contain some. The ticks are the 22nd field, see proc(5).
        ticks = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
    except (OSError, IndexError):
        return float(psutil.Process(pid).create_time())


def is_reachable(url: str, headers: Mapping[str, str] | None = None) -> bool:
    """Whether a GET request to an address succeeds. One that is no address of HTTP is not reachable."""
    try:
        request = urllib.request.Request(url)
        for name, value in (headers or {}).items():
            request.add_unredirected_header(name, value)
        with urllib.request.urlopen(request, timeout=5):
            return True
    except (OSError, ValueError, HTTPException):
        return False


def rotate_log(log: Path) -> None:
    """Move a long log to NAME.1.log. A running process appends to the file, which is therefore copied and emptied.

    A line that it writes between the two is lost.
    """
    if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
        with suppress(OSError):  # a full disk; the log stays until there is space
            shutil.copyfile(log, log.with_suffix(".1.log"))
            os.truncate(log, 0)


def terminate_trees(pids: Sequence[int], timeout_seconds: float) -> None:
    """Terminate processes and their children; kill those that are still alive after `timeout_seconds`."""
    trees = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(pid)
            trees += [parent, *parent.children(recursive=True)]
            parent.terminate()
    _, alive = psutil.wait_procs(trees, timeout=timeout_seconds)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_seconds)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP during the block: a second one would interrupt the shutdown."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
