"""Step 8: deploy a revision of the function with the new bundle, check its predictions, and send it the traffic."""

import json
from datetime import UTC, datetime
from pathlib import Path

from prefect.artifacts import create_link_artifact

import serving
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.errors import DeploymentError
from infra.files import sha256_of
from infra.registry import Registry
from infra.revisions import Revision
from infra.settings import read_settings
from infra.source_zip import source_zip
from infra.store import Store
from ml.data.splits import TEST
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

_TOLERANCE = 1e-3  # of a probability; the function may run on another CPU than this process


@step("redeploy")
def redeploy(
    dataset: DatasetRecord, evaluation: EvaluationRecord, model: ModelRecord, bundle: BundleRecord
) -> DeploymentRecord:
    """Build if the source changed, deploy a candidate revision, check it, and move traffic and alias to it.

    Raises:
        DeploymentError: the build or the revision failed, or its predictions differ from the bundle's. The revision
            then gets no traffic.
        ServiceUnavailable: Cloud Run, the store or MLflow is not reachable (retryable).
    """
    settings = read_settings(dataset.collection)
    store, cloud_run = Store(settings), CloudRun(settings)
    source = source_zip(Path(serving.__file__).parent)
    source_sha256 = sha256_of(source)
    image = cloud_run.built_image(settings.service, source_sha256)
    if image is None:
        key = f"functions/{source_sha256}.zip"
        store.write(key, source)
        image = cloud_run.build(
            settings.bucket, store.object_name(key), cloud_run.image_for(settings.service, source_sha256)
        )
    environment = {
        "BUNDLE_URI": bundle.uri,
        "BUNDLE_SHA256": bundle.sha256,
        "MODEL_VERSION": model.version,
        "DATASET_DATE": dataset.snapshot_date,
        "COLLECTION": dataset.collection,
        "POSTER_HOSTS": settings.poster_hosts,
        "POSTER_BUCKETS": settings.poster_buckets,
        "CORS_ORIGINS": settings.cors_origins,
        "GOOGLE_CLOUD_PROJECT": settings.google_project,  # used in the trace names of its log entries
    }
    candidate = cloud_run.deploy_candidate(settings.service, image, source_sha256, environment)
    _check(candidate, evaluation.known_posters, store, settings.folder, model)
    write_deployment(store, cloud_run.live(settings.service), dataset, evaluation, model)
    live = cloud_run.send_traffic(settings.service, candidate.name)
    Registry(settings).set_champion(model.version)
    url = str(live.url)
    create_link_artifact(url, key="function", description=f"The function with version {model.version}")
    return DeploymentRecord(url=url, revision=live.name)


def write_deployment(
    store: Store, live: Revision | None, dataset: DatasetRecord, evaluation: EvaluationRecord, model: ModelRecord
) -> None:
    """Write what the function tells about its model at GET /model: `deployments/{bundle_sha256}.json`.

    It is written just before the traffic moves. A step that was killed in between writes it again when it is retried.

    Args:
        live: the revision that has the traffic until now. If it has the same bundle, an existing record stays.
    """
    key = f"deployments/{model.bundle_sha256}.json"
    same = live is not None and live.environment.get("BUNDLE_SHA256") == model.bundle_sha256
    if same and store.exists(key):
        return
    chosen = evaluation.scores[0].model_dump()
    record = {
        "version": model.version,
        "bundle_sha256": model.bundle_sha256,
        "live_since": datetime.now(UTC).isoformat(timespec="seconds"),
        "previous_version": None if live is None or same else live.environment.get("MODEL_VERSION"),
        "collection": dataset.collection,
        "snapshot_date": dataset.snapshot_date,
        "posters": dataset.parts,
        "figures": {f"{TEST}/{name}": value for name, value in chosen.items() if name != "name"},
    }
    store.write(key, json.dumps(record, indent=2).encode())


def _check(candidate: Revision, posters: list[KnownPoster], store: Store, workspace: Path, model: ModelRecord) -> None:
    """Compare the candidate's predictions for known posters with the bundle's; DeploymentError if they differ."""
    bundle = Model.load(fetch_uploaded_bundle(store, workspace, model.bundle_sha256))
    for poster in posters:
        response = request_prediction(str(candidate.url), poster.name)
        probabilities = {genre["name"]: float(genre["probability"]) for genre in response["genres"]}
        (expected,) = bundle.predict([store.whole_bucket().read(poster.name)])
        wrong = [g.name for g in expected if abs(probabilities.get(g.name, -1) - g.probability) > _TOLERANCE]
        if wrong or response["model"]["sha256"] != model.bundle_sha256:
            raise DeploymentError(
                f"The predictions of the new revision for {poster.name} differ from those of version {model.version} "
                f"({', '.join(wrong) or 'it serves another bundle'}). It does not go live."
            )
