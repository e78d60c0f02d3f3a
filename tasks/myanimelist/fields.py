"""Reads values of pages: dates, numbers, genres, poster addresses. Detects pages cut short."""

import re

from bs4 import Tag

from tasks.crawl.addresses import joined
from tasks.errors import PageCutError
from tasks.myanimelist.page_addresses import SITE_URL

# The site's host of pictures has each as .jpg and as .webp, and so has the API's host.
_PICTURE = re.compile(r"https?://(?:api-)?cdn\.myanimelist\.net(/images/anime/.+)\.(?:jpg|webp)")
_UNITS = r"(?: (?:eps?|episodes?|members?|users?))?"
# A point in "1.234" may be a thousands separator or a decimal point, and so may a comma in "1,234K".
_NUMBER = re.compile(
    rf"(?:(?P<grouped>\d{{1,3}}(?:,\d{{3}}){{1,4}}|\d{{1,3}}(?:\.\d{{3}}){{2,4}}|\d{{1,3}}(?:[ '\u2019]\d{{3}}){{1,4}})"
    rf"|(?P<digits>\d{{1,15}})(?:(?:\.(?P<point>\d+)|,(?P<comma>\d{{1,2}}))? ?(?P<suffix>[KMB]))?){_UNITS}",
    re.IGNORECASE,
)
_ZEROS = {"": 0, "K": 3, "M": 6, "B": 9}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# Characters from the end in which `</html>` is searched: proxies and browser extensions append to pages.
_END_LENGTH = 1024


def whole_page(html: str | bytes) -> str:
    """The text of a complete page.

    A connection can end early without an error, and a parser would then silently read half of the titles. Every page
    of the site, whatever its layout, ends with `</html>`.

    Raises:
        PageCutError: the end of the page is missing, or all of it.
    """
    page = html if isinstance(html, str) else html.decode("utf-8", errors="replace")
    if not page.strip():
        raise PageCutError("The page is empty.")
    if "</html" not in page[-_END_LENGTH:].lower():
        raise PageCutError("The page was cut short: its end, </html>, is missing.")
    return page


def tags_in(tag: Tag) -> list[Tag]:
    """The direct child elements of an element."""
    return [child for child in tag.contents if isinstance(child, Tag)]


def text_of(tag: Tag | None) -> str | None:
    """The text of an element with white space collapsed; None if it is empty."""
    return " ".join(_text(tag).split()) or None if tag else None


def title_of(tag: Tag | None) -> str | None:
    """A title as the site writes it, double spaces included; None if it is empty."""
    return _text(tag).strip() or None if tag else None


def _text(tag: Tag) -> str:
    return tag.string or tag.get_text()  # `string`, None if there are several, takes a fifth of the time


def caption_of(tag: Tag) -> str:
    """The caption of a field in the singular: "Studios:" is "Studio"."""
    return (text_of(tag) or "").removesuffix(":").removesuffix("s")


def known(text: str | None) -> str | None:
    """A field's text, None if it only says that the value is unknown."""
    return None if text is None or text.lower() in {"", "unknown", "none", "n/a", "-", "?"} else text


def number_in(text: str | None) -> int | None:
    """A whole number such as "762", "1,234,567", "174K" or "1.2M"; None if the text is anything else or ambiguous."""
    match = _NUMBER.fullmatch(" ".join((text or "").split()))
    if not match:
        return None
    if match["grouped"]:
        return int(re.sub(r"\D", "", match["grouped"]))
    digits, fraction = match["digits"], match["point"] or match["comma"] or ""
    zeros = _ZEROS[(match["suffix"] or "").upper()]
    return int(digits + fraction.ljust(zeros, "0")) if len(fraction) <= zeros else None


def score_in(text: str | None) -> float | None:
    """A score from 1 to 10, such as "8.52" or "8,52"; None for "N/A" and 0, which mean that there is no score."""
    match = re.fullmatch(r"(\d{1,2})(?:(?:\.|,(?=\d\d?\b))(\d+))?(?: ?/ ?10)?", " ".join((text or "").split()))
    score = float(f"{match[1]}.{match[2] or 0}") if match else 0
    return score if 0 < score <= 10 else None


def date_in(text: str | None) -> str | None:
    """The ISO form of "20101003", "20101000", "Oct 3, 2010", "Oct 2010" or "2010", without unknown parts."""
    compact = re.fullmatch(r"\s*(\d{4})(\d\d)?(\d\d)?\s*", text or "")
    words = re.search(r"(?:([A-Za-z]{3})[a-z]*\.?,? +)?(?:(\d{1,2}), +)?(\d{4})\b", text or "")
    if compact:
        year, month, day = (int(part or 0) for part in compact.groups())
    elif words:
        name = (words[1] or "").lower()
        year, day = int(words[3]), int(words[2] or 0)
        month = _MONTHS.index(name) + 1 if name in _MONTHS else 0
    else:
        return None
    if not year:
        return None
    if not 1 <= month <= 12:
        return f"{year:04}"
    return f"{year:04}-{month:02}-{day:02}" if 1 <= day <= 31 else f"{year:04}-{month:02}"


def season_in(text: str | None) -> str | None:
    """The season in a text such as "Fall 2010", as "2010-fall"."""
    match = re.search(r"\b(winter|spring|summer|fall) (\d{4})\b", text or "", re.IGNORECASE)
    return f"{match[2]}-{match[1].lower()}" if match else None


def anime_id(address: str) -> str | None:
    """The id in the address of a detail page; None for other addresses."""
    match = re.search(r"/anime/(\d{1,18})(?:/[^/]*)?$", address)
    return str(int(match[1])) if match else None


def attribute(tag: Tag, name: str) -> str:
    """The text of an attribute, "" if the element does not have it."""
    value = tag.get(name) or ""
    return value if isinstance(value, str) else " ".join(value)


def genre_links(tag: Tag) -> list[tuple[int, str]]:
    """Id and name of each genre, theme or demographic that an element links to, in the page's order."""
    found = []
    for link in tags_in(tag):
        match = re.search(r"/anime/genre/(\d{1,9})(?!\d)", attribute(link, "href"))
        name = text_of(link)
        if match and name:
            found.append((int(match[1]), name))
    return found


def producer_names(tag: Tag) -> list[str]:
    """The names of the companies that an element links to."""
    links = (link for link in tags_in(tag) if "/anime/producer/" in attribute(link, "href"))
    return [name for link in links if (name := text_of(link))]


def poster_address(tag: Tag | None, page_url: str = SITE_URL) -> str | None:
    """The address of a poster in full size; None for a placeholder (a question mark, the site's icon).

    Lazily loaded images have their address in `data-src`. The address of a thumbnail,
    `/r/167x242/images/anime/...jpg?s=...`, contains that of the original. Addresses may be relative to the page's.
    """
    if tag is None:
        return None
    for name in ("data-src", "src", "data-srcset", "srcset"):
        address = attribute(tag, name).strip().split(" ")[0].rstrip(",")
        if poster := full_size(address, page_url):
            return poster
    return None


def full_size(address: str, page_url: str = SITE_URL) -> str | None:
    """The address of the original of a poster as .jpg; None if the address is not that of a title's poster."""
    if not re.search(r"(?:^|/)images/anime/", address):  # all other addresses are placeholders
        return None
    address = re.sub(r"(^|/)r/\d+x\d+/", r"\1", address).partition("?")[0]
    try:
        address = joined(page_url, address)
    except ValueError:
        return address  # the download says that it is invalid
    picture = _PICTURE.fullmatch(address)
    return f"https://cdn.myanimelist.net{picture[1]}.jpg" if picture else address
