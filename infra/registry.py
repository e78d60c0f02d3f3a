"""MLflow: the runs of every training, and the registry of the models they made.

The alias `champion` names the version that users get; it follows the function's traffic.
"""

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

_EXPERIMENT = "anime-genre"
_CHAMPION = "champion"
_REQUIREMENTS = ["onnxruntime", "numpy"]  # given, since inferring them takes seconds


@dataclass(frozen=True)
class ModelVersion:
    """One version in the registry, with what its tags say."""

    version: str
    run_id: str
    tags: Mapping[str, str]


class Registry:
    """MLflow's tracking and registry at the settings' address."""

    def __init__(self, settings: Settings) -> None:
        self._name = settings.model_name
        uri = settings.tracking_uri
        with _mlflow_errors("Opening MLflow"):
            mlflow.set_tracking_uri(uri)
            self._client = MlflowClient(uri)
            # On sqlite MLflow would put artifacts into the working folder.
            artifacts = (settings.workspace / "mlflow-artifacts").absolute().as_uri()
            self._experiment_id = self._experiment(artifacts if uri.startswith("sqlite:") else None)

    def _experiment(self, artifact_location: str | None) -> str:
        known = self._client.get_experiment_by_name(_EXPERIMENT)
        if known is not None:
            return str(known.experiment_id)
        return str(self._client.create_experiment(_EXPERIMENT, artifact_location=artifact_location))

    @contextmanager
    def run(self, name: str, parameters: Mapping[str, object], parent: str | None = None) -> Iterator[str]:
        """A run for the length of the block, nested below `parent`; yields its id, ends it FAILED on error."""
        with _mlflow_errors("Starting an MLflow run"):
            tags = {"mlflow.parentRunId": parent} if parent else {}
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

    def has_run(self, run_id: str) -> bool:
        """Whether MLflow knows a run; a new database does not know those of an old one."""
        try:
            with _mlflow_errors("Looking for an MLflow run"):
                return str(self._client.get_run(run_id).info.lifecycle_stage) == "active"
        except NotFound:
            return False

    def log_metrics(self, run_id: str, values: Mapping[str, float], step: int = 0) -> None:
        """Log figures of one step in one request."""
        with _mlflow_errors("Logging to MLflow"):
            now = mlflow.utils.time.get_current_time_millis()
            metrics = [Metric(_metric_name(key), float(value), now, step) for key, value in values.items()]
            self._client.log_batch(run_id, metrics=metrics)

    def log_image(self, run_id: str, name: str, image: "np.ndarray[Any, np.dtype[np.uint8]]") -> None:
        """Log a picture, uint8 [H, W, 3], as `images/{name}.png`."""
        with _mlflow_errors("Logging a picture to MLflow"):
            self._client.log_image(run_id, image, artifact_file=f"images/{name}.png")

    def log_folder(self, run_id: str, folder: Path, name: str) -> None:
        """Log a folder's files as the run's artifacts below `name`."""
        with _mlflow_errors("Logging artifacts to MLflow"):
            self._client.log_artifacts(run_id, str(folder), artifact_path=name)

    def log_file(self, run_id: str, file: Path) -> None:
        """Keep a file with the run, under its own name."""
        with _mlflow_errors(f"Logging {file.name}"):
            self._client.log_artifact(run_id, str(file))

    def fetch_folder(self, run_id: str, name: str, into: Path) -> Path:
        """Download a run's artifacts below `name` to `into/name`."""
        with _mlflow_errors("Downloading artifacts from MLflow"):
            into.mkdir(parents=True, exist_ok=True)
            return Path(self._client.download_artifacts(run_id, name, str(into)))

    def register(self, run_id: str, model: Path, image_size: int, genres: int, tags: Mapping[str, str]) -> ModelVersion:
        """Register an ONNX file as the model's next version. The caller checks with `version_of` whether it is known.

        Args:
            run_id: the run that trained it.
            model: ONNX file; input uint8 [N, 3, size, size], output float32 [N, genres].
            image_size: height and width of its input, pixels.
            genres: how many it knows.
            tags: the version's tags; `bundle_sha256` is what tells one bundle from another.
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
            made = mlflow.register_model(logged.model_uri, self._name, tags=dict(tags))
            return ModelVersion(str(made.version), run_id, dict(tags))

    def version_of(self, bundle_sha256: str) -> ModelVersion | None:
        """The version that holds this bundle, if one does."""
        with _mlflow_errors("Searching the model registry"):
            versions = self._client.search_model_versions(
                f"name = '{self._name}' AND tags.bundle_sha256 = '{bundle_sha256}'"
            )
            return _version(versions[0]) if versions else None

    def champion(self) -> ModelVersion | None:
        """The version in front of users, if there is one."""
        try:
            with _mlflow_errors("Reading the champion"):
                return _version(self._client.get_model_version_by_alias(self._name, _CHAMPION))
        except NotFound:
            return None

    def set_champion(self, version: str) -> None:
        """Let the alias `champion` name this version."""
        with _mlflow_errors("Setting the champion"):
            self._client.set_registered_model_alias(self._name, _CHAMPION, version)

    def tag_version(self, version: str, tags: Mapping[str, str]) -> None:
        """Set tags on a version."""
        with _mlflow_errors("Tagging the model version"):
            for key, value in tags.items():
                self._client.set_model_version_tag(self._name, version, key, value)


def _version(found: Any) -> ModelVersion:
    return ModelVersion(str(found.version), str(found.run_id), dict(found.tags))


def _metric_name(name: str) -> str:
    """MLflow allows letters, digits, and `_-. /:` in names: genres such as "Sci-Fi" or "Girls Love" pass."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)


@contextmanager
def _mlflow_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        status = error.get_http_status_code()
        reason = error.message.strip().splitlines()[0].rstrip(".")
        if status == 404 or "not found" in reason.lower():
            raise NotFound(f"{doing}: {reason}.") from error
        if 400 <= status < 500 and status != 429:
            raise ConfigurationError(f"{doing} was refused: {reason}.") from error
        raise ServiceUnavailable(f"{doing} failed for now: {reason}.") from error
    except (requests.RequestException, ConnectionError) as error:
        raise ServiceUnavailable(f"{doing} failed for now: {error}.") from error
