"""MyAnimeList's official API (version 2) as a `Source`: the same titles as on its pages, spelled as on its pages."""

import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr

from infra.errors import ConfigurationError
from tasks.catalogue.seasons import Season, parse_season, parse_seasons, quiet_days, season_of_date
from tasks.catalogue.source import SourcePage
from tasks.catalogue.titles import Details, Related, Title, UnreadCard
from tasks.crawl.api_access import ApiAccess
from tasks.crawl.http_response import Response
from tasks.errors import PageCutError, PageLayoutError, SeasonError, SiteError, excerpt
from tasks.myanimelist.fields import date_in, full_size
from tasks.myanimelist.label_ids import DEMOGRAPHIC_IDS
from tasks.myanimelist.page_addresses import season_path
from tasks.myanimelist.source import EXPLICIT_GENRE_IDS, GENRE_IDS, OLDEST_SEASON, MyAnimeList

_HEADER = "X-MAL-CLIENT-ID"
_LIMIT = 500  # titles per page, the most that the API gives
_MOST_TITLES = 10_000  # of a season; the largest have some 500
_FIELDS = (
    "id,title,main_picture,start_date,end_date,mean,num_list_users,nsfw,media_type,genres,num_episodes,start_season,"
    "source,rating,studios"
)

# Pages and API have all labels in the order of the alphabet, but the pages list these genres behind the others.
_LAST_GENRE_IDS = EXPLICIT_GENRE_IDS | {9}

_TYPES = {
    "tv": "TV",
    "ova": "OVA",
    "movie": "Movie",
    "special": "Special",
    "ona": "ONA",
    "music": "Music",
    "cm": "CM",
    "pv": "PV",
    "tv_special": "TV Special",
}
# In other cases, the first letter is a capital: "light_novel" is "Light novel".
_SOURCES = {"4_koma_manga": "4-koma manga"}
_RATINGS = {
    "g": "G - All Ages",
    "pg": "PG - Children",
    "pg_13": "PG-13 - Teens 13 or older",
    "r": "R - 17+ (violence & profanity)",
    "r+": "R+ - Mild Nudity",
    "rx": "Rx - Hentai",
}
# In other cases, each word has a capital: "side_story" is "Side Story".
_RELATIONS = {"spin_off": "Spin-Off"}


