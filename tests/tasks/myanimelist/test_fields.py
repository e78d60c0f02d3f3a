"""Reading dates, numbers and addresses as the site writes them."""

import pytest
from bs4 import BeautifulSoup

from tasks.errors import PageCutError
from tasks.myanimelist.fields import (
    anime_id,
    date_in,
    number_in,
    poster_address,
    score_in,
    season_in,
    whole_page,
)


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("20101003", "2010-10-03"),
        ("20241000", "2024-10"),
        ("20240000", "2024"),
        ("2024", "2024"),
        ("00000000", None),
        ("0", None),
        ("?", None),
        ("", None),
        (None, None),
        ("Oct 3, 2010", "2010-10-03"),
        ("Oct 2010", "2010-10"),
        ("Oct, 2010", "2010-10"),
        ("1979", "1979"),
        ("Not available", None),
    ],
)
def test_date_in_keeps_only_the_known_parts(text: str | None, date: str | None) -> None:
    assert date_in(text) == date


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("762", 762),
        ("1,234,567", 1234567),
        ("1.234.567", 1234567),
        ("1\u202f234 567", 1234567),
        ("1'234", 1234),
        ("174K", 174_000),
        ("174 k", 174_000),
        ("1.2M", 1_200_000),
        ("1,2M", 1_200_000),
        ("1.2345K", None),
        ("2B members", 2_000_000_000),
        ("24 eps", 24),
        ("1.234", None),
        ("1,234K", None),
        ("8,52", None),
        ("8.52", None),
        ("12,34,567", None),
        ("174 thousand", None),
        ("174万", None),
        ("9" * 5000, None),
        ("1e5", None),
        ("-5", None),
        ("1/2", None),
        ("3 12", None),
        ("Unknown", None),
        ("", None),
        (None, None),
    ],
)
def test_number_in_is_right_or_none(text: str | None, number: int | None) -> None:
    assert number_in(text) == number


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("7.15", 7.15),
        ("8", 8.0),
        ("10", 10.0),
        ("8,52", 8.52),
        ("8,5", 8.5),
        ("8.52 / 10", 8.52),
        ("8,523", None),
        ("852", None),
        ("85%", None),
        ("4.2/5", None),
        ("1,234", None),
        ("8.5K", None),
        ("-8", None),
        ("0", None),
        ("0.00", None),
        ("N/A", None),
        (None, None),
    ],
)
def test_score_in_is_right_or_none(text: str | None, score: float | None) -> None:
    assert score_in(text) == score


def test_season_in_finds_a_season_in_a_title() -> None:
    assert season_in("Fall 2010 - Anime - MyAnimeList.net") == "2010-fall"
    assert season_in("Later - Anime - MyAnimeList.net") is None


def test_anime_id_is_read_only_from_the_address_of_a_titles_page() -> None:
    assert anime_id("https://myanimelist.net/anime/10014/Shouwa_Monogatari") == "10014"
    assert anime_id("https://myanimelist.net/anime/10014") == "10014"
    assert anime_id("https://myanimelist.net/anime/10014/Shouwa_Monogatari/characters") is None
    assert anime_id("https://myanimelist.net/anime/season/2010/fall") is None
    assert anime_id("https://myanimelist.net/manga/25/Fullmetal_Alchemist") is None


POSTER = "https://cdn.myanimelist.net/images/anime/4/19644.jpg"


@pytest.mark.parametrize(
    ("image", "address"),
    [
        (f'<img src="{POSTER}">', POSTER),
        (f'<img src="https://cdn.myanimelist.net/images/spacer.gif" data-src="{POSTER}">', POSTER),
        ('<img data-src="https://cdn.myanimelist.net/r/167x242/images/anime/4/19644.jpg?s=0c1f">', POSTER),
        ('<img data-src="https://cdn.myanimelist.net/r/167x242/images/anime/4/19644.webp?s=0c1f">', POSTER),
        ('<img data-src="/images/anime/4/19644.webp">', "https://myanimelist.net/images/anime/4/19644.webp"),
        ('<img src="https://a.test/images/anime/4/19644.webp">', "https://a.test/images/anime/4/19644.webp"),
        (f'<img srcset="{POSTER} 1x, {POSTER} 2x">', POSTER),
        (f'<img data-srcset="{POSTER}, {POSTER} 2x">', POSTER),
        ('<img src="//cdn.myanimelist.net/images/anime/4/19644.jpg">', POSTER),
        ('<img src="./Cowboy Bebop_files/19644.jpg">', None),
        ('<img data-src="https://cdn.myanimelist.net/images/qm_50.gif">', None),
        ('<img src="https://cdn.myanimelist.net/r/50x70/images/questionmark_50.gif?s=8e04">', None),
        ('<img src="https://cdn.myanimelist.net/img/sp/icon/apple-touch-icon-256.png">', None),
        ("<img>", None),
    ],
)  # fmt: skip
def test_poster_address_is_that_of_the_full_size_and_none_for_placeholders(image: str, address: str | None) -> None:
    assert poster_address(BeautifulSoup(image, "lxml").find("img")) == address


def test_whole_page_ends_with_html() -> None:
    assert whole_page("<html>é</HTML >\n".encode()) == "<html>é</HTML >\n"
    with pytest.raises(PageCutError, match="</html>, is missing"):
        whole_page("<html><body><p>half of")
    with pytest.raises(PageCutError, match="empty"):
        whole_page(b" \n")
