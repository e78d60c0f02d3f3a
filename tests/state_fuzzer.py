"""A stack on the built-in site in which something goes wrong again and again (see `state_acts`).

    with World(folder) as world:
        for number in range(acts):
            print(one_round(world, ACTS, seed, number).lines())

After each act, or several, there is a run. It has to end right, or with one sentence. What only a person can undo is
undone, and the following run has to end right. After it nothing may be left behind, and traffic, registry, history and
function have to agree. Unless the acts say otherwise, a client that asks the function 20 times per second gets only
predictions meanwhile, and what a run has trained is not trained again.
"""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Literal
from unittest.mock import patch

import psutil
from mlflow.tracking import MlflowClient
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.errors import BusyError
from infra.files import workspace_lock
from infra.local.site.invented_titles import SEASONS
from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from serving.bundle.errors import AnimeGenreError
from tasks.rollouts import name_of, read_rollouts
from tests.small_site import small_site
from tests.state_runs import Conditions, Runs
from tests.steady_client import SteadyClient

TITLES = 60
_SMALL = "--image-size 32 --min-posters 5 --min-posters-per-part 1 --candidates scratch --trials 1 --epochs 1"
_SMALL += " --backbone squeezenet1_1 --weights none"
_ANY_PORTS = [
    part for name in ("prefect", "mlflow", "tensorboard", "function", "page") for part in (f"--{name}-port", "0")
]
# Steps and clients read these when they are imported. They make a failure short.
_ENVIRONMENT = {
    "ANIME_GENRE_RETRY_DELAY_SECONDS": "[1]",
    "ANIME_GENRE_SERVICE_TIMEOUT_SECONDS": "3",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
}
_UP_SECONDS, _SETTLING_SECONDS = 300, 30
_LONGEST_SENTENCE = 300
_LONGEST_DELAY_SECONDS = 10


@dataclass(frozen=True)
class Did:
    """What an act did.

    Attributes:
        what: one line for the log.
        undo: what a person does before the following run; None if the runs have to mend it.
        conditions, options: what is different in the first run, and further options of its command.
        at_stop: what happens when the first run has stopped itself (see `Fault`). If it does not end, it continues.
        repeats: whether the following run has the options and the folder of the function as well.
        another_run: the process of a run in another workspace. It ends before the following run starts.
    """

    what: str
    undo: Callable[[], None] | None = None
    conditions: Conditions = field(default_factory=Conditions)
    options: Sequence[str] = ()
    at_stop: Callable[[], str | None] | None = None
    repeats: bool = False
    another_run: int | None = None


