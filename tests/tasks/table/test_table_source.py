"""A table as a source: titles, posters by name in a folder, collections, genre ids that the collection knows."""

import gzip
from pathlib import Path

import pandas as pd
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra.errors import NotFound
from infra.store import Store
from ml.data.splits import PARTS, PartTable, franchises
from ml.errors import DatasetError, SettingError
from tasks.catalogue.catalogue_table import catalogue_of, read_catalogue, write_catalogue
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.genre_ids import known_genre_ids, with_genre_ids
from tasks.catalogue.source import Source
from tasks.catalogue.titles import Related, Title
from tasks.errors import DriftError, NotOnSite, SiteError
from tasks.source_choice import source_for
from tasks.table.configuration import TableConfig, collection_of, name_of
from tasks.table.poster_folder import poster_addresses, upload_posters
from tasks.table.source import Table
from tests.storage import new_bucket, storage_emulator

ADDRESS = "gs://bucket/tables/1/Films.csv"


def titles_of(text: str, posters: dict[str, str] | None = None) -> list[Title]:
    table: Source = Table(ADDRESS, poster_addresses=posters)
    (page,) = table.pages("Films.csv", 0)
    assert (page.url, page.name, page.quiet_days, page.group) == (ADDRESS, "Films.csv", 0, "")
    return table.parse_page(page, text.encode())


def test_table_gives_titles_with_franchises_and_ratings() -> None:
    text = (
        "id,title,genres,franchise,rating,image_url\n"
        "tt1,Ice,Action|Drama,Cold,PG,https://a.example/1.jpg\n"
        "tt2,Ice 2,Action,Cold,PG,https://a.example/2.jpg\n"
        "tt3,Night,Hentai|Drama,,,https://a.example/3.jpg\n"
    )
    first, second, third = titles_of(text)
    assert (first.id, first.genres, first.genre_ids, first.poster_url) == (
        *("tt1", ["Action", "Drama"], []),
        "https://a.example/1.jpg",
    )
    assert first.related == second.related == [Related("Franchise", "tt1")] and third.related == []
    explicit = Table(ADDRESS).is_explicit(catalogue_of([first, second, third]))
    assert list(explicit) == [False, False, True]


def test_table_gives_genres_without_ids_beside_those_with_ids() -> None:
    _, second = titles_of("id,title,genres,genre_ids\n1,a,Action|Drama,1|8\n2,b,Action|Weird,\n")
    assert (second.genres, second.genre_ids) == (["Action", "Weird"], [1, None])
    assert list(catalogue_of([second])["genre_ids"]) == ["1|"]


def test_table_prefers_files_of_the_folder_to_addresses() -> None:
    text = "file,genres,image_url\nB.JPG,Action|Drama,https://a.example/b.jpg\nc.jpg,Drama|Action,https://a.example/c.jpg\n"
    titles = titles_of(text, {"x/b.jpg": "gs://b/files/1.jpg", "d.jpg": "gs://b/files/2.jpg"})
    assert [title.poster_url for title in titles] == ["gs://b/files/1.jpg", "https://a.example/c.jpg"]


def test_explicit_title_does_not_claim_the_file_of_another_title_with_the_same_name() -> None:
    text = "id,file,genres\n1,/data/a/x.jpg,Hentai|Drama\n2,/data/b/x.jpg,Drama|Action\n"
    titles = titles_of(text, {"b/x.jpg": "gs://b/files/1.jpg"})
    assert [title.poster_url for title in titles] == ["", "gs://b/files/1.jpg"]


def test_table_that_names_no_file_of_the_folder_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"Of the table's 2 files, none is in the folder of posters"):
        titles_of("file,genres\na.jpg,Action|Drama\nb.jpg,Action|Drama\n", {"z.png": "gs://b/files/1.png"})


@pytest.mark.parametrize(
    "address",
    [
        "https://cdn.myanimelist.net/images/qm_50.gif",
        "https://h.example/No-Poster.png",
        "https://h.example/noimage.gif",
    ],
)
def test_table_knows_placeholders(address: str) -> None:
    assert Table(ADDRESS).is_placeholder(address)
    assert not Table(ADDRESS).is_placeholder(address.replace(".gif", "x.gif").replace(".png", "x.png"))


@pytest.mark.parametrize(
    "address",
    [
        "https://iiif.example/image/2/bk1-07/full/843,/0/default.jpg",
        "https://i.ytimg.com/vi/ab-1_c/default.jpg",
        "https://h.example/countries/NA.png",
    ],
)
def test_addresses_that_end_alike_for_all_images_of_a_server_are_no_placeholders(address: str) -> None:
    assert not Table(ADDRESS).is_placeholder(address)


@pytest.mark.parametrize("address", [ADDRESS, "https://h.example/data/films.parquet?raw=1", "gs://bucket/table"])
def test_source_of_a_file_is_a_table(address: str) -> None:
    assert isinstance(source_for(address), Table)


