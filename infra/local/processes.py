"""Processes that a context manager starts, waits for and ends, with all their children."""

import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import psutil

from infra.errors import StackError

_POLL_SECONDS = 0.1


def free_port() -> int:
    """A port of the loopback interface that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
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
        except OSError as error:
            raise StackError(
                f"Port {port} for {name} is taken or not allowed ({error.strerror}); give another one with "
                f"{option} (0 for any free one)."
            ) from None
    return port


class Processes:
    """Processes that live as long as the `with` block; each writes a log file of its own.

    Started with `start`, all at once, and awaited with `wait_ready`; the block's end terminates them with
    their children, in reverse order, and kills what does not end in time.
    """

    def __init__(self, log_folder: Path, ending_seconds: float = 10) -> None:
        self._log_folder = log_folder
        self._ending_seconds = ending_seconds
        self._started: list[tuple[str, subprocess.Popen[bytes], str | None]] = []

    def __enter__(self) -> "Processes":
        self._log_folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _, process, _ in reversed(self._started):
            terminate_tree(process.pid, self._ending_seconds)
            process.wait()

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

    def wait_ready(self, timeout_seconds: float = 180) -> None:
        """Wait until every started process answers on its address.

        Raises:
            StackError: one ended, or did not answer in time; names its log.
        """
        deadline = time.monotonic() + timeout_seconds
        for name, process, ready_url in self._started:
            while ready_url is not None and not answers(ready_url):
                if process.poll() is not None:
                    raise StackError(f"{name} ended with code {process.returncode}; see {self.log(name)}.")
                if time.monotonic() > deadline:
                    raise StackError(f"{name} did not answer in {timeout_seconds:.0f} s; see {self.log(name)}.")
                time.sleep(_POLL_SECONDS)

    @property
    def pids(self) -> list[int]:
        """The process ids of everything started."""
        return [process.pid for _, process, _ in self._started]

    def ended(self) -> str | None:
        """The name of a process that ended by itself, if there is one."""
        return next((name for name, process, _ in self._started if process.poll() is not None), None)

    def log(self, name: str) -> Path:
        """Where a process's output goes."""
        return self._log_folder / f"{name.lower().replace(' ', '-')}.log"


def answers(url: str) -> bool:
    """Whether an address answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


def terminate_tree(pid: int, timeout_seconds: float) -> None:
    """End a process and its children: the parent is asked, who is left after the time is killed."""
    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True)]
        parent.terminate()
    except psutil.NoSuchProcess:
        return
    _, alive = psutil.wait_procs(family, timeout=timeout_seconds)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=timeout_seconds)
