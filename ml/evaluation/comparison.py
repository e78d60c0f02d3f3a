"""The candidates against the recipe on all posters: each fold of franchises is predicted by networks that never saw it.

A single test part of a thousand posters cannot tell small gains from chance; folds pooled over all posters can. What
is compared, and how, is what `train` does, once a fold.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import open_pixels
from ml.data.splits import TEST, TRAIN, VALIDATION
from ml.data.user_table import draw_parts, read_table
from ml.errors import DatasetError
from ml.export.bundle_writer import check_packages
from ml.networks.weights import Weights, read_weights
from ml.reporting import Reporter
from ml.scores.calibration import calibrate
from ml.scores.folds import FOLDS, stratified_folds
from ml.scores.intervals import Differences, Interval, Intervals, Predictions, differences, intervals
from ml.scores.metrics import Scores, WeightedF1, score, weighted_f1_by_threshold
from ml.training.candidates import check_settings
from ml.training.learning import train_networks
from ml.training.outcome import NetworkOutcome

logger = logging.getLogger(__name__)

CHOSEN = "chosen"
EVERY_GENRE = "every genre"


@dataclass(frozen=True)
class Pooled:
    """Out-of-fold answers of one network about all posters, and what they are worth."""

    predictions: Predictions
    scores: Scores
    by_threshold: WeightedF1
    intervals: Intervals
    calibration_error: float


@dataclass(frozen=True)
class Comparison:
    """All networks on all posters; `differences` are the chosen one minus each other, paired.

    `below_every_genre` are the genres whose F1 is not above that of predicting them for every poster.
    """

    pooled: Mapping[str, Pooled]
    differences: Mapping[str, Differences]
    every_genre: Scores
    below_every_genre: tuple[str, ...]
    posters: int

    def as_dict(self) -> dict[str, object]:
        """All figures, ready for JSON."""
        return {
            "posters": self.posters,
            "networks": {
                name: {
                    **pooled.scores.as_dict(),
                    "by_threshold": asdict(pooled.by_threshold),
                    "intervals": asdict(pooled.intervals),
                    "calibration_error": pooled.calibration_error,
                }
                for name, pooled in self.pooled.items()
            },
            "differences": {name: asdict(each) for name, each in self.differences.items()},
            "every_genre": self.every_genre.as_dict(),
            "below_every_genre": self.below_every_genre,
        }

    def summary(self) -> str:
        """The figures that matter, as tables for a terminal."""
        head = f"{'':22} {'weighted F1':>24} {'at 0.5':>7} {'common':>7} {'mAP':>24} {'ECE':>6}"
        lines = [f"{self.posters} posters, each predicted by networks that saw none of its franchise", head]
        for name, pooled in self.pooled.items():
            f1, precision = pooled.intervals.weighted_f1, pooled.intervals.mean_average_precision
            lines.append(
                f"{name:22} {_interval(f1):>24} {pooled.by_threshold.at_half:7.3f} "
                f"{pooled.by_threshold.at_common:7.3f} {_interval(precision):>24} {pooled.calibration_error:6.3f}"
            )
        every = self.every_genre
        lines.append(f"{EVERY_GENRE:22} {every.weighted_f1:24.3f} {'':7} {'':7} {every.mean_average_precision:24.3f}")
        lines += ["", f"{CHOSEN + ' minus':22} {'weighted F1':>24} {'':7} {'':7} {'mAP':>24}"]
        for name, each in self.differences.items():
            gains = (_interval(gain, "+") for gain in (each.weighted_f1, each.mean_average_precision))
            lines.append("{:22} {:>24} {:15} {:>24}".format(name, next(gains), "", next(gains)))
        below = ", ".join(self.below_every_genre) or "none"
        return "\n".join([*lines, "", f"Genres not above their every-genre F1: {below}."])


def _interval(it: Interval, sign: str = "") -> str:
    return f"{it.value:{sign}.3f} [{it.low:{sign}.3f}, {it.high:{sign}.3f}]"


def compare_table(
    catalogue: Path,
    posters: Path,
    workspace: Path,
    preprocess: PreprocessConfig,
    train: TrainConfig,
    reporting: AbstractContextManager[Reporter],
    output: Path | None = None,
) -> Comparison:
    """Compare on a table of posters (see `ml.data.user_table`); writes all figures to `output` where it is given.

    Parts play no role here, so genres need only enough posters in all. Raises MLError.
    """
    check_settings(train)
    check_packages()
    if output is not None:  # what cannot be written is known before the work, not after
        if output.is_dir():
            raise DatasetError(f"{output} is a folder: name a file for the figures.")
        output.parent.mkdir(parents=True, exist_ok=True)
    table = read_table(catalogue, posters)
    for notice in table.notices:
        logger.warning("%s", notice)
    weights = read_weights(train.weights, train.backbone, workspace / "weights")
    with reporting as reporter:
        pixels = open_pixels(workspace, preprocess.image_size)
        rows = draw_parts(table, pixels, reporter)
        dataset = build_dataset(rows, workspace, replace(preprocess, min_posters_per_part=0), reporter, pixels)
        comparison = compare(dataset, train, weights, reporter)
    if output is not None:
        output.write_text(json.dumps(comparison.as_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return comparison


def compare(dataset: Dataset, config: TrainConfig, weights: Weights | None, reporter: Reporter) -> Comparison:
    """Train on each of five folds' complement, the next fold being the validation part, and pool the answers."""
    fold_of = stratified_folds(dataset.franchises, dataset.labels)
    if fold_of.max() + 1 < FOLDS:
        raise DatasetError(f"Posters of {FOLDS} franchises at least are needed for as many folds.")
    answers: dict[str, _Answers] = {}
    for fold in range(FOLDS):
        parts = np.full(len(fold_of), TRAIN, dtype="<U10")
        parts[fold_of == (fold + 1) % FOLDS] = VALIDATION
        parts[fold_of == fold] = TEST
        view = replace(dataset, parts=parts)
        with reporter.run(f"fold-{fold + 1}", {"fold": fold + 1}) as own:
            outcome = train_networks(view, config, weights, own)
        rows = view.rows(TEST)
        for network in (*outcome.networks, *outcome.recipes):
            answers.setdefault(network.name, _Answers(dataset)).take(rows, network)
        answers.setdefault(CHOSEN, _Answers(dataset)).take(rows, outcome.chosen)
        del outcome  # and with it the posters that its networks keep on a GPU
    chosen = {CHOSEN: answers.pop(CHOSEN)}
    pooled = {name: each.pooled() for name, each in (chosen | answers).items()}
    labels, groups = dataset.labels, dataset.franchises
    every = score(np.ones(labels.shape, np.float32), np.ones(labels.shape, np.bool_), labels, dataset.genre_names)
    ours = pooled[CHOSEN]
    return Comparison(
        pooled=pooled,
        differences={
            name: differences(ours.predictions, each.predictions, labels, groups)
            for name, each in pooled.items()
            if name != CHOSEN
        },
        every_genre=every,
        below_every_genre=tuple(
            own.genre for own, base in zip(ours.scores.genres, every.genres, strict=True) if own.f1 <= base.f1
        ),
        posters=len(labels),
    )


class _Answers:
    """What one network said about each poster while it was in the test fold, and the thresholds it came with."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        shape = dataset.labels.shape
        self._probabilities = np.zeros(shape, np.float32)
        self._own, self._common = np.zeros(shape), np.zeros((shape[0], 1))

    def take(self, rows: NDArray[np.int64], network: NetworkOutcome) -> None:
        self._probabilities[rows] = network.predict(rows)
        self._own[rows], self._common[rows] = network.thresholds, network.common_threshold

    def pooled(self) -> Pooled:
        labels, names = self._dataset.labels, self._dataset.genre_names
        predictions = Predictions(self._probabilities, self._probabilities >= self._own)
        return Pooled(
            predictions=predictions,
            scores=score(self._probabilities, predictions.decisions, labels, names),
            by_threshold=weighted_f1_by_threshold(self._probabilities, labels, self._common, self._own),
            intervals=intervals(predictions, labels, self._dataset.franchises),
            calibration_error=calibrate(self._probabilities, labels).expected_error,
        )
