"""The collector over the built-in site: faults, limits, kills, second runs, and pages that change."""

import asyncio
import dataclasses
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import pandas as pd
import pytest

import tasks.catalogue.collector
import tasks.catalogue.parsed_details
import tasks.myanimelist.source
from infra.local.site.invented_titles import SEASONS
from ml.data.franchise_keys import title_franchises
from ml.data.splits import draw_part
from tasks.catalogue.catalogue_table import read_catalogue, related_in
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.last_good import HISTORY
from tasks.catalogue.source import SourcePage
from tasks.catalogue.titles import Details, Title, UnreadCard
from tasks.catalogue.unread_cards import KEPT
from tasks.crawl.client import SiteClient
from tasks.crawl.ledger import Crawl, PageVisit
from tasks.crawl.site_lock import site_lock
from tasks.crawl.traffic import Traffic
from tasks.errors import (
    DriftError,
    EmptyCatalogueError,
    KeptPageError,
    PageCutError,
    PageLayoutError,
    SiteBlocked,
    SiteBusy,
    SiteUnavailable,
)
from tasks.myanimelist.detail_pages import parse_detail_page
from tasks.myanimelist.source import MyAnimeList
from tests.faulty_site import FaultySite, faulty_site

pytestmark = pytest.mark.stack

RANGE = f"{SEASONS[0]}..{SEASONS[-1]}"
EMPTY = b'<html><title>Fall 2090 - Anime</title><div class="seasonal-anime-list"></div></html>'


@dataclass
class Result:
    """The result of one run of the collector."""

    catalogue: pd.DataFrame
    posters: pd.DataFrame
    traffics: list[Traffic]

    def content(self, url: str) -> tuple[str, dict[str, str]]:
        """Titles and posters, without the site's port."""
        hashes = dict(zip(self.posters["id"], self.posters["sha256"], strict=True))
        return self.catalogue.to_csv().replace(url, ""), hashes


def collector_of(folder: Path, url: str, **settings: object) -> Collector:
    return Collector(folder, MyAnimeList(url), CollectConfig(**{"details": 0, **settings}))  # type: ignore[arg-type]


def collect(
    folder: Path, url: str, seasons: str = RANGE, parts: Mapping[str, str] | None = None, **settings: object
) -> Result:
    """Run the collector once, by default without detail pages."""
    with collector_of(folder, url, **settings) as collector:
        catalogue = asyncio.run(collector.read_catalogue(seasons, parts))
        collector.replace_last_good(seasons, catalogue)
        posters = asyncio.run(collector.download_posters(catalogue))
        return Result(catalogue, posters, collector.traffics)


def reread(folder: Path, url: str) -> pd.DataFrame:
    """The catalogue from the kept pages."""
    with collector_of(folder, url) as collector:
        return asyncio.run(collector.reread_catalogue(RANGE))


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with faulty_site(titles=36) as site:
        yield site


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, str]]:
    """The result of a run without faults."""
    with faulty_site(titles=36) as site:
        return collect(tmp_path_factory.mktemp("clean"), site.url).content(site.url)


def busiest_second(moments: list[float]) -> int:
    """The largest number of requests in any second."""
    return max(sum(first <= moment < first + 1 for moment in moments) for first in moments)


def test_collector_gives_the_same_result_despite_faults_and_a_rate_limit(tmp_path: Path, clean) -> None:
    with faulty_site(titles=36, rate=10, faults=0.1) as site:
        result = collect(tmp_path, site.url, timeout_seconds=2)
    assert result.content(site.url) == clean
    limited = next(request.moment for request in site.requests if request.status == 429)
    later = [request.moment for request in site.requests if request.moment > limited + 0.1]
    assert busiest_second(later) <= 10
    refused = Counter(request.path for request in site.requests if request.status == 429)
    for path in {request.path for request in site.requests} - {"/robots.txt"}:
        assert site.count(path) <= 1 + 2 * (site.fault(path) is not None) + refused[path], path


