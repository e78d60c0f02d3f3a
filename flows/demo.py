"""The demo: one run over a small built-in site, then predictions of the deployed function for test posters."""

from pathlib import Path

from rich.console import Console

from flows.parameters import RetrainParameters
from flows.summary import run_retrain, show, show_predictions, write_summary
from infra.errors import NotFound
from infra.local.site.invented_titles import SEASONS
from infra.settings import BUILT_IN_COLLECTION
from ml.configuration import TrainConfig
from tasks.catalogue.configuration import DatasetConfig
from tasks.rollouts import promote_command


def demo_parameters(site_url: str) -> RetrainParameters:
    """Parameters of a run that takes minutes on two cores and needs no internet.

    It reads the whole built-in site, with small images, and trains from random weights.
    """
    return RetrainParameters(
        site_url=site_url,
        collection=BUILT_IN_COLLECTION,
        seasons=f"{SEASONS[0]}..{SEASONS[-1]}",
        preprocess=DatasetConfig(image_size=64),
        train=TrainConfig(candidates=("scratch", "whole"), weights="none", trials=2, epochs=10),
    )


def run_demo(workspace: Path, site_url: str) -> None:
    """Run the flow, request predictions from the live function, print both and write `summary.json`.

    Raises:
        AnimeGenreError: the run failed.
        NotFound: no model is live.
    """
    console = Console(markup=False, emoji=False)
    summary = run_retrain(demo_parameters(site_url))
    show(summary, console)
    predictions = show_predictions(summary, console)
    if not predictions:
        command = promote_command(BUILT_IN_COLLECTION, summary.record.model.version)
        raise NotFound(f"The model of the demo did not go live. {command} makes it live.", summary.message)
    path = workspace / "summary.json"
    write_summary(summary, path, answers=predictions)
    console.print(f"The data is in {workspace}, and the figures are in {path}.")
    console.print("`make up` starts Prefect, MLflow, TensorBoard, the function and its page with this data.")
