"""The parser of detail pages, on invented pages in the site's layouts."""

import pytest

from tasks.catalogue.titles import Details, Related
from tasks.errors import PageCutError, PageLayoutError
from tasks.myanimelist.detail_pages import parse_detail_page

HEAD = """<!DOCTYPE html><html><head><title>Lanterns - MyAnimeList.net</title>
<meta property="og:image" content="https://cdn.myanimelist.net/img/sp/icon/twitter-card.png">
<meta property="og:url" content="https://myanimelist.net/anime/369/Lanterns"></head><body>
"""

LARGE = (
    HEAD
    + """<div class="h1-title"><div itemprop="name"><h1
  class="title-name h1_bold_none"><strong>Lanterns</strong></h1></div></div>
<table><tr><td class="borderClass" width="225"><div class="leftside">
<img class="lazyload" data-src="https://cdn.myanimelist.net/images/anime/5/41117.jpg"
  alt="Lanterns" itemprop="image">
<div class="spaceit_pad"><span class="dark_text">Synonyms:</span> Lamps</div>
<div class="spaceit_pad"><span class="dark_text">Type:</span> <a
  href="https://myanimelist.net/topanime.php?type=tv">TV</a></div>
<div class="spaceit_pad"><span class="dark_text">Episodes:</span>
  13
  </div>
<div class="spaceit_pad"><span class="dark_text">Aired:</span>
  Apr 4, 2011 to Jun 26, 2011
  </div>
<div class="spaceit_pad"><span class="dark_text">Premiered:</span> <a
  href="/anime/season/2011/spring">Spring 2011</a></div>
<div class="spaceit_pad"><span class="dark_text">Producers:</span> <a
  href="/anime/producer/9/Purse">Purse</a></div>
<div class="spaceit_pad"><span class="dark_text">Studios:</span>
  <a href="/anime/producer/318/WAO_World">WAO World</a>, <a href="/anime/producer/4/Bones">Bones</a></div>
<div class="spaceit_pad"><span class="dark_text">Source:</span>
  Light novel
  </div>
<div class="spaceit_pad"><span class="dark_text">Genres:</span>
  <span itemprop="genre" style="display: none">Drama</span><a href="/anime/genre/8/Drama">Drama</a>,
  <span itemprop="genre" style="display: none">Horror</span><a href="/anime/genre/14/Horror">Horror</a></div>
<div class="spaceit_pad"><span class="dark_text">Theme:</span>
  <span itemprop="genre" style="display: none">Historical</span><a
  href="/anime/genre/13/Historical">Historical</a></div>
<div class="spaceit_pad"><span class="dark_text">Demographic:</span>
  <span itemprop="genre" style="display: none">Seinen</span><a href="/anime/genre/42/Seinen">Seinen</a></div>
<div class="spaceit_pad"><span class="dark_text">Rating:</span>
  R - 17+ (violence &amp; profanity)
  </div>
<div itemprop="aggregateRating" class="spaceit_pad po-r js-statistics-info"><span
  class="dark_text">Score:</span>
  <span itemprop="ratingValue"
  class="score-label score-6">6.84</span><sup>1</sup> (scored by 1,536 users)</div>
<div class="spaceit_pad"><span class="dark_text">Members:</span>
    1,234,567
</div>
</div></td><td>
<div class="related-entries"><div class="entries-tile">
  <div class="entry borderClass"><div class="content">
    <div class="relation">
      Adaptation
      (Manga)
    </div><div class="title"><a
  href="https://myanimelist.net/manga/25/Lanterns">Lanterns</a></div></div></div>
  <div class="entry borderClass">
    <div class="image"><a href="https://myanimelist.net/anime/970/Wicks"><img alt="Wicks"></a></div><div
  class="content">
    <div class="relation">
      Prequel
      (OVA)
    </div><div class="title"><a href="https://myanimelist.net/anime/970/Wicks">
      Wicks &amp; Wax
    </a></div></div></div>
  <div class="entry borderClass">&nbsp;</div></div>
<table class="entries-table"><tr><td class="ar">
      Side Story:
    </td><td><ul class="entries">
      <li><a href="https://myanimelist.net/anime/971/Oil">Oil</a> (OVA)</li>
      <li><a
  href="https://myanimelist.net/anime/972/Fat">Fat (Movie)</a> (Movie)</li></ul></td></tr></table></div>
<div class="spaceit_pad"><small>Main</small></div>
</td></tr></table></body>
</html>
"""
)

