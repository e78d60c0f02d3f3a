"""Drift: which differences between two catalogues are the site's life, and which stop a run."""

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from infra.local.site.invented_titles import SEASONS, InventedTitle, Label, invented_titles
from infra.local.site.pages import season_page
from tasks.catalogue.catalogue_table import merge
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.drift import Measure, check, compare
from tasks.catalogue.seasons import parse_seasons
from tasks.catalogue.titles import GENRE_IDS, AnimeRecord
from tasks.errors import DriftError
from tasks.myanimelist.pages import parse_season_page

BASE_URL = "http://localhost:8000"
LAST_FOUR = SEASONS[-4:]
Change = Callable[[str], str]


ONE_SEASON = "lost of one season"


def drifted(
    before: Sequence[AnimeRecord],
    now: Sequence[AnimeRecord],
    seasons: Collection[str] = SEASONS,
    config: CollectConfig = CollectConfig(),  # noqa: B008
) -> set[str]:
    """The names of what is past its limit, as the error names them, too."""
    measures = compare(before, now, seasons, config)
    names = {measure.name for measure in measures if measure.drifted}
    if names:
        with pytest.raises(DriftError) as caught:
            check(measures)
        assert all(name in str(caught.value) for name in names)
    else:
        check(measures)
    return {re.sub(r"lost of \d{4}-\w+", ONE_SEASON, name) for name in names}


# The small site's pages, read as the real ones are.


TITLES = tuple(invented_titles(200))


@cache
def pages(titles: Sequence[InventedTitle] = TITLES) -> dict[str, str]:
    """The site's pages by season."""
    return {season: season_page(titles, season, BASE_URL) for season in SEASONS}


@cache
def parsed(html: str) -> Sequence[AnimeRecord]:
    return parse_season_page(html)


def read(pages: dict[str, str]) -> list[AnimeRecord]:
    return merge(parsed(html) for html in pages.values())


def changed(change: Change, seasons: Collection[str] = LAST_FOUR) -> list[AnimeRecord]:
    """The catalogue after some pages were read again, which the site serves otherwise than before."""
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


def test_the_first_catalogue_passes() -> None:
    assert drifted([], read(pages()), seasons=()) == set()


def test_pages_that_are_as_they_were_pass_and_nothing_of_them_is_compared() -> None:
    measures = compare(read(pages()), read(pages()), SEASONS, CollectConfig())
    check(measures)
    assert {measure.of for measure in measures} == {0}


def test_a_new_season_and_figures_that_went_on_pass() -> None:
    def a_week_later(title: InventedTitle) -> InventedTitle:
        if title.season not in SEASONS[-3:]:
            return title
        score = None if title.score is None else round(title.score * 0.97, 2)
        return replace(title, score=score, members=title.members + 1000, episodes=(title.episodes or 0) + 1)

    before = {season: html for season, html in pages().items() if season != SEASONS[-1]}
    now = pages(tuple(a_week_later(title) for title in TITLES))
    assert len(read(now)) > len(read(before))
    assert drifted(read(before), read(now)) == set()


def test_one_title_that_is_gone_one_without_score_and_one_of_a_new_genre_pass() -> None:
    last = [number for number, title in enumerate(TITLES) if title.season in LAST_FOUR]
    later = list(TITLES)
    later[last[0]] = replace(later[last[0]], score=None, members=later[last[0]].members + 1)
    later[last[1]] = replace(later[last[1]], genres=(Label(901, "Novelty"),))
    del later[last[2]]
    assert drifted(read(pages()), read(pages(tuple(later)))) == set()


OTHERWISE: dict[str, tuple[Change, set[str]]] = {
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
    "poster's address": (renamed("/images/anime/", "/covers/"), {"lost their poster"}),
    "genres": (without_genres, {"lost their genres"}),
    "genres' addresses": (
        renamed("/anime/genre/", "/genre/"),
        {"lost their genres", "lost their themes", "lost their demographics"},
    ),
    "genres' numbers": (with_other_genre_numbers, {"have an unknown genre"}),
    "titles": (without_every_second_card, {"titles lost", ONE_SEASON}),
}


@pytest.mark.parametrize(("change", "names"), OTHERWISE.values(), ids=OTHERWISE)
def test_a_site_that_writes_its_pages_otherwise_is_noticed(change: Change, names: set[str]) -> None:
    assert drifted(read(pages()), changed(change)) == names


@pytest.mark.parametrize("change", [without_genres, without_every_second_card])
def test_one_page_that_was_read_again_is_enough_to_notice_it(change: Change) -> None:
    assert drifted(read(pages()), changed(change, SEASONS[-1:]))