class MyAnimeListApi(MyAnimeList):
    """MyAnimeList's API at `base_url`, such as https://api.myanimelist.net/v2.

    Ids, genres and posters are those of the pages, so both sources share one collection. A list of a season already
    has the ratings; only relations need a title's detail page. Without a client id only kept pages can be read.
    """

    def __init__(self, base_url: str, client_id: SecretStr | None = None) -> None:
        super().__init__(base_url)
        self.access = ApiAccess(self.site_url, _HEADER, client_id, self._check_response) if client_id else None
        self._has_answered = False

    def pages(self, selection: str, started: float) -> list[SourcePage]:
        """The first page of each season of a range such as "2015-winter..now"; raises SeasonError if it is invalid."""
        return [
            SourcePage(self._season_url(season, 0), str(season), quiet_days(season, started), str(season))
            for season in parse_seasons(selection)
        ]

    def next_page(self, page: SourcePage, body: bytes) -> SourcePage | None:
        """The next page of a season's list.

        Raises:
            PageLayoutError: the API names a next page that is not this list's, or that omits or repeats titles.
        """
        paging = _object(body).get("paging")
        address = paging.get("next") if isinstance(paging, dict) else None
        if not address:
            return None
        here = urlsplit(page.url)
        try:
            there = urlsplit(str(address))
            offset = int(parse_qs(there.query)["offset"][0])
        except (ValueError, KeyError):
            raise PageLayoutError("The address of the next page has no offset.") from None
        if (there.netloc.lower(), there.path) != (here.netloc.lower(), here.path):
            raise PageLayoutError(f"The next page is at another address, {excerpt(address)}.")
        offset_here = int(parse_qs(here.query)["offset"][0])
        if not offset_here < offset <= min(offset_here + _LIMIT, _MOST_TITLES):
            raise PageLayoutError(f"The next page begins after {offset} titles, this one after {offset_here}.")
        url = self._season_url(parse_season(page.group), offset)
        return SourcePage(url, f"{page.group} from title {offset + 1} on", page.quiet_days, page.group)

    def parse_page(self, page: SourcePage, body: bytes) -> Sequence[Title | UnreadCard]:
        """The titles of a page of a season's list; raises PageLayoutError if it is another season's."""
        document = _object(body)
        entries = document.get("data")
        if not isinstance(entries, list):
            raise PageLayoutError(f'This is not a list of titles: it has no array "data"{_said(document)}.')
        season = _season(document.get("season"))
        if season and season != page.group:
            raise PageLayoutError(f"This is the list of another season, {season}.")
        nodes = [entry.get("node") if isinstance(entry, dict) else None for entry in entries]
        return [_title_or_unread(position, node, page.group) for position, node in enumerate(nodes, start=1)]

    def detail_page(self, title: Title, started: float) -> SourcePage:
        """The API's detail page of a title, as old as the title's season."""
        season = parse_season(title.season) if title.season else OLDEST_SEASON
        url = f"{self.site_url}/anime/{title.id}?fields={_FIELDS},related_anime"
        return SourcePage(url, title.title, quiet_days(season, started))

    def parse_details(self, body: bytes) -> Details:
        """What a detail page says, with its relations to other anime."""
        title = _title(_object(body))
        return Details(title.id, title.title, title.start_date, title.rating, title.aired_to, title.related)

    def normalise(self, body: bytes) -> bytes:
        """The page as it is: nothing in it differs from response to response."""
        return body

    def _season_url(self, season: Season, offset: int) -> str:
        # Without `nsfw` the API omits many titles that the pages list, and not only explicit ones.
        query = f"limit={_LIMIT}&offset={offset}&nsfw=true&fields={_FIELDS}"
        return f"{self.site_url}{season_path(season)}?{query}"

    def _check_response(self, response: Response) -> None:
        """Tell an invalid client id from a host that refuses us.

        The API answers 401 for an invalid key, but 400 or 403 if the client id is unknown. It also answers 403 to those
        who send too many requests. A 403 is thus the client id's fault only if no request was answered before it.

        Raises:
            ConfigurationError: the client id is invalid.
            SiteError: the API explains what was wrong with the request.
        """
        status = response.status
        if status in (200, 304, 404):
            self._has_answered = True
        said = _said_in(response.body) if 400 <= status < 500 else None
        is_about_id = status == 401 or (status == 400 and "client id" in (said or "").lower())
        if is_about_id or (status == 403 and said is not None and not self._has_answered):
            raise ConfigurationError(
                f"The API at {self.site_url} does not accept the client id in MAL_CLIENT_ID. Compare it with "
                "https://myanimelist.net/apiconfig, or try again after some hours if it had too many requests.",
                f"It answered {response.status_line}{said or ''}.",
            )
        if status == 400:
            raise SiteError(f"{response}{said or ''}.")


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object of a response.

    Raises:
        PageLayoutError: it is something else.
        PageCutError: its end is missing, or all of it.
    """
    if not body.strip():
        raise PageCutError("The response is empty.")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        if body.lstrip().startswith(b"{") and not body.rstrip().endswith(b"}"):
            raise PageCutError("The response was cut short: the end of its JSON is missing.") from None
        raise PageLayoutError("The response is not JSON.") from None
    if not isinstance(document, dict):
        raise PageLayoutError("The response is not a JSON object.")
    return document


def _said_in(body: bytes) -> str | None:
    """What an error of the API says, such as ": invalid_token, token is invalid"; None if the body is no such error."""
    if not body.strip():
        return ""
    try:
        document = _object(body)
    except PageLayoutError:
        return None
    return _said(document) if "error" in document or "message" in document else None


def _said(document: dict[str, Any]) -> str:
    texts = [text for name in ("error", "message") if (text := _text(document.get(name)))]
    return f": {excerpt(', '.join(texts))}" if texts else ""


def _title_or_unread(position: int, node: object, group: str) -> Title | UnreadCard:
    try:
        return _title(node, group)
    except PageLayoutError as error:
        id = _id(node.get("id")) if isinstance(node, dict) else None
        return UnreadCard(position, str(error), None if id is None else str(id))


def _title(node: object, group: str | None = None) -> Title:
    """The title that a node describes. Fields that are absent, or not as documented, are unknown.

    Raises:
        PageLayoutError: it has no id or no title.
    """
    if not isinstance(node, dict):
        raise PageLayoutError('An entry of the list has no object "node".')
    title_id, title = _id(node.get("id")), _text(node.get("title"))
    if title_id is None or title is None:
        raise PageLayoutError(f'A title has no "id" or no "title": {excerpt(node)}.')
    start_date, end_date = _date(node.get("start_date")), _date(node.get("end_date"))
    labels = _named(node.get("genres"))
    genres = sorted((label for label in labels if label[0] in GENRE_IDS), key=lambda label: label[0] in _LAST_GENRE_IDS)
    others = [(id, name) for id, name in labels if id not in GENRE_IDS]
    return Title(
        id=str(title_id),
        title=title,
        type=_spelled(node.get("media_type"), _TYPES),
        source=_spelled(node.get("source"), _SOURCES),
        start_date=start_date,
        episodes=_count(node.get("num_episodes")) or None,  # 0 if unknown
        score=_score(node.get("mean")),
        members=_count(node.get("num_list_users")),
        genres=[name for _, name in genres],
        genre_ids=[id for id, _ in genres],
        themes=[name for id, name in others if id not in DEMOGRAPHIC_IDS.values()],
        demographics=[name for id, name in others if id in DEMOGRAPHIC_IDS.values()],
        studios=[name for _, name in _named(node.get("studios"))],
        poster_url=_poster(node.get("main_picture")),
        season=_season(node.get("start_season")) or _season_of(start_date) or group,
        rating=_rating(node, {id for id, _ in genres}),
        aired_to=None if end_date == start_date else end_date,  # the pages give one date for a title of one day
        related=_related(node.get("related_anime")),
    )


def _text(value: object) -> str | None:
    return (value.strip() or None) if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _id(value: object) -> int | None:
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) else _count(value)


def _score(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and 0 < value <= 10 and value is not True else None


def _date(value: object) -> str | None:
    """The ISO date in "2017-10-04", "2017-10" or "2017"."""
    text = _text(value) or ""
    return date_in(text.replace("-", "")) if re.fullmatch(r"\d{4}(?:-\d\d){0,2}", text, re.ASCII) else None


def _season(value: object) -> str | None:
    """The season in an object such as {"year": 2017, "season": "fall"}."""
    return _known_season(f"{value.get('year')}-{value.get('season')}") if isinstance(value, dict) else None


def _known_season(text: str) -> str | None:
    try:
        return str(parse_season(text))
    except SeasonError:
        return None


def _season_of(date: str | None) -> str | None:
    season = season_of_date(date)
    return _known_season(str(season)) if season else None


def _named(value: object) -> list[tuple[int, str]]:
    """The ids and names in a list of objects; empty, thus unknown, unless each has both."""
    entries = [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
    found = [(id, name) for each in entries if (id := _id(each.get("id"))) and (name := _text(each.get("name")))]
    return found if isinstance(value, list) and len(found) == len(value) else []


def _spelled(value: object, spellings: dict[str, str]) -> str | None:
    """How the pages spell a type or a source; None for "unknown"."""
    text = (_text(value) or "unknown").lower()
    return None if text == "unknown" else spellings.get(text, text.replace("_", " ").capitalize())


def _rating(node: dict[str, Any], genre_ids: set[int]) -> str | None:
    """How the pages spell the rating. Titles that are only marked as pornographic by `nsfw` are "Rx", too."""
    rating = _spelled(node.get("rating"), _RATINGS)
    is_marked = node.get("nsfw") == "black" and not genre_ids & EXPLICIT_GENRE_IDS
    return _RATINGS["rx"] if is_marked else rating


def _poster(value: object) -> str | None:
    """The address of a picture in the size and on the host of the pages."""
    sizes = value if isinstance(value, dict) else {}
    return full_size(_text(sizes.get("medium")) or _text(sizes.get("large")) or "")


def _related(value: object) -> list[Related]:
    related = []
    for entry in value if isinstance(value, list) else []:
        node = entry.get("node") if isinstance(entry, dict) else None
        relation = _text(entry.get("relation_type")) if isinstance(node, dict) else None
        if isinstance(node, dict) and relation and (title_id := _id(node.get("id"))):
            spelled = _RELATIONS.get(relation.lower(), relation.replace("_", " ").title())
            related.append(Related(spelled, str(title_id), _text(node.get("title")) or ""))
    return related
