"""Training on a table of posters, and comparing networks on one, in one call and without an orchestrator."""

import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd

from ml.configuration import PreprocessConfig, TrainConfig, stored_settings
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import open_pixels
from ml.data.splits import SUSPECT, TEST, VALIDATION
from ml.data.table_cells import dropped_rows
from ml.data.table_rows import TableOptions
from ml.data.user_table import POSSIBLE_SIBLING, Table, draw_parts, read_table
from ml.errors import DatasetError
from ml.evaluation.comparison import Comparison, compare, comparison_checkpoints
from ml.evaluation.judge import Evaluation, judge
from ml.evaluation.model_report import model_report
from ml.export.bundle_writer import NAMES, UNFINISHED, check_packages
from ml.networks.backbones import Backbone, read_backbone
from ml.reporting import Reporter
from ml.scores.metrics import SCALARS
from ml.training.candidates import check_settings
from ml.training.checkpoints import CHECKPOINTS, remove_old_checkpoints
from ml.training.learning import checkpoints_of
from ml.training_run import TrainingRun, run_training
from serving.bundle.files import atomic_write, sha256_of
from serving.bundle.model import MANIFEST

logger = logging.getLogger(__name__)

REPORT, PAGE = "report.json", "report.html"
LEFT_OUT, BROKEN = "left_out.csv", "broken_posters.csv"
UNDECODABLE = "poster cannot be decoded"


@dataclass(frozen=True)
class TableJob:
    """A table of posters (see `ml.data.user_table`) and how to learn from it.

    `workspace` keeps pixels, datasets, checkpoints and downloaded weights, which later runs reuse.
    """

    catalogue: Path
    posters: Path
    options: TableOptions
    workspace: Path
    preprocess: PreprocessConfig
    train: TrainConfig


@dataclass(frozen=True)
class TableRun:
    """The result of training on a table."""

    bundle: Path
    table: Table
    dataset: Dataset
    run: TrainingRun
    evaluation: Evaluation
    seconds: Mapping[str, float]

    def as_dict(self) -> dict[str, object]:
        """All figures as JSON values: the content of report.json."""
        outcome = self.run.outcome
        return {
            "bundle_sha256": self.run.bundle.sha256,
            "notices": self.table.notices,
            "rows": _row_counts(self.table, self.dataset),
            "broken_posters": self.dataset.broken,
            "dataset": self.dataset.summary(),
            "networks": [network.as_dict() for network in (*outcome.networks, *outcome.recipes)],
            "chosen": outcome.chosen.name,
            "reason": outcome.reason,
            "leaks": [asdict(leak) for leak in self.run.predictions.leaks],
            **self.evaluation.as_dict(),
            "seconds": self.seconds,
        }

    def summary(self) -> str:
        """The main figures as tables for a terminal."""
        outcome = self.run.outcome
        validation = {network.name: network.validation for network in (*outcome.networks, *outcome.recipes)}
        lines = []
        for part, scores_by_name in ((VALIDATION, validation), (TEST, self.evaluation.scores)):
            names = [f"{part}/{metric}" for metric in SCALARS]
            lines.append(f"{'':18} {'  '.join(names)}")
            for name, scores in scores_by_name.items():
                figures = scores.scalars()
                cells = (f"{figures[metric]:{len(head)}.3f}" for metric, head in zip(SCALARS, names, strict=True))
                lines.append(f"{name:18} {'  '.join(cells)}")
        lines.append(outcome.reason)
        for name, each in self.evaluation.differences.items():
            f1 = each.weighted_f1
            lines.append(
                f"{outcome.chosen.name} minus {name}: {TEST}/weighted_f1 {f1.value:+.3f} "
                f"(95 % interval {f1.low:+.3f} to {f1.high:+.3f})"
            )
        durations = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in self.seconds.items())
        return "\n".join(
            [*lines, f"Duration: {durations}.", f"Bundle: {self.bundle} (sha256 {self.run.bundle.sha256})"]
        )


def train_on_table(job: TableJob, output: Path, reporting: AbstractContextManager[Reporter]) -> TableRun:
    """Train on a table and write a bundle, report.json and report.html into `output`.

    `reporting` is entered only after settings and table have been checked, so a refused input leaves no files.

    Raises:
        DatasetError: `output` holds other files than a bundle's and no bundle, or the table is unusable.
        MLError: another input is invalid; the message is one sentence about it.
    """
    if output.is_file() or (output.is_dir() and _is_foreign(output)):
        raise DatasetError(f"{output} exists and is not a bundle. Give another folder, or empty this one.")
    start = time.perf_counter()
    with _prepared(job, reporting, output) as (table, dataset, backbone, reporter):
        preprocessed = time.perf_counter()
        remove_old_checkpoints(job.workspace / CHECKPOINTS)
        about = {"franchises": dataset.franchises_sha256}
        checkpoints = checkpoints_of(job.workspace, checkpoint_name(output), dataset, job.train, backbone, about=about)
        with checkpoints.held():
            # Other temporary files than the unfinished bundle are not in `output`, where those of a killed run would
            # look like somebody's files.
            run = run_training(
                dataset,
                job.train,
                backbone,
                reporter,
                checkpoints,
                bundle_folder=output,
                temporary_folder=job.workspace,
            )
            trained = time.perf_counter()
            evaluation = judge(run.bundle, run.predictions, dataset)
            reporter.scalars(evaluation.metrics(), job.train.epochs)
            seconds = {
                "preprocess": preprocessed - start,
                "train": trained - preprocessed,
                "evaluate": time.perf_counter() - trained,
            }
            result = TableRun(output, table, dataset, run, evaluation, seconds)
            _write_reports(result, job, backbone)
            checkpoints.clear()
    return result


