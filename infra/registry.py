"""The MLflow client: runs, metrics and artifacts of trainings, and registered model versions.

The alias `champion` names the version that has the function's traffic.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
import requests
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from infra.errors import ConfigurationError, NotFound, ServiceUnavailable
from infra.settings import Settings

logger = logging.getLogger("infra")

_EXPERIMENT = "anime-genre"
_CHAMPION = "champion"
_REQUIREMENTS = ["onnxruntime", "numpy"]  # given explicitly, because MLflow takes seconds to infer them


@dataclass(frozen=True)
class ModelVersion:
    """A version of the registered model."""

    version: str
    run_id: str
    tags: Mapping[str, str]


class Registry:
    """The experiment and the registered model of the settings.

    Raises:
        ServiceUnavailable: MLflow is unreachable or reports a temporary failure; a retry may help.
        ConfigurationError: MLflow refuses a request.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = settings.model_name
        uri = settings.tracking_uri
        _limit_retries(settings.service_timeout_seconds)
        with _mlflow_errors("Opening MLflow"):
            mlflow.set_tracking_uri(uri)
            self._client = MlflowClient(uri)
            # With sqlite, MLflow would otherwise write artifacts into the current folder.
            artifacts = (settings.workspace / "mlflow-artifacts").absolute().as_uri()
            self._experiment_id = self._find_or_create_experiment(artifacts if uri.startswith("sqlite:") else None)
        self.runs_url = f"{uri}/#/experiments/{self._experiment_id}/runs"

    def _find_or_create_experiment(self, artifact_location: str | None) -> str:
        experiment = self._client.get_experiment_by_name(_EXPERIMENT)
        if experiment is not None:
            if experiment.lifecycle_stage != "active":  # MLflow keeps a deleted experiment, and its name, for a while
                self._client.restore_experiment(experiment.experiment_id)
                logger.warning("The experiment %s was deleted in MLflow and is restored.", _EXPERIMENT)
            return str(experiment.experiment_id)
        # Without this tag, MLflow opens the experiment on its page for language models, "0 traces".
        tags = {"mlflow.experimentKind": "custom_model_development"}
        return str(self._client.create_experiment(_EXPERIMENT, artifact_location=artifact_location, tags=tags))

    @contextmanager
    def run(
        self, name: str, parameters: Mapping[str, object], parent: str | None = None, description: str = ""
    ) -> Iterator[str]:
        """Start a run below the run `parent`, yield its id, and end it after the block: FAILED if the block raises.

        MLflow shows `description`, a Markdown text, at the top of the run's page.
        """
        with _mlflow_errors("Starting an MLflow run"):
            tags = {"mlflow.parentRunId": parent} if parent else {}
            if description:
                tags["mlflow.note.content"] = description
            run_id = self._client.create_run(self._experiment_id, tags=tags, run_name=name).info.run_id
            entries = [Param(key, str(value)) for key, value in parameters.items()]
            self._client.log_batch(run_id, params=entries)
        try:
            yield run_id
        except BaseException:
            self._end(run_id, "FAILED")
            raise
        self._end(run_id, "FINISHED")

    def _end(self, run_id: str, status: str) -> None:
        with _mlflow_errors("Ending an MLflow run"):
            self._client.set_terminated(run_id, status)

    def end_active_runs(self) -> None:
        """End the runs that are still RUNNING with status KILLED. Call it when no process can be logging to them."""
        with _mlflow_errors("Ending interrupted MLflow runs"):
            for run in self._client.search_runs([self._experiment_id], "attributes.status = 'RUNNING'"):
                self._client.set_terminated(run.info.run_id, "KILLED")

    def has_run(self, run_id: str) -> bool:
        """Whether MLflow has the run and it is not deleted. It is missing, for example, after a new database."""
        try:
            with _mlflow_errors("Looking for an MLflow run"):
                return str(self._client.get_run(run_id).info.lifecycle_stage) == "active"
        except NotFound:
            return False

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Log the metrics of one step in one request."""
        with _mlflow_errors("Logging to MLflow"):
            now = mlflow.utils.time.get_current_time_millis()
            metrics = [Metric(_metric_name(key), float(value), now, step) for key, value in values.items()]
            self._client.log_batch(run_id, metrics=metrics)

    def log_image(self, run_id: str, name: str, image: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """Log an image, uint8 [H, W, 3], as the artifact `images/{name}.png`."""
        with _mlflow_errors("Logging an image to MLflow"):
            self._client.log_image(run_id, image, artifact_file=f"images/{name}.png")

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        """Log the files of a folder as artifacts below `name`."""
        with _mlflow_errors("Logging artifacts to MLflow"):
            self._client.log_artifacts(run_id, str(folder), artifact_path=name)

    def log_file(self, run_id: str, file: Path) -> None:
        """Log a file as an artifact of the same name."""
        with _mlflow_errors(f"Logging {file.name} to MLflow"):
            self._client.log_artifact(run_id, str(file))

    def fetch_folder(self, run_id: str, name: str, into: Path) -> Path:
        """Download the artifacts below `name` and return their folder, `into/name`.

        Raises:
            NotFound: the run has no such artifacts.
        """
        with _mlflow_errors("Downloading artifacts from MLflow"):
            into.mkdir(parents=True, exist_ok=True)
            return Path(self._client.download_artifacts(run_id, name, str(into)))

    def register(self, run_id: str, model: Path, image_size: int, genres: int, tags: Mapping[str, str]) -> ModelVersion:
        """Register an ONNX file as a new version. Callers check with `version_of` whether its bundle has one.

        Args:
            run_id: the run that trained the model.
            model: ONNX file; input uint8 [N, 3, size, size], output float32 [N, genres].
            image_size: height and width of the input, in pixels.
            genres: the number of genres.
            tags: the tags of the version; `bundle_sha256` identifies its bundle.
        """
        with _mlflow_errors("Registering the model"):
            signature = ModelSignature(
                inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 3, image_size, image_size), "images")]),
                outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, genres), "probabilities")]),
            )
            with mlflow.start_run(run_id=run_id):
                logged = mlflow.onnx.log_model(
                    onnx.load(model),
                    name="model",
                    signature=signature,
                    pip_requirements=_REQUIREMENTS,
                    save_as_external_data=False,
                )
            registered = mlflow.register_model(logged.model_uri, self._name, tags=dict(tags))
            return ModelVersion(str(registered.version), run_id, dict(tags))

    def version_of(self, bundle_sha256: str) -> ModelVersion | None:
        """The version with this bundle, or None."""
        with _mlflow_errors("Searching the model registry"):
            versions = self._client.search_model_versions(
                f"name = '{self._name}' AND tags.bundle_sha256 = '{bundle_sha256}'"
            )
            return _version(versions[0]) if versions else None

    def champion(self) -> ModelVersion | None:
        """The version with the alias `champion`, or None."""
        try:
            with _mlflow_errors("Reading the champion"):
                return _version(self._client.get_model_version_by_alias(self._name, _CHAMPION))
        except NotFound:
            return None

    def set_champion(self, version: str) -> None:
        """Point the alias `champion` to a version."""
        with _mlflow_errors("Setting the champion"):
            self._client.set_registered_model_alias(self._name, _CHAMPION, version)

    def remove_champion(self) -> None:
        """Remove the alias `champion`, if there is one."""
        if self.champion() is not None:
            with _mlflow_errors("Removing the champion"):
                self._client.delete_registered_model_alias(self._name, _CHAMPION)

    def tag_version(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags of a version."""
        with _mlflow_errors("Tagging the model version"):
            for key, value in tags.items():
                self._client.set_model_version_tag(self._name, version, key, value)


