"""A table of titles as a `Source`: its only page is the file itself."""

import re
from collections.abc import Mapping

import pandas as pd

from ml.data.poster_files import match_poster_names
from ml.data.table_rows import TableOptions, TableRows, read_rows
from tasks.catalogue.catalogue_table import items
from tasks.catalogue.source import SourcePage
from tasks.catalogue.titles import Related, Title
from tasks.table.configuration import name_of

EXPLICIT_RATING = "Rx"
# Images that sites show in place of a poster. "default.jpg" is not among them: IIIF servers and YouTube end the
# addresses of all images with it. Other placeholders are noticed because many titles have the same image.
_PLACEHOLDER_URL = re.compile(
    r"/(?:qm_\d+|questionmark_\d+|apple-touch-icon[^/]*|no[-_]?(?:image|poster|cover)|placeholder)\.\w+$",
    re.IGNORECASE,
)


class Table:
    """A table of titles at a gs:// or https:// address. A selection is the table's name, and a group is the whole.

    `poster_addresses` are the addresses of poster files by their names in the folder that the table was made for.
    Titles without a file there have the address that the table gives. `read` is what was read from the table, None
    before.
    """

    requests_per_second = 1.0
    posters_per_second = 4.0
    genre_ids = frozenset[int]()
    label_ids: Mapping[str, int] = {}
    weak_relations = frozenset[str]()

    def __init__(
        self, address: str, options: TableOptions | None = None, poster_addresses: Mapping[str, str] | None = None
    ) -> None:
        self.site_url = address
        self.read: TableRows | None = None
        self._options = options or TableOptions()
        self._poster_addresses = poster_addresses or {}

    def pages(self, selection: str, started: float) -> list[SourcePage]:
        """The table."""
        return [SourcePage(self.site_url, name_of(self.site_url))]

    def parse_page(self, page: SourcePage, body: bytes) -> list[Title]:
        """The titles of the table; raises DatasetError as `read_rows`."""
        self.read = read_rows(body, page.name, self._options)
        rows = self.read.rows
        names: dict[str, str | None] = {}
        if self._poster_addresses:
            # As for the upload: an explicit title's file is not there, and it must not claim that of another title.
            others = rows[rows["explicit"] == ""]
            found = match_poster_names(others, list(self._poster_addresses), "the folder of posters").names
            names = dict(zip(others["id"], found, strict=True))
        first_of_franchise = rows[rows["franchise"] != ""].groupby("franchise")["id"].first()
        return [
            Title(
                id=row["id"],
                title=row["title"],
                genres=items(row["genres"]),
                genre_ids=[int(id) if id else None for id in items(row["genre_ids"])],
                poster_url=self._poster_addresses[name] if (name := names.get(row["id"])) else row["poster_url"],
                rating=EXPLICIT_RATING if row["explicit"] else row["rating"],
                related=[Related("Franchise", first_of_franchise[row["franchise"]])] if row["franchise"] else [],
            )
            for row in rows.to_dict("records")
        ]

    def normalise(self, body: bytes) -> bytes:
        """The file as it is."""
        return body

    def group_of(self, catalogue: pd.DataFrame) -> "pd.Series[str]":
        """The whole table is one group."""
        return pd.Series("", catalogue.index)

    def is_explicit(self, catalogue: pd.DataFrame) -> "pd.Series[bool]":
        """Whether the table says that a title is explicit (see `ml.data.table_rows`)."""
        return catalogue["rating"].str.match(rf"{EXPLICIT_RATING}\b", case=False)

    def is_placeholder(self, poster_url: str) -> bool:
        """Whether an address looks like that of a well-known site's placeholder."""
        return _PLACEHOLDER_URL.search(poster_url) is not None
