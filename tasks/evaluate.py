"""Step 5: the chosen network on the test part, once, beside the baselines and the present champion."""

import random
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from ml import evaluation
from ml.dataset import Dataset
from ml.gate import EVERY_GENRE, Decision, decide
from ml.metrics import Scores
from ml.splits import TEST
from serving.function.model import Model
from tasks.bundles import fetch_bundle, fetch_uploaded_bundle
from tasks.champion import Champion, present_champion
from tasks.posters import poster_key
from tasks.preprocess import fetch_dataset
from tasks.records import DatasetRecord, EvaluationRecord, KnownPoster, ScoreRecord, TrainingRecord
from tasks.step import step

_KNOWN_POSTERS = 3


@step("evaluate")
def evaluate(dataset: DatasetRecord, training: TrainingRecord) -> EvaluationRecord:
    """Score the bundle as it is going to be served, and decide whether it takes the champion's place.

    Raises:
        ServiceUnavailable: the store, MLflow or Cloud Run does not answer (retryable).
        BundleError: a bundle is not what its hash says.
    """
    settings = read_settings()
    store, registry, workspace = Store(settings), Registry(settings), settings.workspace
    data = fetch_dataset(store, workspace, dataset.dataset_key)
    challenger = Model.load(fetch_bundle(registry, workspace, training.run_id, training.bundle_sha256))
    champion = present_champion(settings, registry)
    scores = {training.chosen: evaluation.evaluate(challenger, data), **evaluation.baselines(data)}

    if champion is not None and champion.bundle_sha256 == training.bundle_sha256:
        record = _record(scores, champion, None, f"version {champion.version} is this very model", data)
    else:
        decision = decide(challenger, _model(champion, store, workspace), data, lambda i: store.read(poster_key(i)))
        record = _record(scores, champion, decision, decision.sentence, data)
    chosen = scores[training.chosen]
    registry.log_metrics(training.run_id, _metrics(chosen))
    create_markdown_artifact(_report(record, chosen), key="evaluation")
    return record


def _model(champion: Champion | None, store: Store, workspace: Path) -> Model | None:
    if champion is None:
        return None
    return Model.load(fetch_uploaded_bundle(store, workspace, champion.bundle_sha256))


def _record(
    scores: dict[str, Scores], champion: Champion | None, decision: Decision | None, reason: str, data: Dataset
) -> EvaluationRecord:
    # Over the genres that both know; where there are none, or no champion, the opponent was the baseline.
    compared = decision if decision is not None and decision.opponent != EVERY_GENRE else None
    return EvaluationRecord(
        scores=[ScoreRecord(name=name, **each.scalars()) for name, each in scores.items()],
        champion_version=champion.version if champion else None,
        champion_weighted_f1=compared.opponent_weighted_f1 if compared else None,
        challenger_weighted_f1=compared.challenger_weighted_f1 if compared else None,
        better=decision is not None and decision.promote,
        reason=reason,
        known_posters=_known_posters(data),
    )


def _known_posters(data: Dataset) -> list[KnownPoster]:
    """Some posters of the test part, the same ones for the same dataset."""
    test = [int(row) for row in data.rows(TEST)]
    return [
        KnownPoster(
            name=poster_key(data.ids[row]),
            title=data.titles[row],
            genres=[genre.name for genre, has in zip(data.genres, data.labels[row], strict=True) if has],
        )
        for row in random.Random(data.key).sample(test, min(_KNOWN_POSTERS, len(test)))
    ]


def _metrics(scores: Scores) -> dict[str, float]:
    by_genre = {
        f"test/{figure}/{genre.genre}": float(getattr(genre, figure))
        for genre in scores.genres
        for figure in ("precision", "recall", "f1", "support")
    }
    return {f"test/{name}": value for name, value in scores.scalars().items()} | by_genre


def _report(record: EvaluationRecord, chosen: Scores) -> str:
    scores = "\n".join(
        f"| {s.name} | {s.weighted_f1:.3f} | {s.macro_f1:.3f} | {s.micro_f1:.3f} | {s.mean_average_precision:.3f} |"
        for s in record.scores
    )
    genres = "\n".join(
        f"| {g.genre} | {g.precision:.2f} | {g.recall:.2f} | {g.f1:.2f} | {g.support} |" for g in chosen.genres
    )
    return (
        f"{record.reason}\n\n| on {chosen.posters} test posters | weighted F1 | macro F1 | micro F1 | mAP |\n"
        f"| --- | --- | --- | --- | --- |\n{scores}\n\n"
        f"| genre | precision | recall | F1 | posters |\n| --- | --- | --- | --- | --- |\n{genres}"
    )