def test_a_page_that_is_there_no_more_is_noticed() -> None:
    now = {season: html for season, html in pages().items() if season != "2017-spring"}
    assert drifted(read(pages()), read(now)) == {"titles lost", ONE_SEASON}


FIRST: dict[str, tuple[Change, set[str]]] = {
    "genres": (without_genres, {"new, without genres"}),
    "poster": (renamed('class="image"', 'class="picture"'), {"new, without poster"}),
    "genres' numbers": (with_other_genre_numbers, {"have an unknown genre"}),
}


@pytest.mark.parametrize(("change", "names"), FIRST.values(), ids=FIRST)
def test_a_first_catalogue_of_pages_that_are_not_understood_is_noticed(change: Change, names: set[str]) -> None:
    assert drifted([], changed(change, SEASONS), seasons=()) == names


# Titles made by hand, for numbers that are exact.


def record(mal_id: int, season: str, **values: Any) -> AnimeRecord:
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
        "poster_url": f"http://a.test/images/anime/{mal_id}.jpg",
        "rating": "PG-13",
    }
    return AnimeRecord(mal_id, f"Title {mal_id}", season=season, **(known | values))


def season_of(name: str, first_id: int, count: int = 100, **values: Any) -> list[AnimeRecord]:
    return [record(mal_id, name, **values) for mal_id in range(first_id, first_id + count)]


def with_the_first(count: int, records: Sequence[AnimeRecord], **values: Any) -> list[AnimeRecord]:
    return [replace(one, **values) if number < count else one for number, one in enumerate(records)]


FALL = season_of("2010-fall", 1)
COMMON = {"2010-fall", "2011-winter"}


def test_fifty_seasons_that_were_not_read_again_do_not_hide_the_one_that_was() -> None:
    names = [str(season) for season in parse_seasons("1998-winter..2010-summer")]
    others = [one for number, name in enumerate(names) for one in season_of(name, 1000 * (number + 1))]
    assert len(names) > 50
    assert drifted(FALL + others, FALL[50:] + others, {*names, "2010-fall"}) == {"titles lost"}
    emptied = with_the_first(50, FALL, score=None)
    assert drifted(FALL + others, emptied + others, {*names, "2010-fall"}) == {"lost their score"}


EMPTIED: dict[str, tuple[str, dict[str, Any]]] = {
    "genres": ("lost their genres", {"genres": [], "genre_ids": []}),
    "poster_url": ("lost their poster", {"poster_url": None}),
    "type": ("lost their type", {"type": None}),
    "source": ("lost their source", {"source": None}),
    "start_date": ("lost their start date", {"start_date": None}),
    "episodes": ("lost their episodes", {"episodes": None}),
    "score": ("lost their score", {"score": None}),
    "members": ("lost their members", {"members": None}),
    "themes": ("lost their themes", {"themes": []}),
    "demographics": ("lost their demographics", {"demographics": []}),
    "studios": ("lost their studios", {"studios": []}),
}


@pytest.mark.parametrize("field", EMPTIED)
def test_a_field_may_be_gone_from_a_few_titles_and_no_more(field: str) -> None:
    name, values = EMPTIED[field]
    few = 5 if field in ("genres", "poster_url") else 20  # of a hundred
    assert drifted(FALL, with_the_first(few, FALL, **values), COMMON) == set()
    assert drifted(FALL, with_the_first(few + 1, FALL, **values), COMMON) == {name}


def test_a_few_titles_may_be_gone_and_no_more() -> None:
    assert drifted(FALL, FALL[5:], COMMON) == set()
    assert drifted(FALL, FALL[6:], COMMON) == {"titles lost"}


def test_a_few_titles_may_have_new_genres_and_no_more() -> None:
    def now(count: int) -> list[AnimeRecord]:
        return with_the_first(count, FALL, genre_ids=[4, 901], genres=["Comedy", "Novelty"])

    assert drifted(FALL, now(5), COMMON) == set()
    assert drifted(FALL, now(6), COMMON) == {"have an unknown genre"}


def test_a_genre_that_the_last_catalogue_had_is_no_unknown_one() -> None:
    before = [*FALL, record(999, "2011-winter", genre_ids=[901])]
    assert drifted(before, with_the_first(100, before, genre_ids=[4, 901]), COMMON) == set()


def test_all_of_the_sites_genres_are_known_to_the_first_catalogue() -> None:
    assert drifted([], season_of("2010-fall", 1, genre_ids=sorted(GENRE_IDS)), ()) == set()


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_titles_are_chance_whatever_share_they_are(count: int) -> None:
    small = FALL[:2]
    assert drifted(small, small[count:], COMMON) == set()
    assert drifted(small, with_the_first(count, small, genres=[], genre_ids=[], score=None), COMMON) == set()
    assert drifted(FALL[:3], [], COMMON) == {"titles lost", ONE_SEASON}


