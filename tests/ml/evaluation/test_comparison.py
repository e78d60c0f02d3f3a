import json
from dataclasses import replace

import numpy as np
import pytest

from ml.configuration import TrainConfig
from ml.data.dataset import Dataset
from ml.errors import DatasetError
from ml.evaluation.comparison import CHOSEN, Comparison, compare
from ml.networks.backbones import Backbone
from ml.reporting import NullReporter
from tests.no_checkpoints import NoCheckpoints

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def comparison(dataset: Dataset, quick: TrainConfig, squeezenet: Backbone) -> Comparison:
    config = replace(quick, candidates=("frozen",), trials=1, epochs=1)
    return compare(dataset, config, squeezenet, NullReporter(), NoCheckpoints())


def test_comparison_predicts_every_poster_with_every_network(comparison: Comparison, dataset: Dataset) -> None:
    assert set(comparison.networks) == {CHOSEN, "frozen", "recipe", "recipe-tuned", "recipe-mean-0.5"}
    for network in comparison.networks.values():
        assert network.predictions.probabilities.shape == dataset.labels.shape
        assert np.all(network.predictions.probabilities > 0)
    assert comparison.networks[CHOSEN].scores.weighted_f1 > comparison.every_genre.weighted_f1
    assert comparison.posters == len(dataset.ids)


def test_comparison_predicts_a_fold_without_its_labels(
    comparison: Comparison, dataset: Dataset, quick: TrainConfig, squeezenet: Backbone
) -> None:
    """If a poster's own label were used, random labels would be predicted correctly."""
    noise = np.random.default_rng(0).permutation(dataset.labels)
    config = replace(quick, candidates=("frozen",), trials=1, epochs=1)
    shuffled = compare(replace(dataset, labels=noise), config, squeezenet, NullReporter(), NoCheckpoints())
    frequency = float(noise.mean(0).mean())
    assert shuffled.networks["frozen"].scores.mean_average_precision < frequency + 0.15
    assert comparison.networks["frozen"].scores.mean_average_precision > frequency + 0.15


def test_comparison_summary_and_json_have_paired_differences(comparison: Comparison) -> None:
    gain = comparison.differences["recipe"].weighted_f1
    chosen, other = comparison.networks[CHOSEN].scores, comparison.networks["recipe"].scores
    assert gain.value == pytest.approx(chosen.weighted_f1 - other.weighted_f1)
    assert gain.low <= gain.value <= gain.high
    assert f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]" in comparison.summary()
    assert json.loads(json.dumps(comparison.as_dict()))["networks"]["recipe-tuned"]["calibration_error"] >= 0


def test_comparison_needs_five_franchises(dataset: Dataset, quick: TrainConfig, squeezenet: Backbone) -> None:
    few = np.array([f"series {row % 4}" for row in range(len(dataset.ids))])
    with pytest.raises(DatasetError, match="posters of at least 5 franchises"):
        compare(replace(dataset, franchises=few), quick, squeezenet, NullReporter(), NoCheckpoints())
