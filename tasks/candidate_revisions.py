"""A candidate revision of the function: deployed without traffic, and compared with its bundle on known posters."""

import logging
from collections.abc import Sequence
from pathlib import Path

from infra.cloud_build import build_image
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.errors import DeploymentError, FunctionDown, NotFound
from infra.files import sha256_of
from infra.revisions import Image, Revision
from infra.settings import Settings
from infra.store import Store
from serving.bundle.model import Model
from tasks.bundles import upload_bundle
from tasks.champion import function_source, resources, settings_environment, source_key, version_name

logger = logging.getLogger("tasks")
TOLERANCE = 1e-3
"""Of a probability: the function may run on another CPU than this process."""


def deploy_candidate(
    settings: Settings,
    environment: dict[str, str],
    bundle: Path,
    posters: Sequence[str],
    image: Image | None = None,
    reuse: bool = True,
) -> Revision:
    """Deploy a revision and check its predictions.

    If no revision starts, Cloud Run does not find the image, or the predictions differ, the bundle is uploaded and an
    earlier image built again, once: they may be deleted or damaged. A revision with a damaged bundle does not start.

    Args:
        settings: the service, its resources and its other variables.
        environment: the variables that describe the model.
        bundle: the folder of the model.
        posters: the objects in the bucket with which the predictions are checked.
        image: by default that of the present source, built if necessary.
        reuse: whether a ready revision that is the same in everything is used again.

    Raises:
        DeploymentError: the build or the revision failed, or its predictions differ from the bundle's.
        ServiceUnavailable: Cloud Run or the store is not reachable (retryable).
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


def _build(settings: Settings, store: Store) -> Image:
    """Build an image of the function's present source."""
    source = function_source()
    source_sha256 = sha256_of(source)
    logger.info("Building the function from its source.")
    key = source_key(source_sha256)
    store.write(key, source)
    return build_image(settings, store.object_name(key), source_sha256)


def _check(
    candidate: Revision, posters: Sequence[str], store: Store, model: Model, name: str, caller: str | None
) -> None:
    """Compare the candidate's predictions for known posters with the bundle's; DeploymentError if they differ."""
    for poster in posters:
        response = request_prediction(str(candidate.url), poster, caller)
        probabilities = {genre["name"]: float(genre["probability"]) for genre in response["genres"]}
        (expected,) = model.predict([store.whole_bucket().read(poster)])
        wrong = [g.name for g in expected if abs(probabilities.get(g.name, -1) - g.probability) > TOLERANCE]
        if wrong or response["model"]["sha256"] != model.sha256:
            raise DeploymentError(
                f"The predictions of the new revision for {poster} differ from those of {name}, so it does not go "
                "live. Start the run again to deploy another one.",
                f"Genres that differ: {', '.join(wrong)}" if wrong else "It serves another bundle.",
            )
