"""Step 8: a revision of the function with the new bundle, asked about known posters, then given the traffic."""

import random
from pathlib import Path
from typing import Any

from prefect.artifacts import create_link_artifact

import serving.function.model
from infra.endpoint import ask
from infra.errors import DeploymentError
from infra.files import sha256_of
from infra.functions import CloudRun, Revision, source_zip
from infra.registry import Registry
from infra.settings import Settings, read_settings
from infra.store import Store
from ml.dataset import Dataset
from ml.splits import TEST
from serving.function.model import GenrePrediction, Model
from tasks.bundles import fetch_uploaded_bundle
from tasks.posters import poster_key
from tasks.preprocess import fetch_dataset
from tasks.records import AnswerRecord, BundleRecord, DatasetRecord, DeploymentRecord, ModelRecord
from tasks.step import step

_KNOWN_POSTERS = 3
_TOLERANCE = 1e-3  # of a probability: the function may run on another CPU than this process


@step("redeploy")
def redeploy(dataset: DatasetRecord, model: ModelRecord, bundle: BundleRecord) -> DeploymentRecord:
    """Roll out the bundle: build if the function's source changed, revision, known posters, traffic, alias.

    Raises:
        DeploymentError: the build or the revision failed, or it answers other than the bundle does; the
            traffic stays where it was.
        ServiceUnavailable: Cloud Run, the store or MLflow does not answer (retryable).
    """
    settings = read_settings()
    store, cloud_run = Store(settings), CloudRun(settings)
    source = source_zip(Path(serving.function.model.__file__).parent)
    source_sha256 = sha256_of(source)
    image = cloud_run.built_image(settings.service, source_sha256)
    if image is None:
        key = f"functions/{source_sha256}.zip"
        store.write(key, source)
        image = cloud_run.build(settings.bucket, key, cloud_run.image_for(settings.service, source_sha256))
    environment = {
        "BUNDLE_URI": bundle.uri,
        "BUNDLE_SHA256": bundle.sha256,
        "MODEL_VERSION": model.version,
        "DATASET_DATE": dataset.snapshot_date,
    }
    candidate = cloud_run.deploy_candidate(settings.service, image, source_sha256, environment)
    answers = _ask_about_known_posters(candidate, settings, store, dataset, model)
    live = cloud_run.send_traffic(settings.service, candidate.name)
    Registry(settings).set_champion(model.version)
    url = str(live.url)
    create_link_artifact(url, key="function", description=f"Version {model.version} answers here.")
    return DeploymentRecord(
        url=url, revision=live.name, version=model.version, bundle_sha256=bundle.sha256, answers=answers
    )


def _ask_about_known_posters(
    candidate: Revision, settings: Settings, store: Store, dataset: DatasetRecord, model: ModelRecord
) -> list[AnswerRecord]:
    """Compare the candidate's answers about some test posters with the bundle's own."""
    expected_model = Model.load(fetch_uploaded_bundle(store, settings.workspace, model.bundle_sha256))
    data = fetch_dataset(store, settings.workspace, dataset.dataset_key)
    test = [int(row) for row in data.rows(TEST)]
    answers = []
    for row in random.Random(model.bundle_sha256).sample(test, min(_KNOWN_POSTERS, len(test))):
        key = poster_key(data.ids[row])
        poster = store.fetch(key, settings.workspace / key).read_bytes()
        answer = ask(str(candidate.url), key)
        _compare(answer, expected_model.predict([poster])[0], key, model)
        answers.append(
            AnswerRecord(
                poster=key,
                title=data.titles[row],
                predicted=[genre["name"] for genre in answer["genres"] if genre["predicted"]],
                expected=_genres_of(data, row),
            )
        )
    return answers


def _compare(answer: dict[str, Any], expected: list[GenrePrediction], key: str, model: ModelRecord) -> None:
    said = {genre["name"]: float(genre["probability"]) for genre in answer["genres"]}
    wrong = [g.name for g in expected if abs(said.get(g.name, -1) - g.probability) > _TOLERANCE]
    if wrong or answer["model"]["sha256"] != model.bundle_sha256:
        raise DeploymentError(
            f"The new revision answers other than version {model.version} about {key}"
            f" ({', '.join(wrong) or 'another bundle answered'}); the traffic stays where it was."
        )


def _genres_of(data: Dataset, row: int) -> list[str]:
    return [genre.name for genre, has in zip(data.genres, data.labels[row], strict=True) if has]
