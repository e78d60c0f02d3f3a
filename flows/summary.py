"""Runs the flow and reports the result: tables of steps, networks and scores, a JSON file, an artifact in Prefect."""

import json
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect import tags
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.logging.handlers import APILogHandler
from rich.console import Console
from rich.table import Column, Table

from flows.parameters import RetrainParameters
from flows.retrain import retrain
from infra.cloud_run import CloudRun
from infra.endpoint import request_prediction
from infra.errors import InfraError, ServiceUnavailable, failure
from infra.files import write_bytes
from infra.registry import Registry
from infra.settings import read_settings
from serving.bundle.wording import counted
from tasks.artifacts import show_text
from tasks.champion import version_name
from tasks.records import RetrainRecord
from tasks.rollouts import name_of

logger = logging.getLogger("flows")

_FLUSHING_SECONDS = 1.5  # the server writes task runs once a second
_RECORDING_SECONDS = 20


@dataclass(frozen=True)
class Step:
    """One task of a run: its duration, its number of attempts, and its final state."""

    name: str
    seconds: float
    tries: int
    state: str


@dataclass(frozen=True)
class RunSummary:
    """The result of one run of the flow. `id` is that of the flow run."""

    id: UUID
    steps: list[Step]
    message: str
    record: RetrainRecord


def run_retrain(parameters: RetrainParameters) -> RunSummary:
    """Run the flow in this process.

    Raises:
        AnimeGenreError: the run failed.
    """
    try:
        try:
            with tags(parameters.collection_name):
                state: Any = retrain(parameters, return_state=True)
        finally:
            # The server may stop before the log is sent. After Ctrl-C, Prefect would then try to send it for a minute.
            APILogHandler().flush()
        record = state.result()  # raises the flow's exception
        return RunSummary(
            state.state_details.flow_run_id,
            recorded_steps(state.state_details.flow_run_id),
            state.message or "",
            record,
        )
    except (httpx.TransportError, RuntimeError) as error:
        # At the start of a run, Prefect raises a RuntimeError for it.
        if not isinstance(error if isinstance(error, httpx.TransportError) else error.__cause__, httpx.TransportError):
            raise
        what = "The Prefect server does not answer any more"
        raise failure(ServiceUnavailable, what, error, "Start the run again: completed steps are skipped.") from error


