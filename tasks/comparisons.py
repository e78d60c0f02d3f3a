"""Comparisons of new models with the champion: one event each, `comparisons/{time}-{hash}.json`.

They say what each comparison has spent of the year's chance to promote a model that is no better. The hash is that of
what was compared, so the same models on the same dataset under the same limits are compared once, however often a run
is repeated.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from infra.store import Store
from ml.configuration import GateConfig
from ml.evaluation.gate import Decision
from ml.scores.certainty import next_level
from serving.bundle.files import sha256_of
from tasks.events import Event, append_event, now, read_events
from tasks.records import Record

_FOLDER = "comparisons"
_YEAR = timedelta(days=365)

_NOT_COMPARED = ("max_response_milliseconds",)  # the rollout checks it; another limit makes no new comparison


class ComparisonRule(Record):
    """A rule of the gate, as `ml.evaluation.gate.Rule`."""

    name: str
    passed: bool
    sentence: str


class Comparison(Event):
    """One comparison. `level` is the chance that it has spent; `champion` is None if nothing was live.

    Models are named by the sha256 of their bundles.
    """

    run: str
    challenger: str
    champion: str | None
    dataset_key: str
    limits: dict[str, float]
    level: float
    weighted_f1_difference: float
    low: float
    high: float
    promote: bool
    rules: list[ComparisonRule]


def compare_once(
    store: Store,
    run: str,
    challenger: str,
    champion: str | None,
    dataset_key: str,
    limits: GateConfig,
    decide: Callable[[float], Decision],
) -> Decision:
    """Compare with the level that the comparison may spend, and write the comparison if it is a new one.

    Args:
        run: the name of the run.
        challenger: the sha256 of its bundle.
        champion: that of the champion's, None without a champion to compare with.
        dataset_key: the key of the dataset.
        limits: the limits of the gate.
        decide: compares with a level (`ml.evaluation.gate.decide`).
    """
    stored = {name: value for name, value in asdict(limits).items() if name not in _NOT_COMPARED}
    compared = json.dumps([challenger, champion, dataset_key, stored], sort_keys=True)
    suffix = f"-{sha256_of(compared.encode())[:16]}"
    earlier = {each.level for each in read_events(store, _FOLDER, Comparison, suffix=suffix)}
    level = max(earlier, default=0.0)
    if not level:
        last_year = read_events(store, _FOLDER, Comparison, since=(datetime.now(UTC) - _YEAR).isoformat())
        level = next_level(limits.false_promotions, sum(each.level for each in last_year))
    decision = decide(level)
    if decision.level not in earlier:
        comparison = Comparison(
            when=now(),
            run=run,
            challenger=challenger,
            champion=champion,
            dataset_key=dataset_key,
            limits=stored,
            level=decision.level,
            weighted_f1_difference=decision.difference.value,
            low=decision.difference.low,
            high=decision.difference.high,
            promote=decision.promote,
            rules=[ComparisonRule(**asdict(rule)) for rule in decision.rules],
        )
        append_event(store, _FOLDER, comparison, suffix)
    return decision