@dataclass(frozen=True)
class Act:
    """Something that goes wrong. `do` does it, and returns None if there is nothing to do it to.

    Attributes:
        moment: "before" a run, "during" one, or "any".
        stops_function: whether the function may be unreachable meanwhile.
        loses_results: whether something may be trained again that was trained before.
    """

    name: str
    do: Callable[["World", Random], Did | None]
    moment: Literal["any", "before", "during"] = "any"
    stops_function: bool = False
    loses_results: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a run ended, with its last words."""

    code: int
    words: str
    seconds: float
    faults: list[str]

    def line(self) -> str:
        """The outcome in one line."""
        return f"{'ended right' if self.code == 0 else f'exit code {self.code}'} in {self.seconds:.0f} s: {self.words}"


@dataclass(frozen=True)
class Result:
    """One round: acts, two runs, and what is wrong afterwards."""

    number: int
    acts: list[str]
    did: str
    runs: list[Outcome]
    faults: list[str]

    def lines(self) -> str:
        """The result for the log."""
        head = f"round {self.number} ({', '.join(self.acts)}): {self.did}"
        return "\n  ".join([head, *(run.line() for run in self.runs), *(f"FAULT {fault}" for fault in self.faults)])


class World:
    """The stack `anime-genre up` in a workspace, on the built-in site or another one, and the runs in it."""

    def __init__(self, folder: Path, site_url: str = "", environment: Mapping[str, str] | None = None) -> None:
        self.workspace = folder / "workspace"
        self.site_url = site_url
        self._environment = {**_ENVIRONMENT, **(environment or {})}
        self.output = folder / "output"
        self.run_process = 0
        self._up = 0
        self._stack = ExitStack()

    def __enter__(self) -> "World":
        self.output.mkdir(parents=True)
        try:
            self.site_url = self.site_url or self._stack.enter_context(small_site(titles=TITLES))
            self._stack.enter_context(patch.dict(os.environ, self._environment))
            self.runs = Runs(self._environment)
            self._stack.callback(self.runs.close)
            self._stack.callback(self.stop)
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- the stack

    def start(self) -> None:
        """Start `anime-genre up`, and let this process use its services."""
        output = self.output / "up.txt"
        output.write_text("")
        command = ["up", "--workspace", str(self.workspace), "--site-url", self.site_url, *_ANY_PORTS]
        self._up = self.runs.start(command, output, Conditions())
        deadline = time.monotonic() + _UP_SECONDS
        while "Press Ctrl-C" not in output.read_text():
            if not self.runs.is_running(self._up) or time.monotonic() > deadline:
                raise AssertionError(f"the stack does not start: {output.read_text()}")
            time.sleep(0.2)
        os.environ.update(json.loads((self.workspace / "stack.json").read_text()))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End the stack with a signal, unless it has ended, and wait for its end."""
        if self.runs.is_running(self._up):
            os.kill(self._up, number)
            self.runs.wait(self._up)

    def restart(self) -> None:
        """What a person does after the stack has ended."""
        self.stop()
        self.start()

    def check_up(self) -> None:
        """Raise AssertionError, with the last words of the stack, if it has ended."""
        if not self.runs.is_running(self._up):
            raise AssertionError(f"the stack has ended: {(self.output / 'up.txt').read_text()[-2000:]}")

    def processes(self, *words: str) -> list[psutil.Process]:
        """The processes of the stack whose commands have these words, without `up` itself."""
        found = []
        for process in psutil.Process(self._up).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # one that has ended is known until its parent asks for it
                if set(words) <= set(process.cmdline()):
                    found.append(process)
        return found

    @property
    def store(self) -> Store:
        """The bucket."""
        return Store(read_settings())

    @property
    def mlflow(self) -> MlflowClient:
        """MLflow's own client."""
        return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])

    @contextmanager
    def prefect(self) -> Iterator[SyncPrefectClient]:
        """Prefect's own client."""
        settings = {PREFECT_API_URL: os.environ["PREFECT_API_URL"]}
        with temporary_settings(settings), get_client(sync_client=True) as client:
            yield client

    # --- runs

    def start_run(self, options: Sequence[str], *done: Did) -> int:
        """Start `anime-genre retrain`, as acts have changed it, and return its process id."""
        # Without a stack, which an act may have ended, the run starts its own.
        stack = self.workspace / "stack.json"
        conditions = Conditions(json.loads(stack.read_text()) if stack.exists() else {})
        for did in done:
            conditions |= did.conditions
        options = [*options, *(each for did in done for each in did.options)]
        return self._start(self.workspace, options, "run.txt", conditions)

    def start_another_run(self, workspace: Path, options: Sequence[str]) -> int:
        """Start `anime-genre retrain` in another workspace on the same services, and return its process id."""
        return self._start(workspace, options, "another-run.txt", Conditions(dict(os.environ)))

    def _start(self, workspace: Path, options: Sequence[str], output: str, conditions: Conditions) -> int:
        (self.output / output).write_text("")
        command = ["retrain", "--workspace", str(workspace), "--site-url", self.site_url, *_SMALL.split()]
        command += ["--seasons", f"{SEASONS[0]}..{SEASONS[-1]}", *options]
        return self.runs.start(command, self.output / output, conditions)

    def has_stopped(self, process: int) -> bool:
        """Wait until a run has ended or stopped itself, and return whether it has stopped."""
        while True:
            try:
                status = psutil.Process(process).status()
            except psutil.NoSuchProcess:
                return False
            if status in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                return bool(status == psutil.STATUS_STOPPED)
            time.sleep(0.05)

    def end_run(self, process: int, started: float, is_killed: bool = False) -> Outcome:
        """Wait for a run and look at what it printed."""
        outcome = self._end(process, started, "run.txt", is_killed)
        if outcome.code == 0:
            said = json.loads((self.workspace / "summary.json").read_text())["message"]
            return replace(outcome, words=said)
        return outcome

    def end_another_run(self, process: int) -> Outcome:
        """Wait for the run in another workspace and look at what it printed."""
        return self._end(process, time.monotonic(), "another-run.txt")

    def _end(self, process: int, started: float, output: str, is_killed: bool = False) -> Outcome:
        code = self.runs.wait(process)
        printed = (self.output / output).read_text()
        said = [line.removeprefix("anime-genre: ") for line in printed.splitlines() if line.startswith("anime-genre: ")]
        faults = ["a traceback is shown"] if "Traceback (most recent call last)" in printed else []
        if code and not is_killed and code != -signal.SIGKILL and len(said) != 1:
            faults.append(f"there are {len(said)} sentences instead of one: {printed[-500:]}")
        faults += [
            f"the sentence is long: {len(each)} characters" for each in said if code and len(each) > _LONGEST_SENTENCE
        ]
        return Outcome(code, " / ".join(said), time.monotonic() - started, faults)

    def run(self, options: Sequence[str] = (), *done: Did) -> Outcome:
        """Run `anime-genre retrain`."""
        started = time.monotonic()
        return self.end_run(self.start_run(options, *done), started)

    # --- what has to hold

    @contextmanager
    def client(self) -> Iterator[SteadyClient | None]:
        """A client of the live function during the block; None if nothing is live."""
        settings = read_settings()
        live = CloudRun(settings).live()
        with SteadyClient(str(live.url)).asking() if live else nullcontext() as client:
            yield client

    def trainings(self) -> dict[str, str]:
        """The run in MLflow of each training that is complete, by the key of its record."""
        store = self.store
        return {key: json.loads(store.read(key))["run_id"] for key in store.keys("trainings/")}

    def disagreements(self) -> list[str]:
        """What does not hold after a run. What takes a moment, such as the end of a process, is waited for."""
        deadline = time.monotonic() + _SETTLING_SECONDS
        while (found := [*self._live_model(), *self._left_behind()]) and time.monotonic() < deadline:
            time.sleep(0.5)
        return found

    def _live_model(self) -> Iterator[str]:
        settings = read_settings()
        cloud_run = CloudRun(settings)
        traffic, champion = cloud_run.traffic(), Registry(settings).champion()
        if traffic is None or champion is None:
            yield f"the traffic is {traffic}, the champion is {champion}"
            return
        live = traffic.revision
        sha256, alias = live.bundle_sha256, champion.tags.get("bundle_sha256")
        if alias != sha256:
            yield f"the traffic goes to bundle {sha256}, the alias to {alias}"
        rollouts = read_rollouts(self.store)
        if not rollouts or rollouts[-1].after != name_of(live):
            yield f"{name_of(live)} is live, the history ends with {rollouts[-1:]}"
        befores = (each.before for each in reversed(rollouts) if each.after == name_of(live))
        before = next((each for each in befores if each not in (None, name_of(live))), None)
        previous = Registry(settings).previous()
        named = previous.tags.get("bundle_sha256", "")[:8] if previous else None
        bundles = self._registered_bundles()
        several = {each for each in bundles if bundles.count(each) > 1}
        yield from (f"several versions have the bundle {each}" for each in several)
        if before and any(f"({each})" in before for each in bundles) and f"({named})" not in before:
            yield f"{before} was live before, the alias previous names the bundle {named}"
        poster = next(iter(self.store.keys("posters/")))
        try:
            model = request_prediction(str(live.url), poster)["model"]
        except AnimeGenreError as error:
            yield f"the function does not respond: {error}"
            return
        # Another tool may have split the traffic.
        others = [each.bundle_sha256 for each in cloud_run.revisions()]
        if model["sha256"] not in (others if traffic.moved else [sha256]):
            yield f"the traffic goes to bundle {sha256}, the function responds with {model['sha256']}"

    def _registered_bundles(self) -> list[str]:
        """The beginning of the bundle's sha256 of each version that has one."""
        versions = self.mlflow.search_model_versions(f"name = '{read_settings().model_name}'")
        return [each.tags["bundle_sha256"][:8] for each in versions if "bundle_sha256" in each.tags]

    def _left_behind(self) -> Iterator[str]:
        client = self.mlflow
        experiments = [each.experiment_id for each in client.search_experiments()]
        running = client.search_runs(experiments, "attributes.status = 'RUNNING'")
        yield from (f"the MLflow run {each.info.run_name} is RUNNING" for each in running)
        types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        active = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
        with self.prefect() as prefect:
            yield from (
                f"the run {run.name} is {run.state_name}" for run in prefect.read_flow_runs(flow_run_filter=active)
            )
            limits = prefect.read_global_concurrency_limits()
            yield from (
                f"{limit.active_slots} slots of {limit.name} are taken" for limit in limits if limit.active_slots
            )
        try:
            with workspace_lock(self.workspace):
                pass
        except BusyError:
            yield "the workspace is locked"
        inside = {self._up, *(each.pid for each in self.processes())}
        yield from (f"a process is left: {name}" for pid, name in self._own_processes() if pid not in inside)
        yield from (f"{path} is left" for path in self.workspace.rglob(".*.part"))

    def _own_processes(self) -> Iterator[tuple[int, str]]:
        """All processes that use the workspace."""
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
                if str(self.workspace) in command or str(self.workspace) in process.environ().values():
                    yield process.pid, command[:120]
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue


