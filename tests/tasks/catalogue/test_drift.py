"""Drift: which differences between two catalogues are normal, and which stop a run."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from infra.local.site.invented_titles import SEASONS, InventedTitle, Label, invented_titles
from infra.local.site.pages import season_page
from tasks.catalogue.catalogue_table import catalogue_of
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.drift import Measure, check, compare
from tasks.catalogue.last_good import LastGood
from tasks.catalogue.scraping import merge
from tasks.catalogue.seasons import parse_seasons
from tasks.catalogue.titles import Title, UnreadCard
from tasks.catalogue.unread_cards import UnreadEntry
from tasks.errors import DriftError
from tasks.myanimelist.season_pages import parse_season_page
from tasks.myanimelist.source import GENRE_IDS, MyAnimeList

BASE_URL = "http://localhost:8000"
LAST_FOUR = SEASONS[-4:]
Change = Callable[[str], str]


ONE_SEASON = "lost of one season"


def measures_of(
    before: Sequence[Title],
    now: Sequence[Title],
    seasons: Collection[str] = SEASONS,
    config: CollectConfig = CollectConfig(),  # noqa: B008
) -> list[Measure]:
    titles = catalogue_of(before)
    last = LastGood(titles, titles["season"].isin(seasons))
    return compare(last, catalogue_of(now), MyAnimeList(BASE_URL), config)


def drifted(
    before: Sequence[Title],
    now: Sequence[Title],
    seasons: Collection[str] = SEASONS,
    config: CollectConfig = CollectConfig(),  # noqa: B008
) -> set[str]:
    """The names of the measures above their limit. The error contains them."""
    measures = measures_of(before, now, seasons, config)
    names = {measure.name for measure in measures if measure.drifted}
    if names:
        with pytest.raises(DriftError) as caught:
            check(measures)
        assert all(name in str(caught.value) for name in names)
    else:
        check(measures)
    return {re.sub(r"lost of \d{4}-\w+", ONE_SEASON, name) for name in names}


# The built-in site's pages, read by the real parser.


TITLES = tuple(invented_titles(200))


@cache
def pages(titles: Sequence[InventedTitle] = TITLES) -> dict[str, str]:
    """The site's pages by season."""
    return {season: season_page(titles, season, BASE_URL) for season in SEASONS}


@cache
def parsed(html: str) -> Sequence[Title]:
    return parse_season_page(html)


def read(pages: dict[str, str]) -> list[Title]:
    return merge(parsed(html) for html in pages.values())


def changed(change: Change, seasons: Collection[str] = LAST_FOUR) -> list[Title]:
    """The catalogue after some changed pages were read again."""
    before = pages()
    for season in seasons:
        assert change(before[season]) != before[season]
    return read({season: change(html) if season in seasons else html for season, html in before.items()})


def renamed(old: str, new: str) -> Change:
    return lambda html: html.replace(old, new)


def without_every_second_card(html: str) -> str:
    cards = re.findall(r'<div class="js-anime-category-producer.*?\n</div>\n', html, flags=re.DOTALL)
    for card in cards[::2]:
        html = html.replace(card, "")
    assert html.count("js-anime-category-producer") == len(cards) // 2
    return html


def without_genres(html: str) -> str:
    return re.sub(r'<span class="genre">.*?</span>', "", html, flags=re.DOTALL)


def with_other_genre_numbers(html: str) -> str:
    return re.sub(r"/anime/genre/(\d+)/", r"/anime/genre/9\g<1>0/", html)


def test_drift_compares_nothing_of_unchanged_pages() -> None:
    assert {measure.of for measure in measures_of(read(pages()), read(pages()))} == {0}


def test_drift_allows_a_new_season_and_new_figures() -> None:
    def a_week_later(title: InventedTitle) -> InventedTitle:
        if title.season not in SEASONS[-3:]:
            return title
        score = None if title.score is None else round(title.score * 0.97, 2)
        return replace(title, score=score, members=title.members + 1000, episodes=(title.episodes or 0) + 1)

    before = {season: html for season, html in pages().items() if season != SEASONS[-1]}
    now = pages(tuple(a_week_later(title) for title in TITLES))
    assert len(read(now)) > len(read(before))
    assert drifted(read(before), read(now)) == set()


