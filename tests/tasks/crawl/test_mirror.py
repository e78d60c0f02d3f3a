"""The bucket's copy of the crawl state, through the real client and a local emulator."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.settings import Settings
from infra.store import Store
from serving.bundle.files import sha256_of
from tasks.crawl.kept_pages import KeptPages
from tasks.crawl.ledger import HostMemory, Ledger, PageVisit, PosterVisit
from tasks.crawl.mirror import CrawlMirror, poster_key
from tests.damage import DAMAGES, flip_bit
from tests.storage import damage, storage_emulator

URL = "https://example.org/season"
POSTER = b"a poster"


class Worker:
    """A worker with its own disk."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.ledger = Ledger()
        self.kept = KeptPages(folder / "pages")
        self.posters = folder / "posters"
        self.posters.mkdir(parents=True)
        self.mirror = CrawlMirror(store, self.ledger, self.kept, self.posters)

    def add_page(self, body: bytes, url: str = URL, checked: float = 1) -> str:
        sha256 = self.kept.keep(body)
        self.ledger.pages.put(PageVisit(url, checked, sha256))
        return sha256

    def add_poster(self, title_id: str, body: bytes = POSTER) -> None:
        (self.posters / f"{title_id}.jpg").write_bytes(body)
        self.ledger.posters.put(PosterVisit(title_id, URL, 1, "here", sha256_of(body)))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with storage_emulator(tmp_path_factory.mktemp("emulator"), "mirror") as url:
        yield url


@pytest.fixture
def store(address: str) -> Iterator[Store]:
    store = Store(Settings(bucket="mirror", storage_emulator_host=address))
    yield store
    for name in ("page-visits.json", "poster-visits.json", "hosts.json"):
        store.write(name, b"[]")


def test_mirror_gives_pages_to_another_worker_even_if_the_crawl_raises(store: Store, tmp_path: Path) -> None:
    one, other = (Worker(store, tmp_path / name) for name in ("one", "other"))
    with pytest.raises(RuntimeError), one.mirror.pages():
        sha256 = one.add_page(b"a page")
        one.ledger.pages.put(PageVisit("https://example.org/missing", 2))
        raise RuntimeError
    with other.mirror.pages():
        assert other.kept.read(sha256) == b"a page"
        assert other.ledger.pages.all() == one.ledger.pages.all()


def test_mirror_gives_posters_to_another_worker_and_replaces_older_files(store: Store, tmp_path: Path) -> None:
    one, other = (Worker(store, tmp_path / name) for name in ("one", "other"))
    with one.mirror.posters():
        one.add_poster("7")
    (other.posters / "7.jpg").write_bytes(b"an older poster")
    with other.mirror.posters():
        assert (other.posters / "7.jpg").read_bytes() == POSTER == store.read(poster_key("7"))
        other.add_poster("7", b"a newer poster")
    assert store.read(poster_key("7")) == b"a newer poster"


def test_mirror_copies_no_file_that_the_other_side_has(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = (Worker(store, tmp_path / name) for name in ("one", "other"))
    copied: list[str] = []
    for name in ("upload", "download"):
        copy = getattr(store, name)
        monkeypatch.setattr(store, name, lambda files, copy=copy: (copied.extend(files), copy(files)))
    for worker in (one, one, other, other):
        with worker.mirror.pages(), worker.mirror.posters():
            if not copied:
                worker.add_page(b"another page")
                worker.add_poster("8")
    assert len(copied) == 4  # each file once up and once down


def test_mirror_lists_only_files_that_the_bucket_has(store: Store, tmp_path: Path) -> None:
    worker = Worker(store, tmp_path)
    with worker.mirror.posters():
        for title_id in ("10", "9", "explicit"):
            worker.add_poster(title_id)
        (worker.posters / "explicit.jpg").unlink()
        worker.ledger.posters.put(PosterVisit("11", URL, 1, "missing"))
    listed = json.loads(store.read("poster-visits.json"))
    assert [entry["mal_id"] for entry in listed] == [9, 10, 11]


def test_mirror_deletes_posters_of_titles_that_became_explicit_and_downloads_them_no_more(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (Worker(store, tmp_path / name) for name in ("one", "other"))
    with one.mirror.posters():
        one.add_poster("20")
        one.add_poster("21")
    for worker in (one, other):
        with worker.mirror.posters():
            (worker.posters / "20.jpg").unlink(missing_ok=True)
            worker.ledger.posters.put(PosterVisit("20", URL, 2, "explicit"))
        assert not store.exists(poster_key("20")) and store.exists(poster_key("21"))
    with other.mirror.posters():
        assert [path.name for path in other.posters.iterdir()] == ["21.jpg"]
    assert not caplog.text


@pytest.mark.parametrize("how", DAMAGES)
def test_mirror_replaces_damaged_objects_by_intact_files(
    how: Callable[[Path], None], store: Store, tmp_path: Path
) -> None:
    worker, other = (Worker(store, tmp_path / name) for name in ("one", "other"))
    for name in ("page-visits.json", "poster-visits.json", "hosts.json"):
        store.write(name, b"[]")
    with worker.mirror.hosts(), worker.mirror.pages(), worker.mirror.posters():
        worker.add_poster("12", how.__name__.encode())
        worker.add_page(how.__name__.encode())
        worker.ledger.hosts.put(HostMemory("a.test", blocked_until=5, reason="status 403"))
    (page,) = worker.ledger.pages.all().values()
    keys = [poster_key("12"), f"pages/{page.sha256}.html.gz"]
    # A list with a wrong bit may be valid.
    keys += ["hosts.json", "page-visits.json", "poster-visits.json"] * (how is not flip_bit)
    before = {key: store.read(key) for key in keys}
    for key in keys:
        damage(store, key, how)
    with other.mirror.hosts(), other.mirror.pages(), other.mirror.posters():
        assert not other.kept.has(str(page.sha256))
    with worker.mirror.hosts(), worker.mirror.pages(), worker.mirror.posters():
        pass
    assert {key: store.read(key) for key in keys} == before


def test_mirror_shares_what_is_known_about_hosts(store: Store, tmp_path: Path) -> None:
    one, other = (Worker(store, tmp_path / name) for name in ("one", "other"))
    with one.mirror.hosts():
        one.ledger.hosts.put(HostMemory("a.test", 2, 10))
    with other.mirror.hosts():
        other.ledger.hosts.put(HostMemory("b.test", blocked_until=5, reason="status 403"))
    assert set(other.ledger.hosts.all()) == {"a.test", "b.test"}
    with one.mirror.hosts():
        assert one.ledger.hosts.all() == other.ledger.hosts.all()
    other.ledger.hosts.put(HostMemory("a.test", 2, 10, blocked_until=time.time() + 400 * 86_400))
    for worker in (other, one):  # neither keeps nor shares the block of a clock that was ahead
        with worker.mirror.hosts():
            assert worker.ledger.hosts.all()["a.test"].blocked_until < time.time() + 8 * 86_400
