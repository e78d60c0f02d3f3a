"""State fuzzer: a real stack in which something goes wrong before or during each run (see `tests/state_acts.py`).

    PYTHONPATH=. python tests/soak/soak_states.py [--seed 0] [--acts 200] [--at-once 1] [--only N]
        [--each kill_after]

Each round, of one act unless told otherwise, is printed with its two runs and with what is wrong afterwards. Figures
come last. The exit code is 1 if something is wrong. It stops after two hours.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

from tests.state_acts import ACTS
from tests.state_fuzzer import Result, World, one_round

LONGEST_SECONDS = 7200


def main() -> int:
    """Do the acts and print what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--acts", type=int, default=200, help="number of acts; default: %(default)s")
    parser.add_argument("--at-once", type=int, default=1, help="acts per round of runs; default: %(default)s")
    parser.add_argument("--only", type=int, help="do only the round with this number, in a new workspace")
    parser.add_argument("--each", help="do one round with each act whose name begins with this regular expression")
    args = parser.parse_args()
    each = [act for act in ACTS if args.each and re.match(args.each, act.name)]
    started = time.monotonic()
    numbers = range(len(each) or args.acts // args.at_once) if args.only is None else [args.only]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="states-") as folder, World(Path(folder)) as world:
        print(f"seed {args.seed}, started in {time.monotonic() - started:.0f} s", flush=True)
        for options in (["--promote", "always"], ["--promote", "always", "--seed", "1"]):
            print(f"first runs: {world.run(options).line()}", flush=True)
        with suppress(KeyboardInterrupt):  # the figures are shown
            for number in numbers:
                if time.monotonic() - started > LONGEST_SECONDS:
                    break
                print(f"round {number}, {time.monotonic() - started:.0f} s", flush=True)
                acts = [each[number]] if each else ACTS
                results.append(one_round(world, acts, args.seed, number, args.at_once))
                print(results[-1].lines(), flush=True)
    _show_figures(results, time.monotonic() - started)
    return 1 if any(result.faults for result in results) else 0


def _show_figures(results: list[Result], seconds: float) -> None:
    runs = [run for result in results for run in result.runs]
    right = sum(run.code == 0 for run in runs)
    acts = sum(len(result.acts) for result in results)
    print(f"{acts} acts in {len(results)} rounds, {len(runs)} runs, {right} of them ended right, {seconds:.0f} s.")
    print(f"Acts: {dict(Counter(act for result in results for act in result.acts))}")
    print(f"Exit codes: {dict(Counter(run.code for run in runs))}")
    print(f"Rounds with a fault: {[result.number for result in results if result.faults]}")


if __name__ == "__main__":
    sys.exit(main())
