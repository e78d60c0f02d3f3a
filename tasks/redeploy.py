"""Step 8: a revision of the function with the new bundle, asked about known posters, then given the traffic."""

from pathlib import Path

from prefect.artifacts import create_link_artifact

import serving
from infra.cloud_run import CloudRun
from infra.endpoint import ask
from infra.errors import DeploymentError
from infra.files import sha256_of
from infra.registry import Registry
from infra.revisions import Revision
from infra.settings import read_settings
from infra.source_zip import source_zip
from infra.store import Store
from serving.bundle.model import Model
from tasks.bundles import fetch_uploaded_bundle
from tasks.records import (
    BundleRecord,
    DatasetRecord,
    DeploymentRecord,
    EvaluationRecord,
    KnownPoster,
    ModelRecord,
)
from tasks.step import step

_TOLERANCE = 1e-3  # of a probability: the function may run on another CPU than this process


@step("redeploy")
def redeploy(
    dataset: DatasetRecord, evaluation: EvaluationRecord, model: ModelRecord, bundle: BundleRecord
) -> DeploymentRecord:
    """Roll out the bundle: build if the function's source changed, revision, known posters, traffic, alias.

    Raises:
        DeploymentError: the build or the revision failed, or it answers other than the bundle does: it does
            not go live.
        ServiceUnavailable: Cloud Run, the store or MLflow does not answer (retryable).
    """
    settings = read_settings()
    store, cloud_run = Store(settings), CloudRun(settings)
    source = source_zip(Path(serving.__file__).parent)
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
        "POSTER_HOSTS": settings.poster_hosts,
        "POSTER_BUCKETS": settings.poster_buckets,
        "CORS_ORIGINS": settings.cors_origins,
        "GOOGLE_CLOUD_PROJECT": settings.google_project,  # its logs name their request's trace by it
    }
    candidate = cloud_run.deploy_candidate(settings.service, image, source_sha256, environment)
    _check(candidate, evaluation.known_posters, store, settings.workspace, model)
    live = cloud_run.send_traffic(settings.service, candidate.name)
    Registry(settings).set_champion(model.version)
    url = str(live.url)
    create_link_artifact(url, key="function", description=f"Version {model.version} answers here.")
    return DeploymentRecord(url=url, revision=live.name, version=model.version, bundle_sha256=bundle.sha256)


def _check(candidate: Revision, posters: list[KnownPoster], store: Store, workspace: Path, model: ModelRecord) -> None:
    """Compare the candidate's answers about known posters with the bundle's own; DeploymentError if they differ."""
    expected = Model.load(fetch_uploaded_bundle(store, workspace, model.bundle_sha256))
    for poster in posters:
        answer = ask(str(candidate.url), poster.name)
        said = {genre["name"]: float(genre["probability"]) for genre in answer["genres"]}
        (known,) = expected.predict([store.read(poster.name)])
        wrong = [genre.name for genre in known if abs(said.get(genre.name, -1) - genre.probability) > _TOLERANCE]
        if wrong or answer["model"]["sha256"] != model.bundle_sha256:
            raise DeploymentError(
                f"The new revision answers other than version {model.version} about {poster.name}"
                f" ({', '.join(wrong) or 'another bundle answered'}); it does not go live."
            )