@pytest.mark.parametrize("address", ["https://docs.example/d/ID/export?format=csv", "https://docs.example"])
def test_table_without_a_file_name_in_its_address_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match=r"Download the table, and name the file with --catalogue\.$"):
        TableConfig(catalogue=address)


@pytest.mark.parametrize(
    "address, collection",
    [
        ("gs://b/tables/1/Anime%20Dataset_2023.csv.gz", "anime-dataset-2023"),
        ("https://h.example/films.parquet", "films"),
        ("https://h.example/films.csv.zip", "films"),
        ("gs://b/MyAnimeList.csv", "myanimelist-table"),
        ("gs://b/built_in.json", "built-in-table"),
        ("gs://b/映画.csv", "table"),
        (f"gs://b/{'a' * 36}-b.csv", "a" * 36),
    ],
)
def test_collection_of_a_table_is_its_file_name(address: str, collection: str) -> None:
    assert collection_of(name_of(address)) == collection


def test_table_options_come_from_the_settings() -> None:
    config = TableConfig(columns=("genres=Genre, all", " file=path "), separator=";")
    assert config.options.columns == {"genres": "Genre, all", "file": "path"}
    assert config.options.separator == ";"


def test_genre_ids_of_the_collection_are_taken_by_name_without_case(tmp_path: Path) -> None:
    known = catalogue_of(
        [Title("1", "A", genres=["Action", "Sci-Fi"], genre_ids=[1, 24]), Title("2", "B", genres=["X"])]
    )
    new = [Title("3", "C", genres=["ACTION", "Western"]), Title("4", "D", genres=["Western"]), Title("5", "E")]
    new.append(Title("6", "F", genres=["Action"], genre_ids=[7]))
    new.append(Title("7", "G", genres=["Drama", "Sci-Fi"], genre_ids=[8, None]))
    catalogue = with_genre_ids(catalogue_of(new), known_genre_ids([known]))
    assert list(catalogue["genre_ids"]) == ["1|", "", "", "7", "8|24"]
    write_catalogue(catalogue, tmp_path / "catalogue.csv")
    pd.testing.assert_frame_equal(read_catalogue(tmp_path / "catalogue.csv"), catalogue)


def test_posters_are_uploaded_once_under_their_hashes(tmp_path: Path) -> None:
    files = {name: tmp_path / name.replace("/", "-") for name in ("a.JPG", "deep/b.jpg", "copy.jpg")}
    for name, content in zip(files, (b"1", b"2", b"2"), strict=True):
        files[name].write_bytes(content)
    with storage_emulator(tmp_path / "storage", "bucket") as url:
        store = new_bucket(url, tmp_path)
        listing = upload_posters(store, files)
        assert upload_posters(store, files) == listing
        addresses = poster_addresses(store, listing)
        assert list(addresses) == sorted(files) and len(set(addresses.values())) == len(store.keys("files/")) == 2
        assert store.read_address(addresses["deep/b.jpg"]) == b"2"
        store.write("mine/x.png", b"3")
        store.write("mine/deep/y.png", b"4")
        expected = {name: store.uri(f"mine/{name}") for name in ("deep/y.png", "x.png")}
        assert poster_addresses(store, store.uri("mine")) == poster_addresses(store, store.uri("mine/")) == expected


def test_store_of_another_bucket_has_no_prefix(tmp_path: Path) -> None:
    with storage_emulator(tmp_path / "storage", "bucket") as url:
        store = new_bucket(url, tmp_path)
        assert isinstance(store.of_bucket("other"), Store) and store.of_bucket("other").uri("x") == "gs://other/x"


async def test_table_is_compared_as_a_whole_with_the_last_one_of_its_collection(tmp_path: Path) -> None:
    rows = [f"{number},Title {number},Action|Drama,https://a.example/{number}.jpg\n" for number in range(1, 41)]
    header = "id,title,genres,image_url\n"
    objects = {"gs://b/1/films.csv": [header, *rows], "gs://b/2/films.csv": [header, *rows[1:]]}
    objects["gs://b/3/films.csv"] = [header, *rows[:30]]

    async def collect(address: str) -> int:
        def read_object(url: str) -> bytes:
            return "".join(objects[url]).encode()

        source = Table(address)
        with Collector(tmp_path, source, CollectConfig(), collection="films", read_object=read_object) as collector:
            catalogue = await collector.read_catalogue("films.csv")
            record = collector.replace_last_good("films.csv", catalogue)
        assert (record.collection, record.site_url) == ("films", address)
        return record.changes

    assert await collect("gs://b/1/films.csv") == 0
    assert await collect("gs://b/2/films.csv") == 1
    with pytest.raises(DriftError, match=r"titles lost +10 of 39"):
        await collect("gs://b/3/films.csv")
    assert "1,Title 1,(gone),," in (tmp_path / "history.csv").read_text()


