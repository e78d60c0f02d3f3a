"""The ledger keeps its entries, also after a kill."""

import json
import math
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from infra.files import write_bytes
from tasks.crawl.ledger import Crawl, HostMemory, Ledger, PageVisit, PosterVisit, poster_name, to_stored
from tasks.errors import LedgerError
from tests.damage import cut, empty
from tests.messages import project_messages

ROOT = Path(__file__).parents[3]

PAGES = [
    PageVisit("http://a.test/anime/1/ラン", 1.5, "ab" * 32, '"etag"', "Wed, 21 Oct 2015 07:28:00 GMT", suspect=True),
    PageVisit("http://a.test/anime/season/2010/fall", 1_700_000_000.123456),
    PageVisit("http://a.test/gone", 1, "ab" * 32, '"etag"').missing(2),
    PageVisit("http://a.test/odd", 1, "ab" * 32, '"etag"').unreadable(2),
]
POSTERS = [
    PosterVisit("999", "http://a.test/'; DROP TABLE--.jpg", 3.5, "missing", reason="there is nothing"),
    PosterVisit("8769", "http://a.test/1.jpg", 2.5, "here", "cd" * 32),
    PosterVisit("007", "http://a.test/2.jpg", 2.5, "here", "cd" * 32),
    PosterVisit("ab/c 1", "http://a.test/3.jpg", 2.5, "here", "cd" * 32),
]
HOSTS = [HostMemory("a.test", ceiling=math.inf), HostMemory("b.test:8000", 7.5, 1.0, 2.0, "status 403 Forbidden")]
CRAWLS = [Crawl("http://a.test", 1.25), Crawl("http://b.test", 1.25, 2.5)]


def test_ledger_keeps_entries_of_every_kind_in_the_order_of_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.pages.put(*PAGES)
    ledger.posters.put(*POSTERS)
    ledger.hosts.put(*HOSTS)
    ledger.crawls.put(*CRAWLS)
    ledger.close()

    again = Ledger(path)
    assert list(again.pages.all().items()) == [(page.url, page) for page in PAGES]
    assert list(again.posters.all().items()) == [(poster.id, poster) for poster in POSTERS]
    assert again.hosts.all() == {host.host: host for host in HOSTS}
    assert again.crawls.all() == {crawl.site: crawl for crawl in CRAWLS}
    assert [again.pages.get(page.url) for page in PAGES] == PAGES
    assert [again.posters.get(poster.id) for poster in POSTERS] == POSTERS
    assert again.pages.get("http://b.test") is again.posters.get("1") is None
    again.close()


def test_ledger_knows_again_why_a_page_is_older_than_its_visit() -> None:
    ledger = Ledger()
    ledger.pages.put(*PAGES)
    visits = ledger.pages.all().values()
    assert [(visit.was_missing, visit.was_unreadable) for visit in visits] == [
        *[(False, False)] * 2,
        (True, False),
        (False, True),
    ]
    assert [visit.missing(3).sha256 for visit in visits] == ["ab" * 32, None, None, "ab" * 32]
    ledger.close()


def test_ledger_replaces_the_entry_with_the_same_key() -> None:
    ledger = Ledger()
    ledger.posters.put(*POSTERS)
    new = PosterVisit("8769", "http://a.test/new.jpg", 9.0, "here", "ef" * 32)
    ledger.posters.put(new)
    assert ledger.posters.all() == {poster.id: poster for poster in POSTERS} | {"8769": new}
    ledger.close()