def test_collector_requests_nothing_in_a_second_run_and_changes_only_if_it_refreshes(
    site: FaultySite, tmp_path: Path
) -> None:
    tokens = iter(range(1000))
    site.change = lambda page: page.replace("<head>", f"<head><meta name='csrf_token' content='{next(tokens)}'>")
    first = collect(tmp_path, site.url)
    requests = len(site.requests)
    second = collect(tmp_path, site.url)
    assert len(site.requests) == requests
    assert second.content(site.url) == first.content(site.url)
    assert second.traffics[0].outcomes == {"not due": len(SEASONS)}
    assert (tmp_path / HISTORY).read_text().count("\n") == 1  # its header

    present = len(site.site.seasons)
    refreshed = collect(tmp_path, site.url, refresh=True)
    assert refreshed.traffics[0].outcomes["unchanged"] == present, "a token that differs in each response is no change"
    assert refreshed.traffics[0].outcomes["changed"] == 0


def test_collector_refresh_makes_conditional_requests(site: FaultySite, tmp_path: Path) -> None:
    first = collect(tmp_path, site.url)
    again = collect(tmp_path, site.url, refresh=True)
    pages = [request for request in site.requests if request.path.startswith("/anime/season/")]
    present = len(site.site.seasons)
    missing = 2 * (len(SEASONS) - present)
    assert Counter(request.status for request in pages) == Counter({200: present, 304: present, 404: missing})
    assert again.content(site.url) == first.content(site.url)
    assert again.traffics[0].outcomes["unchanged"] == present

    title = next(title for title in first.catalogue.itertuples() if title.title.isalnum())
    site.change = lambda page: page.replace(f">{title.title}<", ">Another Name<")
    collect(tmp_path, site.url, refresh=True)
    assert f",{title.id},Another Name,title," in (tmp_path / HISTORY).read_text()


COLLECT = """
import sys
from pathlib import Path
from tests.tasks.catalogue.test_collector import collect
collect(Path(sys.argv[1]), sys.argv[2])
"""


def test_collector_continues_after_a_kill_at_any_request(site: FaultySite, tmp_path: Path, clean) -> None:
    with faulty_site(titles=36) as undisturbed:
        collect(tmp_path / "undisturbed", undisturbed.url)
    expected = len(undisturbed.requests)
    moments = [3, 22, 40]  # season pages, the first posters, later ones
    command = [sys.executable, "-c", COLLECT, str(tmp_path / "killed"), site.url]
    for moment in moments:
        process = subprocess.Popen(command)
        while len(site.requests) < moment:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    pages = Counter(request.path for request in site.requests if "/season/" in request.path)
    assert sum(times - 1 for times in pages.values()) <= len(moments)  # pages are read one after the other
    result = collect(tmp_path / "killed", site.url)
    assert result.content(site.url) == clean
    assert len(site.requests) - expected <= len(moments) * (4 + 1)  # posters in flight, and robots.txt
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_collector_reads_no_page_twice_in_an_interrupted_crawl(site: FaultySite, tmp_path: Path) -> None:
    with collector_of(tmp_path, site.url, refresh=True) as collector:
        asyncio.run(collector.read_catalogue(RANGE))
    requests = len(site.requests)
    result = collect(tmp_path, site.url, refresh=True)
    assert not any("/season/" in request.path for request in site.requests[requests:])
    assert result.traffics[0].outcomes == {"not due": len(SEASONS)}
    collect(tmp_path, site.url, refresh=True)
    assert any("/season/" in request.path for request in site.requests[requests:])


@pytest.mark.parametrize(("hours_ago", "continues"), [(11, True), (13, False), (23.9, False), (-24 * 40, False)])
def test_collector_begins_a_new_crawl_in_each_daily_run(
    site: FaultySite, tmp_path: Path, hours_ago: float, continues: bool
) -> None:
    season, now = min(site.site.seasons), time.time()
    with collector_of(tmp_path, site.url) as collector:
        collector.ledger.crawls.put(Crawl(site.url, now - hours_ago * 3600))
        asyncio.run(collector.read_catalogue(season))
        crawl = collector.ledger.crawls.get(site.url)
    assert crawl and crawl.finished is None
    assert crawl.started == now - hours_ago * 3600 if continues else now <= crawl.started <= time.time()


CHANGES: dict[str, tuple[Callable[[str], str], type[Exception]]] = {
    "class of cards": (lambda page: page.replace("seasonal-anime js-", "card js-"), EmptyCatalogueError),
    "class of genres": (lambda page: page.replace('class="genres', 'class="tags'), PageLayoutError),
    "class of scores": (lambda page: page.replace("js-score", "js-rating"), DriftError),
    "half of the cards gone": (
        lambda page: (
            "".join(
                part for n, part in enumerate(re.split(r'(?=<div class="js-anime-category)', page)) if n == 0 or n % 2
            )
            + "</div></body></html>"
        ),
        DriftError,
    ),
    "a login page": (lambda page: "<html><title>Login</title><form></form></html>", PageLayoutError),
}


