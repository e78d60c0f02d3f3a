"""The API as a source: the catalogue of the pages, pages of a list, refusals, missing fields, a secret client id."""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from pydantic import SecretStr

from infra.errors import ConfigurationError
from infra.local.site.invented_titles import SEASONS, invented_titles
from tasks.catalogue.catalogue_table import catalogue_of, related_in
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.drift import Measure
from tasks.catalogue.last_good import known_key
from tasks.catalogue.source import Source
from tasks.catalogue.titles import Title
from tasks.crawl.ledger import Crawl
from tasks.errors import EmptyCatalogueError, PageLayoutError, SeasonError, SiteBlocked, SiteError
from tasks.myanimelist.api import MyAnimeListApi
from tasks.myanimelist.page_addresses import api_url
from tasks.myanimelist.source import MyAnimeList
from tasks.source_choice import source_for
from tests.small_site import small_site
from tests.strict_api import CLIENT_ID, Node, Response, StrictApi, nodes_of, strict_api

pytestmark = pytest.mark.stack

RANGE = f"{SEASONS[0]}..{SEASONS[-1]}"
TITLES = invented_titles(36, 3)


@pytest.fixture
def site() -> Iterator[str]:
    with small_site(titles=36, seed=3) as url:
        yield url


@pytest.fixture
def api(site: str) -> Iterator[StrictApi]:
    with strict_api(nodes_of(TITLES, site)) as api:
        yield api


def source_of(api: StrictApi, client_id: str = CLIENT_ID) -> MyAnimeListApi:
    return MyAnimeListApi(f"{api.url}/v2", SecretStr(client_id))


