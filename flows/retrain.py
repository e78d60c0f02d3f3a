"""The flows `retrain`, from the site's pages to the deployed function, and `collect`, its beginning.

Each step is retryable.
"""

import logging
from datetime import date

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import deployment as deployment_runtime
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed

from flows.one_run import one_run
from flows.parameters import RetrainParameters, check_parameters, check_site
from infra.cloud_run import check_service_name
from infra.cors import check_cors
from infra.disk import check_space
from infra.errors import BusyError
from infra.local.stack import LOGGED_PACKAGES
from infra.mlflow_database import back_up
from infra.ping import ping
from infra.rights import require_google_cloud
from infra.settings import read_settings
from serving.bundle.errors import AnimeGenreError
from serving.bundle.redaction import redact_logs
from serving.bundle.wording import counted
from tasks.artifacts import show_text
from tasks.champion import check_collection, version_name
from tasks.posters import collected_before, download_posters
from tasks.preprocess import preprocess
from tasks.records import CatalogueRecord, CollectedRecord, DeploymentRecord, PosterSetRecord, RetrainRecord
from tasks.redeploy import redeploy, redeploy_champion
from tasks.register import register
from tasks.rollouts import Hold, Overtaken, record_unknown_rollout
from tasks.scrape import scrape
from tasks.step import retried, run_name
from tasks.upload import upload


def configure_logging() -> None:
    """Log the project's packages at level INFO and its own errors without a traceback.

    A flow calls this first, because Prefect logs other packages at level WARNING.
    """
    for name in LOGGED_PACKAGES.split(","):
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_remove_traceback)


def _remove_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback of the project's own errors and of OSError: their message is enough."""
    if record.exc_info and isinstance(record.exc_info[1], AnimeGenreError | OSError):
        record.exc_info = record.exc_text = None
    return True


def _run_name() -> str:
    """The name of the run, such as "retrain 2026-11-28 2015-winter..now"."""
    parameters: RetrainParameters = flow_run.parameters["parameters"]
    if not parameters.crawl:
        return f"train {date.today()} {parameters.collection_name}"
    return f"{flow_run.flow_name} {date.today()} {parameters.selection}"


@flow(name="retrain", flow_run_name=_run_name, persist_result=False)
def retrain(parameters: RetrainParameters) -> "State[RetrainRecord]":
    """Scrape the site, train, and deploy the new model if it is better than the champion."""
    # They import torch and scikit-learn, which takes seconds. The process that serves the deployment does without.
    from flows.summary import show_summary
    from tasks.evaluate import evaluate
    from tasks.train import train
    from tasks.train_elsewhere import check_deployment, train_elsewhere

    redact_logs()
    configure_logging()
    check_parameters(parameters)
    elsewhere = parameters.train_on
    if elsewhere:
        retried(lambda: check_deployment(elsewhere))
    settings = read_settings(parameters.collection_name)
    check_service_name(settings)
    check_space(settings.workspace, for_run=True)
    if settings.cloud == "google" and not settings.cloud_run_endpoint:
        retried(lambda: require_google_cloud(settings))
    retried(lambda: check_collection(settings))
    retried(lambda: check_cors(settings))
    with one_run(settings, waits=bool(deployment_runtime.id)):  # a person at a terminal gets the error at once
        retried(lambda: record_unknown_rollout(settings, f"run {run_name()}"))
        if parameters.crawl:
            catalogue, posters = _collect(parameters)
        else:
            collected = collected_before(parameters.collection_name)
            catalogue, posters = collected.catalogue, collected.posters
        dataset = preprocess(catalogue, posters, parameters.preprocess)
        if elsewhere:
            training = train_elsewhere(dataset, parameters.train, elsewhere)
        else:
            training = train(dataset, parameters.train)
        evaluation = evaluate(catalogue, dataset, training, parameters.promote, parameters.gate)
        model = register(dataset, training, evaluation)
        deployment: DeploymentRecord | Hold | Overtaken | None = None
        if evaluation.better:
            upload(model)
            deployment = redeploy(dataset, evaluation, model, parameters.gate)
        elif evaluation.redeploy_champion:
            deployment = redeploy_champion(dataset, evaluation, parameters.gate)
        back_up(settings)
    record = RetrainRecord(
        catalogue=catalogue,
        posters=posters,
        dataset=dataset,
        training=training,
        evaluation=evaluation,
        model=model,
        deployment=deployment if isinstance(deployment, DeploymentRecord) else None,
    )
    if isinstance(deployment, Hold | Overtaken):
        message = f"champion kept: {evaluation.reason} {deployment.sentence}"
    elif not evaluation.better:
        message = f"champion kept: {evaluation.reason}"
    else:
        message = f"{version_name(model.version, model.bundle_sha256)} is live: {evaluation.reason}"
    show_summary(record, message)
    ping(settings.ping_url)
    return Completed(message=message, data=record)


@flow(name="collect", flow_run_name=_run_name, persist_result=False)
def collect(parameters: RetrainParameters) -> "State[CollectedRecord]":
    """Read the site and download posters, without training. If another run is working, nothing is collected."""
    redact_logs()
    configure_logging()
    check_site(parameters)
    if not parameters.crawl:
        return Cancelled(message="Nothing is collected: the parameter crawl is off.")
    settings = read_settings(parameters.collection_name)
    check_space(settings.workspace, for_run=True)
    retried(lambda: check_collection(settings))
    try:
        with one_run(settings, waits=False):
            catalogue, posters = _collect(parameters)
    except BusyError as error:
        return Cancelled(message=f"Nothing is collected. {error.message}")
    message = (
        f"{counted(catalogue.titles, 'title')}, {counted(catalogue.changes, 'change')} since the last catalogue, "
        f"{counted(posters.posters, 'poster')}, {posters.new} new"
    )
    show_text("summary", message, "What was collected")
    ping(settings.ping_url)
    return Completed(message=message, data=CollectedRecord(catalogue=catalogue, posters=posters))


def _collect(parameters: RetrainParameters) -> tuple[CatalogueRecord, PosterSetRecord]:
    catalogue = scrape(
        parameters.source_url,
        parameters.selection,
        parameters.collect,
        parameters.collection_name,
        parameters.table if parameters.table.catalogue else None,
    )
    return catalogue, download_posters(catalogue, parameters.collect)