@pytest.mark.parametrize("is_numbered", [False, True])
async def test_table_with_a_new_row_at_its_top_keeps_its_parts_or_is_refused_if_that_numbers_it_anew(
    is_numbered: bool, tmp_path: Path
) -> None:
    names = [f"{first}{second}sei" for first in "kmnrstyz" for second in "aeiou"]
    rows = [f"{name},Action|Drama,https://a.example/{name}/x.jpg\n" for name in names]
    rows.append(rows[0].replace("/x.jpg", "/2/x.jpg"))  # another title of the same name
    objects = {}
    for version, lines in ((1, rows), (2, [rows[3].replace(names[3], "wokou"), *rows])):
        text = [f"{number},{line}" if is_numbered else line for number, line in enumerate(lines)]
        header = "id,title,genres,image_url\n" if is_numbered else "title,genres,image_url\n"
        objects[f"gs://b/{version}/films.csv"] = "".join([header, *text]).encode()
    table = PartTable()

    async def parts_of(address: str) -> dict[str, str]:
        """The part of each title that is not left out."""
        with Collector(tmp_path, Table(address), CollectConfig(), read_object=objects.__getitem__) as collector:
            catalogue = await collector.read_catalogue("films.csv")
            collector.replace_last_good("films.csv", catalogue)
        title_of = dict(zip(catalogue["id"], catalogue["title"], strict=True))
        parts = table.assign(franchises(title_of))
        return {title_of[id]: part for id, part in parts.items() if part in PARTS}

    before = await parts_of("gs://b/1/films.csv")
    assert len(before) == len(names)
    if is_numbered:
        with pytest.raises(DriftError, match="another --collection") as caught:
            await parts_of("gs://b/2/films.csv")
        assert caught.value.message.startswith("Many ids have another title than in the last good catalogue")
    else:
        assert (await parts_of("gs://b/2/films.csv")).items() > before.items()


async def test_table_with_genre_ids_is_accepted_in_its_first_run(tmp_path: Path) -> None:
    genres = ["Action|Drama,28|18", "Action,28", "Drama,18"]
    rows = [f"{number},Title {number},{genres[number % 3]}\n" for number in range(1, 11)]

    def read_object(url: str) -> bytes:
        return "".join(["id,title,genres,genre_ids\n", *rows]).encode()

    with Collector(tmp_path, Table(ADDRESS), CollectConfig(), read_object=read_object) as collector:
        catalogue = await collector.read_catalogue("Films.csv")
        collector.replace_last_good("Films.csv", catalogue)
        with pytest.raises(DriftError, match=r"have an unknown genre +10 of 10"):
            collector.replace_last_good("Films.csv", catalogue.assign(genre_ids="28|99"))


async def test_table_that_is_not_there_is_named_with_the_reason(tmp_path: Path) -> None:
    def read_object(address: str) -> bytes:
        raise NotFound(f"There is no object {address}.")

    with (
        Collector(tmp_path, Table(ADDRESS), CollectConfig(), collection="films", read_object=read_object) as collector,
        pytest.raises(NotOnSite, match=f"There is no table at {ADDRESS}. Correct its address.") as caught,
    ):
        await collector.read_catalogue("Films.csv")
    assert caught.value.details == f"The bucket has no object {ADDRESS}."


async def test_table_that_is_too_large_to_be_read_from_a_site_is_refused_with_the_way_out(tmp_path: Path) -> None:
    async def large(request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(bytes(20_000_001))) if request.path == "/t.csv.gz" else web.Response()

    application = web.Application()
    application.router.add_get("/{path:.*}", large)
    async with TestServer(application) as server:
        with (
            Collector(tmp_path, Table(str(server.make_url("/t.csv.gz"))), CollectConfig()) as collector,
            pytest.raises(SiteError, match=r"20 MB\. Download the table, and name the file with --catalogue"),
        ):
            await collector.read_catalogue("t.csv.gz")


async def test_table_is_asked_for_again_in_each_run_and_no_kept_copy_replaces_it(tmp_path: Path) -> None:
    objects: dict[str, str] = {}

    def read_object(address: str) -> bytes:
        if address not in objects:
            raise NotFound(f"There is no object {address}.")
        return objects[address].encode()

    async def ids() -> list[str]:
        with Collector(tmp_path, Table(ADDRESS), CollectConfig(), read_object=read_object) as collector:
            return list((await collector.read_catalogue("Films.csv"))["id"])

    with pytest.raises(NotOnSite):
        await ids()
    objects[ADDRESS] = "id,title,genres\n1,a,Action|Drama\n"
    assert await ids() == ["1"]
    objects[ADDRESS] += "2,b,Drama|Action\n"
    assert await ids() == ["1", "2"]
    del objects[ADDRESS]
    for _ in range(3):
        with pytest.raises(NotOnSite, match=f"There is no table at {ADDRESS}. Correct its address."):
            await ids()
