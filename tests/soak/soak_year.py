"""A year of weekly runs, each followed by `anime-genre prune`: does everything keep its size, and is nothing lost?

    PYTHONPATH=. python tests/soak/soak_year.py [--weeks 52] [--seed 1]

Each week the clock of the whole stack is a week later. In half of the weeks the site has new titles, and a run trains
again; some models go live without a gate. In a third of the weeks `prune` is killed after a random request and run
again. Every fourth week is printed, then what grew in the second half of the last 26 weeks. In the end there is a
rollback to each version that is left. The exit code is 1 if something grows that need not grow, if an object of a
kept version, a poster, a kept page or a table is lost, or if a command or a rollback fails.

The clocks of all processes are moved (see `tests/moved_clock`), and the times of files with them.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType

from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.local.site.invented_titles import invented_titles
from infra.local.site.server import SmallSite, SmallSiteServer
from infra.registry import Registry, StoredVersion
from infra.settings import read_settings
from serving.bundle.model import MANIFEST, Manifest
from tasks.champion import version_name
from tasks.rollouts import read_rollouts
from tests.database_rows import database_rows
from tests.state_fuzzer import TITLES, World
from tests.state_runs import Conditions, Fault
from tests.up import ROOT

_WEEK_SECONDS = 7 * 86_400
_KEPT_WEEKS = 12  # the default of prune
_CHANGED_SHARE, _LIVE_SHARE, _KILLED_SHARE = 0.5, 0.5, 0.33
_LAST_REQUEST = 20  # of those of prune after which it is killed; with fewer requests it ends by itself
_PRINTED_WEEKS = 4
_GROWTH = 0.2  # of titles, and of what differs from week to week
_FEW = {"bytes": 30_000}  # that much may come in addition; of other units, three
_HALF_WEEKS = 13

NEVER_DELETED = ("posters", "pages", "tables")
APPENDED = (
    *NEVER_DELETED,
    *("parts-2.csv", "history.csv", "page-visits.json", "poster-visits.json", "ledger.sqlite", "posters.csv"),
    *("rollouts", "comparisons", "deployments", "model_versions", "pixels", "logs"),
)
"""What grows by design: with titles and pages, by a small file of pixels per run with new posters, and by a small
object or row per event. Logs rotate at 10 MB each."""
OF_VERSIONS = (
    *("versions", "bundles", "datasets", "answers", "trainings", "workspace reports", "tensorboard", "backups"),
    *("mlflow.db", "mlflow-artifacts", "MLflow"),
)
"""What belongs to versions. Those that were ever live are kept."""
OF_RUNS = ("prefect", "Prefect", "metrics")
"""What belongs to runs. Prefect's server deletes those of more than a year. MLflow has the figures that a model gets in
each weekly run."""


class Year:
    """The stack, its clock and its site."""

    def __init__(self, world: World, site: SmallSiteServer, clock: Path, random: Random) -> None:
        self.world, self.random = world, random
        self.faults: list[str] = []
        self.kills = 0
        self.week = 0
        self._site, self._clock = site, clock
        self._all_titles = invented_titles(600)
        self._titles = TITLES
        self._never_deleted: set[str] = set()
        self._first_weeks: dict[str, int] = {}  # by version

    def one_week(self) -> str:
        """Move the clock, run, prune, look, and return what was done."""
        self.week += 1
        self._forget_schedules()
        self._clock.write_text(str(self.week * _WEEK_SECONDS))
        is_changed = self.week == 1 or self.random.random() < _CHANGED_SHARE
        is_live = self.week == 1 or (is_changed and self.random.random() < _LIVE_SHARE)
        if is_changed:
            self._titles += 1
            self._site.site = SmallSite(self._all_titles[: self._titles], 0, self._site.base_url)
        options = ["--refresh"] * is_changed + ["--promote", "always"] * is_live
        outcome = self.world.run(options)
        self._date_files()
        if outcome.code or outcome.faults:
            self._fault(f"the run: {outcome.line()} {outcome.faults}")
        pruned = self._prune()
        self.world.check_up()
        self._look()
        return f"{outcome.words[:60]!r}, {pruned}"

    def _forget_schedules(self) -> None:
        """Keep the moved clock from starting runs of its own."""
        with self.world.prefect() as client:
            for deployment in client.read_deployments():
                client.pause_deployment(deployment.id)
            scheduled = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
            for run in client.read_flow_runs(flow_run_filter=scheduled):
                client.delete_flow_run(run.id)

    def _prune(self) -> str:
        said = ""
        if self.random.random() < _KILLED_SHARE:
            fault = Fault("^(POST|PATCH|DELETE) ", "stop", number=self.random.randint(1, _LAST_REQUEST))
            process = self._start(["prune"], [fault])
            if self.world.has_stopped(process):
                os.kill(process, signal.SIGKILL)
                self.kills += 1
                said = f"killed after {fault.number} requests, "
            self.world.runs.wait(process)
        code = self.world.runs.wait(self._start(["prune"]))
        printed = self._printed()
        if code:
            self._fault(f"prune: exit code {code}: {printed[-1000:]}")
        self._date_files()
        return said + printed.splitlines()[-1]

    def _start(self, command: Sequence[str], faults: Sequence[Fault] = ()) -> int:
        output = self.world.output / "command.txt"
        output.write_text("")
        conditions = Conditions(dict(os.environ), faults=faults)
        return self.world.runs.start([*command, "--workspace", str(self.world.workspace)], output, conditions)

    def _printed(self) -> str:
        return (self.world.output / "command.txt").read_text()

    def _date_files(self) -> None:
        """Give files that were written since the last call the time of the moved clock."""
        now = time.time()
        for path in [self.world.workspace, *self.world.workspace.rglob("*")]:
            try:
                written = path.lstat().st_mtime
                if written < now + _WEEK_SECONDS / 2:
                    moved = written + self.week * _WEEK_SECONDS
                    os.utime(path, (moved, moved), follow_symlinks=False)
            except FileNotFoundError:  # a service has deleted it
                continue

    def _look(self) -> None:
        """Look for what is lost."""
        keys = set(self.world.store.whole_bucket().keys(""))
        never = {key for key in keys if _prefix(key) in NEVER_DELETED}
        if lost := self._never_deleted - never:
            self._fault(f"lost: {sorted(lost)[:3]}")
        self._never_deleted |= never
        live = {name for each in read_rollouts(self.world.store) for name in (each.before, each.after)}
        for version in self.versions():
            first = self._first_weeks.setdefault(version.version, self.week)
            name = version_name(version.version, version.bundle_sha256)
            if self.week - first > _KEPT_WEEKS and name not in live:
                self._fault(f"{name} was never live and is {self.week - first} weeks old")
            for key in self._of_version(version):
                if key not in keys:
                    self._fault(f"version {version.version} has lost {key}")
        for disagreement in self.world.disagreements():
            self._fault(disagreement)

    def versions(self) -> list[StoredVersion]:
        """The versions that are registered."""
        return sorted(Registry(read_settings()).all_versions(), key=lambda each: int(each.version))

    def _of_version(self, version: StoredVersion) -> Iterator[str]:
        """The objects that a version needs. One that was never live has its bundle in MLflow alone."""
        folder, store = f"bundles/{version.bundle_sha256}", self.world.store
        if "bundle_uri" not in version.tags:
            return
        yield f"{folder}/{MANIFEST}"
        if manifest := store.read_parsed(f"{folder}/{MANIFEST}", Manifest.parse):
            yield from (f"{folder}/{name}" for name in manifest.files)
            yield f"datasets/{manifest.dataset_key}/{MANIFEST}"

    def serve(self, version: StoredVersion) -> None:
        """Roll back to a version, or promote it if the last revisions do not serve it, and ask the function."""
        settings = read_settings()
        cloud_run = CloudRun(settings)
        served = [each.bundle_sha256 for each in cloud_run.revisions()]
        command = ["rollback", "--to"] if version.bundle_sha256 in served else ["promote"]
        code = self.world.runs.wait(self._start([*command, version.version]))
        poster = next(iter(self.world.store.keys("posters/")))
        answered = request_prediction(str(cloud_run.url()), poster)["model"]["sha256"]
        print(f"{' '.join(command)} {version.version}: {self._printed().splitlines()[-1][:100]}", flush=True)
        if code or answered != version.bundle_sha256:
            self._fault(f"exit code {code}, the function answers with {answered}: {self._printed()[-500:]}")

    def _fault(self, sentence: str) -> None:
        self.faults.append(f"week {self.week}: {sentence}")
        print(f"FAULT {self.faults[-1]}", flush=True)

    def sizes(self) -> dict[str, int]:
        """What is measured: bytes and files of the workspace, objects and bytes of the bucket, rows, revisions."""
        found: Counter[str] = Counter()
        workspace, settings = self.world.workspace, read_settings()
        for path in workspace.rglob("*"):
            name = path.relative_to(workspace).parts[0]
            if path.is_file() and name != "bucket":
                found[f"workspace {name} bytes"] += path.stat().st_size
                found[f"workspace {name} files"] += 1
        for key, listed in self.world.store.whole_bucket().listing("").items():
            found[f"bucket {_prefix(key)} bytes"] += listed.size_bytes
            found[f"bucket {_prefix(key)} objects"] += 1
        for (service, table), rows in database_rows(workspace).items():
            found[f"{service} {table} rows"] = rows
        found["cloud-run revisions number"] = len(CloudRun(settings).revisions())
        found["MLflow versions number"] = len(self.versions())
        return dict(found)


def _prefix(key: str) -> str:
    return key.partition("/")[0]


@contextmanager
def _site() -> Iterator[SmallSiteServer]:
    with SmallSiteServer(TITLES) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


def unbounded(sizes: Sequence[Mapping[str, int]]) -> list[str]:
    """Print what each thing has grown by in the last 26 weeks, and return what grows without need.

    What belongs to versions or runs may have as much per version or run as in the first weeks, when nothing was old
    enough to be deleted. What grows by design is only printed. All else may not have grown.
    """
    found, weeks = [], len(sizes)
    before, after = sizes[-2 * _HALF_WEEKS : -_HALF_WEEKS], sizes[-_HALF_WEEKS:]
    print(f"{'what':45} {'26 weeks ago':>14} {'now':>14}")
    for name in sorted(set().union(*sizes)):
        where, what, unit = name.split(" ")
        names = {where, what, f"{where} {what}"}
        then, now = before[0].get(name, 0), sizes[-1].get(name, 0)
        is_few = now <= 1.1 * then + _FEW.get(unit, 3)
        if names & {*APPENDED}:
            allowed = float("inf")
        elif names & {*OF_RUNS}:
            allowed = max(each.get(name, 0) / week for week, each in enumerate(sizes[:_KEPT_WEEKS], 1)) * weeks
        elif names & {*OF_VERSIONS}:
            number = "MLflow versions number"
            allowed = max(each.get(name, 0) / each[number] for each in sizes[:_KEPT_WEEKS]) * sizes[-1][number]
        else:
            allowed = sum(each.get(name, 0) for each in before) / _HALF_WEEKS
            now = round(sum(each.get(name, 0) for each in after) / _HALF_WEEKS)
        is_unbounded = now > (1 + _GROWTH) * allowed + _FEW.get(unit, 3)
        if is_unbounded:
            found.append(f"{name}: {now}, allowed are {allowed:.0f}")
        if is_unbounded or not is_few:
            print(f"{name:45} {then:14,} {now:14,} {'by design' if not is_unbounded else 'UNBOUNDED'}")
    return found


def _row(week: int, sizes: Mapping[str, int]) -> str:
    def total(where: str, unit: str) -> int:
        return sum(size for name, size in sizes.items() if name.startswith(where) and name.endswith(unit))

    of_prefect = sizes["workspace prefect bytes"]
    return (
        f"| {week} | {sizes['MLflow versions number']} | {sizes['cloud-run revisions number']} "
        f"| {(total('workspace', 'bytes') - of_prefect) / 1e6:.0f} | {of_prefect / 1e6:.0f} "
        f"| {total('bucket', 'objects')} | {total('bucket', 'bytes') / 1e6:.0f} "
        f"| {total('MLflow', 'rows')} | {total('Prefect', 'rows')} |"
    )


def main() -> int:
    """Simulate the year and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weeks", type=int, default=52, help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    parser.add_argument("--output", type=Path, help="file for the sizes of each week, as JSON")
    args = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="year-") as folder, _site() as site:
        clock = Path(folder) / "clock.txt"
        clock.write_text("0")
        environment = {"PYTHONPATH": f"{ROOT / 'tests' / 'moved_clock'}:{ROOT}", "MOVED_CLOCK": str(clock)}
        with World(Path(folder), site.base_url, environment) as world:
            year = Year(world, site, clock, Random(args.seed))
            sizes: list[dict[str, int]] = []
            for _ in range(args.weeks):
                began = time.monotonic()
                did = year.one_week()
                sizes.append(year.sizes())
                print(f"week {year.week}, {time.monotonic() - began:.0f} s: {did}", flush=True)
                if args.output:
                    args.output.write_text(json.dumps(sizes))
            versions = year.versions()
            for version in versions:
                year.serve(version)
    print("| week | versions | revisions | MB | Prefect MB | objects | bucket MB | MLflow rows | Prefect rows |")
    for week in sorted({*range(_PRINTED_WEEKS, len(sizes) + 1, _PRINTED_WEEKS), len(sizes)}):
        print(_row(week, sizes[week - 1]))
    year.faults += unbounded(sizes) if len(sizes) >= 2 * _HALF_WEEKS else []
    print(f"{len(versions)} rollbacks, {year.kills} kills of prune, {time.monotonic() - started:.0f} s.")
    return 1 if year.faults else 0


if __name__ == "__main__":
    sys.exit(main())
