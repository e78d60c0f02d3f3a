"""Step 4 on another machine: a deployment of the flow `train-step` trains, and the bucket has the result.

The step starts a run of the deployment and follows it: its log, which has its progress, is repeated here. A training
that is stored already needs no worker. One that runs already, because an earlier run was killed, is followed.
"""

import logging
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    LogFilterTimestamp,
)
from prefect.client.schemas.objects import FlowRun, Log, State, StateType, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.states import Cancelling, Crashed

from infra.errors import ConfigurationError, RunFailed, WorkerLost, failure
from infra.store import Store
from ml.configuration import LOCAL_FOLDER, TrainConfig
from ml.networks.hub import CARD, CONFIG, WEIGHTS
from ml.networks.weights import is_file
from serving.bundle.files import sha256_of, sha256_of_file
from tasks.crawl.traffic import duration
from tasks.records import DatasetRecord, TrainingRecord
from tasks.step import prefect_errors, step
from tasks.train import Training, reused_training, show_networks
from tasks.versions import training_versions

logger = logging.getLogger("tasks")

SILENT_SECONDS = 120.0  # a run logs a line every eight seconds
WORKER_SECONDS = 30.0  # a worker asks for runs every 10 seconds
WAIT_SECONDS = 3600.0  # how long a run waits for a worker
_POLL_SECONDS = 2.0
_OVERLAP = timedelta(seconds=10)  # lines of one run may arrive in another order
_REPEATED = re.compile(r"(flows|tasks|ml|infra|prefect\.task_runs)\b")  # loggers; the others say nothing about a run
_ACTIVE = [StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING]


def check_deployment(name: str) -> None:
    """Check that a deployment exists. `name` has its flow's name, such as `train-step/gpu`.

    Raises:
        ConfigurationError: there is none.
        ServiceUnavailable: Prefect does not answer (retryable).
    """
    with _prefect_errors(), get_client(sync_client=True) as client:
        _find(client, name)


@step("train")
def train_elsewhere(dataset: DatasetRecord, config: TrainConfig, deployment: str) -> TrainingRecord:
    """Train as `tasks.train.train` does, by a run of `deployment`, and wait for it.

    If this run is cancelled, so is that one. It keeps its checkpoints in the bucket, and the next run resumes it.

    Raises:
        WorkerLost: the run crashed, or logged nothing for two minutes (retryable: a retry resumes it).
        RunFailed: the run failed or was cancelled, or no worker took it for an hour.
        ConfigurationError: the deployment is unknown or not of this version, or the machine uses another bucket.
        WeightsError: the weights cannot be read or do not fit the backbone.
        ServiceUnavailable: Prefect, the store or MLflow is not reachable (retryable).
    """
    training = Training.of(dataset, config)
    if stored := training.stored():
        return reused_training(stored)
    parameters: dict[str, object] = {
        "dataset": dataset.model_dump(mode="json"),
        "config": asdict(_sent(config, training)),
        "bucket": training.store.name,
        "versions": training_versions(),
    }
    with _prefect_errors():
        run = _start(deployment, parameters, dataset.collection, f"training {training.key[:12]}")
        try:
            state = _Following(run, deployment).until_end()
            if state.type != StateType.COMPLETED:
                raise _failed(state, deployment)
        except WorkerLost:
            training.registry.end_active_runs(lambda id_: id_ == str(run.id))
            raise
        except BaseException as error:
            if not isinstance(error, Exception):  # this run is cancelled, or its process is stopped
                with suppress(Exception), get_client(sync_client=True) as client:
                    _cancel(client, run.id)
            raise
    record = training.stored()
    if record is None:
        raise ConfigurationError(
            f"{deployment} has trained, but the bucket {training.store.name} or MLflow has no result. Set the "
            "addresses of the same bucket and MLflow where its worker runs."
        )
    show_networks(record)
    return record


