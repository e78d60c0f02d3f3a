"""The collector over a small site: faults, limits, kills, second runs, and sites that change."""

import asyncio
import dataclasses
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.local.site.invented_titles import SEASONS
from tasks.catalogue.catalogue_table import read_catalogue
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.last_good import HISTORY
from tasks.catalogue.poster_download import PosterOutcome
from tasks.catalogue.seasons import parse_seasons
from tasks.catalogue.titles import AnimeRecord
from tasks.crawl.exclusive_lock import exclusive_lock
from tasks.crawl.traffic import Traffic
from tasks.errors import DriftError, EmptyCatalogueError, KeptPageError, PageLayoutError, SiteBlocked, SiteBusy
from tests.faulty_site import FaultySite, faulty_site

RANGE = f"{SEASONS[0]}..{SEASONS[-1]}"


@dataclass
class Result:
    """What a run of the collector gave."""

    records: list[AnimeRecord]
    outcomes: list[PosterOutcome]
    traffics: list[Traffic]

    def content(self, url: str) -> tuple[str, dict[int, str | None]]:
        """Titles and posters, without the port that the site happened to have."""
        return repr(self.records).replace(url, ""), {outcome.mal_id: outcome.sha256 for outcome in self.outcomes}


def collect(folder: Path, url: str, seasons: str = RANGE, **settings: object) -> Result:
    """One run of the collector."""
    config = CollectConfig(**settings)  # type: ignore[arg-type]
    with Collector(folder, url, config) as collector:
        records = asyncio.run(collector.read_catalogue(parse_seasons(seasons)))
        collector.replace_last_good(seasons, records)
        outcomes = asyncio.run(collector.download_posters(records))
        return Result(records, outcomes, collector.traffics)


def reparsed(folder: Path, url: str, seasons: str = RANGE) -> list[AnimeRecord]:
    """The catalogue from the kept pages."""
    with Collector(folder, url, CollectConfig()) as collector:
        return asyncio.run(collector.reread_catalogue(parse_seasons(seasons)))


@pytest.fixture
def site() -> Iterator[FaultySite]:
    with faulty_site(titles=36) as site:
        yield site


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[int, str | None]]:
    """What a run without any fault gives."""
    with faulty_site(titles=36) as site:
        return collect(tmp_path_factory.mktemp("clean"), site.url).content(site.url)


def busiest_second(moments: list[float]) -> int:
    """The most requests in any one second, wherever it begins."""
    return max(sum(first <= moment < first + 1 for moment in moments) for first in moments)


def test_faults_and_a_limit_that_it_has_to_learn_change_nothing_but_the_time(tmp_path: Path, clean) -> None:
    with faulty_site(titles=36, rate=20, faults=0.1) as site:
        result = collect(tmp_path, site.url, timeout_seconds=2)
    assert result.content(site.url) == clean
    told = next(request.moment for request in site.requests if request.status == 429)
    later = [request.moment for request in site.requests if request.moment > told + 0.1]
    assert busiest_second(later) <= 20
    refused = Counter(request.path for request in site.requests if request.status == 429)
    for path in {request.path for request in site.requests} - {"/robots.txt"}:
        assert site.asked(path) <= 1 + 2 * (site.fault(path) is not None) + refused[path], path


def test_a_second_run_over_an_unchanged_site_asks_for_nothing(site: FaultySite, tmp_path: Path) -> None:
    first = collect(tmp_path, site.url)
    asked = len(site.requests)
    second = collect(tmp_path, site.url)
    assert len(site.requests) == asked
    assert second.content(site.url) == first.content(site.url)
    assert second.traffics[0].outcomes == {"not due": len(SEASONS)}
    assert (tmp_path / HISTORY).read_text().count("\n") == 1  # its head


def test_pages_that_are_asked_for_again_but_did_not_change_are_not_sent_again(site: FaultySite, tmp_path: Path) -> None:
    first = collect(tmp_path, site.url)
    again = collect(tmp_path, site.url, refresh=True)
    pages = [request for request in site.requests if request.path.startswith("/anime/season/")]
    there = len(site.site.seasons)
    missing = 2 * (len(SEASONS) - there)
    assert Counter(request.status for request in pages) == Counter({200: there, 304: there, 404: missing})
    assert again.content(site.url) == first.content(site.url)
    assert again.traffics[0].outcomes["unchanged"] == there


COLLECT = """
import sys
from pathlib import Path
from tests.tasks.catalogue.test_collector import collect
collect(Path(sys.argv[1]), sys.argv[2])
"""


