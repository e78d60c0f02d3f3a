"""A run of the flow as people read it: a table of steps, one of scores, and a JSON file of both."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import TaskRun
from prefect.logging.handlers import APILogHandler
from rich.console import Console
from rich.table import Column, Table

from flows.parameters import RetrainParameters
from flows.retrain import retrain
from infra.cloud_run import CloudRun
from infra.endpoint import ask
from infra.errors import NotFound
from infra.files import write_bytes
from infra.settings import read_settings
from tasks.records import RetrainRecord

_FLUSHING_SECONDS = 1.5  # the server writes task runs once a second
_RECORDING_SECONDS = 20


@dataclass(frozen=True)
class Step:
    """One task of a run: its seconds of work, how often it was started, and the state it ended in."""

    name: str
    seconds: float
    tries: int
    state: str


@dataclass(frozen=True)
class RunSummary:
    """What one run of the flow did."""

    steps: list[Step]
    message: str
    record: RetrainRecord


def run_retrain(parameters: RetrainParameters) -> RunSummary:
    """Run the flow here and now.

    Raises:
        AnimeGenreError: the one that ended the run.
    """
    state: Any = retrain(parameters, return_state=True)
    APILogHandler().flush()  # the log is written before the server may be ended
    record = state.result()  # raises what the flow raised
    return RunSummary(recorded_steps(state.state_details.flow_run_id), state.message or "", record)


def recorded_steps(flow_run_id: UUID) -> list[Step]:
    """The steps as the server recorded them, which happens some seconds after they ended."""
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
    deadline = time.monotonic() + _RECORDING_SECONDS
    runs: list[TaskRun] = []
    before = -1
    with get_client(sync_client=True) as client:
        # All are recorded once each has ended and no further one has come in the meantime.
        while len(runs) != before or not all(run.state and run.state.is_final() for run in runs):
            if time.monotonic() > deadline:
                break
            before = len(runs)
            time.sleep(_FLUSHING_SECONDS)
            runs = client.read_task_runs(flow_run_filter=wanted)
    return [
        Step(run.name.rsplit("-", 1)[0], run.total_run_time.total_seconds(), run.run_count, run.state_name or "")
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
    console.print(summary.message[:1].upper() + summary.message[1:])


def show_predictions(summary: RunSummary, console: Console) -> list[dict[str, Any]]:
    """Ask the live function about posters that no model trained on, and print and return what it says.

    Raises:
        NotFound: no function is live.
    """
    settings = read_settings()
    live = CloudRun(settings).live(settings.service)
    if live is None:
        raise NotFound(f"No model is live: {summary.message}")
    poster_column = Column("poster", no_wrap=True)
    table = Table(poster_column, "title", "it is", "the function says", title="Posters it has not trained on")
    answers = []
    for poster in summary.record.evaluation.known_posters:
        answer = ask(str(live.url), poster.name)
        said = (f"{g['name']} {g['probability']:.2f}" for g in answer["genres"] if g["predicted"])
        table.add_row(poster.name, poster.title, ", ".join(poster.genres), ", ".join(said) or "none of its genres")
        answers.append({**poster.model_dump(), "answer": answer})
    console.print(table)
    return answers


def write_summary(summary: RunSummary, path: Path, **more: object) -> None:
    """Write all figures of a run as JSON."""
    content = {
        "message": summary.message,
        "steps": [vars(step) for step in summary.steps],
        "record": summary.record.model_dump(mode="json"),
        **more,
    }
    write_bytes(path, json.dumps(content, indent=2).encode())