def _sent(config: TrainConfig, training: Training) -> TrainConfig:
    """The configuration for another machine. Weights and a backbone in files of this machine are uploaded, by hash."""
    weights, description = training.backbone.weights, training.backbone.config_file
    if description and config.backbone.startswith(LOCAL_FOLDER):
        folder = description.parent.resolve()
        files = [file for name in (CONFIG, WEIGHTS, CARD) if (file := folder / name).is_file()]
        content = sha256_of("".join(map(sha256_of_file, files)).encode())
        uploaded = _upload(training.store, f"weights/{content}/{folder.name}", {file.name: file for file in files})
        config = replace(config, backbone=f"{LOCAL_FOLDER}{uploaded}")
    if weights and is_file(config.weights):
        file = Path(config.weights)
        name = f"{weights.file.sha256}{file.suffix}"
        config = replace(config, weights=f"{_upload(training.store, 'weights', {name: file})}/{name}")
    return config


def _upload(store: Store, folder: str, files: Mapping[str, Path]) -> str:
    """Upload the files, by name, that a folder of the bucket lacks, and return its address."""
    for name, file in files.items():
        if not store.exists(f"{folder}/{name}"):
            logger.info("Uploading %s.", file)
            store.upload({f"{folder}/{name}": file})
    return store.uri(folder)


def _start(name: str, parameters: dict[str, object], collection: str, training: str) -> FlowRun:
    """Start a run of the deployment, or find the one that trains this already.

    Its other runs for the same bucket and collection are cancelled. Nobody waits for them, because this run has the
    bucket's lease: they train for a run that was killed, or wait for a worker with the versions of an earlier one.
    """
    found = None
    with get_client(sync_client=True) as client:
        deployment = _find(client, name)
        active = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                tags=FlowRunFilterTags(all_=[collection]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_ACTIVE)),
            ),
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
        )
        for each in active:
            if each.parameters.get("bucket") != parameters["bucket"]:
                continue
            has_begun = each.state_type == StateType.RUNNING
            if training in each.tags and (has_begun or each.parameters.get("versions") == parameters["versions"]):
                found = each
            else:
                logger.info("%s has an earlier run, '%s', which is cancelled.", name, each.name)
                _cancel(client, each.id)
    if found:
        logger.info("%s trains this already, in its run '%s', which is followed.", name, found.name)
        return found
    try:
        tags, run_name = [collection, training], f"train for {flow_run.name}"
        run = run_deployment(name, parameters=parameters, timeout=0, tags=tags, flow_run_name=run_name)
    except PrefectHTTPStatusError as error:
        if error.response.is_server_error:
            raise
        raise failure(
            ConfigurationError,
            f"{name} does not accept this training",
            error.response.text,
            "It may be of another version: register it again with anime-genre train-worker.",
        ) from error
    assert isinstance(run, FlowRun)  # Prefect returns a coroutine only inside an event loop
    logger.info("Training on %s, in its run '%s'.", name, run.name)
    return run