def recorded_steps(flow_run_id: UUID) -> list[Step]:
    """The steps of a run, read from the server, which records them some seconds after they end."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    deadline = time.monotonic() + _RECORDING_SECONDS
    runs: list[TaskRun] = []
    previous_count = -1
    with get_client(sync_client=True) as client:
        # The list is complete when every task has ended and the last poll returned no new one.
        while len(runs) != previous_count or not all(run.state and run.state.is_final() for run in runs):
            if time.monotonic() > deadline:
                break
            previous_count = len(runs)
            time.sleep(_FLUSHING_SECONDS)
            runs = client.read_task_runs(flow_run_filter=wanted)
    return [
        Step(run.name, run.total_run_time.total_seconds(), run.run_count, run.state_name or "")
        for run in sorted(runs, key=lambda run: str(run.start_time))
    ]


def show(summary: RunSummary, console: Console) -> None:
    """Print the steps with their seconds, and the networks and baselines with their scores."""
    record = summary.record
    steps = Table("step", "seconds", "tries", "state", title="Steps")
    for step in summary.steps:
        steps.add_row(step.name, f"{step.seconds:.1f}", str(step.tries), step.state)
    console.print(steps)
    names = ("validation/weighted_f1", "validation/mean_average_precision")
    networks = Table("network", *names, "pretrained", "seconds", title="Networks")
    for network in record.training.networks:
        chosen = " (chosen)" if network.name == record.training.chosen else ""
        networks.add_row(
            network.name + chosen,
            f"{network.weighted_f1:.3f}",
            f"{network.mean_average_precision:.3f}",
            "yes" if network.pretrained else "no",
            f"{network.seconds:.0f}",
        )
    console.print(networks)
    metrics = ("weighted_f1", "macro_f1", "micro_f1", "mean_average_precision")
    scores = Table("model", *(f"test/{m}" for m in metrics), title="Scores")
    for score in record.evaluation.scores:
        scores.add_row(score.name, *(f"{getattr(score, m):.3f}" for m in metrics))
    console.print(scores)
    for notice in (*record.dataset.notices, *record.evaluation.later):
        console.print(notice)
    console.print(summary.message[:1].upper() + summary.message[1:])


def show_summary(record: RetrainRecord, message: str) -> None:
    """Show in Prefect what changed, what went live and why, with links. A service that is down leaves its link out."""
    score, catalogue, posters, dataset = record.evaluation.scores[0], record.catalogue, record.posters, record.dataset
    what, _, reason = f"{message[:1].upper()}{message[1:]}".partition(": ")
    parts = ", ".join(f"{part} {count:,}" for part, count in dataset.parts.items())
    lines = [
        f"**{what}**\n\n{reason}\n",
        f"- What changed since the site was last read: {counted(catalogue.changes, 'change')} in "
        f"{counted(catalogue.titles, 'title')} of {catalogue.snapshot_date}, {counted(posters.new, 'new poster')} of "
        f"{posters.posters}",
        f"- Dataset: {counted(dataset.posters, 'poster')} ({parts}), {counted(len(dataset.genres), 'genre')}",
        f"- Model of this run: {version_name(record.model.version, record.model.bundle_sha256)}, "
        f"{record.training.chosen}, test/weighted_f1 {score.weighted_f1:.3f}",
    ]
    lines += [f"- Later titles: {sentence}" for sentence in record.evaluation.later]
    settings, links = read_settings(catalogue.collection), dict[str, str]()
    try:
        if live := CloudRun(settings).live():
            lines.append(f"- Live: {name_of(live)}")
            links["function"] = str(live.url)
        if settings.tracking_uri.startswith("http"):
            links["MLflow run"] = f"{Registry(settings).runs_url}/{record.training.run_id}"
            links["report"] = f"{links['MLflow run']}/artifacts/model.html"
    except InfraError as error:
        logger.warning("The summary has no links: %s", error)
    if settings.page_url:
        links["page"] = settings.page_url
    lines.append("- Links: " + ", ".join(f"[{name}]({url})" for name, url in links.items()))
    show_text("summary", "\n".join(lines), "What changed, what is live and why")


def show_predictions(summary: RunSummary, console: Console) -> list[dict[str, Any]]:
    """Request predictions for posters of the test part from the live function; print and return them.

    If no function is live, there are none, and the output says so.
    """
    settings = read_settings(summary.record.catalogue.collection)
    live = CloudRun(settings).live()
    if live is None:
        console.print("No model is live. Run again with --promote always.")
        return []
    poster_column = Column("poster", no_wrap=True)
    table = Table(poster_column, "title", "genres", "predicted genres", title="Predictions for test posters")
    predictions = []
    for poster in summary.record.evaluation.known_posters:
        response = request_prediction(str(live.url), poster.name, settings.caller_service_account)
        predicted = (f"{g['name']} {g['probability']:.2f}" for g in response["genres"] if g["predicted"])
        table.add_row(poster.name, poster.title, ", ".join(poster.genres), ", ".join(predicted) or "none")
        predictions.append({**poster.model_dump(), "answer": response})
    console.print(table)
    return predictions


def write_summary(summary: RunSummary, path: Path, **more: object) -> None:
    """Write the steps and records of a run as JSON."""
    content = {
        "message": summary.message,
        "steps": [vars(step) for step in summary.steps],
        "record": summary.record.model_dump(mode="json"),
        **more,
    }
    write_bytes(path, json.dumps(content, indent=2).encode())
