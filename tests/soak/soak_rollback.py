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
import time
from pathlib import Path

from infra.cloud_run import CloudRun
from infra.settings import read_settings
from tests.state_fuzzer import World
from tests.state_runs import Conditions
from tests.steady_client import SteadyClient

_SECONDS_BETWEEN = 5.0


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
        live = CloudRun(settings).live()
        assert live
        failed = 0
        with SteadyClient(str(live.url), args.rate).asking() as client:
            time.sleep(_SECONDS_BETWEEN)
            for number in range(args.rollbacks):
                failed += not _roll_back(world, client, str(2 - (number + 1) % 2))
    print(
        f"{len(client.responses)} responses, {len(client.failed)} failed requests {client.failed[:3]}, "
        f"{failed} failed rollbacks"
    )
    return 1 if client.failed or failed else 0


def _roll_back(world: World, client: SteadyClient, version: str) -> bool:
    """Run the command, and return whether it succeeded and another model answers."""
    before, started = client.responses[-1][1], time.monotonic()
    output = world.output / "rollback.txt"
    output.write_text("")
    command = ["rollback", "--to", version, "--workspace", str(world.workspace)]
    process = world.runs.start(command, output, Conditions(dict(os.environ)))
    code = world.runs.wait(process)
    seconds = time.monotonic() - started
    time.sleep(_SECONDS_BETWEEN)
    last = max(when for when, sha256 in client.responses if sha256 == before) - started
    print(
        f"to version {version}: exit code {code}, {seconds:.1f} s for the command, the last response of the earlier "
        f"model after {last:.1f} s. {output.read_text().splitlines()[-1]}",
        flush=True,
    )
    return code == 0 and client.responses[-1][1] != before


if __name__ == "__main__":
    sys.exit(main())