class _Following:
    """Follows a run until it ends, and repeats its log."""

    def __init__(self, run: FlowRun, deployment: str) -> None:
        self._run, self._deployment = run, deployment
        self._seen: set[UUID] = set()
        self._since: datetime | None = None  # the time of the last new line
        self._last = ""
        self._said = ""

    def until_end(self) -> State[object]:
        """The final state. Raises WorkerLost or RunFailed if the run has no worker, and ends it then."""
        state_type = self._run.state_type
        began = heard = time.monotonic()
        with get_client(sync_client=True) as client:
            while True:
                asked = time.monotonic()
                run = client.read_flow_run(self._run.id)
                heard += time.monotonic() - asked  # while Prefect does not answer, nothing can be heard
                state = run.state
                assert state is not None
                is_silent = time.monotonic() - heard > SILENT_SECONDS
                # The whole log, before the worker counts as lost: its clock may have been set back.
                if (
                    self._repeat_log(client)
                    or state.type != state_type
                    or (is_silent and self._repeat_log(client, whole=True))
                ):
                    heard = time.monotonic()
                if state.is_final():
                    time.sleep(_POLL_SECONDS)  # the last lines arrive after the state
                    self._repeat_log(client)
                    return state
                if state.type != state_type:
                    state_type = state.type
                    logger.info("The run on %s is %s.", self._deployment, state_type.value.lower())
                silent = time.monotonic() - heard
                if state.type in (StateType.SCHEDULED, StateType.PENDING):
                    self._check_worker(client, run, time.monotonic() - began, silent)
                elif silent > SILENT_SECONDS:
                    raise self._lost(client, f"it has logged nothing for {silent:.0f} s")
                time.sleep(_POLL_SECONDS)

    def _check_worker(self, client: SyncPrefectClient, run: FlowRun, waited: float, silent: float) -> None:
        """Say why no worker takes the run. End it after an hour, or if the worker that took it is gone."""
        if waited < WORKER_SECONDS:
            return
        pool = run.work_pool_name
        has_worker = pool is not None and _has_worker(client, pool)
        if run.state_type == StateType.PENDING and not has_worker and silent > SILENT_SECONDS:
            raise self._lost(client, "its worker ended before it began")
        if has_worker:
            why = f"All workers of the pool '{pool}' are busy, or the pool is paused."
        elif pool:
            why = f"The pool '{pool}' has no worker: start one with `prefect worker start --pool {pool}`."
        else:
            why = f"Nothing serves {self._deployment}. Start what serves it."
        if waited > WAIT_SECONDS:
            _cancel(client, run.id)
            raise RunFailed(f"No worker has taken the training for {duration(waited)}. {why}")
        if run.state_type == StateType.SCHEDULED and self._said != why:
            self._said = why
            logger.warning("The training waits for a worker, for at most %s. %s", duration(WAIT_SECONDS), why)

    def _lost(self, client: SyncPrefectClient, why: str) -> WorkerLost:
        """End the run, so that it does not seem to be running, and return the error."""
        client.set_flow_run_state(self._run.id, Crashed(message=f"The worker seems to be gone: {why}."), force=True)
        return WorkerLost(
            f"The worker of {self._deployment} is lost: {why}. A retry resumes from the last checkpoint in the bucket."
        )

    def _repeat_log(self, client: SyncPrefectClient, whole: bool = False) -> bool:
        """Log the run's new lines, and return whether there are any.

        They are looked for after the last new line, or in the whole log.
        """
        since = None if whole else self._since
        wanted = LogFilter(
            flow_run_id=LogFilterFlowRunId(any_=[self._run.id]),
            timestamp=LogFilterTimestamp(after_=since - _OVERLAP) if since else None,
        )
        found: list[Log] = []
        while page := client.read_logs(wanted, offset=len(found)):
            found += page
        new = [each for each in found if each.id not in self._seen]
        self._seen.update(each.id for each in new)
        if new:
            self._since = new[-1].timestamp
        for line in new:
            # A step repeats its last line while it is silent. So does this one.
            if re.fullmatch(rf"{re.escape(self._last)} \(\d+ s\)", line.message):
                continue
            if _REPEATED.match(line.name):
                self._last = line.message.partition("\n")[0]
                logger.log(line.level, "%s", line.message)
        return bool(new)


def _has_worker(client: SyncPrefectClient, pool: str) -> bool:
    try:
        return any(each.status == WorkerStatus.ONLINE for each in client.read_workers_for_work_pool(pool))
    except ObjectNotFound:
        return False


def _find(client: SyncPrefectClient, name: str) -> DeploymentResponse:
    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        raise ConfigurationError(
            f"Prefect has no deployment {name} to train on. Register it where it is to train, with `anime-genre "
            "train-worker`, or see `prefect deployment ls`."
        ) from None


def _cancel(client: SyncPrefectClient, run_id: UUID) -> None:
    client.set_flow_run_state(run_id, Cancelling(message="The run that it trains for has ended."))


def _failed(state: State[object], deployment: str) -> WorkerLost | RunFailed:
    message = state.message or "it gives no reason"
    if state.type == StateType.CRASHED:
        return failure(WorkerLost, f"The training on {deployment} crashed", message, "A retry resumes it.")
    if state.type == StateType.CANCELLED:
        return RunFailed(f"The training on {deployment} was cancelled. The next run resumes it.")
    return failure(RunFailed, f"The training on {deployment} failed", message)


@contextmanager
def _prefect_errors() -> Iterator[None]:
    """Raise ServiceUnavailable if Prefect does not answer: a retry follows the same run."""
    try:
        with prefect_errors():
            yield
    except ObjectNotFound as error:
        raise failure(RunFailed, "The training's run or deployment was deleted in Prefect", error) from error
