"""The demo: one run over a small built-in site, and the deployed function asked about unseen posters."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from flows.parameters import RetrainParameters
from flows.summary import run_retrain, show, write_summary
from infra.endpoint import ask
from infra.errors import DeploymentError
from infra.local.site.titles import SEASONS
from ml.configuration import PreprocessConfig, TrainConfig


def demo_parameters(site_url: str) -> RetrainParameters:
    """A run that takes minutes on two cores: all of the built-in site, at a small image size."""
    return RetrainParameters(
        site_url=site_url,
        seasons=f"{SEASONS[0]}..{SEASONS[-1]}",
        preprocess=PreprocessConfig(image_size=64),
        train=TrainConfig(trials=2, epochs=8),
    )


def run_demo(workspace: Path, site_url: str) -> None:
    """Run the flow, ask the live function, print what came out and write `summary.json`.

    Raises:
        AnimeGenreError: the one that ended the run.
        DeploymentError: no model went live.
    """
    console = Console()
    summary = run_retrain(demo_parameters(site_url))
    deployment = summary.record.deployment
    if deployment is None:
        raise DeploymentError(f"No model went live: {summary.message}.")
    show(summary, console)
    answers = []
    table = Table("poster", "title", "it is", "the function says", title="Posters it has not trained on")
    for known in deployment.answers:
        answer = ask(deployment.url, known.poster)
        answers.append({"name": known.poster, "title": known.title, "genres": known.expected, "answer": answer})
        said = (f"{g['name']} {g['probability']:.2f}" for g in answer["genres"] if g["predicted"])
        table.add_row(known.poster, known.title, ", ".join(known.expected), ", ".join(said) or "none of its genres")
    console.print(table)
    path = workspace / "summary.json"
    write_summary(summary, path, answers=answers)
    console.print(f"Everything lies in {workspace}; the figures are in {path}.")
    console.print("`make up` starts the stack on it again: Prefect, MLflow, TensorBoard, the function and its page.")
