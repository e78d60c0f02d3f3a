"""The demo: one run over a small built-in site, and the deployed function asked about unseen posters."""

from pathlib import Path

from rich.console import Console

from flows.parameters import RetrainParameters
from flows.summary import run_retrain, show, show_predictions, write_summary
from infra.local.site.invented_titles import SEASONS
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
        NotFound: no model is live.
    """
    console = Console()
    summary = run_retrain(demo_parameters(site_url))
    show(summary, console)
    answers = show_predictions(summary, console)
    path = workspace / "summary.json"
    write_summary(summary, path, answers=answers)
    console.print(f"Everything lies in {workspace}; the figures are in {path}.")
    console.print("`make up` starts the stack on it again: Prefect, MLflow, TensorBoard, the function and its page.")