def test_killed_at_any_request_the_next_run_goes_on_where_it_was(site: FaultySite, tmp_path: Path, clean) -> None:
    with faulty_site(titles=36) as undisturbed:
        collect(tmp_path / "undisturbed", undisturbed.url)
    expected = len(undisturbed.requests)
    moments = [3, 12, 21, 23, 35, 48]  # season pages, the first posters, later ones
    command = [sys.executable, "-c", COLLECT, str(tmp_path / "killed"), site.url]
    for moment in moments:
        process = subprocess.Popen(command)
        while len(site.requests) < moment:
            assert process.poll() is None
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    pages = Counter(request.path for request in site.requests if "/season/" in request.path)
    assert sum(times - 1 for times in pages.values()) <= len(moments)  # one page is under way at a time
    result = collect(tmp_path / "killed", site.url)
    assert result.content(site.url) == clean
    assert len(site.requests) - expected <= len(moments) * (4 + 1)  # in flight, and robots.txt
    assert not list((tmp_path / "killed").rglob("*.part"))


def test_running_seasons_are_not_read_twice_by_a_crawl_that_was_interrupted(site: FaultySite, tmp_path: Path) -> None:
    with Collector(tmp_path, site.url, CollectConfig(refresh=True)) as collector:
        asyncio.run(collector.read_catalogue(parse_seasons(RANGE)))
    asked = len(site.requests)
    result = collect(tmp_path, site.url, refresh=True)
    assert not any("/season/" in request.path for request in site.requests[asked:])
    assert result.traffics[0].outcomes == {"not due": len(SEASONS)}
    collect(tmp_path, site.url, refresh=True)
    assert any("/season/" in request.path for request in site.requests[asked:])


