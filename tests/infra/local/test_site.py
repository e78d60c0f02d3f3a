"""The small site: titles, posters, pages as the project's parsers read them, and the server."""

import http.client
import io
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from infra.errors import StackError
from infra.local.site.drawing import poster_jpeg
from infra.local.site.invented_titles import EXPLICIT_GENRE, SEASONS, InventedTitle, PosterState, invented_titles
from infra.local.site.pages import detail_page, not_found_page, poster_path, season_page
from tasks.catalogue.titles import Related, Title
from tasks.errors import PageLayoutError
from tasks.myanimelist.detail_pages import parse_detail_page
from tasks.myanimelist.season_pages import parse_season_page
from tests.small_site import small_site

BASE_URL = "http://127.0.0.1:8764"
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def titles() -> list[InventedTitle]:
    return invented_titles(600, seed=0)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with small_site(titles=60, seed=3) as address:
        yield address


def labels(record: Title) -> dict[str, object]:
    return {
        "id": record.id,
        "title": record.title,
        "type": record.type,
        "source": record.source,
        "start_date": record.start_date,
        "episodes": record.episodes,
        "score": record.score,
        "members": record.members,
        "genres": record.genres,
        "genre_ids": record.genre_ids,
        "themes": record.themes,
        "demographics": record.demographics,
        "studios": record.studios,
        "poster_url": record.poster_url,
    }


def expected(title: InventedTitle) -> dict[str, object]:
    without_poster = title.poster is PosterState.PLACEHOLDER
    return {
        "id": str(title.mal_id),
        "title": title.title,
        "type": title.type,
        "source": title.source,
        "start_date": title.start_date,
        "episodes": title.episodes,
        "score": title.score,
        "members": title.members,
        "genres": [genre.name for genre in title.genres],
        "genre_ids": [genre.id for genre in title.genres],
        "themes": [theme.name for theme in title.themes],
        "demographics": [demographic.name for demographic in title.demographics],
        "studios": [studio.name for studio in title.studios],
        "poster_url": None if without_poster else BASE_URL + poster_path(title),
    }


# --- titles


def test_titles_depend_on_the_seed_only() -> None:
    assert invented_titles(40, seed=5) == invented_titles(40, seed=5)
    assert invented_titles(40, seed=5) != invented_titles(40, seed=6)


def test_title_ids_and_names_are_unique(titles: list[InventedTitle]) -> None:
    assert len({title.mal_id for title in titles}) == len({title.title for title in titles}) == 600


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_genres_are_frequent_except_for_five(seed: int) -> None:
    counts = Counter(
        genre.name
        for title in invented_titles(600, seed)
        for genre in title.genres
        if title.poster is PosterState.DRAWN and genre != EXPLICIT_GENRE
    )
    assert sum(count >= 60 for count in counts.values()) == 8
    assert sum(count < 50 for count in counts.values()) == 5


def test_relations_are_mutual_within_a_franchise(titles: list[InventedTitle]) -> None:
    by_id = {title.mal_id: title for title in titles}
    related = [title for title in titles if title.related]
    assert 150 <= len(related) <= 330
    for title in related:
        for relation in title.related:
            other = by_id[relation.mal_id]
            assert other.franchise == title.franchise
            assert title.mal_id in {back.mal_id for back in other.related}
            assert (other.title, other.type) == (relation.title, relation.type)


def test_sequels_start_after_their_predecessors(titles: list[InventedTitle]) -> None:
    for earlier, later in pairwise(titles):
        if earlier.franchise == later.franchise:
            assert SEASONS.index(earlier.season) <= SEASONS.index(later.season)


@pytest.mark.parametrize("count", [20, 600])
def test_titles_include_every_special_case(count: int) -> None:
    titles = invented_titles(count)
    assert {title.poster for title in titles} == set(PosterState)
    assert any(title.genres == (EXPLICIT_GENRE,) for title in titles)
    assert any(title.genres == () for title in titles)


def test_titles_are_at_least_20() -> None:
    with pytest.raises(ValueError, match="at least 20 titles, not 3"):
        invented_titles(3)


# --- posters


def test_poster_is_a_reproducible_jpeg_of_225_by_318(titles: list[InventedTitle]) -> None:
    jpeg = poster_jpeg(titles[0], seed=0)
    assert jpeg == poster_jpeg(titles[0], seed=0)
    assert jpeg != poster_jpeg(titles[0], seed=1)
    with Image.open(io.BytesIO(jpeg)) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (225, 318), "RGB")


def test_posters_show_genres_imperfectly(titles: list[InventedTitle]) -> None:
    """A linear model on thumbnails of 16 x 16 pixels ranks unseen posters above chance, not perfectly."""
    drawn = [title for title in titles if title.poster is PosterState.DRAWN][:360]
    thumbnails = []
    for title in drawn:
        with Image.open(io.BytesIO(poster_jpeg(title))) as image:
            thumbnails.append(np.asarray(image.resize((16, 16)), dtype=np.float64).ravel() / 255)
    features = np.asarray(thumbnails) - np.mean(thumbnails, axis=0)
    rankings = []
    for name in ("Action", "Comedy", "Fantasy", "Romance", "Horror"):
        present = np.array([name in {genre.name for genre in title.genres} for title in drawn])
        # The titles of a franchise are adjacent, so that the cut splits at most one franchise.
        seen, unseen = slice(0, 260), slice(260, None)
        gram = features[seen] @ features[seen].T + 30 * np.eye(260)
        scores = features[unseen] @ features[seen].T @ np.linalg.solve(gram, present[seen] - present[seen].mean())
        positive, negative = scores[present[unseen]], scores[~present[unseen]]
        rankings.append(np.mean(positive[:, None] > negative[None, :]))  # area under the ROC curve
    assert 0.6 < np.mean(rankings) < 0.95


