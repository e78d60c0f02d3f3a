import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import Poster
from ml.errors import DatasetError
from ml.evaluation.gate import EVERY_GENRE, decide
from ml.export.bundle_writer import write_bundle
from ml.networks.weights import Weights
from ml.reporting import NullReporter
from ml.training.learning import train_networks
from ml.training.outcome import TrainingOutcome
from serving.bundle.model import Model


@pytest.fixture(scope="module")
def worse(
    outcome: TrainingOutcome, dataset: Dataset, quick: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    """The same network with thresholds that predict next to nothing."""
    spoilt = replace(outcome.chosen, thresholds=np.full(len(dataset.genres), 0.9999))
    return write_bundle(tmp_path_factory.mktemp("worse"), spoilt, quick, dataset, "")


def test_a_first_model_has_to_beat_predicting_every_genre(model: Model, worse: Model, dataset: Dataset) -> None:
    decision = decide(model, None, dataset)
    assert decision.promote
    assert decision.opponent == EVERY_GENRE
    assert decision.challenger_weighted_f1 > 0.9 > decision.opponent_weighted_f1
    assert decision.interval[0] <= decision.difference <= decision.interval[1]
    assert not decide(worse, None, dataset).promote


def test_the_better_of_two_models_wins_and_the_sentence_has_the_figures(
    model: Model, worse: Model, dataset: Dataset
) -> None:
    decision = decide(model, worse, dataset)
    assert decision.promote
    assert decision.interval[0] > 0
    assert f"{decision.challenger_weighted_f1:.3f}" in decision.sentence
    assert decision.sentence.endswith("the challenger is promoted.")
    assert not decide(worse, model, dataset).promote
    assert json.dumps(decision.__dict__)


def test_an_equal_model_does_not_take_the_champions_place(model: Model, dataset: Dataset) -> None:
    decision = decide(model, model, dataset)
    assert (decision.promote, decision.difference, decision.interval) == (False, 0.0, (0.0, 0.0))


def test_models_are_compared_over_the_genres_that_both_know(model: Model, dataset: Dataset) -> None:
    champion = _knowing(model, dataset, ["4", "99", "8"])
    decision = decide(model, champion, dataset)
    assert decision.genres == ("Comedy", "Drama")


def test_a_champion_that_shares_no_genre_does_not_block_the_challenger(
    model: Model, worse: Model, dataset: Dataset
) -> None:
    champion = _knowing(model, dataset, ["97", "98", "99"])
    decision = decide(model, champion, dataset)
    first = decide(model, None, dataset)
    assert (decision.promote, decision.opponent, decision.interval) == (True, EVERY_GENRE, first.interval)
    assert decision.sentence == f"The champion shares no genre with the challenger. {first.sentence}"
    assert not decide(worse, champion, dataset).promote


def test_a_champion_of_another_image_size_sees_the_same_posters_in_its_own(
    model: Model, posters: list[Poster], small: PreprocessConfig, quick: TrainConfig, weights: Weights, tmp_path: Path
) -> None:
    larger = build_dataset(posters, tmp_path / "datasets", replace(small, image_size=40), NullReporter())
    config = replace(quick, trials=1)
    outcome = train_networks(larger, config, weights, NullReporter())
    challenger = write_bundle(tmp_path / "bundle", outcome.chosen, config, larger, "")
    files = {poster.id: poster.file for poster in posters}
    decision = decide(challenger, model, larger, lambda id: files[id].read_bytes())
    assert decision.opponent_weighted_f1 > 0.9
    with pytest.raises(DatasetError, match="32 x 32 pixels, but the dataset holds them in 40 x 40"):
        decide(challenger, model, larger)


def _knowing(model: Model, dataset: Dataset, ids: list[str]) -> Model:
    """The same model, its genres declared under other ids."""
    genres = tuple(
        replace(genre, id=int(id), name={"4": "Comedy", "8": "Drama"}.get(id, f"Genre {id}"))
        for genre, id in zip(model.manifest.genres, ids, strict=True)
    )
    return Model(replace(model.manifest, genres=genres), model.sha256, model._session)