CHANGES: dict[str, tuple[Callable[[str], str], type[Exception]]] = {
    "the class of the cards": (lambda page: page.replace("seasonal-anime js-", "card js-"), EmptyCatalogueError),
    "the class of the genres": (lambda page: page.replace('class="genres', 'class="tags'), PageLayoutError),
    "the class of the scores": (lambda page: page.replace("js-score", "js-rating"), DriftError),
    "genres gone": (lambda page: re.sub(r'<span class="genre">.*?</span>', "", page, flags=re.S), DriftError),
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


@pytest.mark.parametrize("change", CHANGES)
def test_a_site_that_changed_stops_the_run_and_the_last_good_catalogue_stays(
    site: FaultySite, tmp_path: Path, change: str
) -> None:
    collect(tmp_path, site.url)
    before = (tmp_path / "catalogue.csv").read_bytes()
    site.change, error = CHANGES[change]
    asked = len(site.requests)
    with pytest.raises(error) as caught:
        collect(tmp_path, site.url, refresh=True)
    assert not getattr(caught.value, "retryable", True)
    assert (tmp_path / "catalogue.csv").read_bytes() == before
    assert not any("/images/" in request.path for request in site.requests[asked:])
    site.change = str  # it was but a bad day: the pages are asked for again, and all is well
    collect(tmp_path, site.url)
    assert (tmp_path / "catalogue.csv").read_bytes() == before


def test_a_new_season_passes(site: FaultySite, tmp_path: Path) -> None:
    collect(tmp_path, site.url, f"{SEASONS[0]}..{SEASONS[-2]}")
    before = read_catalogue(tmp_path / "catalogue.csv")
    collect(tmp_path, site.url)
    assert len(read_catalogue(tmp_path / "catalogue.csv")) > len(before)


def test_what_changes_about_a_title_is_in_the_history(site: FaultySite, tmp_path: Path) -> None:
    title = next(record for record in collect(tmp_path, site.url).records if record.title.isalnum())
    site.change = lambda page: page.replace(f">{title.title}<", ">Another Name<")
    collect(tmp_path, site.url, refresh=True)
    assert f",{title.mal_id},Another Name,title," in (tmp_path / HISTORY).read_text()


def test_kept_pages_are_parsed_anew_without_a_request(site: FaultySite, tmp_path: Path) -> None:
    records = collect(tmp_path, site.url, details=20).records
    asked = len(site.requests)
    assert reparsed(tmp_path, site.url) == records
    assert len(site.requests) == asked
    next((tmp_path / "pages").glob("*.gz")).write_bytes(b"damaged")
    with pytest.raises(KeptPageError, match=r"\.html\.gz"):
        reparsed(tmp_path, site.url)


def test_a_season_page_that_is_gone_for_a_day_loses_no_title(site: FaultySite, tmp_path: Path) -> None:
    first = collect(tmp_path, site.url)
    gone = next(iter(sorted(site.site.seasons)))
    site.site.seasons.remove(gone)
    again = collect(tmp_path, site.url, refresh=True)
    assert again.content(site.url) == first.content(site.url)
    assert again.traffics[0].outcomes["missing"] == len(SEASONS) - len(site.site.seasons)
    site.site.seasons.add(gone)
    asked = len(site.requests)
    collect(tmp_path, site.url)
    assert f"/anime/season/{gone.replace('-', '/')}" in [request.path for request in site.requests[asked:]]


def test_a_page_of_another_season_stops_the_run(site: FaultySite, tmp_path: Path) -> None:
    collect(tmp_path, site.url)
    other = sorted(site.site.seasons)[1]
    page = site.site.answer(f"/anime/season/{other.replace('-', '/')}")[2].decode()
    site.change = lambda whole: page
    with pytest.raises(PageLayoutError, match=f"another season, {other}"):
        collect(tmp_path, site.url, refresh=True)


def test_a_token_that_changes_each_time_is_no_change_of_the_page(site: FaultySite, tmp_path: Path) -> None:
    tokens = iter(range(1000))
    site.change = lambda page: page.replace("<head>", f"<head><meta name='csrf_token' content='{next(tokens)}'>")
    collect(tmp_path, site.url)
    again = collect(tmp_path, site.url, refresh=True)
    assert again.traffics[0].outcomes["unchanged"] == len(site.site.seasons)
    assert again.traffics[0].outcomes["changed"] == 0


def test_detail_pages_that_cannot_be_had_end_nothing_and_lose_nothing(site: FaultySite, tmp_path: Path) -> None:
    told = [record.rating for record in collect(tmp_path, site.url, details=40).records]
    odd = max(site.site.titles, key=lambda title: title.members)
    site.change = lambda page: (
        "<html>no title</html>" if f'og:url" content="{site.url}/anime/{odd.mal_id}/' in page else page
    )
    with Collector(tmp_path, site.url, CollectConfig()) as collector:
        for page in collector.ledger.pages.all().values():
            collector.ledger.pages.put(dataclasses.replace(page, suspect=True))
    again = collect(tmp_path, site.url, details=40)
    assert again.traffics[1].outcomes["broken"] >= 1
    assert [record.rating for record in again.records] == told
    assert [record.rating for record in reparsed(tmp_path, site.url)] == told


def test_a_kept_page_that_is_damaged_or_gone_is_asked_for_again(site: FaultySite, tmp_path: Path) -> None:
    first = collect(tmp_path, site.url)
    damaged, gone = sorted((tmp_path / "pages").glob("*.gz"))[:2]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    gone.unlink()
    asked = len(site.requests)
    assert collect(tmp_path, site.url).content(site.url) == first.content(site.url)
    assert len(site.requests) - asked == 2 + 1  # and robots.txt
    assert damaged.read_bytes() == whole


def test_details_come_most_popular_titles_first_and_over_many_runs(site: FaultySite, tmp_path: Path) -> None:
    by_members = sorted(site.site.titles, key=lambda title: -title.members)
    told: list[AnimeRecord] = []
    for run in range(3):
        result = collect(tmp_path, site.url, details=7)
        told = [record for record in result.records if record.aired_to or record.rating or record.related]
        assert {r.mal_id for r in told} <= {title.mal_id for title in by_members[: 7 * (run + 1)]}
    details = [request.path for request in site.requests if re.fullmatch(r"/anime/\d+", request.path)]
    assert details == [f"/anime/{title.mal_id}" for title in by_members[:21]]
    for record in told:
        title = site.site.by_id[record.mal_id]
        assert record.rating == title.rating
        assert [(r.relation, r.mal_id) for r in record.related] == [(r.kind, r.mal_id) for r in title.related]
    kept = {record.mal_id: record for record in read_catalogue(tmp_path / "catalogue.csv")}
    assert all(kept[record.mal_id].rating == record.rating for record in told)


def test_a_site_that_refuses_us_is_left_alone_by_the_next_run(site: FaultySite, tmp_path: Path) -> None:
    with Collector(tmp_path, site.url, CollectConfig()) as collector:
        site.change = lambda page: "<html><head><title>Human Verification</title></head></html>"
        with pytest.raises(SiteBlocked, match="captcha"):
            asyncio.run(collector.read_catalogue(parse_seasons(RANGE)))
    asked = len(site.requests)
    with pytest.raises(SiteBlocked, match=r"before 20\d\d-\d\d-\d\d \d\d:\d\d UTC"):
        collect(tmp_path, site.url)
    assert len(site.requests) == asked == 2


def test_two_runs_do_not_ask_the_same_site_at_once(site: FaultySite, tmp_path: Path) -> None:
    with exclusive_lock(site.url), pytest.raises(SiteBusy, match="Another run is asking") as caught:
        collect(tmp_path, site.url)
    assert caught.value.retryable
    with (
        Collector(tmp_path, site.url, CollectConfig()) as collector,
        exclusive_lock(site.url),
        pytest.raises(SiteBusy, match="Another run is asking"),
    ):
        asyncio.run(collector.download_posters([]))
    assert not site.requests


def test_how_far_it_is_is_shown_at_the_end_of_each_part(site: FaultySite, tmp_path: Path) -> None:
    said: list[str] = []
    with Collector(tmp_path, site.url, CollectConfig(), show=lambda traffic: said.append(traffic.sentence())) as it:
        records = asyncio.run(it.read_catalogue(parse_seasons(RANGE)))
        asyncio.run(it.download_posters(records))
    assert said[0].startswith(f"Season pages: {len(SEASONS)} of {len(SEASONS)} (")
    assert re.match(r"Posters: (\d+) of \1 \(", said[-1])
