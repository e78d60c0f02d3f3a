"""From a table of posters to a bundle in one call, where there is no orchestrator."""

import json
import logging
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path

from ml.bundle import check_packages, write_bundle
from ml.candidates import check_settings
from ml.card import model_card
from ml.configuration import PreprocessConfig, TrainConfig
from ml.dataset import Dataset, build_dataset
from ml.errors import DatasetError
from ml.evaluation import baselines, evaluate
from ml.metrics import Scores
from ml.reporting import Reporter
from ml.search import TrainingOutcome, train_networks
from ml.table import read_table
from ml.weights import read_weights
from serving.function.model import MANIFEST

logger = logging.getLogger(__name__)

REPORT = "report.json"


@dataclass(frozen=True)
class TableRun:
    """What came of training from a table."""

    bundle: Path
    bundle_sha256: str
    notices: tuple[str, ...]
    dataset: Dataset
    outcome: TrainingOutcome
    test: Scores
    baselines: Mapping[str, Scores]
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, object]:
        """All figures, ready for JSON: what report.json holds."""
        return {
            "bundle_sha256": self.bundle_sha256,
            "notices": self.notices,
            "dataset": self.dataset.summary(),
            "networks": [network.as_dict() for network in self.outcome.networks],
            "chosen": self.outcome.chosen.name,
            "test": self.test.as_dict(),
            "baselines": {name: scores.as_dict() for name, scores in self.baselines.items()},
            "seconds": self.seconds,
        }

    def summary(self) -> str:
        """The figures that matter, as a table for a terminal."""
        networks = [(f"{network.name} (validation)", network.validation) for network in self.outcome.networks]
        baselines = [(f"{name} (test)", scores) for name, scores in self.baselines.items()]
        rows = [*networks, (f"{self.outcome.chosen.name} (test)", self.test), *baselines]
        lines = [f"{'':26} {'weighted F1':>12} {'macro F1':>9} {'micro F1':>9} {'mAP':>6}"]
        for name, scores in rows:
            lines.append(
                f"{name:26} {scores.weighted_f1:12.3f} {scores.macro_f1:9.3f} {scores.micro_f1:9.3f} "
                f"{scores.mean_average_precision:6.3f}"
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
    """Train on a table (see `ml.table.read_table`) and write a bundle and report.json into `output`.

    `workspace` keeps datasets, which are used again, and downloaded weights. `reporting` is entered once the
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
        dataset = build_dataset(table.posters, workspace / "datasets", preprocess, reporter)
        preprocessed = time.perf_counter()
        outcome = train_networks(dataset, train, weights, reporter)
    model = write_bundle(output, outcome.chosen, train, dataset, model_card(outcome, dataset))
    trained = time.perf_counter()
    scores = evaluate(model, dataset)
    seconds = {
        "preprocess": preprocessed - start,
        "train": trained - preprocessed,
        "evaluate": time.perf_counter() - trained,
    }
    run = TableRun(output, model.sha256, table.notices, dataset, outcome, scores, baselines(dataset), seconds)
    # A path is of this machine, and not for whoever gets the folder; the manifest has the weights' sha256.
    configuration = {**asdict(preprocess), **asdict(train), "weights": Path(train.weights).name}
    report = {"configuration": configuration, **run.as_dict()}
    (output / REPORT).write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return run