def one_round(world: World, acts: Sequence[Act], seed: int, number: int, at_once: int = 1) -> Result:
    """Choose acts, their moment and the run's options at random, and return what came of them."""
    random = Random(f"{seed}/{number}")
    chosen = random.sample(acts, at_once)
    is_during = all(act.moment != "before" for act in chosen) and (
        any(act.moment == "during" for act in chosen) or random.random() < 0.3
    )
    # Half of the runs have nothing new to do. The others train another network, and some put it live without a gate.
    options = random.choice([[], [], ["--seed", str(number)], ["--seed", str(number), "--promote", "always"]])
    return act_and_run(world, chosen, random, options, number, is_during)


def act_and_run(
    world: World,
    acts: Sequence[Act],
    random: Random,
    options: Sequence[str] = (),
    number: int = 0,
    is_during: bool = False,
) -> Result:
    """Do acts, before a run or during one, run again, and check what has to hold."""
    asks = not any(act.stops_function for act in acts)
    with world.client() if asks else nullcontext() as client:
        result = _act_and_run(world, acts, random, options, number, is_during)
    if client and client.failed:
        asked = len(client.responses) + len(client.failed)
        result.faults.append(f"{len(client.failed)} of {asked} requests of the client failed: {client.failed[:3]}")
    return result


