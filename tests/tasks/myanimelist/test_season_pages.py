"""The parser of season pages, on invented pages in the site's layout."""

import re

import pytest

from tasks.catalogue.titles import Title, UnreadCard
from tasks.errors import PageCutError, PageLayoutError
from tasks.myanimelist.season_pages import parse_season_page

CARD = """
<div class="js-anime-category-producer seasonal-anime js-seasonal-anime js-anime-type-all js-anime-type-1"
     data-genre="4,22,69,27">
  <div>
    <div class="title"><div class="title-text">
      <h2 class="h2_anime_title"><a href="https://myanimelist.net/anime/8769/Lanterns"
  class="link-title">Lanterns</a></h2>
      </div>
      <span style="display: none;" class="js-members">690123</span>
      <span style="display: none;" class="js-score">6.94</span>
      <span style="display: none;" class="js-start_date">20101003</span>
      <span style="display: none;" class="js-title">Lanterns</span>
    </div>
    <div class="prodsrc">
      <div class="info"><span class="item">Oct 3, 2010</span><span class="item">
          <span>12 eps</span>, <span>24 min </span></span>
      </div>
    </div>
    <div class="genres js-genre" id="8769">
      <div class="genres-inner js-genre-inner"><span class="genre">
          <a href="/anime/genre/4/Comedy" title="Comedy">Comedy</a></span><span class="genre">
          <a href="/anime/genre/22/Romance" title="Romance">Romance</a></span></div>
    </div>
  </div>
  <div class="image"><a href="https://myanimelist.net/anime/8769/Lanterns"><img
    src="https://cdn.myanimelist.net/images/anime/1508/129576.jpg" width="167" alt="Lanterns"></a></div>
  <div class="synopsis js-synopsis">
    <p class="preline">Two sisters sell lanterns, 3 eps of their lives at a time.</p>
    <div class="properties">
      <div class="property"><span class="caption">Studio</span><span class="item"><a
        href="/anime/producer/436/AIC_Build" title="AIC Build">AIC Build</a></span></div>
      <div class="property"><span class="caption">Source</span><span class="item">Light novel</span></div>
      <div class="property"><span class="caption">Theme</span><span class="item"><a
        href="/anime/genre/69/Otaku_Culture" title="Otaku Culture">Otaku Culture</a></span></div>
      <div class="property"><span class="caption">Demographic</span><span class="item"><a
        href="/anime/genre/27/Shounen" title="Shounen">Shounen</a></span></div>
    </div>
  </div>
  <div class="information"><div class="scormem-item member" title="Members">690K</div></div>
</div>"""


def page(*cards: str, continuing: str = "") -> str:
    """A season page with cards under "TV (New)" and "TV (Continuing)"."""
    return f"""<!DOCTYPE html><html><head><title>
Fall 2010 - Anime - MyAnimeList.net
</title></head><body><div class="js-categories-seasonal">
<div class="seasonal-anime-list js-seasonal-anime-list js-seasonal-anime-list-key-1">
  <div class="anime-header">TV (New)</div>{"".join(cards)}</div>
<div class="seasonal-anime-list js-seasonal-anime-list js-seasonal-anime-list-key-1">
  <div class="anime-header">TV (Continuing)</div>{continuing}</div></div></body>
</html>
"""


def read(*changes: tuple[str, str]) -> Title:
    """The title of the card above after these replacements."""
    card = CARD
    for old, new in changes:
        assert old in card
        card = card.replace(old, new)
    (record,) = parse_season_page(page(card))
    return record


def test_card_is_read_with_every_field() -> None:
    assert read() == Title(
        id="8769",
        title="Lanterns",
        type="TV",
        source="Light novel",
        start_date="2010-10-03",
        episodes=12,
        score=6.94,
        members=690123,
        genres=["Comedy", "Romance"],
        genre_ids=[4, 22],
        themes=["Otaku Culture"],
        demographics=["Shounen"],
        studios=["AIC Build"],
        poster_url="https://cdn.myanimelist.net/images/anime/1508/129576.jpg",
        season="2010-fall",
    )


def test_page_is_read_from_bytes_and_text() -> None:
    assert parse_season_page(page(CARD).encode()) == parse_season_page(page(CARD))