SMALL = (
    HEAD
    + """<div class="page-title" itemprop="name"><a class="title"><h1
  class="title-name">Lanterns</h1></a></div>
<div class="icon-thumb" itemprop="image" content="https://cdn.myanimelist.net/images/anime/5/41117.jpg"></div>
<div class="slider-outer entries-tile"><div class="slider-container">
  <div class="slider anime-detail-related-entries"><div class="image"><a class="icon-watch-status"
      href="https://myanimelist.net/login.php?from=%2Fanime%2F369"></a><span class="users">TV</span>
    <a href="https://myanimelist.net/anime/970/Wicks" class="thumb lazyload"><img alt="Wicks"></a></div>
    <div class="text">Prequel</div></div></div></div>
<table class="entries-table mt8"><tr class="hide-entry"><td class="pr8">
      Other
    </td><td><ul class="entries"><li><a
  href="https://myanimelist.net/anime/971/Oil">Oil</a> (CM)</li></ul></td></tr></table>
<div id="statistics"><table class="table-list mt12"><tr><td>Score</td><td><span itemprop="ratingValue"><span
      class="score-label score-7">
      7.15
    </span></span><sup>*</sup></td><meta itemprop="bestRating" content="10"></tr></table></div>
<table class="table-list">
<tr><td class="list-title">Type</td><td><a href="/topanime.php?type=tv">TV</a></td></tr>
<tr><td class="list-title">Episodes</td><td><a href="/anime/369/Lanterns/episode">12</a></td></tr>
<tr><td class="list-title">Aired</td><td>Jan 5, 2000 to Mar 22, 2000</td></tr>
<tr><td class="list-title">Premiered</td><td><a href="/anime/season/2000/winter">Winter 2000</a></td></tr>
<tr><td class="list-title">Studios</td><td><a href="/anime/producer/11/Madhouse">Madhouse</a></td></tr>
<tr><td class="list-title">Source</td><td>Manga</td></tr>
<tr><td class="list-title">Genre</td><td><span itemprop="genre" style="display: none">Horror</span><a
  href="/anime/genre/14/Horror">Horror</a></td></tr>
<tr><td class="list-title">Themes</td><td><a href="/anime/genre/40/Psychological">Psychological</a></td></tr>
<tr><td class="list-title">Rating</td><td>R+ - Mild Nudity</td></tr>
</table></body>
</html>
"""
)


def read(*changes: tuple[str, str]) -> Details:
    """The title of the large page above after these replacements."""
    html = LARGE
    for old, new in changes:
        assert old in html
        html = html.replace(old, new)
    return parse_detail_page(html)


def test_page_for_large_screens_is_read_with_every_field() -> None:
    assert parse_detail_page(LARGE) == Details(
        id="369",
        title="Lanterns",
        start_date="2011-04-04",
        rating="R - 17+ (violence & profanity)",
        aired_to="2011-06-26",
        related=[
            Related("Prequel", "970", "Wicks & Wax"),
            Related("Side Story", "971", "Oil"),
            Related("Side Story", "972", "Fat (Movie)"),
        ],
    )


def test_page_for_small_screens_is_read_with_every_field() -> None:
    assert parse_detail_page(SMALL.encode()) == Details(
        id="369",
        title="Lanterns",
        start_date="2000-01-05",
        rating="R+ - Mild Nudity",
        aired_to="2000-03-22",
        related=[Related("Prequel", "970", "Wicks"), Related("Other", "971", "Oil")],
    )


def test_page_of_2021_is_read_with_its_related_titles() -> None:
    table = """<table class="anime_detail_related_anime"><tbody>
      <tr><td class="ar">Adaptation:</td><td><a
  href="https://myanimelist.net/manga/25/Lanterns">Lanterns</a></td></tr>
      <tr><td class="ar">Side story:</td><td><a href="https://myanimelist.net/anime/6421/Oil">Oil</a>,
        <a href="https://myanimelist.net/anime/9135/Fat">Fat</a></td></tr></tbody></table>"""
    start, end = LARGE.index('<div class="related-entries">'), LARGE.index('<div class="spaceit_pad"><small>')
    record = read((LARGE[start:end], table))
    assert record.related == [Related("Side story", "6421", "Oil"), Related("Side story", "9135", "Fat")]