def test_collector_keeps_the_last_good_catalogue_if_the_site_changed(site: FaultySite, tmp_path: Path) -> None:
    first = collect(tmp_path, site.url)
    before = (tmp_path / "catalogue.csv").read_bytes()
    for name, (change, error) in CHANGES.items():
        site.change = change
        requests = len(site.requests)
        with pytest.raises(error) as caught:
            collect(tmp_path, site.url, refresh=True)
        assert not getattr(caught.value, "retryable", True), name
        assert (tmp_path / "catalogue.csv").read_bytes() == before, name
        assert not any("/images/" in request.path for request in site.requests[requests:]), name
        site.change = str  # the site is as before: the pages are re-fetched without a setting
        assert collect(tmp_path, site.url).content(site.url) == first.content(site.url), name
        assert (tmp_path / "catalogue.csv").read_bytes() == before, name

    other = sorted(site.site.seasons)[1]
    page = site.site.response(f"/anime/season/{other.replace('-', '/')}")[2].decode()
    site.change = lambda whole: page
    assert collect(tmp_path, site.url, refresh=True).content(site.url) == first.content(site.url)
    with pytest.raises(DriftError, match="titles lost"):
        collect(tmp_path, site.url, refresh=True)
    assert (tmp_path / "catalogue.csv").read_bytes() == before
    site.change = str
    assert collect(tmp_path, site.url).content(site.url) == first.content(site.url)


@pytest.mark.parametrize("current_is_empty", [False, True])
def test_collector_skips_seasons_that_the_site_redirects_to_the_current_one(
    site: FaultySite, tmp_path: Path, clean, current_is_empty: bool
) -> None:
    lacked = [season for season in SEASONS if season not in site.site.seasons]
    paths = {season: f"/anime/season/{season.replace('-', '/')}" for season in SEASONS}
    current = "/anime/season/2090/fall" if current_is_empty else paths[max(site.site.seasons)]
    response = site.site.response
    site.redirects = {paths[season]: current for season in lacked}
    site.site.response = lambda path: (  # type: ignore[method-assign]
        (HTTPStatus.OK, "text/html", EMPTY) if path.endswith("/2090/fall") else response(path)
    )
    for refresh in (False, True):
        result = collect(tmp_path, site.url, refresh=refresh)
        assert result.content(site.url) == clean
        assert result.traffics[0].outcomes["missing"] == len(lacked) > 0
    with collector_of(tmp_path, site.url) as collector:
        assert all(collector.ledger.pages.all()[f"{site.url}{paths[season]}"].sha256 is None for season in lacked)


