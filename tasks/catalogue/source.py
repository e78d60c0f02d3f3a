"""What the collector has to know about a site or table: one `Source` per site.

`tasks/README.md` says how to add another one; `tasks/source_choice.py` chooses it.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import pandas as pd

from tasks.catalogue.titles import Details, Title, UnreadCard
from tasks.crawl.api_access import ApiAccess


@dataclass(frozen=True)
class SourcePage:
    """A page of a source.

    `name` identifies the page in messages. After a visit the page is not re-fetched for about `quiet_days`; with 0 it
    is fetched in every crawl. `group` names the titles that the page lists: a season, or "" for the whole source.
    """

    url: str
    name: str
    quiet_days: float = 0
    group: str = ""


class Source(Protocol):
    """A site or table of titles. Parsers raise PageLayoutError if a page is not as expected, PageCutError if it ends
    too early, NotOnSite if it is another page, which the site sends in place of one that it lacks."""

    @property
    def site_url(self) -> str:
        """The address that those of all pages begin with, without a slash at its end."""

    @property
    def requests_per_second(self) -> float:
        """How many pages per second the site tolerates."""

    @property
    def posters_per_second(self) -> float:
        """How many posters per second their host tolerates."""

    @property
    def genre_ids(self) -> Collection[int]:
        """The ids of the known genres, the explicit ones included; empty if the source has no such ids."""

    @property
    def label_ids(self) -> Mapping[str, int]:
        """The ids of themes and demographics by name, for those that the source has ids for."""

    @property
    def weak_relations(self) -> Collection[str]:
        """The relations between titles that do not make them one franchise, such as a shared character."""

    def pages(self, selection: str, started: float) -> list[SourcePage]:
        """The pages to read for a selection, for a crawl that began at `started` (seconds since 1970).

        Raises:
            SeasonError: the selection is invalid.
        """

    def parse_page(self, page: SourcePage, body: bytes) -> Sequence[Title | UnreadCard]:
        """The titles that a page lists. An UnreadCard stands for a title that cannot be read."""

    def normalise(self, body: bytes) -> bytes:
        """A page without what differs in each response, so that unchanged pages have the same hash."""

    def group_of(self, catalogue: pd.DataFrame) -> "pd.Series[str]":
        """The group of each title of a catalogue (see `SourcePage`)."""

    def is_explicit(self, catalogue: pd.DataFrame) -> "pd.Series[bool]":
        """Whether each title of a catalogue is pornographic. Posters of such titles are never downloaded."""

    def is_placeholder(self, poster_url: str) -> bool:
        """Whether the source shows the image at this address in place of a poster."""


def is_one_page(source: Source, selection: str) -> bool:
    """Whether the source's address is that of its only page, as a table's is. Raises SeasonError as `Source.pages`."""
    return [page.url for page in source.pages(selection, time.time())] == [source.site_url]


@runtime_checkable
class PagedSource(Source, Protocol):
    """A source whose lists of titles are cut into pages, each of which names the next one."""

    def next_page(self, page: SourcePage, body: bytes) -> SourcePage | None:
        """The page after a page; None after the last one. A page must not lead back to an earlier one."""


@runtime_checkable
class DetailSource(Source, Protocol):
    """A source whose titles have detail pages, with more about them than the lists."""

    def detail_page(self, title: Title, started: float) -> SourcePage | None:
        """A title's detail page; None if it has none."""

    def parse_details(self, body: bytes) -> Details:
        """What a title's detail page says."""


@runtime_checkable
class ApiSource(Source, Protocol):
    """A source that is an official API, which only answers users with a key."""

    @property
    def access(self) -> ApiAccess | None:
        """The key; None if there is none, so that only kept pages can be read."""