def test_page_with_unknown_values_has_none() -> None:
    record = read(
        ("\n  13\n", "\n  Unknown\n"),
        ("Apr 4, 2011 to Jun 26, 2011", "Not available"),
        ("\n  Light novel\n", "\n  Unknown\n"),
        ("R - 17+ (violence &amp; profanity)", "None"),
    )
    assert (record.rating, record.start_date, record.aired_to) == (None, None, None)


def test_page_without_genres_and_related_titles_is_read() -> None:
    start, end = (
        LARGE.index('<div class="spaceit_pad"><span class="dark_text">Genres'),
        LARGE.index('<div class="spaceit_pad"><span class="dark_text">Rating'),
    )
    record = read(
        (LARGE[start:end], ""),
        (
            LARGE[LARGE.index('<div class="related-entries">') : LARGE.index('<div class="spaceit_pad"><small>')],
            "",
        ),
    )
    assert (record.rating, record.related) == ("R - 17+ (violence & profanity)", [])


@pytest.mark.parametrize(
    ("aired", "first", "last"),
    [
        ("Oct 20, 1999 to ?", "1999-10-20", None),
        ("Jul 21, 2001", "2001-07-21", None),
        ("1979 to Mar 1980", "1979", "1980-03"),
        ("Oct 2024 to ?", "2024-10", None),
    ],
)
def test_page_has_open_or_inexact_airing_dates(aired: str, first: str, last: str | None) -> None:
    record = read(("Apr 4, 2011 to Jun 26, 2011", aired))
    assert (record.start_date, record.aired_to) == (first, last)


def test_page_is_read_with_other_attributes_and_classes() -> None:
    record = read(
        ('<h1\n  class="title-name h1_bold_none">', '<h1 id="x"\n  class="h1_bold_none\ttitle-name">'),
        (
            'property="og:url" content="https://myanimelist.net/anime/369/Lanterns"',
            'content="https://myanimelist.net/anime/369/Lanterns" property="og:url"',
        ),
        (
            '<div class="spaceit_pad"><span class="dark_text">',
            '<div id="" class="a spaceit_pad b"><span class="c dark_text">',
        ),
        (
            '<div class="entry borderClass"><div class="content">',
            '<div class="borderClass entry"><div class="content">',
        ),
        ('<table class="entries-table">', '<table width="9" class="wide entries-table">'),
    )
    assert record == parse_detail_page(LARGE)


def test_page_with_an_unclosed_field_keeps_the_other_fields() -> None:
    record = read(
        ("6.84</span><sup>1</sup> (scored by 1,536 users)</div>", "6.84</span>"), ("&amp; profanity)\n  </div>", "")
    )
    assert (record.rating, record.start_date) == ("R - 17+ (violence", "2011-04-04")


@pytest.mark.parametrize(
    ("html", "missing"),
    [
        ("", "empty"),
        ("bla\n", "</html>"),
        ("<html><body><h1>404 Not Found</h1></body></html>", "heading with the title"),
        (LARGE.replace("title-name h1_bold_none", "h1"), "heading with the title"),
        (LARGE.replace("og:url", "og:site"), "address with the title's id"),
        (LARGE.replace("369/Lanterns", "369/Lanterns/characters"), "address with the title's id"),
        (LARGE.replace("Aired:", "Shown:"), 'no field "Aired"'),
        (SMALL.replace("table-list", "list"), 'no field "Type"'),
    ],
)
def test_page_in_another_layout_is_refused_and_names_what_is_missing(html: str, missing: str) -> None:
    with pytest.raises(PageLayoutError, match=missing):
        parse_detail_page(html)


@pytest.mark.parametrize("html", [LARGE, SMALL], ids=["large", "small"])
def test_page_that_ends_too_early_raises_page_cut_error(html: str) -> None:
    with pytest.raises(PageCutError):
        parse_detail_page(html[: len(html) // 2])
