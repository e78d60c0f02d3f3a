"""Runs the command `anime-genre` again and again, each time in a fork of one process: its imports take seconds.

    python -m tests.state_runs

Each line of stdin is a request as JSON, answered by one line. {"arguments", "environment", "output", "limit"} starts a
run with a file for its output, whose files cannot grow beyond `limit` bytes, unless it is null. The answer is its
process id. {"wait": id, "block": true} is answered by its exit code; null if it is still running and `block` is false.
"""

import importlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


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

    def start(
        self, arguments: Sequence[str], environment: Mapping[str, str], output: Path, limit: int | None = None
    ) -> int:
        """Start a run and return its process id."""
        run = {"arguments": arguments, "environment": dict(environment), "output": str(output), "limit": limit}
        return int(self._request(run))

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
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())


def _serve() -> None:
    for name in (
        "flows.cli",
        "flows.up",
        "flows.summary",
        "ml.commands",
        "tasks.crawl.addresses",
    ):  # what the runs import
        importlib.import_module(name)

    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            answer = _exit_code(request["wait"], request["block"])
        elif (answer := os.fork()) == 0:
            sys.exit(_run(**request))
        print(json.dumps(answer), flush=True)


def _exit_code(process: int, block: bool) -> int | None:
    try:
        ended, status = os.waitpid(process, 0 if block else os.WNOHANG)
    except ChildProcessError:  # an earlier request has had the answer
        return 0
    return os.waitstatus_to_exitcode(status) if ended else None


def _run(arguments: Sequence[str], environment: Mapping[str, str], output: str, limit: int | None) -> int:
    from prefect.context import refresh_global_settings_context

    from flows.cli import main

    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # the requests are for the parent
    for descriptor in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_APPEND), descriptor)
    os.environ.update(environment)
    refresh_global_settings_context()  # Prefect read its settings before they were known
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    return main(arguments)


if __name__ == "__main__":
    _serve()