# --- pages, read by the project's parsers


def test_season_pages_parse_to_the_invented_titles(titles: list[InventedTitle]) -> None:
    for season in SEASONS:
        records = parse_season_page(season_page(titles, season, BASE_URL))
        listed = {str(title.mal_id): title for title in titles if season in title.pages}
        assert {record.id for record in records} == set(listed)
        assert len(records) == len(listed)
        for record in records:
            title = listed[record.id]
            assert labels(record) == expected(title)
            assert (record.season, record.continuing) == (season, title.season != season)


def test_detail_pages_parse_to_the_invented_titles(titles: list[InventedTitle]) -> None:
    franchises = Counter(title.franchise for title in titles)
    chosen = [title for title in titles if franchises[title.franchise] > 2 or title.genres in ((), (EXPLICIT_GENRE,))]
    assert len(chosen) > 50
    for title in [*chosen, *titles[:50]]:
        record = parse_detail_page(detail_page(title, BASE_URL))
        assert (record.id, record.title) == (str(title.mal_id), title.title)
        assert (record.start_date, record.aired_to, record.rating) == (title.start_date, title.aired_to, title.rating)
        assert record.related == [Related(r.kind, str(r.mal_id), r.title) for r in title.related]


def test_not_found_page_is_not_a_season_page() -> None:
    with pytest.raises(PageLayoutError):
        parse_season_page(not_found_page(BASE_URL))


# --- server


def test_season_page_links_to_its_posters(base_url: str) -> None:
    known = {str(title.mal_id): title for title in invented_titles(60, seed=3)}
    season = next(title.season for title in known.values() if title.poster is PosterState.DRAWN)
    with urlopen(f"{base_url}/anime/season/{season.replace('-', '/')}") as response:
        records = parse_season_page(response.read())
    posters = 0
    for record in records:
        if known[record.id].poster is PosterState.DRAWN:
            assert record.poster_url is not None
            with urlopen(record.poster_url) as response:
                assert response.headers["Content-Type"] == "image/jpeg"
                assert response.read() == poster_jpeg(known[record.id], seed=3)
            posters += 1
    assert posters > 0


def test_detail_page_is_served_with_and_without_its_name(base_url: str) -> None:
    title = invented_titles(60, seed=3)[0]
    for path in (f"/anime/{title.mal_id}", f"/anime/{title.mal_id}/any_name"):
        with urlopen(base_url + path) as response:
            assert parse_detail_page(response.read()).title == title.title


@pytest.mark.parametrize(
    "path", ["/anime/season/1931/spring", "/anime/season/2016/monsoon", "/anime/1", "/images/x.jpg", "/"]
)
def test_unknown_path_is_404(base_url: str, path: str) -> None:
    with pytest.raises(HTTPError) as caught:
        urlopen(base_url + path)
    with caught.value as response:
        assert response.code == 404


def test_posters_may_be_missing_or_truncated(base_url: str) -> None:
    by_state = {title.poster: title for title in invented_titles(60, seed=3)}
    with pytest.raises(HTTPError) as caught:
        urlopen(base_url + poster_path(by_state[PosterState.MISSING]))
    with caught.value as response:
        assert response.code == 404
    with urlopen(base_url + poster_path(by_state[PosterState.BROKEN])) as response:
        broken = response.read()
    with Image.open(io.BytesIO(broken)) as image, pytest.raises(OSError, match="truncated"):
        image.load()


def test_server_keeps_connections_open_and_supports_etags(base_url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(base_url).netloc)
    try:
        connection.request("GET", "/robots.txt")
        first = connection.getresponse()
        assert first.read().startswith(b"User-agent")
        kept = connection.sock
        connection.request("GET", "/robots.txt", headers={"If-None-Match": first.headers["ETag"]})
        second = connection.getresponse()
        assert (second.status, second.read()) == (304, b"")
        connection.request("HEAD", "/images/qm_50.gif")
        third = connection.getresponse()
        assert (third.status, third.headers["Content-Type"], third.read()) == (200, "image/gif", b"")
        assert connection.sock is kept
    finally:
        connection.close()


def test_server_ignores_clients_that_disconnect(base_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    address = urlsplit(base_url)
    for _ in range(5):
        with socket.create_connection((address.hostname or "", address.port or 0)) as client:
            # Reset the connection instead of closing it, so that the server notices while it writes.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            client.sendall(b"GET /anime/season/2016/spring HTTP/1.1\r\nHost: x\r\n\r\n")
    with urlopen(Request(f"{base_url}/robots.txt")) as response:
        assert response.status == 200
    assert capfd.readouterr() == ("", "")


def test_taken_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(StackError, match=f"127.0.0.1:{port} .*Choose another port"),
            small_site(20, port=port),
        ):
            pass


@pytest.mark.stack
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_prints_the_address_and_exits_silently(number: signal.Signals) -> None:
    command = [sys.executable, "-m", "infra.local.site", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with urlopen(f"{address}/robots.txt") as response:
            assert response.status == 200
        process.send_signal(number)
        rest, errors = process.communicate(timeout=10)
    assert (process.returncode, rest, errors) == (0, "", "")
