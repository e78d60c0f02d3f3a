"""Kept pages are read as they were kept, or reported as damaged."""

import gzip
from pathlib import Path

import pytest

from tasks.crawl.kept_pages import KeptPages
from tasks.errors import KeptPageError

PAGE = "<html>ランタン</html>\r\n".encode() + bytes(range(256))


@pytest.fixture
def kept(tmp_path: Path) -> KeptPages:
    return KeptPages(tmp_path / "pages")


@pytest.mark.parametrize("body", [PAGE, b"", PAGE * 5000], ids=["small", "empty", "large"])
def test_kept_page_is_read_as_it_was_kept(kept: KeptPages, body: bytes) -> None:
    sha256 = kept.keep(body)
    assert kept.read(sha256) == body
    assert kept.path(sha256).stat().st_size < len(body) / 10 + 400


def test_kept_page_is_one_file_with_the_same_bytes_everywhere(kept: KeptPages, tmp_path: Path) -> None:
    elsewhere = KeptPages(tmp_path / "elsewhere")
    sha256 = kept.keep(PAGE)
    assert kept.keep(PAGE) == elsewhere.keep(PAGE) == sha256 != kept.keep(PAGE + b" ")
    assert len(list(kept.folder.iterdir())) == 2
    assert kept.path(sha256).read_bytes() == elsewhere.path(sha256).read_bytes()
    assert kept.path(sha256).read_bytes()[4:8] == bytes(4), "gzip's time stamp"


def test_kept_page_that_is_absent_is_reported(kept: KeptPages) -> None:
    with pytest.raises(KeptPageError, match="abab"):
        kept.read("ab" * 32)


def test_kept_page_with_any_damage_is_reported_or_read_intact(kept: KeptPages) -> None:
    sha256 = kept.keep(PAGE)
    whole = kept.path(sha256).read_bytes()
    flipped = [whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :] for place in range(len(whole))]
    cut = [whole[:length] for length in range(len(whole))]
    reported = 0
    for damaged in (*cut, *flipped, gzip.compress(b"another page")):
        kept.path(sha256).write_bytes(damaged)
        try:
            assert kept.read(sha256) == PAGE
        except KeptPageError as error:
            assert sha256 in str(error)
            reported += 1
    assert reported >= 2 * len(whole) + 1 - 6  # time stamp and system in gzip's header do not change the page


def test_kept_page_that_is_damaged_is_replaced(kept: KeptPages) -> None:
    sha256 = kept.keep(PAGE)
    kept.path(sha256).write_bytes(b"damaged")
    assert kept.keep(PAGE) == sha256
    assert kept.read(sha256) == PAGE


def test_kept_pages_remove_all_but_the_wanted_ones(kept: KeptPages) -> None:
    first, second = kept.keep(b"1"), kept.keep(b"2")
    kept.remove_all_but({second, None})
    assert not kept.has(first) and kept.has(second)
