"""Does the scoreboard of live models hold on real years? Models of earlier titles are scored on those of later years.

    PYTHONPATH=. python tests/benchmarks/bench_scoreboard.py [--data FOLDER] [--years 2014,...] [--any-year]

For each year, a frozen SqueezeNet with a kernel head is trained on the titles that first aired until its end. It is
scored on the later ones as a run of the pipeline scores a live model: only titles of franchises that it has not seen
count (`tasks.scoreboard`), and its realised micro F1 is compared with the one that its probabilities promised
(`ml.evaluation.scoreboard`). `--any-year` takes as many posters of franchises of any year instead, and scores the model
on all others. Such a model keeps its promise if it is only the years that make a difference.

The posters are real ones (`posters/anime.zip` and `weights/squeezenet1_1-imagenet-features.pth` in FOLDER: `../shared`,
or ANIME_GENRE_REAL_DATA). Their genres are those of one day, so labels that were edited over the years are not seen.
"""

import argparse
import csv
import os
import tempfile
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from training_to_f1 import BACKBONE, RealPosters

from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import open_pixels
from ml.data.splits import TEST, TRAIN, VALIDATION, draw_part
from ml.data.user_table import draw_parts, read_table
from ml.evaluation.scoreboard import Scoreboard, score_later_titles
from ml.networks.backbones import read_backbone
from ml.reporting import NullReporter
from ml.scores.intervals import Predictions
from ml.training.candidates import FROZEN
from ml.training.learning import plan_trainings
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.titles import Title
from tasks.scoreboard import last_day, later_titles
from tests.no_checkpoints import NoCheckpoints

SIZE = 256
TODAY = date(2026, 11, 30)
_ROW = "{:>9} {:>8} {:>6} {:>9} {:>8} {:>10}  {:19} {}"


def read_titles(catalogue: Path) -> dict[str, Title]:
    """The titles of the table by id, with their dates of first airing, such as 19980403, as ISO dates."""
    with catalogue.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["mal_id"]: Title(row["mal_id"], row["title"], start_date=iso_date(row["start_date"])) for row in rows}


def iso_date(digits: str) -> str:
    """An ISO date as exact as one of eight digits, in which 00 is unknown."""
    known = [digits[:4], digits[4:6], digits[6:8]]
    return "-".join(known[: known.index("00")] if "00" in known else known) if digits else ""


def all_in_one_part(real: RealPosters, workspace: Path) -> Dataset:
    """The dataset of all posters. Parts are drawn for each year later."""
    pixels = open_pixels(workspace, SIZE)
    posters = draw_parts(read_table(real.catalogue, real.folder), pixels, NullReporter())
    config = PreprocessConfig(image_size=SIZE, min_posters_per_part=0)
    return build_dataset([replace(poster, part=TRAIN) for poster in posters], workspace, config, NullReporter(), pixels)


def scoreboard(
    is_old: NDArray[np.bool_], dataset: Dataset, titles: dict[str, Title], real: RealPosters, folder: Path
) -> Scoreboard:
    """The scoreboard of a model that was trained on these posters, [N], on the others."""
    aired = [last_day(titles[id].start_date or "") for id in dataset.ids]
    is_validation = np.array([draw_part(franchise) == VALIDATION for franchise in dataset.franchises.tolist()])
    parts = np.where(is_old, np.where(is_validation, VALIDATION, TRAIN), TEST)
    backbone = read_backbone(BACKBONE, str(real.weights), folder)
    plan = plan_trainings(
        replace(dataset, parts=parts), TrainConfig(candidates=(FROZEN,)), backbone, NullReporter(), NoCheckpoints()
    )
    network = plan.candidates[FROZEN]()
    franchise_of = dict(zip(dataset.ids, dataset.franchises.tolist(), strict=True))
    seen = {id: (franchise_of[id], part) for id, part in zip(dataset.ids, parts.tolist(), strict=True) if part != TEST}
    counting = later_titles(franchise_of, catalogue_of(titles.values()), {}, seen, TODAY)
    rows = np.flatnonzero(np.isin(dataset.ids, list(counting)))
    probabilities = network.predict(rows)
    return score_later_titles(
        Predictions(probabilities, probabilities >= network.thresholds),
        dataset.labels[rows],
        dataset.franchises[rows],
        np.array([str(aired[row]) for row in rows]),
    )


def shuffled(is_old: NDArray[np.bool_], dataset: Dataset, seed: int) -> NDArray[np.bool_]:
    """As many posters as are old, [N], of franchises of any year."""
    names, franchise, sizes = np.unique(dataset.franchises, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = order[sizes[order].cumsum() <= is_old.sum()]
    drawn: NDArray[np.bool_] = np.isin(franchise, chosen)
    return drawn


def row(name: str, is_old: NDArray[np.bool_], board: Scoreboard) -> str:
    """A row of the table."""
    outcome = board.overall
    if outcome is None:
        return f"{name:>9} {is_old.sum():>8} {board.titles:>6}  too few titles"
    difference = outcome.difference
    return _ROW.format(
        name,
        is_old.sum(),
        outcome.titles,
        f"{outcome.micro_f1:.3f}",
        f"{outcome.promised_micro_f1:.3f}",
        f"{difference.value:+.3f}",
        f"{difference.low:+.3f} to {difference.high:+.3f}",
        "" if difference.low <= 0 <= difference.high else "0 is outside",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("ANIME_GENRE_REAL_DATA", "../shared"))
    parser.add_argument("--years", default="2014,2016,2018,2020,2022", help="last years of the training titles")
    parser.add_argument("--any-year", action="store_true", help="train on franchises of any year instead")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        real = RealPosters.unpacked(Path(arguments.data), folder)
        if real is None:
            print(f"{arguments.data} has no posters and weights, so nothing is measured.")
            return
        titles = read_titles(real.catalogue)
        dataset = all_in_one_part(real, folder / "workspace")
        print(f"{len(dataset.ids)} posters, {len(dataset.genres)} genres")
        print(_ROW.format("until", "trained", "titles", "micro F1", "promised", "difference", "95 % interval", ""))
        days = [last_day(titles[id].start_date or "") for id in dataset.ids]
        for year in map(int, arguments.years.split(",")):
            is_old = np.array([day is not None and day.year <= year for day in days])
            if arguments.any_year:
                is_old = shuffled(is_old, dataset, year)
            name = "any year" if arguments.any_year else str(year)
            print(row(name, is_old, scoreboard(is_old, dataset, titles, real, folder)), flush=True)


if __name__ == "__main__":
    main()
