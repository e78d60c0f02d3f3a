"""A Dask scheduler and its workers as processes on this machine, each with a folder of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent


class Cluster:
    """A scheduler without workers. `options` are further ones of its command, such as those for TLS."""

    def __init__(self, folder: Path, held: ExitStack, options: Sequence[str] = ()) -> None:
        self._folder, self._held = folder, held
        self.workers: list[subprocess.Popen[bytes]] = []
        self.workspaces: list[Path] = []
        file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", ["--port", "0", "--scheduler-file", str(file), *options], os.environ, folder
        )
        while not file.exists() or not file.read_text():
            assert self.scheduler.poll() is None, (folder / "scheduler.log").read_text()
            time.sleep(0.05)
        self.address: str = json.loads(file.read_text())["address"]

    def add_worker(
        self, environment: Mapping[str, str], options: Sequence[str] = (), prefix: Sequence[str] = ()
    ) -> Path:
        """Start a worker and return its workspace. `prefix` is a command that starts another one."""
        folder = self._folder / f"worker-{len(self.workers) + 1}"
        folder.mkdir()
        environment = (
            os.environ | {"PYTHONPATH": str(ROOT), "ANIME_GENRE_WORKSPACE": str(folder / "workspace")} | environment
        )
        arguments = [self.address, "--no-nanny", "--nthreads", "1", "--local-directory", str(folder), *options]
        self.workers.append(self._start("worker", arguments, environment, folder, prefix))
        self.workspaces.append(folder / "workspace")
        return self.workspaces[-1]

    def _start(
        self,
        what: str,
        options: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        prefix: Sequence[str] = (),
    ) -> subprocess.Popen[bytes]:
        command = [*prefix, sys.executable, "-m", "dask", what, "--host", "127.0.0.1", "--no-dashboard", *options]
        log = self._held.enter_context((folder / f"{what}.log").open("wb"))
        process = self._held.enter_context(
            subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        )
        self._held.callback(process.kill)
        return process


@contextmanager
def dask_cluster(folder: Path, options: Sequence[str] = ()) -> Iterator[Cluster]:
    """A scheduler, and the workers that the block adds. All end with it."""
    with ExitStack() as held:
        yield Cluster(folder, held, options)
