"""Step 5: score the chosen network on the test part, and compare it with the baselines and the champion."""

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

import numpy as np
import pandas as pd

from infra.disk import size_bytes
from infra.endpoint import request_predictions
from infra.registry import Registry
from infra.settings import Settings, read_settings
from infra.store import Store
from ml.configuration import GateConfig
from ml.data.dataset import Dataset
from ml.data.decoding import PREPROCESSING_VERSION
from ml.data.splits import TEST
from ml.evaluation.gate import Decision, check_bundle, decide
from ml.evaluation.judge import Evaluation, judge, predict
from ml.evaluation.model_report import model_report
from ml.evaluation.predictions import PredictionSet
from ml.scores.intervals import Interval
from ml.scores.metrics import Decisions
from serving.bundle.model import MANIFEST, Manifest, Model
from serving.bundle.wording import counted
from tasks.artifacts import markdown_table, show_text
from tasks.bundles import bundle_key, fetch_bundle, fetch_predictions
from tasks.catalogue.catalogue_table import fetch_catalogue
from tasks.champion import Champion, ChampionState, examine, has_other_decoder, live_champion, reason_to_redeploy
from tasks.comparisons import compare_once
from tasks.crawl.mirror import poster_key
from tasks.preprocess import fetch_dataset, read_dataset_parts, strong_relations
from tasks.records import (
    CatalogueRecord,
    DatasetRecord,
    EvaluationRecord,
    KnownPoster,
    Promotion,
    ScoreRecord,
    TrainingRecord,
)
from tasks.rollouts import Hold, lift_hold, read_hold
from tasks.scoreboard import LiveScore, score_live_models, seen_titles
from tasks.source_choice import source_for
from tasks.step import is_scheduled, run_name, step

_KNOWN_POSTERS = 3
_LIMITS = GateConfig()

logger = logging.getLogger("tasks")


