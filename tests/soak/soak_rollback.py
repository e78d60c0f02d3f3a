"""Rollbacks of the live function while a client asks it 20 times a second.

    PYTHONPATH=. python tests/soak/soak_rollback.py [--rollbacks 5] [--rate 20]

Two models go live on a real stack. Then `anime-genre rollback` goes to and fro between them. Printed are the requests
that failed, and for each rollback the seconds until the command has ended and until the last response of the model
that was live before, from the call of the command. The exit code is 1 if a request or a rollback failed.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import requests

from infra.cloud_run import CloudRun
from infra.settings import read_settings
from tests.state_fuzzer import World

_SECONDS_BETWEEN = 5.0


@dataclass
class Client:
    """Asks the function about one poster at a steady rate, each time in a thread of its own."""

    url: str
    poster: str
    rate: float
    answers: list[tuple[float, str]] = field(default_factory=list)  # when each response came, and its bundle
    failed: list[str] = field(default_factory=list)

    def ask(self) -> None:
        """Send one request and note what came back."""
        try:
            response = requests.post(self.url, json={"name": self.poster}, timeout=30)
            response.raise_for_status()
            self.answers.append((time.monotonic(), response.json()["model"]["sha256"]))
        except (OSError, ValueError, KeyError) as error:
            self.failed.append(str(error))

    def run(self, ended: threading.Event) -> None:
        """Ask until `ended` is set."""
        with ThreadPoolExecutor(64) as pool:
            due = time.monotonic()
            while not ended.is_set():
                pool.submit(self.ask)
                due += 1 / self.rate
                time.sleep(max(0.0, due - time.monotonic()))


def main() -> int:
    """Roll back under load and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollbacks", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--rate", type=float, default=20, help="requests per second; default: %(default)s")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollback-") as folder, World(Path(folder)) as world:
        for options in (["--promote", "always"], ["--promote", "always", "--seed", "1"]):
            print(f"first runs: {world.run(options).line()}", flush=True)
        settings = read_settings()
        live = CloudRun(settings).live(settings.service)
        assert live
        client = Client(str(live.url), next(iter(world.store.keys("posters/"))), args.rate)
        ended, failed = threading.Event(), 0
        thread = threading.Thread(target=client.run, args=(ended,))
        thread.start()
        try:
            time.sleep(_SECONDS_BETWEEN)
            for number in range(args.rollbacks):
                failed += not _roll_back(world, client, str(2 - (number + 1) % 2))
        finally:
            ended.set()
            thread.join()
    print(
        f"{len(client.answers)} responses, {len(client.failed)} failed requests {client.failed[:3]}, "
        f"{failed} failed rollbacks"
    )
    return 1 if client.failed or failed else 0


def _roll_back(world: World, client: Client, version: str) -> bool:
    """Run the command, and return whether it succeeded and another model answers."""
    before, started = client.answers[-1][1], time.monotonic()
    output = world.output / "rollback.txt"
    output.write_text("")
    command = ["rollback", "--to", version, "--workspace", str(world.workspace)]
    process = world.runs.start(command, dict(os.environ), output)
    code = world.runs.wait(process)
    seconds = time.monotonic() - started
    time.sleep(_SECONDS_BETWEEN)
    last = max(when for when, sha256 in client.answers if sha256 == before) - started
    print(
        f"to version {version}: exit code {code}, {seconds:.1f} s for the command, the last response of the earlier "
        f"model after {last:.1f} s. {output.read_text().splitlines()[-1]}",
        flush=True,
    )
    return code == 0 and client.answers[-1][1] != before


if __name__ == "__main__":
    sys.exit(main())
