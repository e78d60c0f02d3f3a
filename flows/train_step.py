"""The flow `train-step`: the training of a run on another machine, and the command `train-worker` that offers one.

The machine needs this package, and the addresses of Prefect, MLflow and the bucket in its environment. The flow holds
neither the lock of a workspace nor the lease of the bucket: it works under those of the run that starts it.
"""

import contextvars
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.objects import State
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

from flows.retrain import configure_logging
from infra.disk import check_space
from infra.errors import ConfigurationError
from infra.local.stack import LOGGED_PACKAGES
from infra.settings import Settings, check_google, environment_variable, read_settings
from ml.configuration import TrainConfig
from serving.bundle.errors import AnimeGenreError
from serving.bundle.redaction import redact_logs
from tasks.records import DatasetRecord, TrainingRecord
from tasks.step import no_silence
from tasks.versions import check_versions

_PROCESS = "process"
_WATCH_SECONDS = 20.0


@flow(name="train-step", persist_result=False)
def train_step(
    dataset: DatasetRecord, config: TrainConfig, bucket: str, versions: dict[str, str]
) -> State[TrainingRecord]:
    """Train for a run on another machine. `retrain` starts this, with `train_on`; it is of no use alone.

    Args:
        dataset: What is trained on. It is in the bucket.
        config: How networks are trained.
        bucket: The bucket of the run that waits.
        versions: The versions of that run's code and packages.
    """
    redact_logs()
    configure_logging()
    try:
        # Lines in the log show the run that waits that this machine is there, also between two tries of the step.
        with no_silence("preparing the training"), _stopped_if_lost():
            check_versions(versions)
            settings = read_settings(dataset.collection)
            _check_services(settings)
            if settings.bucket != bucket:
                name = environment_variable("bucket")
                raise ConfigurationError(f"Its machine uses the bucket {settings.bucket}. Set {name}={bucket} there.")
            check_space(settings.workspace, for_run=True)
            from tasks.train import train

            record = train(dataset, config, copies_checkpoints=True)
    except AnimeGenreError as error:
        return Failed(message=str(error), data=error)  # the run that waits shows the message
    return Completed(message=f"Bundle {record.bundle_sha256[:12]}. {record.reason}", data=record)


@contextmanager
def _stopped_if_lost() -> Iterator[None]:
    """Stop this process in the block if its run has ended in Prefect, which frees its worker for another run.

    The run that waits has then taken this machine for lost, because it did not reach Prefect for some minutes. Or a
    person has cancelled or deleted the run, and the worker did not hear of it.
    """
    run_id, ended = flow_run.id, threading.Event()

    def is_lost() -> bool:
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(UUID(run_id)).state
        except ObjectNotFound:
            return True
        except Exception:  # without Prefect, the training goes on
            return False
        return state is not None and state.is_final()

    def watch() -> None:
        while not ended.wait(_WATCH_SECONDS):
            if is_lost() and not ended.is_set():
                os.kill(os.getpid(), signal.SIGTERM)  # as Prefect ends it when a person cancels the run
                return

    # Prefect's settings are in the context.
    threading.Thread(target=contextvars.copy_context().run, args=(watch,), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _check_services(settings: Settings) -> None:
    """Check that this machine has a folder of its own, and shares the bucket and MLflow with others."""
    if not settings.storage_emulator_host:
        check_google(settings)
    if not settings.mlflow_tracking_uri:
        raise ConfigurationError("MLflow is not shared. Set MLFLOW_TRACKING_URI where the worker runs.")
    if not settings.workspace.is_absolute():
        name = environment_variable("workspace")
        raise ConfigurationError(f"The workspace is a relative path. Set {name} to an absolute one for the worker.")


def serve_trainings(pool: str, workspace: Path) -> None:
    """Register the deployment `train-step/POOL`, and become the worker of its pool, which is created if necessary.

    A pool of another type than `process` keeps its own kind of worker: then only the deployment is registered.
    """
    os.environ[environment_variable("workspace")] = str(workspace)
    _check_services(read_settings())
    with get_client(sync_client=True) as client:
        try:
            pool_type = client.read_work_pool(pool).type
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=pool, type=_PROCESS, base_job_template=template))
            pool_type = _PROCESS
    created = train_step.to_deployment(
        name=pool,
        description="Train for a run of `retrain` that names this deployment in `train_on`. Do not start it yourself.",
        work_pool_name=pool,
        # Its code is the installed package, whatever the folder and the machine.
        entrypoint_type=EntrypointType.MODULE_PATH,
        job_variables={
            "env": {"PREFECT_LOGGING_EXTRA_LOGGERS": LOGGED_PACKAGES, "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
        },
    )
    assert isinstance(created, RunnerDeployment)  # Prefect returns a coroutine only inside an event loop
    created.apply()
    name = f"{train_step.name}/{pool}"
    print(f"{name} is registered. To train on it: anime-genre retrain --train-on {name}", flush=True)
    if pool_type != _PROCESS:
        print(f"Its pool has the type {pool_type}, so its worker is yours: prefect worker start --pool {pool}")
        return
    # One training at a time: it takes the whole machine.
    worker = ["-m", "prefect", "worker", "start", "--pool", pool, "--type", _PROCESS, "--limit", "1"]
    os.execv(sys.executable, [sys.executable, *worker])
