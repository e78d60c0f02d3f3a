"""A candidate revision of the function: deployed without traffic, compared with its bundle, and timed."""

import logging
import statistics
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

from infra.cloud_build import build_image
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction, response_times
from infra.errors import DeploymentError, FunctionDown, NotFound
from infra.revisions import Image, Revision, model_environment
from infra.settings import Settings
from infra.store import Store
from serving.bundle.files import sha256_of
from serving.bundle.model import Model
from tasks.bundles import bundle_key, upload_bundle
from tasks.champion import function_source, settings_environment, source_key, version_name

logger = logging.getLogger("tasks")
TOLERANCE = 1e-3
"""Of a probability: the function may run on another CPU than this process."""
_TIMED_REQUESTS = 20


def deploy_checked_candidate(
    settings: Settings,
    bundle: Path,
    posters: Sequence[str],
    *,
    version: str,
    dataset_date: str,
    image: Image | None = None,
    reuse: bool = True,
    max_milliseconds: float | None = None,
) -> Revision:
    """Deploy a revision, and check its predictions and how fast it responds.

    If no revision starts, Cloud Run does not find the image, or the predictions differ, the bundle is uploaded and an
    earlier image built again, once: they may be deleted or damaged. A revision with a damaged bundle does not start.

    Args:
        settings: the service, its resources and its other variables.
        bundle: the folder of the model.
        posters: the objects in the bucket with which the predictions are checked.
        version: the model's version in the registry, "" if unknown.
        dataset_date: the day on which the model's catalogue was read, "" if unknown.
        image: by default that of the present source, built if necessary.
        reuse: whether a ready revision that is the same in everything is used again.
        max_milliseconds: the longest median time of a response to one poster, once the revision is warm; by default it
            is not measured.

    Raises:
        DeploymentError: the build or the revision failed, its predictions differ from the bundle's, or it is too slow.
        ServiceUnavailable: Cloud Run or the store is not reachable (retryable).
    """
    store, cloud_run, model = Store(settings), CloudRun(settings), Model.load(bundle)
    name = version_name(version, model.sha256)
    described = model_environment(
        uri=store.uri(bundle_key(model.sha256)),
        sha256=model.sha256,
        version=version,
        dataset_date=dataset_date,
        collection=settings.collection,
    )
    environment = described | settings_environment(settings)

    def deploy(image: Image, reuse: bool) -> Revision:
        candidate = cloud_run.deploy_candidate(image, environment, store.uri(source_key(image.source_sha256)), reuse)
        logger.info("Checking the predictions of the new revision, %s.", candidate.name)
        _check(candidate, posters, store, model, name, settings.caller_service_account)
        return candidate

    earlier = image or cloud_run.built_image(sha256_of(function_source()))
    built = earlier or _build(settings, store)
    try:
        candidate = deploy(built, reuse)
    except (DeploymentError, FunctionDown, NotFound) as error:
        logger.warning("The bundle is uploaded again, and another revision deployed: %s", error)
        upload_bundle(store, bundle, model.sha256, replace=True)
        if earlier and not image:
            built = _build(settings, store)
        candidate = deploy(built, reuse=False)
    if posters and max_milliseconds is not None:
        _check_speed(candidate, posters, name, max_milliseconds, settings.caller_service_account)
    return candidate


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


def _check_speed(candidate: Revision, posters: Sequence[str], name: str, limit: float, caller: str | None) -> None:
    """Measure the candidate's responses, which has answered before; DeploymentError if their median is over the limit.

    The limit is for the median, because a busy machine or network delays single responses.
    """
    times = response_times(str(candidate.url), list(islice(cycle(posters), _TIMED_REQUESTS)), caller)
    median, slow = statistics.median(times), statistics.quantiles(times, n=20)[-1]
    took = f"{median:,.0f} ms per poster (median of {_TIMED_REQUESTS} requests, 95 % within {slow:,.0f} ms)"
    if median > limit:
        raise DeploymentError(
            f"The new revision with {name} takes {took}, and {limit:,g} ms are allowed, so it does not go live. Raise "
            "--max-response-milliseconds, or ANIME_GENRE_FUNCTION_CPU."
        )
    logger.info("The new revision takes %s.", took)
