"""The MLflow client: runs, metrics and artifacts of trainings, and registered model versions.

The alias `champion` names the version that has the function's traffic, `previous` the one that had it before.
"""

import functools
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import mlflow
import numpy as np
import requests
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric, Param, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

import serving
from infra.disk import is_full
from infra.errors import ConfigurationError, InfraError, NotFound, ServiceUnavailable, failure
from infra.settings import Settings
from serving.bundle.files import temporary_path
from serving.bundle.redaction import redacted

logger = logging.getLogger("infra")
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_EXPERIMENT = "anime-genre"
_CHAMPION, _PREVIOUS = "champion", "previous"
_FLOW_RUN = "prefect_flow_run"  # tag of a training's run
_PRUNED = "pruned"  # tag of a run that was deleted because nothing needs it, not by a person
_PAUSE_SECONDS = (0.5, 8.0)  # the first and the longest pause before a retry
_SLOWEST_RESPONSE_SECONDS = 10.0  # even a short time limit allows a response to take this long
_METRIC_CHARACTERS = 240  # MLflow allows 250
DATASET_KEY = "dataset_key"
"""The parameter of a training's run that names its dataset."""
_BUNDLE, _BUNDLE_PATH = "bundle", "artifacts/bundle"  # in MLflow's model
_BUNDLE_SHA256 = "bundle_sha256"  # tag of a version, and of the model that a run logged
_SERVING = Path(serving.__file__).parent
_BUNDLE_PACKAGE = "anime_genre_bundle"  # see infra/registered_model.py
_BUNDLE_REQUIRES = ("numpy", "onnxruntime", "pillow")


@dataclass(frozen=True)
class ModelVersion:
    """A version of the registered model."""

    version: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def bundle_sha256(self) -> str:
        """The sha256 of its bundle; empty if nobody knows it."""
        return self.tags.get(_BUNDLE_SHA256, "")


@dataclass(frozen=True)
class StoredVersion(ModelVersion):
    """A version of any registered model, with the model's name and whether it has an alias."""

    name: str
    created: datetime
    has_alias: bool


@dataclass(frozen=True)
class StoredRun:
    """A run of the experiment. `root` is the run of the training that it belongs to."""

    run_id: str
    root: str
    started: datetime
    is_running: bool


