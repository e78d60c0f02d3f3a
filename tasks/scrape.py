"""Step 1: the site's season pages become the summary table `catalogue.csv`."""

import asyncio
import json
from datetime import UTC, datetime

from prefect.artifacts import create_markdown_artifact

from infra.files import sha256_of_file
from infra.settings import read_settings
from infra.store import Store
from tasks.myanimelist.catalogue import write_catalogue
from tasks.myanimelist.scraping import scrape_seasons
from tasks.myanimelist.seasons import parse_seasons
from tasks.records import CatalogueRecord
from tasks.reporters import ProgressLog
from tasks.step import step


@step("scrape")
def scrape(site_url: str, seasons: str, requests_per_second: float | None) -> CatalogueRecord:
    """Read the season pages of a range (`2015-winter..2019-fall`) and keep the catalogue in the store.

    Raises:
        SeasonError: a season that does not exist, or none that the site has.
        SiteUnavailable: the site does not answer (retryable).
        SiteBlocked: the site refuses us.
        PageLayoutError: a page is not what it should be.
        EmptyCatalogueError: no title on any page.
    """
    settings = read_settings()
    wanted = parse_seasons(seasons)
    progress = ProgressLog()
    records = asyncio.run(
        scrape_seasons(
            site_url, wanted, requests_per_second, lambda done, total: progress.progress(done, total, "Season pages")
        )
    )
    path = settings.workspace / "catalogue.csv"
    write_catalogue(records, path)
    sha256 = sha256_of_file(path)
    record = CatalogueRecord(
        key=f"catalogues/{sha256}.csv",
        sha256=sha256,
        site_url=site_url,
        seasons=seasons,
        titles=len(records),
        snapshot_date=datetime.now(UTC).date().isoformat(),
    )
    store = Store(settings)
    store.upload({record.key: path})
    store.write(f"catalogues/{sha256}.json", json.dumps(record.model_dump()).encode())
    create_markdown_artifact(
        f"{record.titles} titles of {len(wanted)} seasons ({seasons}) from {site_url}.", key="catalogue"
    )
    return record
