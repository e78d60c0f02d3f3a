"""Step 5: the chosen network on the test part, once, beside the baselines and the present champion."""

import random
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from ml.data.dataset import Dataset
from ml.data.splits import TEST
from ml.evaluation import judge as evaluation
from ml.evaluation.gate import EVERY_GENRE, Decision, decide
from ml.evaluation.judge import Evaluation
from ml.evaluation.predictions import Answers
from ml.scores.intervals import Interval
from serving.bundle.model import Model
from tasks.bundles import fetch_bundle, fetch_uploaded_bundle
from tasks.champion import Champion, present_champion
from tasks.crawl.mirror import poster_key
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
    answers = Answers.read(store.fetch(training.answers_key, workspace / training.answers_key))
    verdict = evaluation.judge(challenger, answers, data)

    if champion is not None and champion.bundle_sha256 == training.bundle_sha256:
        record = _record(verdict, champion, None, f"version {champion.version} is this very model", data)
    else:
        decision = decide(challenger, _model(champion, store, workspace), data, lambda i: store.read(poster_key(i)))
        record = _record(verdict, champion, decision, decision.sentence, data)
    registry.log_metrics(training.run_id, _metrics(verdict))
    page = workspace / "reports" / training.run_id / "model.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(evaluation.report_page(verdict, answers, data), encoding="utf-8")
    registry.log_file(training.run_id, page)
    create_markdown_artifact(_report(record, verdict), key="evaluation")
    return record


def _model(champion: Champion | None, store: Store, workspace: Path) -> Model | None:
    if champion is None:
        return None
    return Model.load(fetch_uploaded_bundle(store, workspace, champion.bundle_sha256))


def _record(
    verdict: Evaluation, champion: Champion | None, decision: Decision | None, reason: str, data: Dataset
) -> EvaluationRecord:
    # Over the genres that both know; where there are none, or no champion, the opponent was the baseline.
    compared = decision if decision is not None and decision.opponent != EVERY_GENRE else None
    return EvaluationRecord(
        scores=[ScoreRecord(name=model.name, **model.scores.scalars()) for model in verdict.models],
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


def _metrics(verdict: Evaluation) -> dict[str, float]:
    scores, thresholds, sure = verdict.chosen.scores, verdict.chosen.by_threshold, verdict.chosen.intervals
    by_genre = {
        f"test/{figure}/{genre.genre}": float(getattr(genre, figure))
        for genre in scores.genres
        for figure in ("precision", "recall", "f1", "support")
    }
    more: dict[str, float] = {}
    if thresholds is not None and sure is not None and verdict.chosen.calibration_error is not None:
        more = {
            "test/weighted_f1_at_half": thresholds.at_half,
            "test/weighted_f1_at_common_threshold": thresholds.at_common,
            "test/calibration_error": verdict.chosen.calibration_error,
            "test/weighted_f1_low": sure.weighted_f1.low,
            "test/weighted_f1_high": sure.weighted_f1.high,
        }
    for each in verdict.comparisons:
        more[f"test/weighted_f1_minus/{each.opponent}"] = each.differences.weighted_f1.value
        more[f"test/mean_average_precision_minus/{each.opponent}"] = each.differences.mean_average_precision.value
    return {f"test/{name}": value for name, value in scores.scalars().items()} | more | by_genre


def _report(record: EvaluationRecord, verdict: Evaluation) -> str:
    chosen = verdict.chosen.scores
    scores = "\n".join(
        f"| {s.name} | {s.weighted_f1:.3f} | {s.macro_f1:.3f} | {s.micro_f1:.3f} | {s.mean_average_precision:.3f} |"
        for s in record.scores
    )
    genres = "\n".join(
        f"| {g.genre} | {g.precision:.2f} | {g.recall:.2f} | {g.f1:.2f} | {g.support} |" for g in chosen.genres
    )
    gains = "\n".join(
        f"| {each.opponent} | {_gain(gain.weighted_f1)} | {_gain(gain.mean_average_precision)} |"
        for each, gain in ((each, each.differences) for each in verdict.comparisons)
    )
    return (
        f"{record.reason}\n\n| on {chosen.posters} test posters | weighted F1 | macro F1 | micro F1 | mAP |\n"
        f"| --- | --- | --- | --- | --- |\n{scores}\n\n"
        f"| {verdict.chosen.name} minus | weighted F1 (95 % interval) | mAP |\n| --- | --- | --- |\n{gains}\n\n"
        f"| genre | precision | recall | F1 | posters |\n| --- | --- | --- | --- | --- |\n{genres}"
    )


def _gain(it: Interval) -> str:
    return f"{it.value:+.3f} ({it.low:+.3f} to {it.high:+.3f})"