def _act_and_run(
    world: World, acts: Sequence[Act], random: Random, options: Sequence[str], number: int, is_during: bool
) -> Result:
    started, process = time.monotonic(), None
    if is_during:
        process = world.run_process = world.start_run(options)
        time.sleep(random.uniform(0, _LONGEST_DELAY_SECONDS))
    done = [_do(act, world, random) for act in acts if is_during or act.moment != "during"]
    if process is None:
        process = world.run_process = world.start_run(options, *done)
    what = ["during a run"] * is_during + [did.what for did in done]
    for at_stop in [did.at_stop for did in done if did.at_stop]:
        if world.has_stopped(process):
            what.append(at_stop() or "")
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)
        else:
            what.append("it did not stop")
    is_killed = is_during and any(act.moment == "during" for act in acts)
    first = world.end_run(process, started, is_killed)
    faults = [*first.faults]
    for another in [did.another_run for did in done if did.another_run]:
        outcome = world.end_another_run(another)
        what.append(f"the other run {outcome.line()}")
        faults += outcome.faults
    if first.code == 0 and not is_during and not any(did.at_stop or did.undo for did in done):
        faults += world.disagreements()
    for did in done:
        if did.undo:
            did.undo()
    trained = world.trainings() if not any(act.loses_results for act in acts) else {}
    second = world.run(
        options,
        *(
            Did(did.what, conditions=Conditions(serving=did.conditions.serving), options=did.options)
            for did in done
            if did.repeats
        ),
    )
    faults += second.faults
    if second.code:
        faults.append("the following run does not end right")
    trained_then = world.trainings() if trained else {}
    if again := [key for key, run_id in trained.items() if trained_then.get(key) != run_id]:
        faults.append(f"trained again: {', '.join(again)}")
    faults += world.disagreements()
    return Result(number, [act.name for act in acts], "; ".join(filter(None, what)), [first, second], faults)


def _do(act: Act, world: World, random: Random) -> Did:
    try:
        return act.do(world, random) or Did("nothing to do")
    except Exception as error:  # another act has stopped what this one needs, or a service is starting
        return Did(f"{act.name} is not possible: {str(error)[:100]}")
