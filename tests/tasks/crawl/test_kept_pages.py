"""Kept pages: they are as they came, or they say that they are not."""

import gzip
from pathlib import Path

import pytest

from tasks.crawl.kept_pages import KeptPages
from tasks.errors import KeptPageError

PAGE = "<html>ランタン</html>\r\n".encode() + bytes(range(256))


@pytest.mark.parametrize("body", [PAGE, b"", PAGE * 5000], ids=["small", "empty", "large"])
def test_a_page_is_read_as_it_came(tmp_path: Path, body: bytes) -> None:
    kept = KeptPages(tmp_path / "pages")
    assert KeptPages(tmp_path / "pages").read(kept.keep(body)) == body


def test_a_large_page_takes_little_room(tmp_path: Path) -> None:
    kept = KeptPages(tmp_path)
    assert kept.path(kept.keep(PAGE * 5000)).stat().st_size < len(PAGE) * 500


def test_the_same_content_is_one_file_however_often_it_is_kept(tmp_path: Path) -> None:
    kept = KeptPages(tmp_path)
    assert kept.keep(PAGE) == kept.keep(bytes(PAGE))
    assert kept.keep(PAGE) != kept.keep(PAGE + b" ")
    assert len(list(tmp_path.iterdir())) == 2


def test_the_same_content_is_the_same_bytes_everywhere_and_at_any_time(tmp_path: Path) -> None:
    here, there = KeptPages(tmp_path / "here"), KeptPages(tmp_path / "there")
    files = [kept.path(kept.keep(PAGE)) for kept in (here, there)]
    assert files[0].name == files[1].name
    assert files[0].read_bytes() == files[1].read_bytes()
    assert files[0].read_bytes()[4:8] == bytes(4), "the moment is in the file"


def test_a_page_that_is_not_here_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeptPageError, match="abab"):
        KeptPages(tmp_path).read("ab" * 32)


def test_a_page_that_was_cut_anywhere_is_named(tmp_path: Path) -> None:
    kept = KeptPages(tmp_path)
    sha256 = kept.keep(PAGE)
    whole = kept.path(sha256).read_bytes()
    for length in range(len(whole)):
        kept.path(sha256).write_bytes(whole[:length])
        with pytest.raises(KeptPageError, match=sha256):
            kept.read(sha256)


def test_a_page_with_a_byte_that_changed_is_read_as_it_came_or_named(tmp_path: Path) -> None:
    kept = KeptPages(tmp_path)
    sha256 = kept.keep(PAGE)
    whole = kept.path(sha256).read_bytes()
    named = 0
    for place in range(len(whole)):
        kept.path(sha256).write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            assert kept.read(sha256) == PAGE
        except KeptPageError as error:
            assert sha256 in str(error)
            named += 1
    assert named >= len(whole) - 6, "all but what the head says of moment and machine"


def test_a_page_with_another_ones_content_is_named(tmp_path: Path) -> None:
    kept = KeptPages(tmp_path)
    sha256 = kept.keep(PAGE)
    kept.path(sha256).write_bytes(gzip.compress(b"another page"))
    with pytest.raises(KeptPageError, match=f"{sha256}.*not what its name says"):
        kept.read(sha256)


def test_a_damaged_page_that_comes_again_is_whole_again(tmp_path: Path) -> None:
    kept = KeptPages(tmp_path)
    sha256 = kept.keep(PAGE)
    kept.path(sha256).write_bytes(b"damaged")
    assert kept.keep(PAGE) == sha256
    assert kept.read(sha256) == PAGE