def test_drift_allows_one_lost_title_one_lost_score_and_one_new_genre() -> None:
    last = [number for number, title in enumerate(TITLES) if title.season in LAST_FOUR]
    later = list(TITLES)
    later[last[0]] = replace(later[last[0]], score=None, members=later[last[0]].members + 1)
    later[last[1]] = replace(later[last[1]], genres=(Label(901, "Novelty"),))
    del later[last[2]]
    assert drifted(read(pages()), read(pages(tuple(later)))) == set()


CHANGES: dict[str, tuple[Change, set[str]]] = {
    "score": (renamed('class="js-score"', 'class="js-rating"'), {"lost their score"}),
    "members": (renamed('class="js-members"', 'class="js-people"'), {"lost their members"}),
    "start date": (renamed('class="js-start_date"', 'class="js-date"'), {"lost their start date"}),
    "type": (renamed("js-anime-type-", "js-kind-"), {"lost their type"}),
    "source": (renamed(">Source<", ">Origin<"), {"lost their source"}),
    "episodes": (renamed(" ep", " part"), {"lost their episodes"}),
    "themes": (renamed(">Theme", ">Topic"), {"lost their themes"}),
    "demographics": (renamed(">Demographic", ">Audience"), {"lost their demographics"}),
    "studios": (renamed("/anime/producer/", "/company/"), {"lost their studios"}),
    "poster": (renamed('class="image"', 'class="picture"'), {"lost their poster"}),
    "poster addresses": (renamed("/images/anime/", "/covers/"), {"lost their poster"}),
    "genres": (without_genres, {"lost their genres"}),
    "genre addresses": (
        renamed("/anime/genre/", "/genre/"),
        {"lost their genres", "lost their themes", "lost their demographics"},
    ),
    "genre numbers": (with_other_genre_numbers, {"have an unknown genre"}),
    "titles": (without_every_second_card, {"titles lost", ONE_SEASON}),
}


@pytest.mark.parametrize(("change", "names"), CHANGES.values(), ids=CHANGES)
def test_drift_is_noticed_if_the_site_changes_its_pages(change: Change, names: set[str]) -> None:
    assert drifted(read(pages()), changed(change)) == names


@pytest.mark.parametrize("change", [without_genres, without_every_second_card])
def test_drift_is_noticed_on_one_page(change: Change) -> None:
    assert drifted(read(pages()), changed(change, SEASONS[-1:]))


def test_drift_is_noticed_if_a_page_is_missing() -> None:
    now = {season: html for season, html in pages().items() if season != "2017-spring"}
    assert drifted(read(pages()), read(now)) == {"titles lost", ONE_SEASON}


FIRST: dict[str, tuple[Change, set[str]]] = {
    "nothing": (lambda html: html + " ", set()),
    "genres": (without_genres, {"new, without genres"}),
    "poster": (renamed('class="image"', 'class="picture"'), {"new, without poster"}),
    "genre numbers": (with_other_genre_numbers, {"have an unknown genre"}),
}


@pytest.mark.parametrize(("change", "names"), FIRST.values(), ids=FIRST)
def test_drift_is_noticed_in_the_first_catalogue(change: Change, names: set[str]) -> None:
    assert drifted([], changed(change, SEASONS), seasons=()) == names


# Titles with exact numbers.


def title(id: int, season: str, **values: Any) -> Title:
    known: dict[str, Any] = {
        "type": "TV",
        "source": "Manga",
        "start_date": "2010-10-03",
        "episodes": 12,
        "score": 7.5,
        "members": 1000,
        "genres": ["Comedy"],
        "genre_ids": [4],
        "themes": ["School"],
        "demographics": ["Shounen"],
        "studios": ["AIC Build"],
        "poster_url": f"http://a.test/images/anime/{id}.jpg",
        "rating": "PG-13",
    }
    return Title(str(id), season=season, **({"title": f"Title {id}"} | known | values))


def season_of(name: str, first_id: int, count: int = 100, **values: Any) -> list[Title]:
    return [title(id, name, **values) for id in range(first_id, first_id + count)]