def test_card_with_unknown_values_has_none_or_empty_lists() -> None:
    genres = CARD[CARD.index('<span class="genre">') : CARD.index("</div>", CARD.index("Romance</a>"))]
    studio = CARD[
        CARD.index('<span class="item"><a\n        href="/anime/producer') : CARD.index("</div>", CARD.index("AIC_"))
    ]
    record = read(
        (">6.94<", ">0<"),
        (">690123<", "><"),
        (">20101003<", ">00000000<"),
        ("12 eps", "? eps"),
        (genres, ""),
        (studio, '<span class="item nodata">Unknown</span>'),
        ('<span class="item">Light novel</span>', '<span class="item"></span>'),
        ("images/anime/1508/129576.jpg", "images/qm_50.gif"),
        ("js-anime-type-1", "js-anime-type-0"),
    )
    assert record == Title("8769", "Lanterns", themes=["Otaku Culture"], demographics=["Shounen"], season="2010-fall")


def test_card_without_image_and_hidden_figures_is_read() -> None:
    hidden = CARD[
        CARD.index('<span style="display: none;" class="js-members">') : CARD.index(
            '<span style="display: none;" class="js-title">'
        )
    ]
    record = read((hidden, ""), (CARD[CARD.index("<img") : CARD.index('</a></div>\n  <div class="synopsis')], ""))
    assert (record.members, record.score, record.start_date, record.poster_url) == (None, None, None, None)


def test_card_title_is_unescaped() -> None:
    record = read((">Lanterns</a>", '>&quot;Lamp&quot; &amp; Wind&#039;s &lt;3 "Tale"</a>'))
    assert record.title == """"Lamp" & Wind's <3 "Tale\""""


def test_card_lists_studios_and_themes_in_order() -> None:
    record = read(
        (">Studio<", ">Studios<"),
        (
            "AIC Build</a></span>",
            'AIC Build</a></span><span class="item"><a href="/anime/producer/2/B&amp;W">B&amp;W</a></span>',
        ),
        (">Theme<", ">Themes<"),
        (
            "Otaku Culture</a></span>",
            'Otaku Culture</a></span><span class="item"><a href="/anime/genre/23/School">School</a></span>',
        ),
    )
    assert record.studios == ["AIC Build", "B&W"]
    assert record.themes == ["Otaku Culture", "School"]


def test_card_with_an_explicit_genre_is_read() -> None:
    record = read(
        (
            '<a href="/anime/genre/22/Romance" title="Romance">Romance</a>',
            '<a href="/anime/genre/12/Hentai">Hentai</a>',
        )
    )
    assert record.genre_ids == [4, 12]


@pytest.mark.parametrize(("number", "kind"), [(3, "Movie"), (9, "TV Special"), (6, "Music"), (77, None)])
def test_card_type_is_read_from_its_class(number: int, kind: str | None) -> None:
    assert read(("js-anime-type-1", f"js-anime-type-{number}")).type == kind


def test_card_is_read_with_other_attributes_and_classes() -> None:
    record = read(
        ('class="js-anime-category-producer seasonal-anime js-seasonal-anime', 'class="new\n\tseasonal-anime'),
        (
            '<a href="https://myanimelist.net/anime/8769/Lanterns"\n  class="link-title">',
            '<a class="big link-title" data-x="" href="https://myanimelist.net/anime/8769/Lanterns">',
        ),
        ('style="display: none;" class="js-score"', 'class="hidden js-score" style="display: none;"'),
        ('<div class="property">', '<div data-x="1" class="first property last">'),
        (
            '<a href="/anime/genre/4/Comedy" title="Comedy">',
            '<a title="Comedy" class="x" href="/anime/genre/4/Comedy">',
        ),
    )
    assert record == read()


@pytest.mark.parametrize("lost", ["</div>", "</span>", "</a>"])
def test_card_with_an_unclosed_tag_loses_no_other_title(lost: str) -> None:
    cards = [CARD.replace("8769", number).replace("AIC", number) for number in ("1", "2", "3")]
    known = {record.id: record for record in parse_season_page(page(*cards))}
    for place in range(cards[0].count(lost)):
        parts = cards[0].split(lost)
        broken = lost.join(parts[: place + 1]) + lost.join(parts[place + 1 :])
        first, *others = parse_season_page(page(broken, *cards[1:]))
        assert (first.id, others) == ("1", [known["2"], known["3"]])