def collect(folder: Path, source: Source, **settings: int) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The catalogue, the posters, and the number of changes since the last catalogue."""
    with Collector(folder, source, CollectConfig(**{"details": 0, **settings})) as collector:
        catalogue = asyncio.run(collector.read_catalogue(RANGE))
        changes = collector.replace_last_good(RANGE, catalogue).changes
        return catalogue, asyncio.run(collector.download_posters(catalogue)), changes


def comparable(catalogue: pd.DataFrame) -> pd.DataFrame:
    """A catalogue whose relations are in a fixed order."""
    related = [sorted((each.relation, each.id) for each in related_in(cell)) for cell in catalogue["related"]]
    return catalogue.assign(related=related)


def test_catalogue_is_the_same_by_pages_and_by_api(site: str, api: StrictApi, tmp_path: Path) -> None:
    by_pages, posters, _ = collect(tmp_path, MyAnimeList(site), details=36)
    kept, _, changes = collect(tmp_path, source_of(api))
    pd.testing.assert_frame_equal(comparable(kept), comparable(by_pages))
    assert changes == 0, "what the pages told of titles is kept"
    by_api, same_posters, changes = collect(tmp_path, source_of(api), details=36)
    pd.testing.assert_frame_equal(comparable(by_api), comparable(by_pages))
    assert changes == 0  # one collection: the titles, their history and their posters are known already
    assert set(same_posters["status"]) == set(posters["status"]) - {"new"} | {"present"}
    columns = by_pages.drop(columns=["rating", "aired_to", "related", "own_page"]).columns
    for name in columns:
        assert (by_pages[name] != "").any(), name
    without_details = read(tmp_path / "lists", source_of(api), RANGE)
    pd.testing.assert_frame_equal(without_details[columns], by_pages[columns])
    assert list(without_details["rating"]) == list(by_pages["rating"])


def test_titles_that_only_the_pages_list_as_continuing_are_neither_lost_nor_gone(
    site: str, api: StrictApi, tmp_path: Path
) -> None:
    continuing = next(title for title in TITLES if len(title.pages) > 1)
    first = SEASONS.index(continuing.season) + 1
    seasons, measures, ids = f"{SEASONS[first]}..{SEASONS[-1]}", list[Measure](), list[set[str]]()
    for source in (MyAnimeList(site), source_of(api), MyAnimeList(site)):
        with Collector(tmp_path, source, CollectConfig(details=0)) as collector:
            catalogue = asyncio.run(collector.read_catalogue(seasons))
            assert collector.replace_last_good(seasons, catalogue, measures.extend).changes == 0
            ids.append(set(catalogue["id"]))
    began_before = {str(title.mal_id) for title in TITLES if title.season in SEASONS[:first]}
    assert str(continuing.mal_id) in ids[0] - ids[1] and ids[0] - ids[1] <= began_before and ids[2] == ids[0]
    assert [measure for measure in measures if measure.count] == []


def answering(*answers: Response, after: int = 0) -> Callable[[str, Response], Response]:
    """Replaces all answers of the API but the first `after` by these, in turn; the last one is repeated."""
    left, given = [*answers], iter(range(1_000_000))

    def change(path: str, answer: Response) -> Response:
        if next(given) < after:
            return answer
        return left.pop(0) if len(left) > 1 else left[0]

    return change


def many_nodes(count: int) -> list[Node]:
    same = {
        "start_season": {"year": 2015, "season": "fall"},
        "genres": [{"id": 4, "name": "Comedy"}],
        "main_picture": {"medium": "http://127.0.0.1/images/anime/1/1.jpg"},
    }
    return [{"id": n, "title": f"Title {n}", **same} for n in range(1, 1 + count)]


def read(folder: Path, source: Source, seasons: str = "2015-fall", refresh: bool = False) -> pd.DataFrame:
    with Collector(folder, source, CollectConfig(details=0, refresh=refresh)) as collector:
        return asyncio.run(collector.read_catalogue(seasons))


def finish_crawl(folder: Path, api: StrictApi) -> None:
    """Have the next run begin a new crawl."""
    with Collector(folder, source_of(api), CollectConfig(details=0)) as collector:
        collector.ledger.crawls.put(Crawl(f"{api.url}/v2", 0, 1))


def offsets(api: StrictApi) -> list[int]:
    """The first titles of the lists that were requested since the last call."""
    found = [int(parse_qs(urlsplit(path).query)["offset"][0]) for path, _ in api.requests if "/season/" in path]
    api.requests.clear()
    return found


def test_paging_reads_each_title_once_and_fetches_the_pages_of_a_season_together(tmp_path: Path) -> None:
    with strict_api(many_nodes(1203)) as api:
        assert list(read(tmp_path, source_of(api))["id"]) == [str(n) for n in range(1, 1204)]
        assert offsets(api) == [0, 500, 1000]
        finish_crawl(tmp_path, api)
        assert len(read(tmp_path, source_of(api))) == 1203
        assert offsets(api) == []  # an old season is not due
        api.nodes = many_nodes(1100)[1:]
        finish_crawl(tmp_path, api)
        assert len(read(tmp_path, source_of(api), refresh=True)) == 1099
        assert offsets(api) == [0, 500, 1000]
        with Collector(tmp_path, MyAnimeListApi(f"{api.url}/v2"), CollectConfig(details=0)) as collector:
            assert len(asyncio.run(collector.reread_catalogue("2015-fall"))) == 1099
        assert api.requests == []


def test_paging_goes_on_after_an_interruption(tmp_path: Path) -> None:
    with strict_api(many_nodes(1203)) as api:
        api.change = lambda path, answer: (404, {"error": "not_found"}, {}) if "offset=500" in path else answer
        with pytest.raises(
            PageLayoutError, match=r"leads to a page that .* does not have: 2015-fall from title 501 on"
        ):
            read(tmp_path, source_of(api))
        api.change = answering((418, {}, {}), after=1)
        with pytest.raises(SiteError, match="418"):
            read(tmp_path, source_of(api))
        api.change = lambda path, answer: answer
        offsets(api)
        assert len(read(tmp_path, source_of(api))) == 1203
        assert offsets(api) == [1000]


def test_entries_that_cannot_be_read_keep_their_last_good_records(tmp_path: Path) -> None:
    with strict_api(many_nodes(600)) as api:
        with Collector(tmp_path, source_of(api), CollectConfig(details=0)) as collector:
            expected = asyncio.run(collector.read_catalogue("2015-fall"))
            collector.replace_last_good("2015-fall", expected)
        finish_crawl(tmp_path, api)
        api.nodes[550] = {name: value for name, value in api.nodes[550].items() if name != "title"}
        with Collector(tmp_path, source_of(api), CollectConfig(details=0, refresh=True)) as collector:
            pd.testing.assert_frame_equal(asyncio.run(collector.read_catalogue("2015-fall")), expected)
            (unread,) = collector.unread
    assert (unread.page, unread.card.position, unread.id) == ("2015-fall from title 501 on", 51, "551")


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("https://elsewhere.test/v2/anime/season/2015/fall?offset=500", "at another address, https://elsewhere.test"),
        ("{url}/v2/anime/season/2015/summer?offset=500", "at another address"),
        ("http://[::1?offset=500", "no offset"),
        ("{url}/v2/anime/season/2015/fall", "no offset"),
        ("{url}/v2/anime/season/2015/fall?offset=many", "no offset"),
        ("{url}/v2/anime/season/2015/fall?offset=0", "begins after 0 titles"),
        ("{url}/v2/anime/season/2015/fall?offset=1000", "begins after 1000 titles"),
        ({"page": 2}, "no offset"),
    ],
)
def test_paging_stops_at_an_address_that_is_not_the_next_page(address: object, reason: str, tmp_path: Path) -> None:
    with strict_api(many_nodes(3)) as api:
        following = address.format(url=api.url) if isinstance(address, str) else address
        api.change = lambda path, answer: (200, {**answer[1], "paging": {"next": following}}, {})
        with pytest.raises(PageLayoutError, match=f"^The page of 2015-fall: The .*next page.*{re.escape(reason)}"):
            read(tmp_path, source_of(api))
        assert offsets(api) == [0]


def test_paging_without_an_end_stops(tmp_path: Path) -> None:
    def endless(path: str, answer: Response) -> Response:
        offset = int(parse_qs(urlsplit(path).query)["offset"][0])
        return 200, {"data": [], "paging": {"next": f"{api.url}{urlsplit(path).path}?offset={offset + 500}"}}, {}

    with strict_api(many_nodes(3)) as api:
        api.change = endless
        with pytest.raises(PageLayoutError, match="begins after 10500 titles"):
            read(tmp_path, source_of(api))
        assert len(offsets(api)) == 21


@pytest.mark.parametrize("body", [b"", b" \r\n"])
def test_blank_response_is_requested_again(body: bytes, api: StrictApi, tmp_path: Path) -> None:
    (season, *_) = (season for season in SEASONS if any(title.season == season for title in TITLES))
    blank = [True, False]

    def change(path: str, response: Response) -> Response:
        return (200, body, {}) if blank.pop(0) else response

    api.change = change
    with Collector(tmp_path, source_of(api), CollectConfig(details=0)) as collector:
        assert len(asyncio.run(collector.read_catalogue(season)))
    assert blank == []


FORBIDDEN = (403, {"error": "forbidden", "message": ""}, {})


@pytest.mark.parametrize(
    ("answer", "after", "error", "sentence"),
    [
        ((400, {"error": "bad_request", "message": "Invalid client id"}, {}), 0, ConfigurationError, "MAL_CLIENT_ID"),
        ((401, {"error": "invalid_token", "message": "token is invalid"}, {}), 0, ConfigurationError, "MAL_CLIENT_ID"),
        ((401, b"", {}), 1, ConfigurationError, "MAL_CLIENT_ID"),
        (FORBIDDEN, 0, ConfigurationError, "\nIt answered 403 Forbidden: forbidden."),
        ((403, b"", {}), 0, ConfigurationError, "\nIt answered 403 Forbidden."),
        (FORBIDDEN, 1, SiteBlocked, "answered 403 Forbidden."),
        ((403, b"<html>Forbidden</html>", {}), 0, SiteBlocked, "answered 403 Forbidden"),
        ((400, {"error": "bad_request", "message": "invalid fields"}, {}), 0, SiteError, "bad_request, invalid fields"),
        ((429, b"{}", {"Retry-After": "3600"}), 0, SiteBlocked, "answered 429 Too Many Requests"),
        ((404, {"error": "not_found", "message": ""}, {}), 0, SeasonError, "has no page of 2015-winter, 2015-spring"),
        ((200, {"error": "internal", "message": "later"}, {}), 0, PageLayoutError, 'no array "data": internal, later'),
        ((200, b"<html>Just a moment...</html>", {}), 0, PageLayoutError, "not JSON"),
        ((200, b"[" * 100_000, {}), 0, PageLayoutError, "not JSON"),
        ((200, {"data": [{}]}, {}), 0, PageLayoutError, 'no object "node"'),
        ((200, {"data": [{"node": {"title": "No id"}}]}, {}), 0, PageLayoutError, 'no "id"'),
        ((200, {"data": [], "season": {"year": 1999, "season": "fall"}}, {}), 0, PageLayoutError, "another season"),
        ((200, {"data": []}, {}), 0, EmptyCatalogueError, "list no title"),
    ],
)
def test_refusals_end_in_one_sentence_and_only_real_blocks_are_remembered(
    answer: Response, after: int, error: type[Exception], sentence: str, api: StrictApi, tmp_path: Path
) -> None:
    api.change = answering(answer, after=after)
    with Collector(tmp_path, source_of(api), CollectConfig(details=0)) as collector:
        with pytest.raises(error) as caught:
            asyncio.run(collector.read_catalogue("2015-winter..2015-spring"))
        assert sentence in str(caught.value)
        blocked = [host for host in collector.ledger.hosts.all().values() if host.blocked_until]
    assert len(blocked) == (error is SiteBlocked)
    assert len(api.requests) <= 2 + after + 1  # robots.txt, and no retries


def test_unknown_client_id_is_refused_by_the_strict_api(api: StrictApi, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"MAL_CLIENT_ID\. .*\nIt answered 400 Bad Request: bad_request, Invalid client id",
    ):
        read(tmp_path, source_of(api, "0" * 32))


def test_temporary_refusals_and_half_responses_are_retried(api: StrictApi, tmp_path: Path) -> None:
    expected = read(tmp_path / "before", source_of(api))
    whole: list[Response] = []
    api.change = lambda path, answer: whole.append(answer) or answer  # type: ignore[func-returns-value]
    read(tmp_path / "again", source_of(api))
    half = json.dumps(whole[-1][1]).encode()[:-40]
    api.change = answering((429, {"error": "too_many"}, {}), (503, b"", {}), (200, half, {}), whole[-1])
    pd.testing.assert_frame_equal(read(tmp_path / "after", source_of(api)), expected)


def titles_of(*nodes: object, season: str = "2015-fall") -> list[Title]:
    source = MyAnimeListApi("http://api.test/v2")
    body = json.dumps({"data": [{"node": node} for node in nodes]}).encode()
    return source.parse_page(source.pages(season, 0)[0], body)


def test_fields_that_are_missing_or_not_as_documented_are_unknown() -> None:
    wrong: dict[str, list[object]] = {
        "main_picture": [None, {}, {"medium": None}, {"medium": "https://cdn.test/qm_50.gif"}, "https://cdn.test"],
        "start_date": [None, "", "soon", 2017, "0000-00-00", "2017-10-04T00:00:00"],
        "end_date": [None, "", "?"],
        "mean": [None, 0, -1, "8.1", True, float("nan"), 11],
        "num_list_users": [None, -1, "12", True, 1.5],
        "num_episodes": [None, 0, "12"],
        "media_type": [None, "", "unknown", 1],
        "source": [None, "unknown"],
        "rating": [None, ""],
        "genres": [None, {}, ["Action"], [{"id": 1}], [{"id": 1, "name": "Action"}, {"name": "Comedy"}]],
        "studios": [None, [{}], "Bones"],
        "start_season": [
            None,
            {},
            {"year": 2015},
            {"year": "2015", "season": "fall"},
            {"year": 2015, "season": "autumn"},
            {"year": 1, "season": "fall"},
        ],
        "related_anime": [None, {}, [{}], [{"node": {"id": 3}}], [{"relation_type": "sequel"}]],
    }
    least = {"id": 1, "title": "Bells"}
    nodes = [{**least, name: value} for name, values in wrong.items() for value in values]
    assert titles_of(least, *nodes) == [Title("1", "Bells", season="2015-fall")] * (1 + len(nodes))


@pytest.mark.parametrize(("given", "date"), [("2017", "2017"), ("2017-10", "2017-10"), ("2017-10-04", "2017-10-04")])
def test_dates_are_as_exact_as_given(given: str, date: str) -> None:
    (title,) = titles_of({"id": 1, "title": "Bells", "start_date": given})
    assert title.start_date == date


def test_season_is_the_one_in_which_a_title_began() -> None:
    began = {"start_season": {"year": 1999, "season": "fall"}}
    nodes = [{}, began, {"start_date": "2003-04-01"}, {"start_date": "2003"}, {**began, "start_date": "2003-04-01"}]
    titles = titles_of(*({"id": 1, "title": "Bells", **node} for node in nodes))
    assert [title.season for title in titles] == ["2015-fall", "1999-fall", "2003-spring", "2015-fall", "1999-fall"]


def test_labels_are_told_apart_by_id_and_explicit_genres_are_last() -> None:
    names = {
        25: "Shoujo",
        9: "Ecchi",
        1: "Action",
        12: "Hentai",
        62: "Isekai",
        49: "Erotica",
        41: "Suspense",
        15: "Kids",
    }
    (title,) = titles_of(
        {"id": 1, "title": "Bells", "genres": [{"id": id, "name": name} for id, name in names.items()]}
    )
    assert title.genres == ["Action", "Suspense", "Ecchi", "Hentai", "Erotica"]
    assert title.genre_ids == [1, 41, 9, 12, 49]
    assert (title.themes, title.demographics) == (["Isekai"], ["Shoujo", "Kids"])


SPELLINGS = {
    "media_type": "TV, OVA, Movie, Special, ONA, Music, CM, PV, TV Special",
    "source": "Other, Original, Manga, 4-koma manga, Web manga, Digital manga, Novel, Light novel, Visual novel, Game, "
    "Card game, Book, Picture book, Radio, Music, Web novel, Mixed media",
    "relation_type": "Sequel, Prequel, Alternative Setting, Alternative Version, Side Story, Parent Story, Summary, "
    "Full Story, Spin-Off, Other, Character",
}


@pytest.mark.parametrize(
    ("field", "spelling"), [(field, spelling) for field, all in SPELLINGS.items() for spelling in all.split(", ")]
)
def test_types_sources_and_relations_are_spelled_as_on_the_pages(field: str, spelling: str) -> None:
    value = re.sub("[ -]", "_", spelling.lower())
    source = MyAnimeListApi("http://api.test/v2")
    node = {"id": 1, "title": "Bells", field: value, "related_anime": [{"node": {"id": 2}, field: value}]}
    (title,) = titles_of(node)
    details = source.parse_details(json.dumps(node).encode())
    assert spelling in (title.type, title.source, *(related.relation for related in details.related))


@pytest.mark.parametrize(
    ("node", "rating", "is_explicit"),
    [
        ({"rating": "g"}, "G - All Ages", False),
        ({"rating": "pg_13", "nsfw": "white"}, "PG-13 - Teens 13 or older", False),
        ({"rating": "r+", "nsfw": "gray"}, "R+ - Mild Nudity", False),
        ({"rating": "rx", "nsfw": "gray"}, "Rx - Hentai", True),
        ({"nsfw": "black"}, "Rx - Hentai", True),
        ({"rating": "r+", "nsfw": "black", "genres": [{"id": 49, "name": "Erotica"}]}, "R+ - Mild Nudity", True),
        ({"rating": "r_18"}, "R 18", False),
    ],
)
def test_ratings_are_spelled_as_on_the_pages_and_tell_explicit_titles(
    node: dict[str, object], rating: str, is_explicit: bool
) -> None:
    titles = titles_of({"id": 1, "title": "Bells", **node})
    assert titles[0].rating == rating
    assert list(MyAnimeListApi("http://api.test/v2").is_explicit(catalogue_of(titles))) == [is_explicit]


@pytest.mark.parametrize(
    "address",
    [
        "https://api-cdn.myanimelist.net/images/anime/3/72078.jpg",
        "https://cdn.myanimelist.net/images/anime/3/72078.webp",
        "https://cdn.myanimelist.net/r/160x220/images/anime/3/72078.jpg?s=1",
    ],
)
def test_poster_has_the_address_that_the_pages_give(address: str) -> None:
    (title,) = titles_of(
        {"id": 1, "title": "Bells", "main_picture": {"large": "https://x.test/l.jpg", "medium": address}}
    )
    assert title.poster_url == "https://cdn.myanimelist.net/images/anime/3/72078.jpg"


def test_source_is_chosen_by_the_path_and_shares_the_collection_of_the_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAL_CLIENT_ID", f" {CLIENT_ID}\n")
    source = source_for(api_url("https://myanimelist.net/"))
    assert source.site_url == "https://api.myanimelist.net/v2"
    assert (
        isinstance(source, MyAnimeListApi)
        and source.access
        and source.access.headers() == {"X-MAL-CLIENT-ID": CLIENT_ID}
    )
    assert type(source_for("https://myanimelist.net")) is MyAnimeList
    assert known_key(source.site_url) == known_key("https://myanimelist.net")
    assert source_for(api_url("http://127.0.0.1:8000")).site_url == "http://127.0.0.1:8000/v2"
