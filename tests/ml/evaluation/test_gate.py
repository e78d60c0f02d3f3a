from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml.configuration import GateConfig, PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.data.decoding import Poster
from ml.data.genres import Genre
from ml.evaluation import gate
from ml.evaluation.gate import Decision, check_bundle, compare, shared_genres
from ml.evaluation.judge import predict
from ml.export.bundle_writer import write_bundle
from ml.reporting import NullReporter
from ml.scores.intervals import Interval, Predictions
from ml.training.outcome import NetworkOutcome, TrainingOutcome
from serving.bundle.model import Model

pytestmark = pytest.mark.train


@pytest.fixture(scope="module")
def worse(
    exported: NetworkOutcome, dataset: Dataset, quick: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Model:
    """The same network with thresholds that predict almost nothing."""
    spoilt = replace(exported, thresholds=np.full(len(dataset.genres), 0.9999))
    return write_bundle(tmp_path_factory.mktemp("worse"), spoilt, quick, dataset, "")


def decide(challenger: Model, champion: Model | None, dataset: Dataset, **options: Any) -> Decision:
    """The gate's decision, with the champion's decisions for the dataset's pixels."""
    return gate.decide(challenger, champion, dataset, lambda model: predict(model, dataset)[1], **options)


def test_gate_compares_a_first_model_with_the_baseline(model: Model, worse: Model, dataset: Dataset) -> None:
    decision = decide(model, None, dataset)
    assert decision.promote
    assert "for the baseline 'every genre'" in decision.sentence
    assert 0 < decision.difference.low <= decision.difference.value <= decision.difference.high
    assert not decide(worse, None, dataset).promote


def test_gate_promotes_the_better_model_and_gives_the_figures(model: Model, worse: Model, dataset: Dataset) -> None:
    decision = decide(model, worse, dataset)
    assert decision.promote
    assert decision.difference.low > 0
    assert f"(difference {decision.difference.value:+.3f}, 95 % interval" in decision.sentence
    assert "for the champion" in decision.sentence
    assert decision.sentence.endswith("The challenger passes the gate.")
    reverse = decide(worse, model, dataset)
    assert not reverse.promote and reverse.sentence.endswith("The challenger does not pass the gate.")


def test_gate_keeps_the_champion_if_the_models_are_equal(model: Model, dataset: Dataset) -> None:
    decision = decide(model, model, dataset)
    assert (decision.promote, decision.difference) == (False, Interval(0.0, 0.0, 0.0))


def test_gate_compares_over_shared_genres(model: Model, dataset: Dataset) -> None:
    challenger = _with_genre_ids(model, ["4", "99", "8"])
    assert "test posters and 2 genres" in decide(challenger, model, dataset).sentence


def test_gate_keeps_a_champion_whose_genres_the_better_challenger_lacks(
    model: Model, worse: Model, dataset: Dataset
) -> None:
    decision = decide(model, _with_genre_ids(worse, ["4", "99", "8"]), dataset)
    assert failed(decision) == ["genres"]
    assert decision.difference.low > 0
    assert decision.sentence.endswith("The challenger lacks 1 genre: Genre 99. The challenger does not pass the gate.")


def test_gate_promotes_nothing_while_the_chance_of_false_promotions_is_spent(
    model: Model, worse: Model, dataset: Dataset
) -> None:
    decision = decide(model, worse, dataset, level=1e-3)
    assert decision.promote and decision.level == 1e-3
    assert "equal models" in decision.rules[0].sentence and "1 of 1,000 comparisons" in decision.rules[0].sentence
    spent = decide(model, worse, dataset, level=0.0)
    assert failed(spent) == ["difference"] and "have spent the chance of false promotions" in spent.sentence


def test_gate_keeps_the_champion_if_the_better_challenger_clearly_loses_a_genre_or_is_not_certain_enough() -> None:
    generator = np.random.default_rng(0)
    labels = (generator.random((900, 3)) < (0.4, 0.3, 0.1)).astype(np.uint8)
    franchises = np.arange(900).astype(np.str_)

    def predicted(*errors: float) -> np.ndarray:
        return (labels == 1) ^ (generator.random(labels.shape) < errors)

    champion, challenger = predicted(0.4, 0.4, 0.02), predicted(0.1, 0.1, 0.06)
    positives = int(labels[:, 2].sum())

    def rules(level: float = 1e-3, **limits: float) -> dict[str, bool]:
        names = ["Action", "Comedy", "Drama"]
        _, found = compare(challenger, champion, labels, franchises, names, GateConfig(**limits), level)
        assert ("1 genre clearly lost more than 0.05 F1: Drama -0." in found[1].sentence) != found[1].passed
        return {rule.name: rule.passed for rule in found}

    assert rules() == {"difference": True, "genre_f1": False}
    assert rules(min_genre_posters=positives) == {"difference": True, "genre_f1": False}
    assert rules(min_genre_posters=positives + 1) == {"difference": True, "genre_f1": True}
    assert rules(max_genre_loss=0.5) == {"difference": True, "genre_f1": True}
    assert rules(1e-200, max_genre_loss=0.5) == {"difference": False, "genre_f1": True}


def test_gate_keeps_the_champion_if_the_challengers_bundle_is_too_large_or_predicts_otherwise_than_in_training(
    model: Model, worse: Model, dataset: Dataset
) -> None:
    limits = GateConfig(max_bundle_megabytes=100, max_probability_difference=0.001)
    for size_bytes, difference, expected in (
        (100_000_000, 0.001, []),
        (101_000_000, 0.0, ["size"]),
        (0, 0.002, ["probabilities"]),
        (0, float("nan"), ["probabilities"]),
    ):
        rules = check_bundle(size_bytes, difference, limits)
        decision = decide(model, worse, dataset, limits=limits, bundle_rules=rules)
        assert failed(decision) == expected and decision.promote == (not expected)
    assert failed(decide(model, None, dataset, bundle_rules=check_bundle(101_000_000, 0.0, limits))) == ["size"]


def test_gate_keeps_a_champion_without_shared_genres(model: Model, dataset: Dataset) -> None:
    decision = decide(model, _with_genre_ids(model, ["97", "98", "99"]), dataset)
    assert not decision.promote
    assert decision.sentence.startswith("The champion shares no genre with the challenger, so only a person may")
    assert decision.sentence.endswith("The challenger does not pass the gate.")


def test_gate_does_not_count_franchises_that_the_champion_was_trained_on(
    model: Model, worse: Model, dataset: Dataset
) -> None:
    rows = dataset.rows("test")
    seen = [dataset.ids[row] for row in rows[:5]]
    decision = decide(model, worse, dataset, seen=seen)
    lost = int(np.isin(dataset.franchises[rows], dataset.franchises[rows[:5]]).sum())
    assert decision.sentence.startswith(f"The champion was trained on franchises of {lost} test posters, which do not")
    assert f"On {len(rows) - lost} test posters" in decision.sentence
    everything = decide(model, worse, dataset, seen=dataset.ids)
    assert not everything.promote
    assert everything.sentence.startswith("The champion has seen the franchises of all test posters, so only a person")


def test_gate_keeps_the_champion_if_a_recipe_is_clearly_better_than_the_challenger(
    exported: NetworkOutcome, worse: Model, dataset: Dataset, quick: TrainConfig, tmp_path: Path
) -> None:
    everything = replace(exported, thresholds=np.full(len(dataset.genres), 0.0001))
    challenger = write_bundle(tmp_path / "everything", everything, quick, dataset, "")
    labels = dataset.labels[dataset.rows("test")]
    perfect = Predictions(labels.astype(np.float32), labels == 1)
    nothing = Predictions(np.zeros(labels.shape, np.float32), np.zeros(labels.shape, np.bool_))
    itself = Predictions(*predict(challenger, dataset))
    assert decide(challenger, worse, dataset, opponents={"nothing": nothing, "itself": itself}).promote
    decision = decide(challenger, worse, dataset, opponents={"nothing": nothing, "recipe": perfect})
    assert not decision.promote
    assert "'recipe' of the same run has 1.000 (difference -" in decision.sentence


def test_shared_genres_match_by_id_or_else_by_name_without_case() -> None:
    challenger = [Genre(1, "Action"), Genre(3, "Racing"), Genre(None, "Sci-Fi & Fantasy"), Genre(8, "Drama")]
    champion = [Genre(None, "sci-fi & fantasy"), Genre(3, "Cars"), Genre(None, "ACTION"), Genre(9, "Drama")]
    assert shared_genres(challenger, champion) == [(0, 2), (1, 1), (2, 0)]


def test_gate_gives_a_champion_posters_of_its_image_size(
    model: Model,
    posters: list[Poster],
    small: PreprocessConfig,
    quick: TrainConfig,
    outcome: TrainingOutcome,
    tmp_path: Path,
) -> None:
    larger = build_dataset(posters, tmp_path / "datasets", replace(small, image_size=40), NullReporter())
    challenger = write_bundle(tmp_path / "bundle", outcome.networks[0], quick, larger, "")
    files = {poster.id: poster.file for poster in posters}
    decision = gate.decide(
        challenger, model, larger, lambda champion: predict(champion, larger, lambda id: files[id].read_bytes())[1]
    )
    assert abs(decision.difference.value) < 0.1


def _with_genre_ids(model: Model, ids: list[str]) -> Model:
    """The same model with other genre ids."""
    genres = tuple(
        replace(genre, id=int(id), name={"4": "Comedy", "8": "Drama"}.get(id, f"Genre {id}"))
        for genre, id in zip(model.manifest.genres, ids, strict=True)
    )
    return Model(replace(model.manifest, genres=genres), model.sha256, model._session)


def failed(decision: Decision) -> list[str]:
    """The names of the rules that the challenger does not pass."""
    return [rule.name for rule in decision.rules if not rule.passed]
