"""Comparisons in the bucket, with the real client and a local emulator."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.settings import Settings
from infra.store import Store
from ml.configuration import GateConfig
from ml.evaluation.gate import Decision, Rule
from ml.scores.certainty import next_level
from ml.scores.intervals import Interval
from tasks.comparisons import Comparison, compare_once
from tests.storage import storage_emulator

pytestmark = pytest.mark.stack

LIMITS = GateConfig()
BUDGET = LIMITS.false_promotions


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with storage_emulator(tmp_path, "comparisons") as url:
        yield Store(
            Settings(workspace=tmp_path, bucket="comparisons", storage_emulator_host=url, service_timeout_seconds=5)
        )


def compared(store: Store, challenger: str, champion: str | None = "champion", limits: GateConfig = LIMITS) -> float:
    """Compare, and return the level that was given."""
    given = []

    def decide(level: float) -> Decision:
        given.append(level)
        rules = (Rule("difference", False, "A difference counts above +0.030."),)
        return Decision(False, Interval(0.02, -0.01, 0.05), rules, level if champion else 0.0, "It is kept.")

    compare_once(store, "first run", challenger, champion, "dataset", limits, decide)
    return given[0]


def test_comparison_is_one_object_and_spends_a_part_of_the_years_chance(store: Store) -> None:
    first = compared(store, "challenger")
    assert first == next_level(BUDGET, 0)
    assert compared(store, "challenger") == first, "a repeated comparison is no second look"
    assert compared(store, "challenger", limits=GateConfig(max_response_milliseconds=1)) == first
    assert len(store.keys("comparisons/")) == 1
    second = compared(store, "another")
    assert second == next_level(BUDGET, first) < first
    assert compared(store, "challenger", limits=GateConfig(max_genre_loss=0.2)) == next_level(BUDGET, first + second)
    keys = sorted(store.keys("comparisons/"))
    assert len(keys) == 3
    row = json.loads(store.read(keys[0]))
    assert row | {"when": ""} == {
        "when": "",
        "run": "first run",
        "challenger": "challenger",
        "champion": "champion",
        "dataset_key": "dataset",
        "limits": {name: value for name, value in vars(LIMITS).items() if name != "max_response_milliseconds"},
        "level": first,
        "weighted_f1_difference": 0.02,
        "low": -0.01,
        "high": 0.05,
        "promote": False,
        "rules": [{"name": "difference", "passed": False, "sentence": "A difference counts above +0.030."}],
    }


def test_comparisons_of_more_than_a_year_ago_or_without_a_champion_spend_nothing(store: Store) -> None:
    compared(store, "first model", champion=None)
    compared(store, "first model", champion=None)
    (key,) = store.keys("comparisons/")
    row = Comparison.model_validate_json(store.read(key))
    assert row.champion is None and row.level == 0
    for days, level in ((366, 0.05), (364, 0.01)):
        when = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="microseconds")
        earlier = row.model_copy(update={"when": when, "level": level})
        store.write(f"comparisons/{when}-{days:016}.json", earlier.model_dump_json().encode())
    assert compared(store, "challenger") == next_level(BUDGET, 0.01)