def with_the_first(count: int, titles: Sequence[Title], **values: Any) -> list[Title]:
    return [replace(one, **values) if number < count else one for number, one in enumerate(titles)]


FALL = season_of("2010-fall", 1)
COMMON = {"2010-fall", "2011-winter"}


def test_drift_of_one_season_is_not_hidden_by_fifty_unchanged_ones() -> None:
    names = [str(season) for season in parse_seasons("1998-winter..2010-summer")]
    others = [one for number, name in enumerate(names) for one in season_of(name, 1000 * (number + 1), 20)]
    assert len(names) == 51
    assert drifted(FALL + others, FALL[50:] + others, {*names, "2010-fall"}) == {"titles lost"}
    emptied = with_the_first(50, FALL, score=None)
    assert drifted(FALL + others, emptied + others, {*names, "2010-fall"}) == {"lost their score"}


def test_drift_names_the_season_that_lost_most_titles() -> None:
    names = [f"{year}-{quarter}" for year in range(2010, 2020) for quarter in ("winter", "fall")]
    before = [one for n, name in enumerate(names) for one in season_of(name, 1 + 1000 * n)]
    now = [replace(one, members=7) for one in before if one.season != "2015-fall"]
    (worst,) = [m for m in measures_of(before, now, names) if m.name == "lost of 2015-fall"]
    assert (worst.count, worst.of, worst.drifted) == (100, 100, True)


def test_drift_ignores_seasons_that_are_not_selected() -> None:
    assert drifted(FALL, [], {"2011-winter"}) == set()


# Field: the measure's name, how many titles of a hundred may lose it, and the setting of this limit.
EMPTIED: dict[str, tuple[str, int, str, dict[str, Any]]] = {
    "genres": ("lost their genres", 5, "max_lost_genres", {"genres": [], "genre_ids": []}),
    "poster_url": ("lost their poster", 5, "max_lost_posters", {"poster_url": None}),
    "title": ("have another title", 5, "max_lost_titles", {"title": "Another Story"}),
    "score": ("lost their score", 20, "max_emptied", {"score": None}),
    "studios": ("lost their studios", 20, "max_emptied", {"studios": []}),
    "new genres": (
        *("have an unknown genre", 5, "max_unknown_genres"),
        {"genre_ids": [4, 901], "genres": ["Comedy", "Novelty"]},
    ),
}


@pytest.mark.parametrize("field", EMPTIED)
def test_drift_limit_of_changed_titles_may_be_set(field: str) -> None:
    name, few, setting, values = EMPTIED[field]
    now = with_the_first(few + 1, FALL, **values)
    assert drifted(FALL, with_the_first(few, FALL, **values), COMMON) == set()
    assert drifted(FALL, now, COMMON) == {name}
    higher: dict[str, Any] = {setting: (few + 1) / 100}
    assert drifted(FALL, now, COMMON, CollectConfig(**higher)) == set()


def test_drift_limit_of_lost_titles_may_be_set() -> None:
    assert drifted(FALL, FALL[5:], COMMON) == set()
    assert drifted(FALL, FALL[6:], COMMON) == {"titles lost"}
    assert drifted(FALL, FALL[6:], COMMON, CollectConfig(max_lost_titles=0.06)) == set()
    assert drifted(FALL, FALL[3:], COMMON, CollectConfig(max_lost_titles=0)) == {"titles lost"}


@pytest.mark.parametrize(
    ("field", "wrong"), [("members", 1), ("score", 0.75), ("episodes", 1)], ids=["1,000 as 1", "7.5 as 0.75", "12 as 1"]
)
def test_drift_is_noticed_if_the_numbers_of_most_titles_fall_to_a_tenth(field: str, wrong: float) -> None:
    name = f"{field} fell to a tenth"
    assert drifted(FALL, with_the_first(51, FALL, **{field: wrong}), COMMON) == {name}
    assert drifted(FALL, with_the_first(50, FALL, **{field: wrong}), COMMON) == set()
    half = {"members": 500, "score": 3.8, "episodes": 6}[field]
    assert drifted(FALL, with_the_first(100, FALL, **{field: half}), COMMON) == set()
    assert (
        drifted(with_the_first(100, FALL, **{field: None}), with_the_first(100, FALL, **{field: wrong}), COMMON)
        == set()
    )