def _is_foreign(folder: Path) -> bool:
    """Whether a folder holds anything but a bundle, or what a killed run has left of one."""
    if (folder / MANIFEST).exists():
        return False
    known = {*NAMES, REPORT, PAGE, LEFT_OUT, BROKEN}
    return any(each.name not in known and not each.name.startswith(UNFINISHED) for each in folder.iterdir())


def _write_reports(result: TableRun, job: TableJob, backbone: Backbone) -> None:
    """Write everything but the bundle into its folder."""
    output, table, dataset = result.bundle, result.table, result.dataset
    # Without local paths. The manifest has their sha256.
    configuration = {
        **asdict(job.preprocess),
        **stored_settings(job.train),
        "backbone": backbone.name,
        "weights": Path(job.train.weights).name,
    }
    _write_json(output / REPORT, {"configuration": configuration, **result.as_dict()})
    left_out = _left_out(table, dataset)
    page = model_report(result.evaluation, result.run.predictions, dataset, dict(Counter(left_out["reason"])))
    (output / PAGE).write_text(page, encoding="utf-8")
    _write_csv(output / LEFT_OUT, left_out)
    broken = pd.DataFrame({"id": list(dataset.broken), "reason": list(dataset.broken.values())}, dtype=str)
    _write_csv(output / BROKEN, broken)


def checkpoint_name(output: Path) -> str:
    """A name for people that is different for each output folder."""
    place = output.resolve()
    return f"{place.name}-{sha256_of(str(place).encode())[:8]}"


def compare_on_table(job: TableJob, output: Path | None, reporting: AbstractContextManager[Reporter]) -> Comparison:
    """Compare the networks on a table and write all figures to the file `output`, if given.

    The ids of the rows that are left out are in a CSV file beside it.

    Folds take the place of the table's parts, so genres need no minimum number of posters per part. A comparison that
    was killed resumes if it is repeated with the same table, settings and workspace. Raises MLError.
    """
    if output is not None and output.is_dir():
        raise DatasetError(f"{output} is a folder. Give the name of a file for the figures.")
    job = replace(job, preprocess=replace(job.preprocess, min_posters_per_part=0))
    with _prepared(job, reporting, output.parent if output else None, for_folds=True) as (
        table,
        dataset,
        backbone,
        reporter,
    ):
        remove_old_checkpoints(job.workspace / CHECKPOINTS)
        checkpoints = comparison_checkpoints(job.workspace, dataset, job.train, backbone)
        with checkpoints.held():
            comparison = compare(dataset, job.train, backbone, reporter, checkpoints)
            if output is not None:
                _write_json(output, {"rows": _row_counts(table, dataset), **comparison.as_dict()})
                _write_csv(output.with_name(f"{output.stem}-{LEFT_OUT}"), _left_out(table, dataset))
            checkpoints.clear()
    return comparison


@contextmanager
def _prepared(
    job: TableJob, reporting: AbstractContextManager[Reporter], folder: Path | None, *, for_folds: bool = False
) -> Iterator[tuple[Table, Dataset, Backbone, Reporter]]:
    """Check the input, create the output folder and build the dataset: table, dataset, backbone, entered reporter.

    Possible siblings of training titles are left out, except if folds take the place of the parts.
    """
    check_packages()
    preprocess = job.preprocess
    check_settings(job.train, preprocess.image_size)
    table = read_table(job.catalogue, job.posters, job.options)
    for notice in table.notices:
        logger.warning("%s", notice)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)  # fails before training, not after it, if it cannot be written
    backbone = read_backbone(job.train.backbone, job.train.weights, job.workspace / "weights")
    backbone.check_size(preprocess.image_size)
    with reporting as reporter:
        pixels = open_pixels(job.workspace, preprocess.image_size)
        rows = draw_parts(table, pixels, reporter)
        suspects = [poster.id for poster in rows if poster.part == SUSPECT]
        if for_folds:
            rows = [replace(poster, part=TEST) if poster.part == SUSPECT else poster for poster in rows]
        elif suspects:
            suspected = dropped_rows(suspects, [POSSIBLE_SIBLING] * len(suspects))
            table = replace(table, left_out=pd.concat([table.left_out, suspected], ignore_index=True))
        dataset = build_dataset(rows, job.workspace, preprocess, reporter, pixels)
        if dataset.suspects:
            logger.warning("%s", dataset.suspects_notice())
        yield table, dataset, backbone, reporter


def _row_counts(table: Table, dataset: Dataset) -> dict[str, object]:
    """What became of a table's rows: the rows that were read, those that are learned from, and the others by reason."""
    return {
        "read": table.rows,
        "learned_from": len(dataset.ids),
        "left_out": dict(Counter(_left_out(table, dataset)["reason"])),
    }


def _left_out(table: Table, dataset: Dataset) -> pd.DataFrame:
    """All rows that are not in the dataset: columns id and reason."""
    broken = dropped_rows(list(dataset.broken), [UNDECODABLE] * len(dataset.broken))
    return pd.concat([table.left_out, broken], ignore_index=True)


def _write_csv(file: Path, table: pd.DataFrame) -> None:
    table.to_csv(file, index=False, lineterminator="\n")


def _write_json(file: Path, document: Mapping[str, object]) -> None:
    with atomic_write(file) as temporary:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
