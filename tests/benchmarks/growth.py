"""Time, memory and open files of each stage of a training by the number of posters."""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from synthetic import MemoryWatch, synthetic_dataset
from training_rates import new_process, with_random_weights

from ml.compute import choose_compute
from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.data.duplicates import look_alikes
from ml.data.splits import TEST
from ml.evaluation.judge import judge
from ml.evaluation.leaks import leak_gauge
from ml.evaluation.model_report import model_report
from ml.evaluation.predictions import ActivationExamples, NetworkPredictions, PredictionSet
from ml.export.bundle_writer import write_bundle
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.candidates import CANDIDATES, FROZEN
from ml.training.features import Pretrained
from ml.training.frozen import train_frozen
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.dataset_report import dataset_report
from tasks.catalogue.poster_download import POSTER_COLUMNS
from tasks.catalogue.titles import Title
from tasks.crawl.ledger import poster_name
from tasks.myanimelist.source import MyAnimeList
from tests.no_checkpoints import NoCheckpoints

SIZE, BACKBONE = 64, "squeezenet1_1"
WARM_POSTERS = 160
_FILES = 64  # different poster files; the others are links to them


@dataclass(frozen=True)
class Stage:
    """What a stage took: time, anonymous memory in MB before it and at most, and the largest number of open files."""

    seconds: float
    cpu_seconds: float
    before_mb: float
    peak_mb: float
    open_files: int


def growing(counts: list[int], device: str) -> None:
    """Measure each number of posters in a new process, and compare CPU time per poster with the number before it."""
    print(
        f"stages of a training on {BACKBONE} at {SIZE} x {SIZE}: ms of CPU time per poster (share of the last size's)"
    )
    before: dict[str, float] = {}
    for count in counts:
        with new_process() as process, tempfile.TemporaryDirectory() as workspace:
            stages = process.submit(grown, count, Path(workspace), device).result()
        print(f"  {count} posters")
        for name, stage in stages.items():
            each = stage.cpu_seconds / count * 1000
            share = f" ({each / before[name]:.2f})" if name in before else ""
            print(
                f"    {name:14} {each:8.3f}{share:7} {stage.seconds:7.1f} s; anonymous memory "
                f"{stage.before_mb:5.0f} MB before, at most {stage.peak_mb:5.0f} MB; {stage.open_files:3} open files",
                flush=True,
            )
            before[name] = each


def grown(count: int, workspace: Path, device: str) -> dict[str, Stage]:
    """All stages with `count` posters, after one with few posters that warms up."""
    stages_of(WARM_POSTERS, workspace / "warm", device)
    return stages_of(count, workspace / "grown", device)


def stages_of(count: int, workspace: Path, device: str) -> dict[str, Stage]:
    stages: dict[str, Stage] = {}

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start, cpu = time.perf_counter(), time.process_time()
        with MemoryWatch() as watch:
            yield
        stages[name] = Stage(
            time.perf_counter() - start, time.process_time() - cpu, watch.before, watch.peak, watch.open_files
        )

    with stage("dataset"):
        dataset = synthetic_dataset(workspace, count, SIZE)
    config = TrainConfig(backbone=BACKBONE, trials=1)
    bench = Bench(dataset, config, with_random_weights(BACKBONE), choose_compute(device), NoCheckpoints())
    with stage("features"):
        pretrained = Pretrained.load(bench, NullReporter())
    with stage("kernel head"):
        network = train_frozen(CANDIDATES[FROZEN], bench, pretrained, NullReporter())
    with stage("leak gauge"):
        leaks = leak_gauge(bench, pretrained.features)
    model = write_bundle(workspace / "bundle", network, config, dataset, "")
    predictions = PredictionSet(
        (
            NetworkPredictions(
                network.name, network.predict(dataset.rows(TEST)), network.thresholds, network.common_threshold
            ),
        ),
        ActivationExamples(*(np.empty(0, np.int64),) * 2, np.empty(0, np.float32), np.empty((0, 1, 1), np.float32)),
        leaks,
    )
    with stage("evaluation"):
        evaluation = judge(model, predictions, dataset)
    with stage("report"):
        model_report(evaluation, predictions, dataset)
    report = _report_of(dataset, workspace / "posters")
    with stage("dataset report"):
        report()
    hashes = {id: hashlib.sha256(id.encode()).hexdigest()[:16] for id in dataset.ids}
    with stage("look-alikes"):
        look_alikes(hashes)
    return stages


def _report_of(dataset: Dataset, folder: Path) -> Callable[[], str]:
    """A function that makes the report of the dataset's titles, whose poster files are in the folder."""
    folder.mkdir()
    for place, id in enumerate(dataset.ids):
        if place < _FILES:
            Image.fromarray(_picture(place)).save(folder / poster_name(id))
        else:
            (folder / poster_name(id)).hardlink_to(folder / poster_name(dataset.ids[place % _FILES]))
    titles = [
        Title(
            id,
            title,
            season="2015-fall",
            members=place,
            genres=[name for name, has in zip(dataset.genre_names, row, strict=True) if has],
        )
        for place, (id, title, row) in enumerate(zip(dataset.ids, dataset.titles, dataset.labels, strict=True))
    ]
    catalogue = catalogue_of(titles)
    posters = catalogue[["id"]].assign(status="new").reindex(columns=POSTER_COLUMNS, fill_value="")
    return lambda: dataset_report(catalogue, posters, MyAnimeList(), folder, "2026-07-25")


def _picture(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (90, 60, 3), np.uint8)