def test_a_title_that_never_had_it_has_not_lost_it() -> None:
    before = with_the_first(90, FALL, score=None, genres=[], genre_ids=[])
    now = [replace(one, members=2000) for one in before]
    assert drifted(before, now, COMMON) == set()
    assert drifted(before, [replace(one, score=None) for one in now], COMMON) == {"lost their score"}


def test_a_narrower_range_of_seasons_loses_nothing() -> None:
    before = FALL + season_of("2011-winter", 1000)
    assert drifted(before, FALL, {"2010-fall"}) == set()
    assert drifted(before, FALL, COMMON) == {"titles lost", ONE_SEASON}


def test_titles_that_only_go_on_in_the_seasons_read_are_not_missed_where_they_do_no_more() -> None:
    long_ago = season_of("1999-fall", 1000)
    assert drifted(FALL + long_ago, FALL, COMMON) == set()


def test_a_title_that_moved_to_another_season_is_not_lost() -> None:
    assert drifted(FALL, [replace(one, season="2011-winter", score=7.6) for one in FALL], COMMON) == set()


@pytest.mark.parametrize(
    ("limit", "now"),
    [
        ("max_lost_titles", FALL[50:]),
        ("max_lost_genres", with_the_first(50, FALL, genres=[], genre_ids=[])),
        ("max_lost_posters", with_the_first(50, FALL, poster_url=None)),
        ("max_emptied", with_the_first(50, FALL, score=None, studios=[])),
        ("max_unknown_genres", with_the_first(50, FALL, genre_ids=[901])),
    ],
)
def test_a_person_may_set_each_limit(limit: str, now: Sequence[AnimeRecord]) -> None:
    assert drifted(FALL, now, COMMON)
    low: dict[str, Any] = {limit: 0.49}
    high: dict[str, Any] = {limit: 0.5}
    assert drifted(FALL, now, COMMON, CollectConfig(**low))
    assert drifted(FALL, now, COMMON, CollectConfig(**high)) == set()


def test_a_lower_limit_stops_what_would_have_passed() -> None:
    assert drifted(FALL, FALL[3:], COMMON) == set()
    assert drifted(FALL, FALL[3:], COMMON, CollectConfig(max_lost_titles=0)) == {"titles lost"}


@pytest.mark.parametrize(
    ("values", "name"),
    [({"genres": [], "genre_ids": []}, "new, without genres"), ({"poster_url": None}, "new, without poster")],
)
def test_many_new_titles_that_all_lack_something_stop_and_a_few_do_not(values: dict[str, Any], name: str) -> None:
    def now(count: int, lacking: int) -> list[AnimeRecord]:
        return FALL + with_the_first(lacking, season_of("2011-winter", 1000, count), **values)

    assert drifted(FALL, now(20, 20), COMMON) == {name}
    assert drifted(FALL, now(20, 19), COMMON) == {name}
    assert drifted(FALL, now(20, 18), COMMON) == set()
    assert drifted(FALL, now(19, 19), COMMON) == set()


def test_the_message_holds_the_whole_table_and_names_what_drifted() -> None:
    now = with_the_first(50, FALL, score=None, studios=[])[7:]
    measures = compare(FALL, now, COMMON, CollectConfig())
    with pytest.raises(DriftError) as caught:
        check(measures)
    first, *table = str(caught.value).splitlines()
    assert "(titles lost, lost their score, lost their studios)" in first
    assert "raise the limit" in table[-1]
    assert len(table) == len(measures) + 1
    assert re.fullmatch(r"\s+titles lost\s+7 of 100\s+7\.0%\s+limit 5%\s+<- STOP", table[0])
    assert re.fullmatch(r"\s+lost their genres\s+0 of 93\s+0\.0%\s+limit 5%", table[2])
    assert sum("STOP" in line for line in table) == 3


def test_a_row_for_people_says_the_same() -> None:
    row = Measure("titles lost", 7, 100, 0.05).row()
    assert row == {"what": "titles lost", "titles": 7, "of": 100, "share": "7.0%", "limit": "5%", "verdict": "STOP"}
    assert Measure("titles lost", 0, 0, 0.05).row()["share"] == "0.0%"


def test_one_page_that_is_gone_is_noticed_among_many_that_changed_a_little() -> None:
    names = [f"{year}-{quarter}" for year in range(2010, 2020) for quarter in ("winter", "fall")]
    before = [record for n, name in enumerate(names) for record in season_of(name, 1 + 1000 * n)]
    now = [replace(record, members=7) for record in before if record.season != "2015-fall"]
    assert drifted(before, now, set(names), CollectConfig(max_lost_titles=0.06)) == {ONE_SEASON}
