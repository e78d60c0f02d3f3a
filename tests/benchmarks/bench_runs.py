"""Whole runs of the flow on the replayed site: the first one, unchanged ones, and Prefect's share of their time.

    PYTHONPATH=. python tests/benchmarks/bench_runs.py [--backbone resnet18 --weights FILE]
        [--candidates frozen,scratch] [--seasons 2015-winter..2019-fall]

The site is `replay/serve.py` in FOLDER (`../shared`, or ANIME_GENRE_REAL_DATA), and the runs have a stack of their own
in a new workspace. Printed are the seconds of each step in the first run and in the median one of the unchanged runs,
the rows that a run adds to the databases, the scores, and the size and latency of the served model. What Prefect costs
is the time of a run outside the functions of its steps: start and end of the run, states, records, and the engine
around each step. It is compared with these functions alone.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

import tasks.step
from flows.parameters import RetrainParameters
from flows.summary import RunSummary, run_retrain
from infra.endpoint import response_times
from infra.local.stack import local_stack
from infra.settings import read_settings
from ml.configuration import TrainConfig
from tasks.catalogue.configuration import CollectConfig
from tests.database_rows import database_rows
from tests.replayed_site import replayed

_ROOT = Path(__file__).parents[2]
_REQUESTS = 20
_UNCHANGED_RUNS = 5


def main() -> None:
    """Run the flow and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(os.environ.get("ANIME_GENRE_REAL_DATA", _ROOT.parent / "shared"))
    parser.add_argument("--data", type=Path, default=data, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--backbone", default="resnet18", help="default: %(default)s")
    parser.add_argument("--weights", default="", metavar="FILE", help="default: those of ResNet18 in FOLDER")
    parser.add_argument("--candidates", default="frozen", help="separated by commas; default: %(default)s")
    parser.add_argument("--seasons", default="1974-winter..2024-fall", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=TrainConfig().epochs, help="default: %(default)s")
    parser.add_argument("--trials", type=int, default=TrainConfig().trials, help="default: %(default)s")
    args = parser.parse_args()
    weights = args.weights or str(args.data / "weights" / "resnet18-imagenet-backbone.safetensors")
    with (
        tempfile.TemporaryDirectory(prefix="runs-") as folder,
        replayed(args.data, Path(folder)) as site,
        local_stack(Path(folder) / "workspace") as stack,
        temporary_settings({PREFECT_API_URL: stack.environment["PREFECT_API_URL"]}),
    ):
        os.environ.update(stack.environment)
        parameters = RetrainParameters(
            site_url=site.url,
            seasons=args.seasons,
            collect=CollectConfig(details=0),  # each run would read further ones, so no run would be unchanged
            train=TrainConfig(
                candidates=tuple(args.candidates.split(",")),
                backbone=args.backbone,
                weights=weights,
                epochs=args.epochs,
                trials=args.trials,
            ),
        )
        runs = []
        rows = [stack_rows()]
        for _ in range(1 + _UNCHANGED_RUNS):
            with timed_steps() as seconds:
                summary = run_retrain(parameters)
            rows.append(stack_rows())
            runs.append((summary, seconds, run_seconds(summary)))
        unchanged = sorted(runs[1:], key=lambda run: run[2])[_UNCHANGED_RUNS // 2]
        print_steps([runs[0], unchanged])
        for run, before, after in zip(("first", "second"), rows, rows[1:], strict=False):
            print(f"rows of the {run} run: {dict(after - before)}")
        print_model(runs[0][0])


@contextmanager
def timed_steps() -> Iterator[dict[str, float]]:
    """The seconds of the steps' own functions inside the block, by name."""
    seconds: dict[str, float] = {}
    unchanged = tasks.step.no_silence

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            with unchanged(name):
                yield
        finally:
            seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began

    tasks.step.no_silence = timed  # type: ignore[assignment]
    try:
        yield seconds
    finally:
        tasks.step.no_silence = unchanged


def run_seconds(summary: RunSummary) -> float:
    """The seconds from the start of a run to its end, as Prefect shows them."""
    with get_client(sync_client=True) as client:
        return client.read_flow_run(summary.id).total_run_time.total_seconds()


def stack_rows() -> Counter[str]:
    """The rows in the databases of the stack, by service."""
    rows: Counter[str] = Counter()
    for (service, _), number in database_rows(read_settings().workspace).items():
        rows[service] += number
    return rows


def print_steps(runs: list[tuple[RunSummary, dict[str, float], float]]) -> None:
    """Print the seconds of the steps in a first and an unchanged run, and Prefect's share."""
    (_, first, first_total), (_, second, second_total) = runs
    print(f"{'step':20} {'first run':>10} {'unchanged':>10}")
    for name in {**first, **second}:
        print(f"{name:20} {first.get(name, 0):8.1f} s {second.get(name, 0):8.1f} s")
    totals = [(sum(first.values()), first_total), (sum(second.values()), second_total)]
    print(f"{'the steps alone':20} {totals[0][0]:8.1f} s {totals[1][0]:8.1f} s")
    print(f"{'the run':20} {totals[0][1]:8.1f} s {totals[1][1]:8.1f} s")
    shares = [1 - alone / total for alone, total in totals]
    print(f"{'Prefect':20} {shares[0]:10.1%} {shares[1]:10.1%}")
    print(f"An unchanged run takes {second_total / first_total:.1%} of the first one.")


def print_model(summary: RunSummary) -> None:
    """Print the scores, and the size and latency of the live model."""
    record = summary.record
    assert record.deployment, summary.message
    print(f"{record.catalogue.titles} titles, {record.posters.posters} posters; parts {record.dataset.parts}")
    for score in record.evaluation.scores:
        print(f"{score.name:20} weighted F1 {score.weighted_f1:.3f}, mAP {score.mean_average_precision:.3f}")
    folder = read_settings(record.dataset.collection).workspace / "bundles" / record.training.bundle_sha256
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    posters = [record.evaluation.known_posters[0].name] * _REQUESTS
    milliseconds = statistics.median(response_times(str(record.deployment.url), posters, None))
    print(f"served: {record.training.chosen}, bundle {megabytes:.1f} MB, median response {milliseconds:.0f} ms")


if __name__ == "__main__":
    main()
