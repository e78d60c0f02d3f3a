"""Step 8: deploy a revision of the function with the new bundle, check its predictions, and send it the traffic."""

import logging

from infra.cloud_run import CloudRun
from infra.errors import NotFound
from infra.lease import rollout_lease
from infra.registry import Registry
from infra.settings import Settings, read_settings
from infra.store import Store
from ml.configuration import GateConfig
from serving.bundle.model import Model
from tasks.artifacts import show_link
from tasks.bundles import fetch_bundle
from tasks.candidate_revisions import deploy_checked_candidate
from tasks.champion import has_other_decoder, live_champion, version_name
from tasks.deployments import write_deployment
from tasks.records import DatasetRecord, DeploymentRecord, EvaluationRecord, ModelRecord
from tasks.register import BETTER_THAN_CHAMPION
from tasks.rollouts import Hold, Overtaken, Rollout, failure_recorded, lift_hold, move_traffic, name_of, read_hold
from tasks.step import run_name, step

logger = logging.getLogger("tasks")
_DEFAULTS = GateConfig()


@step("redeploy")
def redeploy(
    dataset: DatasetRecord,
    evaluation: EvaluationRecord,
    model: ModelRecord,
    gate: GateConfig = _DEFAULTS,
) -> DeploymentRecord | Hold | Overtaken:
    """Build if the source changed, deploy a candidate revision, check it, and move traffic and alias to it.

    Returns the reason, and moves nothing, if a person has held or promoted another model since the comparison. A hold
    that the comparison overruled is lifted once the new model is live.

    Raises:
        BusyError: another rollout does not end.
        DeploymentError: the build or the revision failed, its predictions differ from the bundle's, it is too slow, or
            the service does not serve the bundle. The traffic is then where it was.
        ServiceUnavailable: Cloud Run, the store or MLflow is not reachable (retryable).
    """
    settings = read_settings(dataset.collection)
    store, registry = Store(settings), Registry(settings)
    folder = fetch_bundle(store, registry, settings.folder, model.bundle_sha256, model.run_id)
    posters, limit = [each.name for each in evaluation.known_posters], gate.max_response_milliseconds
    what, by, name = "redeploy", f"run {run_name()}", version_name(model.version, model.bundle_sha256)
    with rollout_lease(store, settings.workspace):
        with failure_recorded(settings, what, by, name):
            candidate = deploy_checked_candidate(
                settings,
                folder,
                posters,
                version=model.version,
                dataset_date=dataset.snapshot_date,
                max_milliseconds=limit,
            )
        hold = read_hold(store)
        if hold and hold.since != evaluation.overruled_hold:  # written since the comparison
            logger.warning("The new model does not go live. %s", hold.sentence)
            return hold
        live = CloudRun(settings).live()
        # This run's own bundle is live if a try before this one moved the traffic.
        if live and live.bundle_sha256 not in (evaluation.compared_with, model.bundle_sha256):
            overtaken = Overtaken(version=model.version, live=name_of(live), collection=settings.collection)
            logger.warning("The new model does not go live. %s", overtaken.sentence)
            return overtaken
        write_deployment(store, live, dataset, evaluation, model)
        rollout = move_traffic(settings, registry, candidate, what, by, evaluation.reason)
        lift_hold(store, hold)
    registry.tag_version(model.version, {BETTER_THAN_CHAMPION: str(evaluation.passed_gate).lower()})
    return _record(settings, rollout)


@step("redeploy champion")
def redeploy_champion(
    dataset: DatasetRecord, evaluation: EvaluationRecord, gate: GateConfig = _DEFAULTS
) -> DeploymentRecord:
    """Deploy a new revision with the live model, the present settings and the present source of the function.

    Raises as `redeploy`.
    """
    settings = read_settings(dataset.collection)
    store, registry = Store(settings), Registry(settings)
    with rollout_lease(store, settings.workspace):
        champion = live_champion(settings, registry)
        if champion is None:
            raise NotFound(f"The service {settings.service} has no live revision any more. Start the run again.")
        logger.info("The champion, %s, gets a new revision: %s.", champion.name, evaluation.redeploy_champion)
        folder = fetch_bundle(store, registry, settings.folder, champion.bundle_sha256)
        image = None
        if has_other_decoder(Model.load(folder)):  # today's source would give it other pixels
            image = champion.revision.image
        # A running revision remembers that its bundle was damaged, so a ready one is not used again.
        posters, limit = [each.name for each in evaluation.known_posters], gate.max_response_milliseconds
        what, by = "redeploy champion", f"run {run_name()}"
        with failure_recorded(settings, what, by, champion.name):
            candidate = deploy_checked_candidate(
                settings,
                folder,
                posters,
                version=champion.version,
                dataset_date=champion.revision.environment.get("DATASET_DATE", ""),
                image=image,
                reuse=False,
                max_milliseconds=limit,
            )
        rollout = move_traffic(settings, registry, candidate, what, by, str(evaluation.redeploy_champion))
    return _record(settings, rollout)


def _record(settings: Settings, rollout: Rollout) -> DeploymentRecord:
    url = str(CloudRun(settings).url())
    show_link("function", url, f"The function with {rollout.after}")
    return DeploymentRecord(url=url, revision=rollout.revision)
