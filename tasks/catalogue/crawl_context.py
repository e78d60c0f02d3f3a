"""What the parts of one crawl share."""

from dataclasses import dataclass
from functools import cached_property

from tasks.catalogue.source import Source
from tasks.crawl.client import SiteClient
from tasks.crawl.kept_pages import KeptPages
from tasks.crawl.ledger import Ledger
from tasks.crawl.page_reader import PageReader
from tasks.crawl.traffic import Traffic


@dataclass(frozen=True)
class CrawlContext:
    """A crawl of a source that began at `started` (seconds since 1970).

    `traffic` counts the requests of the current part. Without a client only kept pages are read.
    """

    source: Source
    ledger: Ledger
    kept: KeptPages
    client: SiteClient | None
    started: float
    traffic: Traffic

    @cached_property
    def reader(self) -> PageReader:
        """Reads the source's pages."""
        return PageReader(self.ledger, self.kept, self.client, self.traffic, self.source.normalise)