def _retried(
    doing: str,
) -> Callable[
    [Callable[Concatenate["Registry", Parameters], Result]], Callable[Concatenate["Registry", Parameters], Result]
]:
    """Retry a method of `Registry` after temporary failures, within the time limit of services.

    `doing` is the start of an error's message. After the last try, the first failure is raised: later ones may be its
    consequences. Nothing is retried while the workspace's disk is full, because a local server fails until it is not.
    """

    def decorate(
        call: Callable[Concatenate["Registry", Parameters], Result],
    ) -> Callable[Concatenate["Registry", Parameters], Result]:
        @functools.wraps(call)
        def retrying(registry: "Registry", /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            deadline = time.monotonic() + registry.timeout_seconds
            pause, longest = _PAUSE_SECONDS
            first: ServiceUnavailable | None = None
            while True:
                try:
                    with _mlflow_errors(doing):
                        return call(registry, *args, **kwargs)
                except ServiceUnavailable as error:
                    first = first or error
                    if is_full(registry.workspace) or time.monotonic() + pause > deadline:
                        raise first from first.__cause__
                time.sleep(pause)
                pause = min(2 * pause, longest)

        return retrying

    return decorate


@contextmanager
def _mlflow_errors(doing: str) -> Iterator[None]:
    """Translate the exceptions of MLflow's client. `doing` is the start of the message."""
    try:
        yield
    except MlflowException as error:
        status = error.get_http_status_code()
        reason = _reason(error)
        if status == 404 or "not found" in reason.lower():
            raise failure(NotFound, f"{doing} failed", reason) from error
        if 400 <= status < 500 and status != 429:
            raise failure(ConfigurationError, f"{doing} was refused", reason) from error
        raise failure(ServiceUnavailable, f"{doing} failed temporarily", reason) from error
    except (requests.RequestException, ConnectionError) as error:
        raise failure(ServiceUnavailable, f"{doing} failed temporarily", error) from error


def _reason(error: MlflowException) -> str:
    """What the server said, or why there is no response; MLflow's own sentences about requests fill a screen."""
    request = error.__cause__ or error.__context__
    if isinstance(request, requests.exceptions.RetryError) and (
        found := re.search(r"too many (\d+) error responses", str(request))
    ):
        return f"the server responded with status {found[1]}"
    if isinstance(request, requests.Timeout):
        return "the server did not respond in time"
    if isinstance(request, requests.ConnectionError):
        return "the server is not reachable"
    return str(error.message)


class Registry:
    """The experiment and the registered model of the settings.

    Raises:
        ServiceUnavailable: MLflow is unreachable or reports a temporary failure; a retry may help.
        ConfigurationError: MLflow refuses a request.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = settings.model_name
        self._uri = settings.tracking_uri
        # MLflow's client has its own variables for what `tracking_uri` leaves out.
        os.environ.update(settings.tracking_credentials)
        self.workspace = settings.workspace
        self.timeout_seconds = settings.service_timeout_seconds
        # MLflow's own retries would take minutes, and hide the server's first failure (see `_retried`).
        os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
        os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = str(math.ceil(max(self.timeout_seconds, _SLOWEST_RESPONSE_SECONDS)))
        self._experiment_id = self._open()
        self.runs_url = f"{self._uri}/#/experiments/{self._experiment_id}/runs"

    def with_timeout(self, seconds: float) -> Self:
        """The same registry, whose calls are retried for another time."""
        registry = copy(self)
        registry.timeout_seconds = seconds
        return registry

    @_retried("Opening MLflow")
    def _open(self) -> str:
        """Connect, and return the id of the experiment, which is created or restored if necessary."""
        mlflow.set_tracking_uri(self._uri)
        self._client = MlflowClient(self._uri)
        experiment = self._client.get_experiment_by_name(_EXPERIMENT)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":  # MLflow keeps a deleted experiment, and its name, for a while
                self._client.restore_experiment(experiment.experiment_id)
                logger.warning("The experiment %s was deleted in MLflow and is restored.", _EXPERIMENT)
            return str(experiment.experiment_id)
        # With sqlite, MLflow would otherwise write artifacts into the current folder.
        artifacts = (self.workspace / "mlflow-artifacts").absolute().as_uri()
        location = artifacts if self._uri.startswith("sqlite:") else None
        # Without this tag, MLflow opens the experiment on its page for language models, "0 traces".
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(_EXPERIMENT, artifact_location=location, tags=tags))

    @contextmanager
    def run(
        self,
        name: str,
        parameters: Mapping[str, object],
        description: str = "",
        flow_run: str | None = None,
    ) -> Iterator[str]:
        """Start a run (see `start_run`), yield its id, and end it after the block: FAILED if the block raises."""
        run_id = self.start_run(name, parameters, None, description, flow_run)
        try:
            yield run_id
        except BaseException:
            try:
                self.end_run(run_id, "FAILED")
            except InfraError as error:  # the block's exception is the reason
                logger.warning("The MLflow run %s stays RUNNING until the next start. %s", run_id, error)
            raise
        self.end_run(run_id, "FINISHED")

    @_retried("Starting an MLflow run")
    def start_run(
        self,
        name: str,
        parameters: Mapping[str, object],
        parent: str | None = None,
        description: str = "",
        flow_run: str | None = None,
    ) -> str:
        """Start a run below the run `parent` and return its id.

        MLflow shows `description`, a Markdown text, at the top of the run's page. `flow_run` is the id of the flow run
        in Prefect that it belongs to.
        """
        tags = {"mlflow.parentRunId": parent} if parent else {}
        if description:
            tags["mlflow.note.content"] = redacted(description)
        if flow_run:
            tags[_FLOW_RUN] = flow_run
        run_id = str(self._client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id)
        self._client.log_batch(run_id, params=[Param(key, redacted(str(value))) for key, value in parameters.items()])
        return run_id

    @_retried("Ending an MLflow run")
    def end_run(self, run_id: str, status: str) -> None:
        """End a run with a status such as FINISHED or FAILED."""
        self._client.set_terminated(run_id, status)

    @_retried("Ending interrupted MLflow runs")
    def end_active_runs(self, has_ended: Callable[[str | None], bool]) -> None:
        """End the runs that are still RUNNING with status KILLED.

        Args:
            has_ended: whether no process can be logging to the runs of a flow run of Prefect, or to those of an unknown
                one (None).
        """
        search = partial(self._client.search_runs, [self._experiment_id], "attributes.status = 'RUNNING'")
        for run in list(_pages(search)):
            if has_ended(self._flow_run(run)):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _flow_run(self, run: Run) -> str | None:
        """The flow run that a training's run, or one below it, belongs to; None if nobody knows it."""
        while parent := run.data.tags.get("mlflow.parentRunId"):
            found = None
            with _missing_allowed():
                found = self._client.get_run(parent)
            if found is None:
                return None
            run = found
        flow_run = run.data.tags.get(_FLOW_RUN)
        return str(flow_run) if flow_run else None

    @_retried("Looking for an MLflow run")
    def _find_run(self, run_id: str) -> Run:
        return self._client.get_run(run_id)

    def has_run(self, run_id: str) -> bool:
        """Whether MLflow has the run and it is not deleted. It is missing, for example, after a new database."""
        try:
            return str(self._find_run(run_id).info.lifecycle_stage) == "active"
        except NotFound:
            return False

    def parameter(self, run_id: str, name: str) -> str | None:
        """A parameter of a run; None if MLflow does not have it."""
        try:
            value = self._find_run(run_id).data.params.get(name)
        except NotFound:
            return None
        return None if value is None else str(value)

    @_retried("Logging to MLflow")
    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Log the metrics of one step in one request."""
        now = mlflow.utils.time.get_current_time_millis()
        named = zip(_metric_names(values), values.values(), strict=True)
        metrics = [Metric(name, float(value), now, step) for name, value in named]
        self._client.log_batch(run_id, metrics=metrics)

    @_retried("Logging an image to MLflow")
    def log_image(self, run_id: str, name: str, image: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """Log an image, uint8 [H, W, 3], as the artifact `images/{name}.png`."""
        self._client.log_image(run_id, image, artifact_file=f"images/{name}.png")

    @_retried("Logging a file to MLflow")
    def log_file(self, run_id: str, file: Path) -> None:
        """Log a file as an artifact of the same name."""
        self._client.log_artifact(run_id, str(file))

    @_retried("Downloading artifacts from MLflow")
    def fetch_folder(self, run_id: str, name: str, into: Path) -> Path:
        """Download the artifacts below `name` and return their folder, `into/name`.

        Raises:
            NotFound: the run has no such artifacts.
        """
        into.mkdir(parents=True, exist_ok=True)
        return Path(self._client.download_artifacts(run_id, name, str(into)))

    @_retried("Storing the bundle in MLflow")
    def log_bundle(self, run_id: str, folder: Path, sha256: str) -> str:
        """Log a bundle as a model of the run that trained it, and return the model's id.

        A model that is complete is not logged again. The run keeps its status.
        """
        model = self._bundle_model(run_id, sha256)
        if model is None:
            tags = {_BUNDLE_SHA256: sha256}
            model = self._client.create_logged_model(self._experiment_id, "model", source_run_id=run_id, tags=tags)
        model_id = str(model.model_id)
        if model.status != LoggedModelStatus.READY:
            temporary = temporary_path(self.workspace / "model")
            try:
                self._client.log_model_artifacts(model_id, str(_save_model(temporary, folder, run_id, model_id)))
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
            self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
            self._client.finalize_logged_model(model_id, LoggedModelStatus.READY)
        return model_id

    @_retried("Downloading a bundle from MLflow")
    def fetch_bundle(self, run_id: str, sha256: str, into: Path) -> Path:
        """Download the bundle of a run's model into a folder below `into`, and return it.

        Raises:
            NotFound: the run has no complete model with this bundle.
        """
        model = self._bundle_model(run_id, sha256)
        if model is None or model.status != LoggedModelStatus.READY:
            raise NotFound(f"The MLflow run {run_id} has no complete model with the bundle {sha256[:8]}.")
        into.mkdir(parents=True, exist_ok=True)
        stored = get_artifact_repository(f"models:/{model.model_id}", tracking_uri=self._uri)
        return Path(stored.download_artifacts(_BUNDLE_PATH, str(into)))

    def _bundle_model(self, run_id: str, sha256: str) -> Any:
        """The model that a run logged with a bundle, None if there is none."""
        return next((each for each in self._logged_models(run_id) if each.tags.get(_BUNDLE_SHA256) == sha256), None)

    @_retried("Registering the model")
    def register(self, run_id: str, bundle: Path, tags: Mapping[str, str], description: str) -> ModelVersion:
        """Register a bundle as a new version. Callers check with `version_of` whether it has one.

        Args:
            run_id: the run that trained the model. If it has logged no model with this bundle, it does now.
            bundle: the folder of the bundle.
            tags: the tags of the version; `bundle_sha256` identifies its bundle.
            description: what MLflow shows on the page of the version.
        """
        model_id = self.log_bundle(run_id, bundle, tags[_BUNDLE_SHA256])
        # An earlier try may have created the version, if its response was lost.
        created = self._client.search_model_versions(
            f"name = '{self._name}' AND run_id = '{run_id}' AND tags.{_BUNDLE_SHA256} = '{tags[_BUNDLE_SHA256]}'"
        )
        registered = (
            created[0] if created else mlflow.register_model(f"models:/{model_id}", self._name, tags=dict(tags))
        )
        self._client.update_model_version(self._name, registered.version, description)
        return ModelVersion(str(registered.version), run_id, dict(tags))

    @_retried("Reading the metrics of an MLflow run")
    def metrics(self, run_id: str) -> dict[str, float]:
        """The last value of each metric of a run. Raises NotFound if there is no such run."""
        return dict(self._client.get_run(run_id).data.metrics)

    @_retried("Searching the model registry")
    def version_of(self, bundle_sha256: str) -> ModelVersion | None:
        """The version with this bundle, or None."""
        versions = self._client.search_model_versions(
            f"name = '{self._name}' AND tags.bundle_sha256 = '{bundle_sha256}'"
        )
        return _version(versions[0]) if versions else None

    @_retried("Reading a version of the model")
    def version(self, version: str) -> ModelVersion:
        """A version of the registered model. Raises NotFound if there is no such version."""
        return _version(self._client.get_model_version(self._name, version))

    def champion(self) -> ModelVersion | None:
        """The version with the alias `champion`, or None."""
        return self._with_alias(_CHAMPION)

    def previous(self) -> ModelVersion | None:
        """The version with the alias `previous`, or None."""
        return self._with_alias(_PREVIOUS)

    def _with_alias(self, alias: str) -> ModelVersion | None:
        try:
            return self._read_alias(alias)
        except NotFound:
            return None

    @_retried("Reading an alias of the model")
    def _read_alias(self, alias: str) -> ModelVersion:
        return _version(self._client.get_model_version_by_alias(self._name, alias))

    @_retried("Setting the champion")
    def set_champion(self, version: str) -> None:
        """Point the alias `champion` to a version."""
        self._client.set_registered_model_alias(self._name, _CHAMPION, version)

    @_retried("Setting the previous champion")
    def set_previous(self, version: str) -> None:
        """Point the alias `previous` to a version."""
        self._client.set_registered_model_alias(self._name, _PREVIOUS, version)

    @_retried("Removing the champion")
    def remove_champion(self) -> bool:
        """Remove the alias `champion`, if there is one, and return whether there was one."""
        if self.champion() is None:
            return False
        self._client.delete_registered_model_alias(self._name, _CHAMPION)
        return True

    @_retried("Tagging the model version")
    def tag_version(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        for key, value in tags.items():
            self._client.set_model_version_tag(self._name, version, key, value)

    @_retried("Listing the versions in MLflow")
    def all_versions(self) -> list[StoredVersion]:
        """The versions of all registered models, also of other collections, oldest first."""
        found = []
        for model in _pages(self._client.search_registered_models):
            aliased = {str(version) for version in model.aliases.values()}
            for each in _pages(partial(self._client.search_model_versions, f"name = '{model.name}'")):
                version, created = str(each.version), _time(each.creation_timestamp)
                tags, has_alias = dict(each.tags), version in aliased
                found.append(StoredVersion(version, str(each.run_id), tags, str(model.name), created, has_alias))
        return sorted(found, key=lambda each: (each.name, each.created))

    @_retried("Listing the MLflow runs")
    def runs(self, deleted: bool = False) -> list[StoredRun]:
        """The runs of the experiment, or those that `delete_run` deleted and `free_run` has not freed."""
        kind, only = (ViewType.DELETED_ONLY, f"tags.{_PRUNED} = 'true'") if deleted else (ViewType.ACTIVE_ONLY, "")
        found = {
            str(run.info.run_id): run
            for run in _pages(partial(self._client.search_runs, [self._experiment_id], only, kind))
        }

        def root(run_id: str) -> str:
            parent = found[run_id].data.tags.get("mlflow.parentRunId") if run_id in found else None
            return root(parent) if parent else run_id

        return [
            StoredRun(run_id, root(run_id), _time(run.info.start_time), run.info.status == "RUNNING")
            for run_id, run in found.items()
        ]

    @_retried("Deleting a version of the model")
    def delete_version(self, version: StoredVersion) -> None:
        """Delete a version. It need not exist."""
        with _missing_allowed():
            self._client.delete_model_version(version.name, version.version)

    @_retried("Deleting an MLflow run")
    def delete_run(self, run_id: str) -> None:
        """Delete a run and the models that it logged. MLflow keeps all of it, hidden, until it is freed."""
        for model in list(self._logged_models(run_id)):
            self._client.delete_logged_model(model.model_id)
        with _missing_allowed():
            self._client.set_tag(run_id, _PRUNED, "true")
            self._client.delete_run(run_id)

    @_retried("Listing the models of an MLflow run")
    def logged_models(self, run_id: str) -> list[str]:
        """The ids of the models that a run logged."""
        return [str(model.model_id) for model in self._logged_models(run_id)]

    def _logged_models(self, run_id: str) -> Iterator[Any]:
        search = partial(self._client.search_logged_models, [self._experiment_id], f"source_run_id = '{run_id}'")
        return _pages(search)


def _save_model(temporary: Path, bundle: Path, run_id: str, model_id: str) -> Path:
    """Write a bundle as MLflow's model, with the code that loads it, and return its folder."""
    code, folder = temporary / _BUNDLE_PACKAGE, temporary / "model"
    shutil.copytree(_SERVING / "bundle", code, ignore=shutil.ignore_patterns("__pycache__"))
    pinned = (_SERVING / "function" / "requirements.txt").read_text().split()
    model = mlflow.models.Model(run_id=run_id, model_id=model_id, model_uuid=model_id)
    mlflow.pyfunc.save_model(
        folder,
        python_model=Path(__file__).with_name("registered_model.py"),
        code_paths=[str(code)],
        # MLflow adds itself. It would take seconds to infer the others.
        pip_requirements=[each for each in pinned if each.partition("==")[0] in _BUNDLE_REQUIRES],
        mlflow_model=model,
    )
    # MLflow would write the paths of this machine, and refuses to copy from some of them, such as one with a "#".
    shutil.copytree(bundle, folder / _BUNDLE_PATH)
    flavor = model.flavors["python_function"]
    flavor["artifacts"] = {_BUNDLE: {"path": _BUNDLE_PATH, "uri": _BUNDLE}}
    flavor["model_code_path"] = Path(flavor["model_code_path"]).name
    model.model_size_bytes = sum(path.stat().st_size for path in folder.rglob("*"))
    model.save(folder / "MLmodel")
    return folder


@contextmanager
def _missing_allowed() -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise


def _pages(search: Callable[..., Any]) -> Iterator[Any]:
    """All results of a search, page by page."""
    token = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _version(entity: Any) -> ModelVersion:
    return ModelVersion(str(entity.version), str(entity.run_id), dict(entity.tags))


def _metric_names(names: Iterable[str]) -> list[str]:
    """The names of metrics as MLflow accepts them. Those that would be the same get a number: `f1/C_`, `f1/C_ 2`."""
    found: dict[str, None] = {}
    for name in names:
        letters = "".join(each if each.isalnum() or each in "_-. /" else "_" for each in name[:_METRIC_CHARACTERS])
        # MLflow reads a name as a path, and refuses one that is not in its shortest form.
        allowed = free = "/".join("_" if part in ("", ".", "..") else part for part in letters.split("/"))
        numbers = count(2)
        while free in found:
            free = f"{allowed} {next(numbers)}"
        found[free] = None
    return list(found)