@step("evaluate")
def evaluate(
    catalogue: CatalogueRecord,
    dataset: DatasetRecord,
    training: TrainingRecord,
    promotion: Promotion = "by_gate",
    limits: GateConfig = _LIMITS,
) -> EvaluationRecord:
    """Score the bundle as it will be served, and decide whether it replaces the champion.

    The champion and its predecessors are scored on the titles that came after their training (`tasks.scoreboard`).

    Raises:
        ServiceUnavailable: the store, MLflow or Cloud Run is not reachable (retryable).
        NotFound: the trained bundle or its predictions have no intact copy.
    """
    settings = read_settings(dataset.collection)
    store, registry, workspace = Store(settings), Registry(settings), settings.folder
    data = fetch_dataset(store, workspace, dataset.dataset_key)
    bundle = fetch_bundle(store, registry, workspace, training.bundle_sha256, training.run_id)
    challenger = Model.load(bundle)
    predictions = PredictionSet.read(
        fetch_predictions(store, registry, workspace, training.run_id, training.predictions_key)
    )
    logger.info("Scoring the model, the other networks and the baselines on the test part.")
    evaluation = judge(challenger, predictions, data)

    known = _known_posters(data, store)
    logger.info("Comparing the model with what is live.")
    champion = live_champion(settings, registry)
    state = examine(champion, known[0].name, store, registry, settings) if champion else None
    titles = fetch_catalogue(store, workspace, catalogue.key)
    related = strong_relations(titles, source_for(catalogue.site_url))
    decide_by_gate = partial(
        decide,
        dataset=data,
        predict_champion=partial(champion_decisions, champion, dataset=data, store=store, settings=settings)
        if champion
        else None,
        opponents=evaluation.opponents,
        seen=_seen(champion, data, titles, related, store) if champion else (),
        limits=limits,
        bundle_rules=check_bundle(size_bytes(bundle), evaluation.probability_difference, limits),
    )

    def compare(challenger: Model, champion: Model | None) -> Decision:
        return compare_once(
            store,
            run_name(),
            challenger.sha256,
            champion.sha256 if champion else None,
            dataset.dataset_key,
            limits,
            lambda level: decide_by_gate(challenger, champion, level=level),
        )

    gate = verdict(training.bundle_sha256, challenger, champion, state, compare)
    hold, overrules = read_hold(store), promotion == "always" and not is_scheduled()
    is_live = champion is not None and champion.bundle_sha256 == training.bundle_sha256
    if overrules and is_live:
        lift_hold(store, hold)
    promote, reason = choice(gate, hold, promotion, overrules, is_live)

    today, later = date.fromisoformat(catalogue.snapshot_date), list[LiveScore]()
    if champion:
        later = score_live_models(champion, data, titles, related, today, store, registry, settings)
    logger.info("Writing the report of the model.")
    metrics = {**evaluation.metrics(), **_gate_metrics(gate.decision), **_later_metrics(later)}
    registry.log_metrics(training.run_id, metrics)
    page = workspace / "reports" / training.run_id / "model.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    boards = {each.name: each.scoreboard for each in later if each.scoreboard}
    report = model_report(evaluation, predictions, data, notices=dataset.notices, later=boards)
    page.write_text(report, encoding="utf-8")
    registry.log_file(training.run_id, page)
    show_text(
        "evaluation",
        _artifact(reason, gate.decision, evaluation, later),
        "The new model on the test part, and whether it goes live",
    )
    return EvaluationRecord(
        scores=[ScoreRecord(name=name, **scores.scalars()) for name, scores in evaluation.scores.items()],
        better=promote,
        passed_gate=gate.promote,
        reason=reason,
        known_posters=known,
        redeploy_champion=reason_to_redeploy(champion, state, settings) if champion and state and not promote else None,
        later=[score.sentence for score in later],
        overruled_hold=hold.since if hold and overrules else None,
        compared_with=champion.bundle_sha256 if champion else None,
    )


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger replaces the champion if no person decides it, and why.

    `decision` is that of the gate, None if there was nothing to compare.
    """

    promote: bool
    reason: str
    decision: Decision | None = None


def verdict(
    bundle_sha256: str,
    challenger: Model,
    champion: Champion | None,
    state: ChampionState | None,
    compare: Callable[[Model, Model | None], Decision],
) -> Verdict:
    """The verdict on a challenger. `compare` is the gate: challenger and champion, None if nothing is live or left."""
    if champion is None or state is None:
        decision = compare(challenger, None)
        return Verdict(decision.promote, decision.sentence, decision)
    moved = f"Another tool moved the traffic to {champion.revision.name}. " if champion.moved else ""
    if champion.bundle_sha256 == bundle_sha256:
        return Verdict(False, f"{moved}{champion.name} is this model")
    if champion.withdrawn_sha256 == bundle_sha256:
        return Verdict(False, f"{moved}Only a person moves it back to this model: set promote: always.")
    only_function = state.model is None or has_other_decoder(state.model)
    silent = state.silent or ("its bundle was damaged." if state.damaged and state.model else None)
    if only_function and silent:
        return Verdict(False, f"{moved}The champion, {champion.name}, cannot be compared: {silent}")
    lost = f"The champion, {champion.name}, has no intact copy. " if state.model is None else ""
    decision = compare(challenger, state.model)
    return Verdict(decision.promote, f"{moved}{lost}{decision.sentence}", decision)


def choice(gate: Verdict, hold: Hold | None, promotion: Promotion, overrules: bool, is_live: bool) -> tuple[bool, str]:
    """Whether the challenger goes live, and why: the verdict, unless a person has decided it.

    A person decides it by a hold, which keeps the live model, or by the run's setting `promote`. `overrules` says that
    the setting is `always` in a run that a person started, so a hold does not count. With `never` the reason does not
    name the hold. If the challenger `is_live`, the setting changes nothing.
    """
    if hold and not overrules and promotion != "never":
        return False, f"{gate.reason} {hold.sentence}" if gate.promote else gate.reason
    if promotion != "by_gate" and not is_live:
        return promotion == "always", f"{gate.reason} This run has the setting promote: {promotion}."
    return gate.promote, gate.reason


def champion_decisions(
    champion: Champion, model: Model, dataset: Dataset, store: Store, settings: Settings
) -> Decisions:
    """The champion's decisions for the test part, [T, G], in the order of its genres.

    Posters are decoded in the size that its model was trained with. If it was trained with another version of the
    decoder, only its live revision has that version, and is asked. Posters that it refuses have no genre.

    Raises:
        FunctionDown: the revision is not available.
        ConfigurationError: the credentials do not allow the call.
    """
    keys = [poster_key(dataset.ids[row]) for row in dataset.rows(TEST)]
    if not has_other_decoder(model):
        return predict(model, dataset, lambda id: store.read(poster_key(id)))[1]
    logger.info(
        "The champion, %s, is asked about %s, because its decoder has version %d, not %d.",
        champion.name,
        counted(len(keys), "test poster"),
        model.manifest.preprocessing.version,
        PREPROCESSING_VERSION,
    )
    names = [store.object_name(key) for key in keys]
    responses = request_predictions(str(champion.revision.url), names, settings.caller_service_account)
    if refused := sum(response is None for response in responses):
        logger.warning("The champion refuses %s, which count as without genres.", counted(refused, "test poster"))
    predicted = [
        {genre["name"] for genre in response["genres"] if genre["predicted"]} if response else set()
        for response in responses
    ]
    return np.array([[genre.name in names for genre in model.manifest.genres] for names in predicted])


def _seen(
    champion: Champion, data: Dataset, titles: pd.DataFrame, related: Mapping[str, Sequence[str]], store: Store
) -> set[str]:
    """The ids of the posters of franchises that the champion was trained on.

    Some are in the test part if the parts were drawn again since, or if a franchise's other titles are left out today.
    Empty if the champion's dataset is unknown.
    """
    manifest = store.read_parsed(f"{bundle_key(champion.bundle_sha256)}/{MANIFEST}", Manifest.parse)
    parts = read_dataset_parts(store, manifest.dataset_key) if manifest else {}
    if not parts:
        logger.warning("The dataset of the champion, %s, is unknown: it may have seen test posters.", champion.name)
        return set()
    franchise_of = dict(zip(data.ids, data.franchises.tolist(), strict=True))
    return seen_titles(franchise_of, titles, related, parts)


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


def _gate_metrics(decision: Decision | None) -> dict[str, float]:
    """The comparison with the champion, as MLflow shows it: its difference, and 1 for each rule that is passed."""
    if decision is None:
        return {}
    passed = {f"gate/{rule.name}": float(rule.passed) for rule in decision.rules}
    difference = {f"{TEST}/weighted_f1_minus/champion": decision.difference.value} if decision.level else {}
    return {**difference, **passed}


def _later_metrics(scores: Sequence[LiveScore]) -> dict[str, float]:
    """The champion's figures on later titles, and those of its predecessors, named by the beginnings of their bundles.

    Without enough titles there is only their number.
    """
    return {
        f"later/{metric}" + ("" if place == 0 else f"/{score.bundle_sha256[:8]}"): value
        for place, score in enumerate(scores)
        if score.scoreboard
        for metric, value in score.scoreboard.metrics().items()
    }


def _artifact(reason: str, decision: Decision | None, evaluation: Evaluation, later: Sequence[LiveScore]) -> str:
    chosen = evaluation.chosen
    metrics = [f"{TEST}/{name}" for name in chosen.scores.scalars()]
    scores = [[name, *(f"{v:.3f}" for v in each.scalars().values())] for name, each in evaluation.scores.items()]
    gains = [
        [name, _gain(each.weighted_f1), _gain(each.mean_average_precision)]
        for name, each in evaluation.differences.items()
    ]
    genres = [
        [g.genre, f"{g.precision:.2f}", f"{g.recall:.2f}", f"{g.f1:.2f}", str(g.support)] for g in chosen.scores.genres
    ]
    rules = (
        [[rule.name, "passed" if rule.passed else "FAILED", rule.sentence] for rule in decision.rules]
        if decision
        else []
    )
    tables = (
        *([markdown_table(["rule", "", "figures"], rules)] if rules else []),
        markdown_table([counted(chosen.scores.posters, "test poster"), *metrics], scores),
        markdown_table(
            [f"{chosen.name} minus", f"{TEST}/weighted_f1 (95 % interval)", f"{TEST}/mean_average_precision"], gains
        ),
        markdown_table(["genre", *(f"{TEST}/{name}" for name in ("precision", "recall", "f1", "support"))], genres),
    )
    live = "\n".join(f"- {score.sentence}" for score in later)
    return "\n\n".join([reason, *([live] if live else []), *tables])


def _gain(difference: Interval) -> str:
    return f"{difference.value:+.3f} ({difference.low:+.3f} to {difference.high:+.3f})"
