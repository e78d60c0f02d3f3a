"""Which titles a live model is scored on."""

from datetime import date

import pandas as pd
import pytest

from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.titles import Related, Title
from tasks.myanimelist.source import MyAnimeList
from tasks.preprocess import strong_relations
from tasks.scoreboard import last_day, later_titles, seen_titles

pytestmark = pytest.mark.stack

TODAY = date(2026, 11, 30)
AIRED = "2026-04-05"
OLD = [
    Title("1", "Blue Harbour", start_date="2020-01-05"),
    Title("2", "Red Lantern", start_date="2020-01-05"),
    Title("3", "Green Meadow Chronicle", start_date="2020-01-05"),
    Title("4", "White Comet", start_date="2020-01-05"),
]
# As they were in the dataset of the model. The last title has left the catalogue since.
PARTS = {
    "1": ("blue harbour", "train"),
    "2": ("red lantern", "validation"),
    "3": ("green meadow chronicle", "train"),
    "4": ("white comet", "test"),
    "99": ("silver orchard", "train"),
}


def later(*titles: Title, dataset: dict[str, str] | None = None) -> set[str]:
    """The titles that count, of those that have come to the catalogue since. All are in today's dataset."""
    catalogue: pd.DataFrame = catalogue_of([*OLD, *titles])
    franchise_of = {title.id: title.id for title in (*OLD, *titles)} | (dataset or {})
    return later_titles(franchise_of, catalogue, strong_relations(catalogue, MyAnimeList()), PARTS, TODAY)


@pytest.mark.parametrize(
    ("title", "counts"),
    [
        (Title("10", "Purple Kettle", start_date="2026-10-05"), True),
        (Title("10", "Purple Kettle", start_date="2026-10-06"), False),
        (Title("10", "Purple Kettle", start_date="2026-09"), True),
        (Title("10", "Purple Kettle", start_date="2026-10"), False),
        (Title("10", "Purple Kettle", start_date="2025"), True),
        (Title("10", "Purple Kettle", start_date="2026"), False),
        (Title("10", "Purple Kettle"), False),
    ],
)
def test_title_counts_eight_weeks_after_its_first_airing(title: Title, counts: bool) -> None:
    assert (later(title) == {"10"}) == counts


def test_title_counts_if_the_model_has_seen_neither_it_nor_its_franchise() -> None:
    assert later() == set(), "the dataset of the model has these titles, also in its test part"
    assert later(Title("10", "White Comet 2nd Season", start_date=AIRED)) == {"10"}, "a test franchise was not seen"
    sequel = Related("Sequel", "1")
    for title in (
        Title("10", "Blue Harbour 2", start_date=AIRED),
        Title("10", "Purple Kettle", start_date=AIRED, related=[Related("Sequel", "2")]),
        Title("10", "Silver Orchard II", start_date=AIRED),
        Title("10", "Purple Chronicle", start_date=AIRED),  # a rare word
    ):
        assert later(title) == set(), title.title
    assert later(Title("10", "Purple Chronicle", start_date=AIRED, own_page=True)) == {"10"}, "its relations are known"
    between = Title("11", "Yellow Kite", start_date=AIRED, related=[sequel])
    assert later(Title("10", "Purple Kettle", start_date=AIRED, related=[Related("Sequel", "11")]), between) == set()
    alike = {"1": "same poster", "10": "same poster"}
    assert later(Title("10", "Purple Kettle", start_date=AIRED), dataset=alike) == set()


def test_title_is_seen_if_a_relation_joins_it_to_a_training_title_that_is_left_out_today() -> None:
    catalogue = catalogue_of([*OLD, Title("10", "Purple Kettle", related=[Related("Sequel", "1")])])
    dataset = {"3": "green meadow chronicle", "4": "white comet", "10": "blue harbour"}
    assert seen_titles(dataset, catalogue, strong_relations(catalogue, MyAnimeList()), PARTS) == {"3", "10"}


def test_last_day_of_a_partial_date() -> None:
    assert [last_day(each) for each in ("2024", "2024-02", "2024-02-03", "", "spring 2024", "2024-13", "0")] == [
        date(2024, 12, 31),
        date(2024, 2, 29),
        date(2024, 2, 3),
        *[None] * 4,
    ]
