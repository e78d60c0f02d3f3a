"""The commands `collect` and `reparse`: pages and posters in a workspace, without Prefect or MLflow.

With ANIME_GENRE_CLOUD=google, `collect` also reads and writes the crawl's state, the catalogue and the posters in the
bucket. So a machine at home can collect for runs on Google Cloud, which the site may refuse.
"""

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from flows.parameters import RetrainParameters
from flows.terminal import log_to_terminal
from infra.files import workspace_lock, write_bytes
from infra.lease import bucket_lease
from infra.settings import read_settings
from infra.store import Store
from serving.bundle.wording import counted
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig, DriftLimits
from tasks.catalogue.dataset_report import dataset_report
from tasks.catalogue.last_good import about_last_good
from tasks.catalogue.poster_download import is_usable
from tasks.crawl.traffic import Traffic, duration
from tasks.errors import CatalogueError
from tasks.records import CatalogueRecord
from tasks.source_choice import source_for

REPORT = "report.html"


def run_collect(workspace: Path, parameters: RetrainParameters) -> None:
    """Collect into a workspace: `catalogue.csv`, `posters/`, `posters.csv`, `history.csv` and `report.html`.

    Raises:
        AnimeGenreError: see the steps `scrape` and `download_posters`, which run the same code.
    """
    log_to_terminal("tasks")
    console = _console()
    source, settings = source_for(parameters.source_url), read_settings()
    show, store = _show_progress(console), Store(settings) if settings.cloud == "google" else None
    with (
        workspace_lock(workspace),
        bucket_lease(store, workspace) if store else nullcontext(),
        Collector(workspace, source, parameters.collect, settings.contact, show) as collector,
    ):
        try:
            if store is None:
                catalogue = asyncio.run(collector.read_catalogue(parameters.seasons))
                about = collector.replace_last_good(parameters.seasons, catalogue)
                posters = asyncio.run(collector.download_posters(catalogue))
            else:
                catalogue, about, posters = _collect_with_bucket(store, workspace, collector, parameters)
        finally:
            _show_requests(console, collector.traffics)
        page = dataset_report(catalogue, posters, source, workspace / "posters", about.snapshot_date).encode()
        write_bytes(workspace / REPORT, page)
        if store is not None:
            from tasks.posters import store_posters

            store_posters(store, about, posters, page)
    where = f"{workspace} and in gs://{store.name}" if store else str(workspace)
    console.print(
        f"{counted(about.titles, 'title')}, {counted(is_usable(posters).sum(), 'poster')}, "
        f"{counted(about.changes, 'change')} since the last catalogue. "
        f"The files are in {where}; open {workspace / REPORT} to see the report."
    )


def _collect_with_bucket(
    store: Store, workspace: Path, collector: Collector, parameters: RetrainParameters
) -> tuple[pd.DataFrame, CatalogueRecord, pd.DataFrame]:
    """Collect as the steps of the flow do; returns the catalogue, its record and the poster table."""
    from tasks.crawl.mirror import CrawlMirror
    from tasks.preprocess import parts_so_far
    from tasks.scrape import fetch_last_good, store_catalogue

    mirror = CrawlMirror(store, collector.ledger, collector.kept, collector.posters)
    with mirror.hosts():
        with mirror.pages():
            fetch_last_good(store, workspace, parameters.source_url)
            catalogue = asyncio.run(collector.read_catalogue(parameters.seasons, parts_so_far(store)))
            about = collector.replace_last_good(parameters.seasons, catalogue)
        store_catalogue(store, workspace, about)
        with mirror.posters():
            posters = asyncio.run(collector.download_posters(catalogue))
    return catalogue, about, posters


def show_estimate(workspace: Path, parameters: RetrainParameters) -> None:
    """Print what `run_collect` would request and how long it would take at the site's pace. No request is made.

    Raises:
        SeasonError: the seasons are invalid.
        LedgerError, CatalogueError: the workspace's files cannot be used.
    """
    log_to_terminal("tasks")
    source, console = source_for(parameters.source_url), _console()
    with Collector(workspace, source, parameters.collect) as collector:
        parts = collector.estimate(parameters.selection)
    table = Table("what", "requests", "MB", "time", title=f"What collecting {parameters.selection} would request")
    for part in parts:
        time = duration(part.seconds) if part.per_second else "as fast as it answers"
        table.add_row(part.what, f"{part.requests:,}", f"{part.size_bytes / 1e6:,.0f}", time)
    total = [sum(values) for values in zip(*((p.requests, p.size_bytes, p.seconds) for p in parts), strict=True)]
    table.add_row("all", f"{total[0]:,.0f}", f"{total[1] / 1e6:,.0f}", duration(total[2]))
    console.print(table)
    console.print("A crawl that is stopped is continued by the next one, also days later. Nothing was requested.")


def run_reparse(workspace: Path, limits: DriftLimits) -> None:
    """Rebuild the workspace's catalogue from the kept pages.

    Raises:
        CatalogueError: the workspace has no catalogue yet.
        KeptPageError: a kept page is damaged or missing.
        PageError, DriftError: see `run_collect`.
    """
    about = about_last_good(workspace)
    if about is None:
        raise CatalogueError(f"There are no kept pages in {workspace}: run `collect` first.")
    log_to_terminal("tasks")
    console = _console()
    source, config = source_for(about.site_url), CollectConfig(**asdict(limits))
    with workspace_lock(workspace), Collector(workspace, source, config) as collector:
        catalogue = asyncio.run(collector.reread_catalogue(about.seasons))
        rebuilt = collector.replace_last_good(about.seasons, catalogue)
    titles, changes = counted(rebuilt.titles, "title"), counted(rebuilt.changes, "change")
    console.print(f"{titles} from the kept pages, {changes}; no request was made.")


def _console() -> Console:
    return Console(soft_wrap=True, markup=False, emoji=False)  # titles and paths are printed as they are


def _show_progress(console: Console) -> Callable[[Traffic], None]:
    def show(traffic: Traffic) -> None:
        if traffic.total:
            console.print(traffic.sentence(), highlight=False)

    return show


def _show_requests(console: Console, traffics: list[Traffic]) -> None:
    table = Table("what", "outcome", "count", "reason", title="Requests to the site")
    for traffic in traffics:
        for row in traffic.rows():
            if row["count"]:
                table.add_row(*map(str, row.values()))
    console.print(table)