def test_page_lists_each_title_once() -> None:
    other = CARD.replace("8769", "5").replace("Lanterns", "Bells")
    records = parse_season_page(page(CARD, CARD, continuing=CARD + other))
    assert [(record.id, record.continuing) for record in records] == [("8769", False), ("5", True)]
    assert {record.season for record in records} == {"2010-fall"}


def test_page_without_cards_is_an_empty_list() -> None:
    assert parse_season_page(page()) == []


@pytest.mark.parametrize(
    ("html", "missing"),
    [
        ("", "empty"),
        ("bla\n", "</html>"),
        ("<html><body><h1>404 Not Found</h1></body></html>", "no list of titles"),
        ("<html><body><form action='/login.php'></form></body></html>", "no list of titles"),
        (page(CARD).replace("seasonal-anime-list", "list"), "no list of titles"),
        (page(CARD).replace("Fall 2010", "Later"), "title names no season"),
    ],
)  # fmt: skip
def test_page_in_another_layout_is_refused_and_names_what_is_missing(html: str, missing: str) -> None:
    with pytest.raises(PageLayoutError, match=missing):
        parse_season_page(html)


@pytest.mark.parametrize(
    ("changes", "missing", "id"),
    [
        ([('class="link-title"', "")], "no title with its address", "8769"),
        ([('class="link-title">Lanterns', 'class="link-title">')], "no title with its address", "8769"),
        ([("/anime/8769/", f"/anime/{'9' * 5000}/")], "no title with its address", "8769"),
        ([("/anime/8769/", "/manga/8769/")], "no title with its address", "8769"),
        ([("/anime/8769/", "/manga/8769/"), (' id="8769"', "")], "no title with its address", None),
        ([('class="genres js-genre"', "")], "'Lanterns' .* has no element for genres", "8769"),
    ],
)
def test_odd_card_is_an_unread_card_with_position_and_id_and_others_are_read(
    changes: list[tuple[str, str]], missing: str, id: str | None
) -> None:
    odd = CARD
    for old, new in changes:
        assert old in odd
        odd = odd.replace(old, new)
    other = CARD.replace("8769", "5")
    first, card, last = parse_season_page(
        page(other, odd, continuing=other.replace('"5"', '"6"').replace("/5/", "/6/"))
    )
    assert isinstance(card, UnreadCard) and (card.position, card.id) == (2, id)
    assert re.search(missing, card.missing)
    assert [entry.id for entry in (first, last)] == ["5", "6"]


@pytest.mark.parametrize(
    ("address", "page_url", "expected"),
    [
        ("/images/anime/1/2.jpg", "http://a.test/anime/season/2010/fall", "http://a.test/images/anime/1/2.jpg"),
        ("//cdn.a.test/images/anime/1/2.jpg", "http://a.test/", "http://cdn.a.test/images/anime/1/2.jpg"),
        (
            "../../../images/anime/1/2.jpg",
            "https://a.test/anime/season/2010/fall",
            "https://a.test/images/anime/1/2.jpg",
        ),
        ("/r/167x242/images/anime/1/2.jpg?s=3", "https://a.test/", "https://a.test/images/anime/1/2.jpg"),
        ("//[::1/images/anime/1/2.jpg", "https://a.test/", "//[::1/images/anime/1/2.jpg"),
    ],
)
def test_relative_address_of_a_poster_is_joined_to_the_pages(address: str, page_url: str, expected: str) -> None:
    html = page(CARD.replace("https://cdn.myanimelist.net/images/anime/1508/129576.jpg", address))
    (title,) = parse_season_page(html, page_url)
    assert isinstance(title, Title) and title.poster_url == expected


@pytest.mark.parametrize(
    ("episodes", "number"), [("12 eps", 12), ("1,234 eps", 1234), ("1&nbsp;234 eps", 1234), ("1.2K eps", 1200)]
)
def test_number_of_episodes_is_read_whole(episodes: str, number: int) -> None:
    assert read(("12 eps", episodes)).episodes == number


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9, 0.99])
def test_page_that_ends_too_early_raises_page_cut_error(share: float) -> None:
    whole = page(CARD)
    with pytest.raises(PageCutError) as caught:
        parse_season_page(whole[: int(len(whole) * share)])
    assert caught.value.retryable
