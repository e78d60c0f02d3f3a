"""Step 5: score the chosen network on the test part, and compare it with the baselines and the champion."""

import random
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from ml.data.dataset import Dataset
from ml.data.splits import TEST
from ml.evaluation.gate import decide
from ml.evaluation.judge import Evaluation, judge
from ml.evaluation.model_report import model_report
from ml.evaluation.predictions import PredictionSet
from ml.scores.intervals import Interval
from serving.bundle.model import Model
from tasks.bundles import fetch_bundle, fetch_uploaded_bundle
from tasks.champion import Champion, live_champion
from tasks.crawl.mirror import poster_key
from tasks.preprocess import fetch_dataset
from tasks.records import DatasetRecord, EvaluationRecord, KnownPoster, Promotion, ScoreRecord, TrainingRecord
from tasks.step import step

_KNOWN_POSTERS = 3


@step("evaluate")
def evaluate(dataset: DatasetRecord, training: TrainingRecord, promotion: Promotion = "by_gate") -> EvaluationRecord:
    """Score the bundle as it will be served, and decide whether it replaces the champion.

    Raises:
        ServiceUnavailable: the store, MLflow or Cloud Run is not reachable (retryable).
        BundleError: a bundle does not match its hash.
    """
    settings = read_settings(dataset.collection)
    store, registry, workspace = Store(settings), Registry(settings), settings.folder
    data = fetch_dataset(store, workspace, dataset.dataset_key)
    challenger = Model.load(fetch_bundle(registry, workspace, training.run_id, training.bundle_sha256))
    predictions = PredictionSet.read(store.fetch(training.predictions_key, workspace / training.predictions_key))
    evaluation = judge(challenger, predictions, data)

    champion = live_champion(settings, registry)
    if champion is not None and champion.bundle_sha256 == training.bundle_sha256:
        promote, reason = False, f"version {champion.version} is this model"
    else:
        champion_model = _champion_model(champion, store, workspace)
        decision = decide(challenger, champion_model, data, lambda id: store.read(poster_key(id)))
        promote, reason = decision.promote, decision.sentence
        if promotion != "by_gate":
            promote = promotion == "always"
            reason = f"{reason} For this run the setting is promote: {promotion}."

    registry.log_metrics(training.run_id, evaluation.metrics())
    page = workspace / "reports" / training.run_id / "model.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(model_report(evaluation, predictions, data), encoding="utf-8")
    registry.log_file(training.run_id, page)
    create_markdown_artifact(_artifact(reason, evaluation), key="evaluation")
    return EvaluationRecord(
        scores=[ScoreRecord(name=name, **scores.scalars()) for name, scores in evaluation.scores.items()],
        better=promote,
        reason=reason,
        known_posters=_known_posters(data, store),
    )


def _champion_model(champion: Champion | None, store: Store, workspace: Path) -> Model | None:
    if champion is None:
        return None
    return Model.load(fetch_uploaded_bundle(store, workspace, champion.bundle_sha256))


def _known_posters(data: Dataset, store: Store) -> list[KnownPoster]:
    """A sample of the test part, always the same for one dataset."""
    test = [int(row) for row in data.rows(TEST)]
    return [
        KnownPoster(
            name=store.object_name(poster_key(data.ids[row])),
            title=data.titles[row],
            genres=[genre.name for genre, has in zip(data.genres, data.labels[row], strict=True) if has],
        )
        for row in random.Random(data.key).sample(test, min(_KNOWN_POSTERS, len(test)))
    ]


def _artifact(reason: str, evaluation: Evaluation) -> str:
    chosen = evaluation.chosen
    metrics = tuple(chosen.scores.scalars())
    scores = [[name, *(f"{v:.3f}" for v in each.scalars().values())] for name, each in evaluation.scores.items()]
    gains = [
        [name, _gain(each.weighted_f1), _gain(each.mean_average_precision)]
        for name, each in evaluation.differences.items()
    ]
    genres = [
        [g.genre, f"{g.precision:.2f}", f"{g.recall:.2f}", f"{g.f1:.2f}", str(g.support)] for g in chosen.scores.genres
    ]
    tables = (
        _table([f"{chosen.scores.posters} test posters", *(f"{TEST}/{name}" for name in metrics)], scores),
        _table(
            [f"{chosen.name} minus", f"{TEST}/weighted_f1 (95 % interval)", f"{TEST}/mean_average_precision"], gains
        ),
        _table(["genre", *(f"{TEST}/{name}" for name in ("precision", "recall", "f1", "support"))], genres),
    )
    return "\n\n".join([reason, *tables])


def _table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _gain(difference: Interval) -> str:
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
