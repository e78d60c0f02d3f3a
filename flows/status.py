"""The command `status`: what is live, what ran and what comes next."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from pydantic import ValidationError

from flows.deployments import FULL_NAME
from flows.parameters import RetrainParameters
from flows.prefect_access import api_url, is_server_reachable
from flows.up import next_run
from infra.cloud_run import CloudRun
from infra.disk import free_bytes, size_bytes
from infra.doctor import check_mlflow
from infra.settings import MAIN_COLLECTION, Settings, read_settings
from infra.store import Store
from serving.bundle.errors import AnimeGenreError
from serving.bundle.wording import counted
from tasks.catalogue.last_good import ABOUT
from tasks.deployments import read_figures
from tasks.posters import read_collected
from tasks.records import CatalogueRecord
from tasks.rollouts import live_since, name_of, read_hold, read_rollouts

_RUNS = 3


def show_status(workspace: Path, collection: str | None) -> None:
    """Print one line each about the services, the live model, holds, the last and next runs, the data and the disk.

    A line whose service does not answer says so.

    Args:
        workspace: the folder whose disk is counted.
        collection: whose model and data; by default those of the deployment `retrain`.
    """
    has_prefect = bool(api_url()) and is_server_reachable()
    if api_url():
        print(_line("Stack", _services(has_prefect)))
    else:
        print(_line("Stack", f"not running in {workspace}. Start it with: anime-genre up --workspace {workspace}"))
    chosen = collection or MAIN_COLLECTION
    if has_prefect and not collection:
        with _explained("Deployed"):
            chosen = _deployed_collection()
    settings = read_settings(chosen)
    has_bucket = settings.cloud == "google" or bool(settings.storage_emulator_host and settings.cloud_run_endpoint)
    if has_bucket:
        _print("Model", lambda: [_model(settings)])
        _print("Hold", lambda: [_hold(settings)])
    if has_prefect:
        with get_client(sync_client=True) as client:
            _print("Run", lambda: [_run(each) for each in _last_runs(client)] or ["none yet"])
            _print("Next run", lambda: [_next_run(client)])
    _print("Data", lambda: [_data(settings) if has_bucket else _local_data(workspace)])
    size, free = size_bytes(workspace) / 1e9, free_bytes(workspace) / 1e9
    print(_line("Disk", f"{size:.1f} GB in {workspace}, {free:.0f} GB free"))
    if not has_bucket:
        print("The model, holds and runs are known while the stack is running.")


def _line(name: str, text: str) -> str:
    return f"{name + ':':10}{text}"


def _print(name: str, texts: Callable[[], Iterable[str]]) -> None:
    """Print one line for each text, or why there is none."""
    with _explained(name):
        for text in texts():
            print(_line(name, text))


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Print why a line is unknown if the block fails."""
    try:
        yield
    except AnimeGenreError as error:
        print(_line(name, f"unknown. {error.message}"))
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        print(_line(name, f"unknown. Prefect does not answer: {str(error).partition(chr(10))[0]}"))
    except ValidationError:
        print(_line(name, "unknown. It is damaged, or another version of anime-genre has written it."))


def _services(has_prefect: bool) -> str:
    """Which of Prefect and MLflow answer, and where they are."""
    settings = read_settings()
    mlflow = settings.tracking_uri
    has_mlflow = not mlflow.startswith("http") or not check_mlflow(settings).problem
    services = {f"Prefect {api_url().removesuffix('/api')}": has_prefect, f"MLflow {mlflow}": has_mlflow}
    running = ", ".join(name for name, answers in services.items() if answers)
    silent = [f"{name} does not answer" for name, answers in services.items() if not answers]
    return "; ".join([*([f"running: {running}"] if running else []), *silent])


def _deployed_collection() -> str:
    try:
        with get_client(sync_client=True) as client:
            parameters = client.read_deployment_by_name(FULL_NAME).parameters
    except ObjectNotFound:
        return MAIN_COLLECTION
    return RetrainParameters.model_validate(parameters.get("parameters", {})).collection_name


def _model(settings: Settings) -> str:
    live = CloudRun(settings).live()
    if live is None:
        return f"none of the collection {settings.collection} is live"
    store = Store(settings)
    score = read_figures(store, live.bundle_sha256).get("test/weighted_f1")
    since = live_since(read_rollouts(store), live)
    return (
        f"{name_of(live)} of {settings.collection} is live "
        f"since {f'{since.astimezone():%Y-%m-%d %H:%M}' if since else 'an unknown time'}, "
        f"test/weighted_f1 {f'{score:.3f}' if score is not None else 'unknown'}"
    )


def _hold(settings: Settings) -> str:
    hold = read_hold(Store(settings))
    return hold.sentence if hold else "none"


def _last_runs(client: SyncPrefectClient) -> list[FlowRun]:
    started = FlowRunFilter(start_time=FlowRunFilterStartTime(is_null_=False))
    return client.read_flow_runs(flow_run_filter=started, sort=FlowRunSort.START_TIME_DESC, limit=_RUNS)


def _run(run: FlowRun) -> str:
    time = run.end_time or run.start_time
    message = (run.state.message if run.state else "") or ""
    sentence = message.partition(". ")[0].rstrip(".")
    when = f" {time.astimezone():%Y-%m-%d %H:%M}" if time else ""
    return f"{run.name}, {run.state_name}{when}{f': {sentence}' if sentence else ''}"


def _next_run(client: SyncPrefectClient) -> str:
    scheduled = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])))
    for run in client.read_flow_runs(flow_run_filter=scheduled, sort=FlowRunSort.EXPECTED_START_TIME_ASC):
        if run.auto_scheduled and run.deployment_id and run.expected_start_time:
            deployment = client.read_deployment(run.deployment_id)
            active = [each.schedule for each in deployment.schedules if each.active]
            return f"{deployment.name}, {next_run(run.expected_start_time, active[0] if active else None)}"
    return "none is planned"


def _data(settings: Settings) -> str:
    collected = read_collected(Store(settings))
    if collected is None:
        return "nothing collected yet"
    return f"{_about(collected.catalogue)}, {counted(collected.posters.posters, 'poster')}"


def _local_data(workspace: Path) -> str:
    """The newest catalogue of the workspace, without its bucket."""
    found = sorted([*workspace.glob(ABOUT), *workspace.glob(f"collections/*/{ABOUT}")], key=os.path.getmtime)
    return _about(CatalogueRecord.model_validate_json(found[-1].read_bytes())) if found else "nothing collected yet"


def _about(catalogue: CatalogueRecord) -> str:
    return f"{catalogue.collection}, {counted(catalogue.titles, 'title')} of {catalogue.snapshot_date}"
