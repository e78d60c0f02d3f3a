"""From a table of posters to a bundle in one call, where there is no orchestrator."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import open_pixels
from ml.data.user_table import draw_parts, read_table
from ml.errors import DatasetError
from ml.evaluation.judge import Evaluation, judge, report_page
from ml.evaluation.leaks import Leak
from ml.evaluation.predictions import collect_answers
from ml.export.bundle_writer import check_packages, write_bundle
from ml.export.model_card import model_card
from ml.export.quantisation import served_best
from ml.networks.weights import read_weights
from ml.reporting import Reporter
from ml.training.candidates import check_settings
from ml.training.learning import checkpoints_of, train_networks
from ml.training.outcome import TrainingOutcome
from serving.bundle.model import MANIFEST

logger = logging.getLogger(__name__)

REPORT, PAGE = "report.json", "report.html"


@dataclass(frozen=True)
class TableRun:
    """What came of training from a table."""

    bundle: Path
    bundle_sha256: str
    notices: tuple[str, ...]
    dataset: Dataset
    outcome: TrainingOutcome
    leaks: tuple[Leak, ...]
    evaluation: Evaluation
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, object]:
        """All figures, ready for JSON: what report.json holds."""
        networks = (*self.outcome.networks, *self.outcome.recipes)
        return {
            "bundle_sha256": self.bundle_sha256,
            "notices": self.notices,
            "dataset": self.dataset.summary(),
            "networks": [network.as_dict() for network in networks],
            "chosen": self.outcome.chosen.name,
            "leaks": [asdict(leak) for leak in self.leaks],
            **self.evaluation.as_dict(),
            "seconds": self.seconds,
        }

    def summary(self) -> str:
        """The figures that matter, as a table for a terminal."""
        networks = (*self.outcome.networks, *self.outcome.recipes)
        rows = [(f"{network.name} (validation)", network.validation) for network in networks]
        rows += [(f"{model.name} (test)", model.scores) for model in self.evaluation.models]
        lines = [f"{'':26} {'weighted F1':>12} {'macro F1':>9} {'micro F1':>9} {'mAP':>6}"]
        for name, scores in rows:
            lines.append(
                f"{name:26} {scores.weighted_f1:12.3f} {scores.macro_f1:9.3f} {scores.micro_f1:9.3f} "
                f"{scores.mean_average_precision:6.3f}"
            )
        for comparison in self.evaluation.comparisons:
            f1 = comparison.differences.weighted_f1
            lines.append(
                f"{self.outcome.chosen.name} minus {comparison.opponent} on the test part: weighted F1 {f1.value:+.3f} "
                f"(95 % interval {f1.low:+.3f} to {f1.high:+.3f})"
            )
        took = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return "\n".join([*lines, f"Took: {took}.", f"Bundle: {self.bundle} (sha256 {self.bundle_sha256})"])


def train_from_table(
    catalogue: Path,
    posters: Path,
    output: Path,
    workspace: Path,
    preprocess: PreprocessConfig,
    train: TrainConfig,
    reporting: AbstractContextManager[Reporter],
) -> TableRun:
    """Train on a table (see `ml.data.user_table`) and write a bundle, report.json and report.html into `output`.

    `workspace` keeps pixels and datasets, which are used again, and downloaded weights. `reporting` is entered once the
    settings and the table were found to be good, so that it leaves nothing where they are not. Raises MLError, which
    says in a sentence what is wrong with the input; DatasetError, too, where `output` holds something else than
    a bundle.
    """
    if output.is_file() or (output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).exists()):
        raise DatasetError(f"{output} exists and is no bundle: give another folder, or empty this one.")
    check_packages()
    check_settings(train)
    start = time.perf_counter()
    table = read_table(catalogue, posters)
    for notice in table.notices:
        logger.warning("%s", notice)
    output.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written is known before the work, not after
    weights = read_weights(train.weights, train.backbone, workspace / "weights")
    with reporting as reporter:
        pixels = open_pixels(workspace, preprocess.image_size)
        dataset = build_dataset(draw_parts(table, pixels, reporter), workspace, preprocess, reporter, pixels)
        preprocessed = time.perf_counter()
        checkpoints = checkpoints_of(workspace, output.resolve().name, dataset, train, weights)
        outcome = train_networks(dataset, train, weights, reporter, checkpoints)
        # Not in `output`: what a killed run left there would be taken for somebody's files.
        outcome = served_best(outcome, dataset, workspace, reporter)
    model = write_bundle(output, outcome.chosen, train, dataset, model_card(outcome, dataset))
    trained = time.perf_counter()
    answers = collect_answers(outcome, dataset)
    evaluation = judge(model, answers, dataset)
    seconds = {
        "preprocess": preprocessed - start,
        "train": trained - preprocessed,
        "evaluate": time.perf_counter() - trained,
    }
    run = TableRun(output, model.sha256, table.notices, dataset, outcome, answers.leaks, evaluation, seconds)
    # A path is of this machine, and not for whoever gets the folder; the manifest has the weights' sha256.
    configuration = {**asdict(preprocess), **asdict(train), "weights": Path(train.weights).name}
    report = {"configuration": configuration, **run.as_dict()}
    (output / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (output / PAGE).write_text(report_page(evaluation, answers, dataset), encoding="utf-8")
    checkpoints.clear()
    return run
