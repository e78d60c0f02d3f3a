"""Runs the command `anime-genre` again and again, each time in a fork of one process: its imports take seconds.

    python -m tests.state_runs

Each line of stdin is a request as JSON with a "number", answered by one line: [number, answer]. {"arguments", "output",
"conditions"} starts a run with a file for its output, under `Conditions`. The answer is its process id. {"wait": id,
"block": true} is answered by its exit code; null if it is still running and `block` is false.
"""

import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Literal

import requests

_PACKAGES = ("flows", "tasks", "infra", "ml", "serving")
_WRITER_SECONDS = 10.0


@dataclass(frozen=True)
class Fault:
    """What happens to the requests of a run to its services.

    Attributes:
        request: a regular expression for "METHOD address body", of whose body the beginning is enough.
        does: "stop" stops the process after the response, "unavailable" gives status 503 instead of sending the
            request, and "no response" loses the response to a request that was handled.
        number, times: the first of the matching requests to which it happens, from 1, and to how many.
    """

    request: str
    does: Literal["stop", "unavailable", "no response"]
    number: int = 1
    times: int = 1


@dataclass(frozen=True)
class Conditions:
    """What is different for a run.

    Attributes:
        environment: further variables.
        file_limit: the size in bytes that no file may exceed, as on a full disk.
        faults: what happens to its requests.
        serving: the folder from which the function is deployed; None for that of the project.
        clock_seconds: what its clock has in addition to the right time.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    file_limit: int | None = None
    faults: Sequence[Fault] = ()
    serving: str | None = None
    clock_seconds: float = 0.0

    def __or__(self, other: "Conditions") -> "Conditions":
        """Both at once."""
        limits = [each for each in (self.file_limit, other.file_limit) if each]
        return Conditions(
            {**self.environment, **other.environment},
            min(limits, default=None),
            (*self.faults, *other.faults),
            other.serving or self.serving,
            self.clock_seconds + other.clock_seconds,
        )


class Runs:
    """The process that forks the runs. Each run is known by its process id."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        self._requests = 0

    def start(self, arguments: Sequence[str], output: Path, conditions: Conditions) -> int:
        """Start a run and return its process id."""
        return int(self._request({"arguments": arguments, "output": str(output), "conditions": asdict(conditions)}))

    def wait(self, process: int) -> int:
        """The exit code of a run after its end; negative if a signal ended it."""
        return int(self._request({"wait": process, "block": True}))

    def is_running(self, process: int) -> bool:
        """Whether a run has not ended. After its end, `wait` gives no answer any more."""
        return self._request({"wait": process, "block": False}) is None

    def close(self) -> None:
        """End the process."""
        self._server.communicate()

    def _request(self, request: Mapping[str, object]) -> Any:
        assert self._server.stdin and self._server.stdout
        self._requests += 1
        self._server.stdin.write(json.dumps({"number": self._requests, **request}) + "\n")
        self._server.stdin.flush()
        while True:
            number, answer = json.loads(self._server.stdout.readline())
            if number == self._requests:  # the answer to an earlier request was not read if Ctrl-C interrupted it
                return answer


def _serve() -> None:
    for name in (
        "flows.cli",
        "flows.up",
        "flows.summary",
        "ml.commands",
        "tasks.crawl.addresses",
    ):  # what the runs import
        importlib.import_module(name)

    writers: dict[int, subprocess.Popen[bytes]] = {}
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = _exit_code(request["wait"], request["block"])
            if answer is not None and (writer := writers.pop(request["wait"], None)):
                with suppress(subprocess.TimeoutExpired):  # a process that the run has left may hold the pipe
                    writer.wait(_WRITER_SECONDS)
        else:
            writer, pipe = _start_writer(request["output"])
            if (answer := os.fork()) == 0:
                sys.exit(_run(request["arguments"], pipe, request["conditions"]))
            os.close(pipe)
            writers[answer] = writer
        print(json.dumps([request["number"], answer]), flush=True)


def _start_writer(output: str) -> tuple["subprocess.Popen[bytes]", int]:
    """A process that writes into a file, and its pipe. The limit for files would hold for an output without it."""
    end, pipe = os.pipe()
    with Path(output).open("ab") as file:
        writer = subprocess.Popen(["cat"], stdin=end, stdout=file)
    os.close(end)
    return writer, pipe


def _exit_code(process: int, block: bool) -> int | None:
    try:
        ended, status = os.waitpid(process, 0 if block else os.WNOHANG)
    except ChildProcessError:  # an earlier request has had the answer
        return 0
    return os.waitstatus_to_exitcode(status) if ended else None


def _run(arguments: Sequence[str], output: int, conditions: Mapping[str, Any]) -> int:
    from prefect.context import refresh_global_settings_context

    import serving
    from flows.cli import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the requests are for the parent
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.environ.update(conditions["environment"])
    refresh_global_settings_context()  # Prefect read its settings before they were known
    if folder := conditions["serving"]:
        serving.__file__ = str(Path(folder) / "__init__.py")
    if faults := conditions["faults"]:
        _disturb_requests([Fault(**each) for each in faults])
    if seconds := conditions["clock_seconds"]:
        _set_clock(seconds)
    if limit := conditions["file_limit"]:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return main(arguments)


def _disturb_requests(faults: Sequence[Fault]) -> None:
    """Let faults happen to the requests of this process. All of its clients but Prefect's use `requests`."""
    send, seen, lock = requests.adapters.HTTPAdapter.send, dict.fromkeys(faults, 0), threading.Lock()

    def disturbed_send(adapter: Any, request: Any, **options: Any) -> Any:
        body = request.body if isinstance(request.body, bytes) else str(request.body).encode()
        line = f"{request.method} {request.url} {body[:1000].decode(errors='replace')}"
        happens = []
        with lock:
            for fault in faults:
                if re.search(fault.request, line, re.DOTALL):
                    seen[fault] += 1
                    if 0 <= seen[fault] - fault.number < fault.times:
                        happens.append(fault.does)
        if "unavailable" in happens:
            response = requests.Response()
            response.status_code, response.reason, response.url = 503, "Service Unavailable", request.url
            response.request, response._content, response._content_consumed = request, b"", True
            return response
        response = send(adapter, request, **options)
        if "no response" in happens:
            response.close()
            raise requests.ReadTimeout("The response is lost.", request=request)
        for _ in range(happens.count("stop")):
            os.kill(os.getpid(), signal.SIGSTOP)
        return response

    requests.adapters.HTTPAdapter.send = disturbed_send


def _set_clock(seconds: float) -> None:
    """Change the time of this process, for `time.time` and in the modules of the project."""
    right_time, right_datetime = time.time, datetime

    class OtherDatetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return right_datetime.now(tz) + timedelta(seconds=seconds)

    time.time = lambda: right_time() + seconds
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _PACKAGES and getattr(module, "datetime", None) is datetime:
            module.datetime = OtherDatetime  # type: ignore[attr-defined]


if __name__ == "__main__":
    _serve()