def _version(entity: Any) -> ModelVersion:
    return ModelVersion(str(entity.version), str(entity.run_id), dict(entity.tags))


def _metric_name(name: str) -> str:
    """Replace the characters that MLflow does not allow in names of metrics."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


def _limit_retries(seconds: float) -> None:
    """Keep MLflow's client from retrying a request for longer than this, unless the environment says how often.

    By default it waits for four minutes, and a step that is retried four times as long. It waits 0, 4, 8, 16, ...
    seconds before its retries.
    """
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(1 + int(math.log2(1 + seconds / 4))))


@contextmanager
def _mlflow_errors(doing: str) -> Iterator[None]:
    """Translate the exceptions of MLflow's client. `doing` is the start of the message."""
    try:
        yield
    except MlflowException as error:
        status = error.get_http_status_code()
        reason = error.message.strip().splitlines()[0].rstrip(".")
        if status == 404 or "not found" in reason.lower():
            raise NotFound(f"{doing} failed: {reason}.") from error
        if 400 <= status < 500 and status != 429:
            raise ConfigurationError(f"{doing} was refused: {reason}.") from error
        raise ServiceUnavailable(f"{doing} failed temporarily: {reason}.") from error
    except (requests.RequestException, ConnectionError) as error:
        raise ServiceUnavailable(f"{doing} failed temporarily: {error}.") from error
