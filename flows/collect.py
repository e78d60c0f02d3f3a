"""Collecting alone: the site's pages and posters into a workspace, without Prefect, MLflow or a bucket."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from flows.parameters import RetrainParameters
from infra.files import exclusive_lock, write_bytes
from infra.settings import read_settings
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig, DriftLimits
from tasks.catalogue.dataset_report import dataset_report
from tasks.catalogue.last_good import about_last_good
from tasks.catalogue.poster_download import PosterOutcome
from tasks.catalogue.seasons import parse_seasons
from tasks.catalogue.titles import AnimeRecord
from tasks.crawl.traffic import Traffic
from tasks.errors import CatalogueError
from tasks.records import CatalogueRecord

REPORT = "report.html"


def run_collect(workspace: Path, parameters: RetrainParameters) -> None:
    """Collect into a workspace, and leave `catalogue.csv`, `posters/`, `history.csv` and `report.html` there.

    Raises:
        AnimeGenreError: as the steps scrape and download posters, the same code but for the bucket.
    """
    console = _console()
    config, site_url = parameters.collect, parameters.site_url
    contact = read_settings().contact
    with exclusive_lock(workspace), Collector(workspace, site_url, config, contact, _say(console)) as collector:
        try:
            records = asyncio.run(collector.read_catalogue(parse_seasons(parameters.seasons)))
            about = collector.replace_last_good(parameters.seasons, records)
            outcomes = asyncio.run(collector.download_posters(records))
        finally:
            _show(console, collector.traffics)
        _report(workspace, records, outcomes, about, console)


def run_reparse(workspace: Path, limits: DriftLimits) -> None:
    """Make the workspace's catalogue anew from the pages as they were kept.

    Raises:
        CatalogueError: the workspace has none yet.
        KeptPageError: a page is damaged or gone.
        PageError, DriftError: as when the site is read.
    """
    about = about_last_good(workspace)
    if about is None:
        raise CatalogueError(f"Nothing was collected in {workspace} yet: there are no kept pages to read.")
    console = _console()
    with exclusive_lock(workspace), Collector(workspace, about.site_url, CollectConfig(**asdict(limits))) as collector:
        records = asyncio.run(collector.reread_catalogue(parse_seasons(about.seasons)))
        made = collector.replace_last_good(about.seasons, records)
    console.print(f"{made.titles} titles from the kept pages, {made.changes} changes; no request was made.")


def _report(
    workspace: Path,
    records: list[AnimeRecord],
    outcomes: list[PosterOutcome],
    about: CatalogueRecord,
    console: Console,
) -> None:
    page = dataset_report(records, outcomes, workspace / "posters", about.snapshot_date)
    write_bytes(workspace / REPORT, page.encode())
    console.print(
        f"{about.titles} titles, {sum(outcome.usable for outcome in outcomes)} posters, {about.changes} changes since "
        f"the last catalogue. Everything lies in {workspace}; {workspace / REPORT} shows it."
    )


def _console() -> Console:
    console = Console(soft_wrap=True)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("tasks").setLevel(logging.INFO)
    return console


def _say(console: Console) -> Callable[[Traffic], None]:
    def say(traffic: Traffic) -> None:
        if traffic.total:
            console.print(traffic.sentence(), highlight=False)

    return say


def _show(console: Console, traffics: list[Traffic]) -> None:
    table = Table("what", "outcome", "count", "reason", title="What was asked of the site")
    for traffic in traffics:
        for row in traffic.rows():
            if row["count"]:
                table.add_row(*map(str, row.values()))
    console.print(table)