def test_ledger_keeps_its_stored_names_and_types(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.posters.put(*POSTERS)
    ledger.close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as database:
        schema = dict(database.execute("SELECT name, sql FROM sqlite_master"))
        ids = [row[0] for row in database.execute("SELECT mal_id FROM PosterVisit")]
    database.close()
    assert {name: sql.partition("(")[2] for name, sql in schema.items()} == {
        "PageVisit": "url PRIMARY KEY, checked, sha256, etag, last_modified, doubtful) WITHOUT ROWID",
        "PosterVisit": "mal_id PRIMARY KEY, url, checked, status, sha256, reason) WITHOUT ROWID",
        "HostMemory": "host PRIMARY KEY, ceiling, learnt, not_before, reason, held_until) WITHOUT ROWID",
        "Crawl": "site PRIMARY KEY, started, finished) WITHOUT ROWID",
    }
    assert ids == [999, 8769, "007", "ab/c 1"]
    assert json.dumps(to_stored(PosterVisit("5", "u", 1.0, "here"))).startswith('{"mal_id": 5, "url": "u"')


def test_poster_name_is_safe_for_any_id() -> None:
    assert [poster_name(title_id) for title_id in ("8769", "ab/c 1", "..")] == ["8769.jpg", "ab%2Fc%201.jpg", "...jpg"]


def test_poster_name_of_a_long_id_fits_into_a_file_name_and_is_its_own(tmp_path: Path) -> None:
    ids = ["\N{KATAKANA LETTER A}" * 26, "\N{KATAKANA LETTER A}" * 30, "\N{KATAKANA LETTER A}" * 31]
    names = [poster_name(title_id) for title_id in ids]
    assert names[0] == f"{quote(ids[0])}.jpg" and len(set(names)) == 3
    for name in names:
        write_bytes(tmp_path / name, b"")


def test_visits_merge_takes_newer_unknown_and_suspect_ones() -> None:
    ledger = Ledger()
    ledger.pages.put(*(PageVisit(url, 10, "here") for url in ("older", "newer", "same", "suspect")))
    ledger.pages.merge(
        [
            PageVisit("older", 9, "there"),
            PageVisit("newer", 11, "there"),
            PageVisit("same", 10, "there"),
            PageVisit("suspect", 10, "there", suspect=True),
            PageVisit("unknown", 1, "there"),
        ]
    )
    assert {url: page.sha256 for url, page in ledger.pages.all().items()} == {
        "older": "here",
        "newer": "there",
        "same": "here",
        "suspect": "there",
        "unknown": "there",
    }
    ledger.close()


@pytest.mark.parametrize("future_is_here", [True, False])
def test_visits_merge_prefers_a_real_time_to_one_in_the_future(future_is_here: bool) -> None:
    ledger, now = Ledger(), time.time()
    future, real = PageVisit("url", now + 40 * 86_400, "future"), PageVisit("url", now, "real")
    here, there = (future, real) if future_is_here else (real, future)
    ledger.pages.put(here)
    ledger.pages.merge([there])
    assert ledger.pages.get("url") == real
    ledger.close()


def test_host_memory_merged_keeps_the_latest_of_each_fact() -> None:
    one = HostMemory("a.test", ceiling=2, learned=10, blocked_until=5, reason="status 403", held_until=1)
    other = HostMemory("a.test", ceiling=3, learned=9, blocked_until=7, reason="a captcha", held_until=2)
    both = HostMemory("a.test", ceiling=2, learned=10, blocked_until=7, reason="a captcha", held_until=2)
    assert one.merged(other) == other.merged(one) == both


def not_a_ledger(file: Path) -> None:
    file.write_bytes(b"mal_id,title\n" * 1000)


@pytest.mark.parametrize("damage", [empty, cut, not_a_ledger])
def test_ledger_that_is_damaged_is_moved_aside_and_named_once(
    damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.pages.put(*(PageVisit(f"page {number}", 1.5, "ab" * 32) for number in range(1000)))
    ledger.close()
    damage(path)
    damaged = path.read_bytes()
    for _ in range(2):
        ledger = Ledger(path)
        ledger.pages.put(*PAGES)
        assert len(ledger.pages.all()) == len(PAGES)
        ledger.close()
    (message,) = project_messages(caplog)
    assert message.startswith(f"The ledger {path} is damaged: ")
    assert (tmp_path / "ledger.sqlite.damaged").read_bytes() == damaged


def test_ledger_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path)


def test_ledger_refuses_a_table_with_other_columns(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE PageVisit (url PRIMARY KEY, checked) WITHOUT ROWID")
    database.close()
    with pytest.raises(LedgerError, match="Move it away"):
        Ledger(path)


WRITER = """
import itertools, sys
from pathlib import Path
from urllib.parse import quote
from tasks.crawl.ledger import Ledger, PageVisit, PosterVisit
ledger = Ledger(Path(sys.argv[1]))
for number in itertools.count(1):
    ledger.pages.put(PageVisit(f"page {number}", number, "ab" * 32))
    ledger.posters.put(PosterVisit(str(number), "http://a.test", number, "here"))
    print(number, flush=True)
"""


def test_ledger_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 200:
            pass
        writer.kill()
        put = 200 + len(writer.stdout.readlines())
    ledger = Ledger(path)
    assert set(ledger.pages.all()) >= {f"page {number}" for number in range(1, put + 1)}
    assert set(ledger.posters.all()) >= {str(number) for number in range(1, put + 1)}
    ledger.pages.put(PageVisit("page 1", 2.5))
    assert ledger.pages.get("page 1") == PageVisit("page 1", 2.5)
    ledger.close()