@pytest.mark.parametrize(("count", "of", "stops"), [(3, 10, False), (4, 10, True), (10, 1000, False), (11, 1000, True)])
def test_drift_limit_of_titles_not_read_is_a_share_of_at_least_three(count: int, of: int, stops: bool) -> None:
    unread = [UnreadEntry("2010-fall", "2010-fall", UnreadCard(n, "It has no title.")) for n in range(count)]
    titles = catalogue_of(season_of("2010-fall", 1, of - count))
    none = LastGood(titles[:0], titles["season"][:0] == "")
    measures = compare(none, titles, MyAnimeList(BASE_URL), CollectConfig(), unread)
    assert {measure.name for measure in measures if measure.drifted} == ({"titles not read"} if stops else set())
    higher = compare(none, titles, MyAnimeList(BASE_URL), CollectConfig(max_unread_cards=0.4), unread)
    assert not any(measure.drifted for measure in higher)


def test_drift_knows_genres_of_the_source_and_of_the_last_catalogue() -> None:
    before = [*FALL, title(999, "2011-winter", genre_ids=[901])]
    assert drifted(before, with_the_first(100, before, genre_ids=[4, 901]), COMMON) == set()
    assert drifted([], season_of("2010-fall", 1, genre_ids=sorted(GENRE_IDS)), ()) == set()


@pytest.mark.parametrize("count", [1, 2])
def test_drift_ignores_changes_of_one_or_two_titles(count: int) -> None:
    small = FALL[:2]
    assert drifted(small, small[count:], COMMON) == set()
    assert drifted(small, with_the_first(count, small, genres=[], genre_ids=[], score=None), COMMON) == set()
    assert drifted(FALL[:3], [], COMMON) == {"titles lost", ONE_SEASON}


@pytest.mark.parametrize(
    ("values", "name"),
    [({"genres": [], "genre_ids": []}, "new, without genres"), ({"poster_url": None}, "new, without poster")],
)
def test_drift_is_noticed_if_nearly_all_of_many_new_titles_lack_something(values: dict[str, Any], name: str) -> None:
    def now(count: int, emptied: int) -> list[Title]:
        return FALL + with_the_first(emptied, season_of("2011-winter", 1000, count), **values)

    assert drifted(FALL, now(20, 19), COMMON) == {name}
    assert drifted(FALL, now(20, 18), COMMON) == set()
    assert drifted(FALL, now(19, 19), COMMON) == set()


def test_drift_error_contains_the_whole_table() -> None:
    now = with_the_first(50, FALL, score=None, studios=[])[7:]
    measures = measures_of(FALL, now, COMMON)
    with pytest.raises(DriftError) as caught:
        check(measures)
    first, *table = str(caught.value).splitlines()
    assert "(titles lost, lost their score, lost their studios)" in first and "raise the limits" in first
    assert len(table) == len(measures)
    assert re.fullmatch(r"\s+titles lost\s+7 of 100\s+7\.0%\s+limit 5%\s+<- STOP", table[0])
    assert re.fullmatch(r"\s+lost their genres\s+0 of 93\s+0\.0%\s+limit 5%", table[2])
    assert sum("STOP" in line for line in table) == 3


def test_drift_allows_titles_that_are_only_written_differently() -> None:
    names = [f"{first}{second}sei" for first in "kmnst" for second in "aeiou"]
    before = [title(number, "2010-fall", title=f"{name}: The Movie") for number, name in enumerate(names)]
    now = [replace(one, title=f"{name.upper()} (2010)") for one, name in zip(before, names, strict=True)]
    assert drifted(before, now, COMMON) == set()
    shifted = [replace(one, title=before[number - 1].title) for number, one in enumerate(before)]
    assert drifted(before, shifted, COMMON) == {"have another title"}


def test_drift_measure_is_a_row_of_a_table() -> None:
    row = Measure("titles lost", 7, 100, 0.05).row()
    assert row == {"what": "titles lost", "titles": 7, "of": 100, "share": "7.0%", "limit": "5%", "verdict": "STOP"}
    assert Measure("titles lost", 0, 0, 0.05).row()["share"] == "0.0%"
