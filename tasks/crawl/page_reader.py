"""Reads pages by URL: fetches those that are due, and reads the others from the kept pages."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tasks.crawl.client import NO_VALIDATORS, SiteClient, Validators
from tasks.crawl.kept_pages import KeptPages
from tasks.crawl.ledger import Ledger, PageVisit
from tasks.crawl.traffic import Traffic
from tasks.errors import KeptPageError, NotOnSite, PageCutError, PageError, PageLayoutError

Content = TypeVar("Content")


class PageReader:
    """Reads pages, keeps them, and records each visit in the ledger as soon as it is over.

    A page is missing if the site answers so, or if `parse` raises NotOnSite.

    Without a client it sends no request and only reads kept pages. `normalise` removes from a page what differs in
    each response, so that an unchanged page has the same hash. `missing` says why requested pages are missing, by URL;
    an older copy of them may be kept.
    """

    def __init__(
        self,
        ledger: Ledger,
        kept: KeptPages,
        client: SiteClient | None,
        traffic: Traffic,
        normalise: Callable[[bytes], bytes],
    ) -> None:
        self._ledger = ledger
        self._kept = kept
        self._client = client
        self._traffic = traffic
        self._normalise = normalise
        self.missing: dict[str, str] = {}

    async def read(
        self, url: str, parse: Callable[[bytes], Content], due: bool, replaces_unreadable: bool = True
    ) -> Content | None:
        """The parsed page, or None if the site has no such page (without a client: if none is kept).

        A page that the site had before is missing only after the second such response in a row. Until then it is read
        as it is kept. A kept page that is damaged is fetched again, and so is one that `parse` no longer reads, unless
        `replaces_unreadable` is False.

        Raises:
            PageError: the page is invalid. It is kept for inspection.
            KeptPageError: there is no client and the kept page is damaged.
            SiteError: as `SiteClient.fetch`.
        """
        visit = self._ledger.pages.get(url)
        if due and self._client is not None:
            return await self._fetch(self._client, url, parse, visit)
        if visit is None or visit.sha256 is None:
            return None
        try:
            return await asyncio.to_thread(self._parse_kept, visit.sha256, parse)
        except (KeptPageError, PageError) as error:
            if self._client is None or (isinstance(error, PageError) and not replaces_unreadable):
                raise
            self._traffic.total += 1
            visit = replace(visit, etag=None, last_modified=None)  # the site may not have changed the page
            return await self._fetch(self._client, url, parse, visit)

    async def _fetch(
        self, client: SiteClient, url: str, parse: Callable[[bytes], Content], visit: PageVisit | None
    ) -> Content | None:
        before = visit.sha256 if visit else None
        is_kept = before is not None and await asyncio.to_thread(self._kept.has, before)
        validators = Validators(visit.etag, visit.last_modified) if visit and is_kept else NO_VALIDATORS
        try:
            fetched = await client.fetch(url, lambda body: self._parse_new(body, parse), validators)
        except NotOnSite as error:
            self.missing[url] = error.message
            self._traffic.settle("missing", "the site has no such page")
            visit = (visit if visit and is_kept else PageVisit(url, 0)).missing(time.time())
            self._ledger.pages.put(visit)
            return await asyncio.to_thread(self._parse_kept, visit.sha256, parse) if visit.sha256 else None
        if fetched is None:
            assert visit is not None and before is not None  # otherwise there were no validators
            try:
                content = await asyncio.to_thread(self._parse_kept, before, parse)
            except (KeptPageError, PageError):  # such as after an update of the parser
                return await self._fetch(client, url, parse, replace(visit, etag=None, last_modified=None))
            self._ledger.pages.put(replace(visit, checked=time.time(), suspect=False))
            self._traffic.settle("unchanged")
            return content
        sha256, content = fetched.content
        etag, last_modified = fetched.validators.etag, fetched.validators.last_modified
        self._ledger.pages.put(PageVisit(url, time.time(), sha256, etag, last_modified))
        self._traffic.settle("new" if before is None else "unchanged" if before == sha256 else "changed")
        return content

    def _parse_new(self, body: bytes, parse: Callable[[bytes], Content]) -> tuple[str, Content]:
        body = self._normalise(body)
        try:
            content = parse(body)
        except PageCutError:
            raise
        except PageError as error:
            kept = f"The page is kept as {self._kept.path(self._kept.keep(body))}."
            raise type(error)(f"{error.message} Has the site changed?", f"{error.details}\n{kept}".lstrip()) from error
        return self._kept.keep(body), content

    def _parse_kept(self, sha256: str, parse: Callable[[bytes], Content]) -> Content:
        try:
            return parse(self._kept.read(sha256))
        except NotOnSite as error:  # an earlier version kept another page
            raise PageLayoutError(error.message) from error
