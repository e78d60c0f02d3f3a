"""The API as a source: the catalogue of the pages, pages of a list, refusals, missing fields, a secret client id."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from pydantic import SecretStr

from infra.local.site.invented_titles import SEASONS, invented_titles
from infra.local.site.server import small_site
from tasks.catalogue.catalogue_table import related_in
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.source import Source
from tasks.myanimelist.api import MyAnimeListApi
from tasks.myanimelist.source import MyAnimeList
from tests.strict_api import CLIENT_ID, StrictApi, nodes_of, strict_api

RANGE = f"{SEASONS[0]}..{SEASONS[-1]}"
TITLES = invented_titles(80, 3)


@pytest.fixture
def site() -> Iterator[str]:
    with small_site(titles=80, seed=3) as url:
        yield url


@pytest.fixture
def api(site: str) -> Iterator[StrictApi]:
    with strict_api(nodes_of(TITLES, site)) as api:
        yield api


def source_of(api: StrictApi, client_id: str = CLIENT_ID) -> MyAnimeListApi:
    return MyAnimeListApi(f"{api.url}/v2", SecretStr(client_id))


def collect(folder: Path, source: Source, **settings: int) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The catalogue, the posters, and the number of changes since the last catalogue."""
    with Collector(folder, source, CollectConfig(**settings)) as collector:
        catalogue = asyncio.run(collector.read_catalogue(RANGE))
        changes = collector.replace_last_good(RANGE, catalogue).changes
        return catalogue, asyncio.run(collector.download_posters(catalogue)), changes


def comparable(catalogue: pd.DataFrame) -> pd.DataFrame:
    """A catalogue whose relations are in a fixed order."""
    related = [sorted((each.relation, each.id) for each in related_in(cell)) for cell in catalogue["related"]]
    return catalogue.assign(related=related)


def test_catalogue_is_the_same_by_pages_and_by_api(site: str, api: StrictApi, tmp_path: Path) -> None:
    by_pages, posters, _ = collect(tmp_path, MyAnimeList(site), details=80)
    by_api, same_posters, changes = collect(tmp_path, source_of(api), details=80)
    pd.testing.assert_frame_equal(comparable(by_api), comparable(by_pages))
    assert changes == 0  # one collection: the titles, their history and their posters are known already
    assert set(same_posters["status"]) == set(posters["status"]) - {"new"} | {"present"}
    columns = by_pages.drop(columns=["rating", "aired_to", "related"]).columns
    for name in columns:
        assert (by_pages[name] != "").any(), name
    without_details, _, _ = collect(tmp_path / "lists", source_of(api))
    pd.testing.assert_frame_equal(without_details[columns], by_pages[columns])
    assert list(without_details["rating"]) == list(by_pages["rating"])
