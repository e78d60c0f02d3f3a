"""Shared by the steps that crawl: one crawl at a time, the workspace's collector with its mirror, and progress."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency

from infra.errors import ServiceUnavailable
from infra.settings import read_settings
from infra.store import Store
from tasks.artifacts import ProgressBars, show_table
from tasks.catalogue.collector import Collector
from tasks.catalogue.configuration import CollectConfig
from tasks.catalogue.source import Source
from tasks.crawl.addresses import host_of
from tasks.crawl.mirror import CrawlMirror
from tasks.crawl.traffic import Traffic
from tasks.errors import SiteBusy
from tasks.step import prefect_errors

# A killed run keeps its slot until its lease ends, so waiting much longer than a lease does not help.
_LEASE_SECONDS, _WAIT_SECONDS = 60, 75

logger = logging.getLogger("tasks")


@contextmanager
def crawl(source: Source, config: CollectConfig, collection: str) -> Iterator[tuple[Collector, CrawlMirror]]:
    """The collector of the workspace and the mirror of its state, while no other run crawls the site.

    A table of all requests becomes an artifact, even if the crawl fails.

    Raises:
        SiteBusy: another run is crawling the site (retryable).
        ConfigurationError: the site needs a contact and none is set.
    """
    settings = read_settings(collection)
    settings.folder.mkdir(parents=True, exist_ok=True)
    with _only_run(source.site_url):
        store = Store(settings)
        collector = Collector(
            settings.folder, source, config, settings.contact, TrafficReport(), collection, store.read_address
        )
        mirror = CrawlMirror(store, collector.ledger, collector.kept, collector.posters)
        with collector, mirror.hosts():
            try:
                yield collector, mirror
            finally:
                rows = [row for traffic in collector.traffics for row in traffic.rows() if row["count"]]
                show_table("crawl", rows or [{"what": "no requests"}], f"Requests to {source.site_url}")


@contextmanager
def _only_run(site_url: str) -> Iterator[None]:
    """Hold the only slot of a Prefect concurrency limit, which all machines with the same server share.

    Raises:
        SiteBusy: another run has it (retryable).
        ServiceUnavailable: Prefect does not answer (retryable).
    """
    host, slot = host_of(site_url), ExitStack()
    name = f"crawl {host}"
    with prefect_errors():
        with get_client(sync_client=True) as client:
            client.upsert_global_concurrency_limit_by_name(name, 1)
        try:
            slot.enter_context(
                concurrency(
                    name,
                    timeout_seconds=_WAIT_SECONDS,
                    lease_duration=_LEASE_SECONDS,
                    strict=True,
                    raise_on_lease_renewal_failure=False,  # a server that restarts must not end a crawl of hours
                )
            )
        except TimeoutError:
            raise SiteBusy(f"Another run is crawling {host}. Only one run at a time may do so.") from None
    try:
        yield
    finally:
        try:
            with prefect_errors():
                slot.close()
        except ServiceUnavailable as error:
            logger.warning("%s The slot of the crawl is free in %d s.", error.message, _LEASE_SECONDS)


class TrafficReport:
    """Reports the progress of a crawl to the log, and as one progress artifact per kind of item."""

    def __init__(self) -> None:
        self._bars = ProgressBars()

    def __call__(self, traffic: Traffic) -> None:
        if not traffic.total:
            return
        logger.info("%s", traffic.sentence())
        self._bars.show(traffic.what, traffic.done, traffic.total, traffic.sentence())
