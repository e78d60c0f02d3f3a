"""One training from a dataset to a bundle.

`run_training` trains, chooses the precision, writes the bundle, runs the leak gauge, predicts the test part and reports
the final figures. The training step of the pipeline and the command line both call it.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.splits import TEST, VALIDATION
from ml.evaluation.leaks import leak_gauge
from ml.evaluation.predictions import PredictionSet, collect_predictions
from ml.export.bundle_writer import write_bundle
from ml.export.model_card import model_card
from ml.export.quantisation import choose_precision
from ml.networks.backbones import Backbone
from ml.reporting import Reporter
from ml.training.checkpoints import Checkpoints
from ml.training.features import FeatureExchange
from ml.training.learning import check_parts, train_networks
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from serving.bundle.model import Model

logger = logging.getLogger(__name__)

_SHOWN_POSTERS = 16


@dataclass(frozen=True)
class TrainingRun:
    """The trained networks, the bundle of the chosen one, and the predictions of all of them on the test part."""

    outcome: TrainingOutcome
    bundle: Model
    predictions: PredictionSet


def run_training(
    dataset: Dataset,
    config: TrainConfig,
    backbone: Backbone,
    reporter: Reporter,
    checkpoints: Checkpoints,
    *,
    bundle_folder: Path,
    temporary_folder: Path,
    date: str | None = None,
    exchange: FeatureExchange | None = None,
) -> TrainingRun:
    """Train on a dataset and write the bundle of the chosen network.

    Args:
        dataset: needs posters in all parts.
        config: names the candidate networks and sets how they are trained.
        backbone: what candidate networks start from.
        reporter: receives curves, progress and, at the end, each network's final figures in the network's run.
        checkpoints: let a killed training resume. The caller clears them after it has stored the result.
        bundle_folder: where the bundle is written.
        temporary_folder: for temporary files, which a killed training may leave there.
        date: the date of the data, for the model card.
        exchange: shares the backbone's features with other machines.

    Raises SettingError, WeightsError, TrainingError, and DatasetError if a part is empty.
    """
    check_parts(dataset, TEST)
    outcome = train_networks(dataset, config, backbone, reporter, checkpoints, exchange)
    logger.info("Exporting '%s', and comparing int8 with fp32.", outcome.chosen.name)
    outcome = choose_precision(outcome, temporary_folder, reporter)
    card = model_card(outcome, dataset, date)
    bundle = write_bundle(bundle_folder, outcome.chosen, config, dataset, card)
    logger.info("Measuring how much a random split of the posters would flatter.")
    leaks = leak_gauge(outcome.bench, outcome.features)
    logger.info("Predicting the test part with all networks.")
    predictions = collect_predictions(outcome, leaks, bundle, dataset)
    _report_final_figures(outcome, config, reporter)
    return TrainingRun(outcome, bundle, predictions)


def _report_final_figures(outcome: TrainingOutcome, config: TrainConfig, reporter: Reporter) -> None:
    """Report each network's figures in the network's run, and the chosen network's in the run of the whole training.

    This happens after the precision is chosen, so the chosen network's figures are those of the served graph.
    """
    for network in (*outcome.networks, *outcome.recipes):
        with reporter.run(network.name, {}) as network_reporter:  # no parameters: continues the network's run
            network_reporter.scalars(validation_metrics(network), config.epochs)
            _report_predictions(network, outcome.bench.dataset, network_reporter)
    reporter.scalars(validation_metrics(outcome.chosen), config.epochs)


def validation_metrics(network: NetworkOutcome) -> dict[str, float]:
    """A network's figures by their full names, such as `validation/weighted_f1` and `validation/f1/Action`."""
    metrics = network.validation.scalars() | {f"f1/{genre.genre}": genre.f1 for genre in network.validation.genres}
    return {f"{VALIDATION}/{name}": value for name, value in metrics.items()}


def _report_predictions(network: NetworkOutcome, dataset: Dataset, reporter: Reporter) -> None:
    """Report a network's precision-recall curves, and some posters with their genres and predictions."""
    rows, genres = dataset.rows(VALIDATION), dataset.genre_names
    labels, probabilities = dataset.labels[rows], network.validation_probabilities
    reporter.pr_curves(VALIDATION, labels, probabilities, genres)
    captions = [
        f"{_names(truth == 1, genres)}\n-> {_names(predicted >= network.thresholds, genres)}"
        for truth, predicted in zip(labels[:_SHOWN_POSTERS], probabilities[:_SHOWN_POSTERS], strict=True)
    ]
    reporter.images("predictions", dataset.images[rows[:_SHOWN_POSTERS]], captions)


def _names(has_genre: NDArray[np.bool_], genres: tuple[str, ...]) -> str:
    return ", ".join(genre for genre, has in zip(genres, has_genre.tolist(), strict=True) if has) or "none"
