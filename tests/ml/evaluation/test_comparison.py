import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset
from ml.data.decoding import Poster
from ml.errors import DatasetError
from ml.evaluation.comparison import CHOSEN, Comparison, compare, compare_table
from ml.networks.weights import Weights
from ml.reporting import NullReporter


@pytest.fixture(scope="module")
def comparison(dataset: Dataset, quick: TrainConfig, weights: Weights) -> Comparison:
    return compare(dataset, replace(quick, candidates="frozen", trials=1), weights, NullReporter())


def test_every_poster_is_answered_once_by_networks_that_did_not_see_it(
    comparison: Comparison, dataset: Dataset
) -> None:
    assert set(comparison.pooled) == {CHOSEN, "frozen", "recipe", "recipe-tuned"}
    for pooled in comparison.pooled.values():
        assert pooled.predictions.probabilities.shape == dataset.labels.shape
        assert np.all(pooled.predictions.probabilities > 0)
    assert comparison.pooled[CHOSEN].scores.weighted_f1 > comparison.every_genre.weighted_f1
    assert comparison.posters == len(dataset.ids)


def test_labels_of_a_fold_do_not_reach_its_answers(
    comparison: Comparison, dataset: Dataset, quick: TrainConfig, weights: Weights
) -> None:
    """Were a poster's own label used, posters with noise for labels would be answered right."""
    noise = np.random.default_rng(0).permutation(dataset.labels)
    config = replace(quick, candidates="frozen", trials=1)
    shuffled = compare(replace(dataset, labels=noise), config, weights, NullReporter())
    frequency = float(noise.mean(0).mean())
    assert shuffled.pooled["frozen"].scores.mean_average_precision < frequency + 0.15
    assert comparison.pooled["frozen"].scores.mean_average_precision > frequency + 0.15


def test_differences_are_paired_and_the_summary_shows_them(comparison: Comparison) -> None:
    gain = comparison.differences["recipe"].weighted_f1
    own, other = comparison.pooled[CHOSEN].scores, comparison.pooled["recipe"].scores
    assert gain.value == pytest.approx(own.weighted_f1 - other.weighted_f1)
    assert gain.low <= gain.value <= gain.high
    assert f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" in comparison.summary()
    assert json.loads(json.dumps(comparison.as_dict()))["networks"]["recipe-tuned"]["calibration_error"] >= 0


def test_a_table_is_compared_and_its_figures_are_written(
    posters: list[Poster], small: PreprocessConfig, quick: TrainConfig, tmp_path: Path
) -> None:
    table = tmp_path / "table.csv"
    lines = [f"{p.id},{p.file.name},{p.franchise},{'|'.join(genre.name for genre in p.genres)}" for p in posters]
    table.write_text("\n".join(["id,file,franchise,genres", *lines]), encoding="utf-8")
    output = tmp_path / "figures" / "comparison.json"
    config = replace(quick, candidates="frozen", trials=1)
    result = compare_table(
        table, posters[0].file.parent, tmp_path / "workspace", small, config, nullcontext(NullReporter()), output
    )
    assert json.loads(output.read_text())["posters"] == result.posters == len(posters)


def test_too_few_franchises_and_a_folder_for_figures_are_told_before_any_training(
    dataset: Dataset, quick: TrainConfig, weights: Weights, small: PreprocessConfig, tmp_path: Path
) -> None:
    few = np.array([f"series {row % 4}" for row in range(len(dataset.ids))])
    with pytest.raises(DatasetError, match="Posters of 5 franchises at least"):
        compare(replace(dataset, franchises=few), quick, weights, NullReporter())
    with pytest.raises(DatasetError, match="is a folder: name a file"):
        compare_table(tmp_path, tmp_path, tmp_path, small, quick, nullcontext(NullReporter()), tmp_path)
