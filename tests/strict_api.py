"""MyAnimeList's API on loopback, as strict as its documentation: it refuses whatever the documentation does not allow.

with strict_api(nodes_of(titles, poster_host)) as api:
    collect(api.url)
api.requests
"""

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from infra.local.site.invented_titles import InventedTitle, PosterState
from infra.local.site.pages import poster_path

CLIENT_ID = "6a1c0ffee5ec12e7deadbeef00c0ffee"
Node = dict[str, Any]
Response = tuple[int, Any, dict[str, str]]  # status, JSON or bytes, headers

_DEFAULT_FIELDS = {"id", "title", "main_picture"}
_FIELDS = _DEFAULT_FIELDS | {
    *("alternative_titles", "start_date", "end_date", "synopsis", "mean", "rank", "popularity", "num_list_users"),
    *("num_scoring_users", "nsfw", "genres", "created_at", "updated_at", "media_type", "status", "num_episodes"),
    *("start_season", "broadcast", "source", "average_episode_duration", "rating", "studios"),
}
_DETAIL_FIELDS = _FIELDS | {"pictures", "background", "related_anime", "related_manga", "recommendations", "statistics"}
_RATINGS = {
    "PG - Children": "pg",
    "PG-13 - Teens 13 or older": "pg_13",
    "R - 17+ (violence & profanity)": "r",
    "R+ - Mild Nudity": "r+",
    "Rx - Hentai": "rx",
    None: None,
}


def nodes_of(titles: Sequence[InventedTitle], site_url: str) -> list[Node]:
    """What the API says about titles of the built-in site, whose posters are at `site_url`."""
    return [_without_unknown(_node(title, site_url)) for title in titles]


def _node(title: InventedTitle, site_url: str) -> Node:
    year, season = title.season.split("-")
    picture = f"{site_url}{poster_path(title)}"
    labels = (*title.demographics, *title.genres, *title.themes)
    is_explicit = any(label.name == "Hentai" for label in title.genres)
    return {
        "id": title.mal_id,
        "title": title.title,
        "main_picture": None
        if title.poster is PosterState.PLACEHOLDER
        else {"medium": picture, "large": picture.replace(".jpg", "l.jpg")},
        "start_date": title.start_date,
        # The pages give only the first day of a title that is on air for one day.
        "end_date": title.aired_to or (title.start_date if title.episodes == 1 else None),
        "start_season": {"year": int(year), "season": season},
        "mean": title.score,
        "num_list_users": title.members,
        "nsfw": "gray" if is_explicit else "white",
        "media_type": title.type.lower().replace(" ", "_"),
        "status": "finished_airing",
        "genres": [{"id": label.id, "name": label.name} for label in labels],
        "num_episodes": title.episodes or 0,
        "source": title.source and title.source.lower().replace(" ", "_").replace("-", "_"),
        "studios": [{"id": label.id, "name": label.name} for label in title.studios],
        "rating": _RATINGS[title.rating],
        "related_anime": [
            {
                "node": {"id": relation.mal_id, "title": relation.title},
                "relation_type": relation.kind.lower().replace(" ", "_").replace("-", "_"),
            }
            for relation in title.related
        ],
    }


def _without_unknown(node: Node) -> Node:
    return {name: value for name, value in node.items() if value is not None and value != []}


@dataclass
class StrictApi:
    """The API over `nodes`, and what was requested: paths with their queries, and headers.

    `change` may replace each response but that for robots.txt. It gets the path with its query, and the response.
    """

    nodes: list[Node]
    url: str = ""
    change: Callable[[str, Response], Response] = lambda path, response: response
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    def response_to(self, target: str, headers: dict[str, str]) -> Response:
        """The response to a request, as documented."""
        path, query = urlsplit(target).path, parse_qs(urlsplit(target).query, keep_blank_values=True)
        if "X-MAL-CLIENT-ID" not in headers:
            return _error(403, "forbidden", "")
        if headers["X-MAL-CLIENT-ID"] != CLIENT_ID:
            return _error(400, "bad_request", "Invalid client id")
        season = re.fullmatch(r"/v2/anime/season/(\d{4})/(winter|spring|summer|fall)", path)
        detail = re.fullmatch(r"/v2/anime/(\d+)", path)
        known = _FIELDS if season else _DETAIL_FIELDS
        allowed = {"limit", "offset", "nsfw", "fields", "sort"} if season else {"fields"}
        if wrong := [name for name, values in query.items() if name not in allowed or len(values) > 1]:
            return _error(400, "bad_request", f"Invalid parameter {wrong[0]}")
        given = {name: values[0] for name, values in query.items()}
        fields = {name for name in given.get("fields", "").split(",") if name}
        if not fields <= known:
            return _error(400, "bad_request", "Invalid fields")
        fields |= _DEFAULT_FIELDS
        if season:
            return self._season(int(season[1]), season[2], given, fields)
        for node in self.nodes if detail else []:
            if node["id"] == int(detail[1]):  # type: ignore[index]
                return 200, _only(node, fields), {}
        return _error(404, "not_found", "")

    def _season(self, year: int, season: str, given: dict[str, str], fields: set[str]) -> Response:
        limit, offset = given.get("limit", "100"), given.get("offset", "0")
        if not limit.isdecimal() or not 1 <= int(limit) <= 500 or not offset.isdecimal():
            return _error(400, "bad_request", "Invalid limit or offset")
        if given.get("nsfw", "false") not in ("true", "false"):
            return _error(400, "bad_request", "Invalid nsfw")
        listed = [node for node in self.nodes if node.get("start_season") == {"year": year, "season": season}]
        if not listed:
            return _error(404, "not_found", "")
        listed = [node for node in listed if given.get("nsfw") == "true" or node.get("nsfw", "white") == "white"]
        first, last = int(offset), int(offset) + int(limit)
        paging = {}
        if last < len(listed):
            query = urlencode({**given, "offset": last}, safe=",")
            paging["next"] = f"{self.url}/v2/anime/season/{year}/{season}?{query}"
        data = [{"node": _only(node, fields)} for node in listed[first:last]]
        return 200, {"data": data, "paging": paging, "season": {"year": year, "season": season}}, {}


def _only(node: Node, fields: set[str]) -> Node:
    return {name: value for name, value in node.items() if name in fields}


def _error(status: int, error: str, message: str) -> Response:
    return status, {"error": error, "message": message}, {}


@contextmanager
def strict_api(nodes: list[Node]) -> Iterator[StrictApi]:
    """Serves the API on loopback while the block runs."""
    api = StrictApi(nodes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            headers = dict(self.headers.items())
            api.requests.append((self.path, headers))
            response = api.response_to(self.path, headers)
            status, content, more = api.change(self.path, response) if self.path != "/robots.txt" else response
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json; charset=UTF-8")
            self.send_header("Content-Length", str(len(body)))
            for name, value in more.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        api.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