ODD = {
    "no address": (r'(<a href="[^"]*/anime/{id}/[^"]*") class="link-title"', r"\1", "no title with its address"),
    "no genres": (r'class="genres [^"]*" id="{id}"', 'id="{id}"', "has no element for genres"),
    "nothing": (r'(?s)(<div class="js-anime-category(?:(?!<div class="js-anime-category).)*?/anime/{id}/.*?\n</div>\n)',
                '<div class="seasonal-anime">An advertisement</div>', "no title with its address"),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_collector_keeps_the_last_good_record_of_one_odd_card(
    site: FaultySite, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    pattern, replacement, missing = ODD[kind]
    first = collect(tmp_path, site.url)
    odd = next(title for title in site.site.titles if len(title.pages) == 1)

    def change(page: str) -> str:
        return re.sub(pattern.format(id=odd.mal_id), replacement.format(id=odd.mal_id), page)

    site.change = change
    with collector_of(tmp_path, site.url, refresh=True) as collector:
        catalogue = asyncio.run(collector.read_catalogue(RANGE))
        about = collector.replace_last_good(RANGE, catalogue)
        (entry,) = collector.unread
    pd.testing.assert_frame_equal(catalogue, first.catalogue)
    assert about.changes == 0
    assert (entry.id, entry.title, entry.page, entry.record) == (str(odd.mal_id), odd.title, odd.season, KEPT)
    assert f"Title {entry.card.position} of {odd.season}: " in caplog.text and missing in caplog.text
    assert f"{odd.season},{entry.card.position},{odd.mal_id}," in (tmp_path / "unread-titles.csv").read_text()
    assert list(reread(tmp_path, site.url)["id"]) == list(first.catalogue["id"])
    site.change = str  # the page is fetched again without a setting
    with collector_of(tmp_path, site.url) as collector:
        collector.ledger.crawls.put(Crawl(site.url, 0, 0))
        assert asyncio.run(collector.read_catalogue(RANGE)).equals(first.catalogue)
        assert collector.unread == [] and not (tmp_path / "unread-titles.csv").exists()


def test_collector_leaves_out_an_odd_card_of_an_unknown_title_and_stops_at_many(
    site: FaultySite, tmp_path: Path
) -> None:
    new = [title for title in site.site.titles if len(title.pages) == 1][:5]

    def odd(count: int) -> Callable[[str], str]:
        ids = "|".join(str(title.mal_id) for title in new[:count])
        return lambda page: re.sub(rf'class="genres [^"]*" id="({ids})"', r'id="\1"', page)

    site.change = odd(1)
    result = collect(tmp_path, site.url)
    assert len(result.catalogue) == len(site.site.titles) - 1
    site.change = odd(5)
    with pytest.raises(DriftError, match="titles not read"):
        collect(tmp_path, site.url, refresh=True)
    site.change = str
    assert len(collect(tmp_path, site.url).catalogue) == len(site.site.titles)


def test_collector_rereads_kept_pages_without_a_request_and_parses_details_once_per_version(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []

    def parse_details(source: MyAnimeList, body: bytes) -> Details:
        parsed.append(body)
        return parse_detail_page(body)

    monkeypatch.setattr(MyAnimeList, "parse_details", parse_details)
    catalogue = collect(tmp_path, site.url, details=20).catalogue
    requests = len(site.requests)

    def parsed_by_reread() -> int:
        parsed.clear()
        pd.testing.assert_frame_equal(reread(tmp_path, site.url), catalogue)
        return len(parsed)

    assert parsed_by_reread() == 0
    cache = tmp_path / "parsed-details.json.gz"
    cache.write_bytes(cache.read_bytes()[:500])
    assert parsed_by_reread() == 20
    monkeypatch.setattr(tasks.catalogue.parsed_details, "code_version", lambda: "another")
    assert [parsed_by_reread(), parsed_by_reread()] == [20, 0]
    assert len(site.requests) == requests
    next((tmp_path / "pages").glob("*.gz")).write_bytes(b"damaged")
    with pytest.raises(KeptPageError, match=r"\.html\.gz"):
        reread(tmp_path, site.url)


def test_collector_accepts_a_new_season_and_loses_no_title_unless_a_page_is_missing_twice_in_a_row(
    site: FaultySite, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = collect(tmp_path, site.url, f"{SEASONS[0]}..{SEASONS[-2]}").catalogue
    first = collect(tmp_path, site.url)
    assert len(read_catalogue(tmp_path / "catalogue.csv")) > len(before)
    gone = next(iter(sorted(site.site.seasons)))
    site.site.seasons.remove(gone)
    again = collect(tmp_path, site.url, refresh=True)
    assert again.content(site.url) == first.content(site.url)
    assert again.traffics[0].outcomes["missing"] == len(SEASONS) - len(site.site.seasons)
    warning = f"{site.url} no longer has the page of {gone}. The kept copy is used"
    assert warning in caplog.text
    site.site.seasons.add(gone)
    requests = len(site.requests)
    collect(tmp_path, site.url)
    assert f"/anime/season/{gone.replace('-', '/')}" in [request.path for request in site.requests[requests:]]

    site.site.seasons.remove(gone)
    caplog.clear()
    assert collect(tmp_path, site.url, refresh=True).content(site.url) == first.content(site.url)
    assert warning in caplog.text
    caplog.clear()
    lost = set(first.catalogue["id"]) - set(collect(tmp_path, site.url, max_lost_titles=1).catalogue["id"])
    assert lost == {str(title.mal_id) for title in site.site.titles if title.pages == (gone,)}
    assert warning not in caplog.text and f" {gone}" in caplog.text


def test_collector_skips_detail_pages_that_fail_and_fetches_no_more_if_many_others_fail(
    site: FaultySite, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SiteClient.__init__.__kwdefaults__, "first_wait_seconds", 0.001)
    ratings = list(collect(tmp_path, site.url, details=40).catalogue["rating"])
    requested = [request.path for request in site.requests if re.fullmatch(r"/anime/\d+", request.path)]

    def fail(paths: Sequence[str]) -> None:
        parts = [f'og:url" content="{site.url}{path}/' for path in paths]
        site.change = lambda page: "<html>no title</html>" if any(part in page for part in parts) else page
        with collector_of(tmp_path, site.url) as collector:
            visits = collector.ledger.pages.all()
            due = [visits[f"{site.url}{path}"] for path in requested[:24]]
            collector.ledger.pages.put(*(dataclasses.replace(visit, suspect=True) for visit in due))

    odd = requested[:24:2]
    fail(odd)
    for _ in range(2):  # in the second run, only these twelve are due
        again = collect(tmp_path, site.url, details=40)
        assert again.traffics[1].outcomes["broken"] == len(odd)
        assert list(again.catalogue["rating"]) == ratings
    assert "cannot be read: none are fetched" not in caplog.text
    fail(requested[:20])  # ten of them for the first time
    requests = len(site.requests)
    again = collect(tmp_path, site.url, details=40)
    assert list(again.catalogue["rating"]) == ratings
    assert again.traffics[1].outcomes["broken"] == again.traffics[1].total == 20
    assert caplog.text.count("The pages of 10 titles in a row cannot be read: none are fetched") == 1
    details = [request.path for request in site.requests[requests:] if re.fullmatch(r"/anime/\d+", request.path)]
    assert details == requested[:20], "the other four are due, too"
    assert list(reread(tmp_path, site.url)["rating"]) == ratings

    response = site.site.response
    site.site.response = lambda path: (  # type: ignore[method-assign]
        (HTTPStatus.BAD_GATEWAY, "text/html", b"") if re.fullmatch(r"/anime/\d+", path) else response(path)
    )
    fail(())
    with pytest.raises(SiteUnavailable, match="502"):
        collect(tmp_path, site.url, details=40)
    site.site.response = lambda path: (  # type: ignore[method-assign]
        (HTTPStatus.OK, "text/html", b"") if re.fullmatch(r"/anime/\d+", path) else response(path)
    )
    with pytest.raises(PageCutError) as error:  # a retry may help
        collect(tmp_path / "fresh", site.url, details=40)
    assert error.value.retryable


def age(folder: Path, url: str) -> None:
    """Make all pages due."""
    with collector_of(folder, url) as collector:
        visits = collector.ledger.pages.all().values()
        collector.ledger.pages.put(
            *(dataclasses.replace(visit, checked=visit.checked - 800 * 86_400) for visit in visits)
        )


def test_collector_reads_the_copies_of_few_old_pages_that_the_site_cannot_send(
    site: FaultySite, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SiteClient.__init__.__kwdefaults__, "first_wait_seconds", 0.001)
    first = collect(tmp_path, site.url)
    names = [season for season in SEASONS if season in site.site.seasons]
    paths = [f"/anime/season/{name.replace('-', '/')}" for name in names]
    broken: set[str] = set()
    response = site.site.response
    site.site.response = lambda path: (  # type: ignore[method-assign]
        (HTTPStatus.INTERNAL_SERVER_ERROR, "text/html", b"") if path in broken else response(path)
    )

    age(tmp_path, site.url)
    for places in ((0, 1, -1), (0, -1)):  # in the second run, only these are due
        broken.clear()
        broken |= {paths[place] for place in places}
        caplog.clear()
        requests = len(site.requests)
        again = collect(tmp_path, site.url)
        assert again.content(site.url) == first.content(site.url)
        assert again.traffics[0].outcomes["failed"] == len(places)
        failed = ", ".join(f"{names[place]} (500 Internal Server Error)" for place in places)
        assert f"cannot send the page of {failed}. The kept copy is used" in caplog.text
        assert sum(request.status == 500 for request in site.requests[requests:]) == 4 * len(places)
    assert [request.path for request in site.requests[requests:] if request.status != 500] == ["/robots.txt", paths[1]]

    age(tmp_path, site.url)
    broken |= set(paths[:3])
    with pytest.raises(SiteUnavailable, match="500"):
        collect(tmp_path, site.url)
    broken &= {paths[0]}
    with monkeypatch.context() as patch:  # the page of a running season
        patch.setattr(tasks.myanimelist.source, "quiet_days", lambda season, now: 0)
        with pytest.raises(SiteUnavailable, match="500"):
            collect(tmp_path, site.url)
    with pytest.raises(SiteUnavailable, match="500"):  # no copy
        collect(tmp_path / "empty", site.url)


def test_collector_does_not_use_the_page_of_another_title(site: FaultySite, tmp_path: Path) -> None:
    title = next(title for title in site.site.titles if title.rating)
    other = next(other for other in site.site.titles if other.rating != title.rating and other.related)
    path = f"/anime/{title.mal_id}"
    site.redirects = {path: f"/anime/{other.mal_id}"}
    result = collect(tmp_path, site.url, details=40)
    row = result.catalogue.set_index("id").loc[str(title.mal_id)]
    assert row[["rating", "related", "own_page"]].tolist() == ["", "", ""]
    assert result.traffics[1].outcomes["broken"] == 1
    with collector_of(tmp_path, site.url) as collector:
        visit = collector.ledger.pages.get(f"{site.url}{path}")
        assert visit and visit.sha256 is None and visit.was_unreadable
        # A page that an earlier version kept.
        kept = collector.ledger.pages.get(f"{site.url}/anime/{other.mal_id}")
        assert kept
        collector.ledger.pages.put(dataclasses.replace(kept, url=visit.url))
    assert reread(tmp_path, site.url).set_index("id")["own_page"][str(title.mal_id)] == ""
    site.redirects = {}
    for _ in range(2):  # the first of these runs only finds that the kept page is another title's
        catalogue = collect(tmp_path, site.url, details=40).catalogue.set_index("id")
    assert catalogue["rating"][str(title.mal_id)] == title.rating


def make_unreadable(
    collector: Collector, visits: Iterable[PageVisit], page: bytes = b"<html><title>Another layout</title></html>"
) -> None:
    """Replace kept pages by one of an older layout."""
    sha256 = collector.kept.keep(page)
    collector.ledger.pages.put(*(dataclasses.replace(visit, sha256=sha256) for visit in visits))


def test_collector_fetches_damaged_missing_and_unreadable_kept_pages_again(site: FaultySite, tmp_path: Path) -> None:
    first = collect(tmp_path, site.url)
    damaged, gone, unreadable, of_another_season = sorted((tmp_path / "pages").glob("*.gz"))[:4]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    gone.unlink()
    with collector_of(tmp_path, site.url) as collector:
        visits = collector.ledger.pages.all().values()
        by_file = {f"{visit.sha256}.html.gz": visit for visit in visits}
        make_unreadable(collector, [by_file[unreadable.name]])
        make_unreadable(collector, [by_file[of_another_season.name]], EMPTY)
    requests = len(site.requests)
    assert collect(tmp_path, site.url).content(site.url) == first.content(site.url)
    assert len(site.requests) - requests == 4 + 1  # and robots.txt
    assert damaged.read_bytes() == whole


def test_collector_fetches_an_unreadable_kept_page_again_that_the_site_calls_unchanged(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = collect(tmp_path, site.url)
    season = min(site.site.seasons)
    path, parse, fails = f"/anime/season/{season.replace('-', '/')}", MyAnimeList.parse_page, [True, False]

    def parse_page(source: MyAnimeList, page: SourcePage, body: bytes) -> Sequence[Title | UnreadCard]:
        if page.name == season and fails.pop(0):
            raise PageLayoutError("A newer version of the parser cannot read the page that an older one kept.")
        return parse(source, page, body)

    monkeypatch.setattr(MyAnimeList, "parse_page", parse_page)
    requests = len(site.requests)
    assert collect(tmp_path, site.url, refresh=True).content(site.url) == first.content(site.url)
    assert [request.status for request in site.requests[requests:] if request.path == path] == [304, 200]
    assert fails == []
    fails += [True, True]  # the new page cannot be read either
    with pytest.raises(PageLayoutError, match="Has the site changed"):
        collect(tmp_path, site.url, refresh=True)


def test_collector_fetches_unreadable_kept_detail_pages_in_the_next_crawls_within_the_limit(
    site: FaultySite, tmp_path: Path
) -> None:
    seasons = f"{SEASONS[0]}..{SEASONS[len(SEASONS) // 2]}"
    assert len(collect(tmp_path, site.url, seasons, details=40).catalogue) > 10
    with collector_of(tmp_path, site.url) as collector:
        visits = collector.ledger.pages.all()
        make_unreadable(collector, [visit for url, visit in visits.items() if re.search(r"/anime/\d+$", url)])
    requests = len(site.requests)
    for _ in range(2):
        again = collect(tmp_path, site.url, seasons, details=5).catalogue
        assert (again["own_page"] == "yes").all(), "what an earlier crawl has read of a title stays"
    assert len(site.requests) - requests == 5 + 1  # and robots.txt


@pytest.mark.parametrize("parts_are_known", [True, False])
def test_collector_reads_details_of_test_titles_first_and_popular_ones_first_over_many_runs(
    site: FaultySite, tmp_path: Path, parts_are_known: bool
) -> None:
    franchise_of = title_franchises({str(title.mal_id): title.title for title in site.site.titles})
    parts = {id: draw_part(franchise) for id, franchise in franchise_of.items()}
    if parts_are_known:
        parts = {id: ("validation", "test", "train")[place % 3] for place, id in enumerate(sorted(parts))}
    first = ("test", "validation", "train")
    ordered = sorted(site.site.titles, key=lambda title: (first.index(parts[str(title.mal_id)]), -title.members))
    with_details = pd.DataFrame()
    for run in range(3):
        catalogue = collect(tmp_path, site.url, parts=parts if parts_are_known else None, details=7).catalogue
        with_details = catalogue[catalogue["own_page"] == "yes"]
        assert set(with_details["id"]) == {str(title.mal_id) for title in ordered[: 7 * (run + 1)]}
    details = [request.path for request in site.requests if re.fullmatch(r"/anime/\d+", request.path)]
    assert details == [f"/anime/{title.mal_id}" for title in ordered[:21]]
    for row in with_details.itertuples():
        title = site.site.by_id[int(row.id)]
        assert row.rating == (title.rating or "")
        assert [(r.relation, r.id) for r in related_in(row.related)] == [(r.kind, str(r.mal_id)) for r in title.related]


def test_collector_does_not_contact_a_site_that_blocked_the_last_run(site: FaultySite, tmp_path: Path) -> None:
    with collector_of(tmp_path, site.url) as collector:
        site.change = lambda page: "<html><head><title>Human Verification</title></head></html>"
        with pytest.raises(SiteBlocked, match="captcha"):
            asyncio.run(collector.read_catalogue(RANGE))
    requests = len(site.requests)
    with pytest.raises(SiteBlocked, match=r"before 20\d\d-\d\d-\d\d \d\d:\d\d UTC"):
        collect(tmp_path, site.url)
    assert len(site.requests) == requests == 2


def test_collector_is_the_only_one_that_reads_a_site(site: FaultySite, tmp_path: Path) -> None:
    with site_lock(site.url), pytest.raises(SiteBusy) as caught:
        collect(tmp_path, site.url)
    assert caught.value.retryable
    with collector_of(tmp_path, site.url) as collector, site_lock(site.url), pytest.raises(SiteBusy):
        asyncio.run(collector.download_posters(pd.DataFrame()))
    assert not site.requests


def test_collector_shows_the_end_of_a_part_last_even_if_showing_is_slow(
    site: FaultySite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.catalogue.collector, "_SHOW_SECONDS", 0.01)
    shown: list[int] = []

    def show(traffic: Traffic) -> None:
        if traffic.done < traffic.total:
            time.sleep(0.3)  # as Prefect's server may be
        if traffic.total:
            shown.append(traffic.done)

    with Collector(tmp_path, MyAnimeList(site.url), CollectConfig(), show=show) as collector:
        asyncio.run(collector.read_catalogue(RANGE))
    time.sleep(0.5)
    assert len(SEASONS) in shown and shown[-1] == 36, "the pages of seasons, then those of titles"


def test_collector_shows_progress_at_the_end_of_each_part(site: FaultySite, tmp_path: Path) -> None:
    shown: list[str] = []

    def show(traffic: Traffic) -> None:
        shown.append(traffic.sentence())

    with Collector(tmp_path, MyAnimeList(site.url), CollectConfig(details=0), show=show) as collector:
        catalogue = asyncio.run(collector.read_catalogue(RANGE))
        asyncio.run(collector.download_posters(catalogue))
    assert shown[0].startswith(f"Pages: {len(SEASONS)} of {len(SEASONS)} (")
    assert re.match(r"Posters: (\d+) of \1 \(", shown[-1])
