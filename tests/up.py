"""The command `anime-genre up` as a running process."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psutil
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.local.processes import terminate_trees
from tests.sink import Sink

ROOT = Path(__file__).parents[1]
RUN_SECONDS = 900
"""How long a test waits for a whole run before it fails: many times what a run takes, as machines may be busy."""


class Up:
    """The command `anime-genre up` in a workspace, from the sentence that it is up until it is stopped."""

    def __init__(self, workspace: Path, *options: str, webhook: Sink | None = None) -> None:
        names = ("prefect", "mlflow", "tensorboard", "function", "page")
        ports = [part for name in names for part in (f"--{name}-port", "0")]
        # As the installed command: it imports nothing from the current folder, and neither must its processes.
        command = [sys.executable, "-P", "-m", "flows.cli", "up", "--workspace", str(workspace), *ports, *options]
        for package in ("flows", "tasks", "ml", "infra", "serving"):
            (workspace.parent / f"{package}.py").write_text("raise SystemExit('not the package')")
        self.workspace, self.webhook = workspace, webhook
        self.output = workspace.parent / "out.txt"
        environment = {**outside_environment(), "ANIME_GENRE_NOTIFY_URL": webhook.url if webhook else ""}
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=environment, cwd=workspace.parent
            )
        try:
            self.printed = _wait_for(self.output, "Press Ctrl-C to stop", self.process)
        except BaseException:
            self.kill()
            raise
        self.addresses = dict(re.findall(r"^  (\w+) +(http://\S+)", self.printed, re.MULTILINE))

    @contextmanager
    def client(self) -> Iterator[SyncPrefectClient]:
        settings = {PREFECT_API_URL: f"{self.addresses['Prefect']}/api"}
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield client

    def run(self, parameters: Mapping[str, Any], until: Callable[[State[Any]], bool] = State.is_final) -> FlowRun:
        """Start a run of the deployment, wait for a state, and return the run."""
        with self.client() as client:
            deployment = client.read_deployment_by_name("retrain/retrain")
            run = client.create_flow_run_from_deployment(deployment.id, parameters={"parameters": parameters})
            deadline = time.monotonic() + RUN_SECONDS
            while not until((run := client.read_flow_run(run.id)).state) and time.monotonic() < deadline:
                time.sleep(0.5)
        return run

    def stop(self, number: signal.Signals, code: int) -> None:
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)
        try:
            ended = self.process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            running = [each.cmdline() for each in children if each.is_running()]
            pytest.fail(f"it does not end: {self.output.read_text()}\nStill running: {running}")
        assert ended == code, self.output.read_text()
        assert [each for each in children if each.is_running() and each.status() != psutil.STATUS_ZOMBIE] == []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Stop the command and its services, also after a failed test."""
        terminate_trees([self.process.pid], 30)
        self.process.wait()


def outside_environment() -> dict[str, str]:
    """The environment without the variables that connect to another stack."""
    prefixes = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", "STORAGE_EMULATOR_HOST", "ANIME_GENRE_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return {**environment, "PYTHONPATH": str(ROOT)}


def _wait_for(file: Path, sentence: str, process: "subprocess.Popen[bytes]") -> str:
    deadline = time.monotonic() + RUN_SECONDS
    while sentence not in (text := file.read_text()):
        assert process.poll() is None, text
        assert time.monotonic() < deadline, text
        time.sleep(0.2)
    return text
