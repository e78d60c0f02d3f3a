"""Step 8: deploy a revision of the function with the new bundle, check its predictions, and send it the traffic."""

import logging
from pathlib import Path

from infra.cloud_build import build_image
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.errors import DeploymentError, FunctionDown, NotFound
from infra.files import sha256_of
from infra.registry import Registry
from infra.revisions import Image, Revision
from infra.settings import Settings, read_settings
from infra.store import Store
from serving.bundle.model import Model
from tasks.artifacts import show_link
from tasks.bundles import bundle_key, fetch_bundle, upload_bundle
from tasks.champion import (
    function_source,
    has_other_decoder,
    live_champion,
    model_environment,
    resources,
    settings_environment,
    source_key,
    version_name,
)
from tasks.deployments import write_deployment
from tasks.records import (
    BundleRecord,
    DatasetRecord,
    DeploymentRecord,
    EvaluationRecord,
    KnownPoster,
    ModelRecord,
)
from tasks.register import BETTER_THAN_CHAMPION
from tasks.rollouts import name_of, read_hold, record_rollout
from tasks.step import run_name, step

logger = logging.getLogger("tasks")
TOLERANCE = 1e-3
"""Of a probability: the function may run on another CPU than this process."""


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
    store, registry = Store(settings), Registry(settings)
    environment = {
        "BUNDLE_URI": bundle.uri,
        "BUNDLE_SHA256": bundle.sha256,
        "MODEL_VERSION": model.version,
        "DATASET_DATE": dataset.snapshot_date,
        "COLLECTION": dataset.collection,
    }
    folder = fetch_bundle(store, registry, settings.folder, model.bundle_sha256, model.run_id)
    candidate = _deploy_candidate(settings, environment, folder, evaluation.known_posters)
    if hold := read_hold(store):  # written since the comparison
        raise DeploymentError(hold.sentence)
    live = CloudRun(settings).live(settings.service)
    write_deployment(store, live, dataset, evaluation, model)
    record = _send_traffic(settings, candidate, live, "redeploy", evaluation.reason)
    registry.set_champion(model.version)
    registry.tag_version(model.version, {BETTER_THAN_CHAMPION: str(evaluation.passed_gate).lower()})
    return record


@step("redeploy champion")
def redeploy_champion(dataset: DatasetRecord, evaluation: EvaluationRecord) -> DeploymentRecord:
    """Deploy a new revision with the live model, the present settings and the present source of the function.

    Raises as `redeploy`.
    """
    settings = read_settings(dataset.collection)
    store, registry = Store(settings), Registry(settings)
    champion = live_champion(settings, registry)
    if champion is None:
        raise NotFound(f"The service {settings.service} has no live revision any more. Start the run again.")
    logger.info("The champion, %s, gets a new revision: %s.", champion.name, evaluation.redeploy_champion)
    folder = fetch_bundle(store, registry, settings.folder, champion.bundle_sha256)
    model = Model.load(folder)
    environment = {
        **model_environment(champion.revision),
        "BUNDLE_URI": store.uri(bundle_key(champion.bundle_sha256)),
    }
    image = None
    if has_other_decoder(model):  # today's source would give it other pixels
        image = champion.revision.image
    # A running revision remembers that its bundle was damaged, so a ready one is not used again.
    candidate = _deploy_candidate(settings, environment, folder, evaluation.known_posters, image, reuse=False)
    reason = str(evaluation.redeploy_champion)
    return _send_traffic(settings, candidate, champion.revision, "redeploy champion", reason)


def _deploy_candidate(
    settings: Settings,
    environment: dict[str, str],
    bundle: Path,
    posters: list[KnownPoster],
    image: Image | None = None,
    reuse: bool = True,
) -> Revision:
    """Deploy a revision and check its predictions. `environment` describes its model.

    `image` is by default that of the present source, built if necessary. If no revision starts, Cloud Run does not find
    the image, or the predictions differ, the bundle is uploaded and an earlier image built again, once: they may be
    deleted or damaged. A revision with a damaged bundle does not start.
    """
    store, cloud_run, model = Store(settings), CloudRun(settings), Model.load(bundle)
    name = version_name(environment.get("MODEL_VERSION", ""), model.sha256)

    def deploy(image: Image, reuse: bool) -> Revision:
        candidate = cloud_run.deploy_candidate(
            settings.service,
            image,
            {**environment, **settings_environment(settings)},
            resources(settings),
            store.uri(source_key(image.source_sha256)),
            reuse,
        )
        logger.info("Checking the predictions of the new revision, %s.", candidate.name)
        _check(candidate, posters, store, model, name, settings.caller_service_account)
        return candidate

    earlier = image or cloud_run.built_image(settings.service, sha256_of(function_source()))
    built = earlier or _build(settings, store)
    try:
        return deploy(built, reuse)
    except (DeploymentError, FunctionDown, NotFound) as error:
        logger.warning("The bundle is uploaded again, and another revision deployed: %s", error)
        upload_bundle(store, bundle, model.sha256, replace=True)
        if earlier and not image:
            built = _build(settings, store)
        return deploy(built, reuse=False)


def _send_traffic(
    settings: Settings, candidate: Revision, before: Revision | None, what: str, reason: str
) -> DeploymentRecord:
    live = CloudRun(settings).send_traffic(settings.service, candidate.name)
    record_rollout(Store(settings), what, f"run {run_name()}", name_of(before) if before else None, live, reason)
    show_link("function", str(live.url), f"The function with {name_of(live)}")
    return DeploymentRecord(url=str(live.url), revision=live.name)


def _build(settings: Settings, store: Store) -> Image:
    """Build an image of the function's present source."""
    source = function_source()
    source_sha256 = sha256_of(source)
    logger.info("Building the function from its source.")
    key = source_key(source_sha256)
    store.write(key, source)
    return build_image(settings, store.object_name(key), source_sha256)


def _check(
    candidate: Revision, posters: list[KnownPoster], store: Store, model: Model, name: str, caller: str | None
) -> None:
    """Compare the candidate's predictions for known posters with the bundle's; DeploymentError if they differ."""
    for poster in posters:
        response = request_prediction(str(candidate.url), poster.name, caller)
        probabilities = {genre["name"]: float(genre["probability"]) for genre in response["genres"]}
        (expected,) = model.predict([store.whole_bucket().read(poster.name)])
        wrong = [g.name for g in expected if abs(probabilities.get(g.name, -1) - g.probability) > TOLERANCE]
        if wrong or response["model"]["sha256"] != model.sha256:
            raise DeploymentError(
                f"The predictions of the new revision for {poster.name} differ from those of {name}, so it does not go "
                "live. Start the run again to deploy another one.",
                f"Genres that differ: {', '.join(wrong)}" if wrong else "It serves another bundle.",
            )
