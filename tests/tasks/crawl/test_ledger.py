"""The ledger: what is written down is there, whatever happens to the process."""

import math
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.crawl.ledger import Crawl, HostMemory, Ledger, PageVisit, PosterVisit
from tasks.errors import LedgerError

ROOT = Path(__file__).parents[3]

PAGES = [
    PageVisit("http://a.test/anime/season/2010/fall", 1_700_000_000.123456),
    PageVisit("http://a.test/anime/1/ラン", 1.5, "ab" * 32, '"etag"', "Wed, 21 Oct 2015 07:28:00 GMT", doubtful=True),
]
POSTERS = [
    PosterVisit(8769, "http://a.test/1.jpg", 2.5, "here", "cd" * 32),
    PosterVisit(1, "http://a.test/'; DROP TABLE--.jpg", 3.5, "missing", reason="there is nothing"),
]
HOSTS = [HostMemory("a.test"), HostMemory("b.test:8000", 7.5, 1.0, 2.0, "answered 403 Forbidden")]
CRAWLS = [Crawl("http://a.test", 1.25), Crawl("http://b.test", 1.25, 2.5)]


def test_every_kind_of_entry_is_the_same_after_the_file_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite"
    ledger = Ledger(path)
    ledger.pages.put(*PAGES)
    ledger.posters.put(*POSTERS)
    ledger.hosts.put(*HOSTS)
    ledger.crawls.put(*CRAWLS)
    ledger.close()

    again = Ledger(path)
    assert again.pages.all() == {page.url: page for page in PAGES}
    assert again.posters.all() == {poster.mal_id: poster for poster in POSTERS}
    assert again.hosts.all() == {host.host: host for host in HOSTS}
    assert again.crawls.all() == {crawl.site: crawl for crawl in CRAWLS}
    assert [again.pages.get(page.url) for page in PAGES] == PAGES
    assert [again.posters.get(poster.mal_id) for poster in POSTERS] == POSTERS
    again.close()


def test_a_host_without_a_ceiling_has_none_afterwards(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.hosts.put(HostMemory("a.test", ceiling=math.inf))
    ledger.close()
    again = Ledger(tmp_path / "ledger.sqlite")
    memory = again.hosts.get("a.test")
    assert memory is not None
    assert memory.ceiling == math.inf
    again.close()


def test_what_was_never_asked_for_is_none() -> None:
    ledger = Ledger()
    assert ledger.pages.get("http://a.test") is None
    assert ledger.posters.get(1) is None
    assert ledger.pages.all() == {}
    ledger.close()


def test_an_entry_takes_the_place_of_the_one_with_its_key() -> None:
    ledger = Ledger()
    ledger.posters.put(*POSTERS)
    ledger.posters.put(PosterVisit(1, "http://a.test/new.jpg", 9.0, "here", "ef" * 32))
    assert ledger.posters.all() == {
        8769: POSTERS[0],
        1: PosterVisit(1, "http://a.test/new.jpg", 9.0, "here", "ef" * 32),
    }
    ledger.close()


def test_of_another_ledger_only_what_was_checked_later_is_taken_over() -> None:
    ledger = Ledger()
    ledger.pages.put(PageVisit("older", 10, "mine"), PageVisit("newer", 10, "mine"), PageVisit("same", 10, "mine"))
    others = [
        PageVisit("older", 9, "theirs"),
        PageVisit("newer", 11, "theirs"),
        PageVisit("same", 10, "theirs"),
        PageVisit("unknown", 1, "theirs"),
    ]
    ledger.pages.adopt({page.url: page for page in others})
    taken = {url: page.sha256 for url, page in ledger.pages.all().items()}
    assert taken == {"older": "mine", "newer": "theirs", "same": "mine", "unknown": "theirs"}
    ledger.close()


def test_of_what_a_host_taught_two_ledgers_the_later_lessons_stay() -> None:
    mine = HostMemory("a.test", ceiling=2, learnt=10, not_before=5, reason="answered 403", held_until=1)
    theirs = HostMemory("a.test", ceiling=3, learnt=9, not_before=7, reason="a captcha", held_until=2)
    both = HostMemory("a.test", ceiling=2, learnt=10, not_before=7, reason="a captcha", held_until=2)
    assert mine.merged(theirs) == theirs.merged(mine) == both


def test_a_ledger_in_memory_is_nobody_elses() -> None:
    ledger, other = Ledger(), Ledger()
    ledger.pages.put(*PAGES)
    assert other.pages.all() == {}
    ledger.close()
    other.close()


def test_a_file_that_is_no_ledger_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"mal_id,title\n" * 1000)
    with pytest.raises(LedgerError, match=r"ledger\.sqlite cannot be used.*Move it away"):
        Ledger(path)
    assert path.read_bytes() == b"mal_id,title\n" * 1000


def test_a_folder_in_its_place_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be used"):
        Ledger(tmp_path)


def test_a_ledger_with_other_columns_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE PageVisit (url PRIMARY KEY, checked) WITHOUT ROWID")
    database.close()
    with pytest.raises(LedgerError, match="Move it away"):
        Ledger(path).pages.put(*PAGES)


WRITER = """
import itertools, sys
from pathlib import Path
from tasks.crawl.ledger import Ledger, PageVisit, PosterVisit
ledger = Ledger(Path(sys.argv[1]))
for number in itertools.count(1):
    ledger.pages.put(PageVisit(f"page {number}", number, "ab" * 32))
    ledger.posters.put(PosterVisit(number, "http://a.test", number, "here"))
    print(number, flush=True)
"""


def test_a_kill_loses_nothing_that_was_put(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], cwd=ROOT, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        while int(writer.stdout.readline()) < 200:
            pass
        writer.kill()
        put = 200 + len(writer.stdout.readlines())
    ledger = Ledger(path)
    assert set(ledger.pages.all()) >= {f"page {number}" for number in range(1, put + 1)}
    assert set(ledger.posters.all()) >= set(range(1, put + 1))
    ledger.pages.put(PageVisit("page 1", 2.5))
    assert ledger.pages.get("page 1") == PageVisit("page 1", 2.5)
    ledger.close()
