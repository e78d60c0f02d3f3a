"""The settings of reading a table, from which options of the command line and a part of the form are generated."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from infra.settings import BUILT_IN_COLLECTION, MAIN_COLLECTION
from ml.configuration import Checked, setting
from ml.data.table_rows import TableOptions
from ml.errors import SettingError
from serving.bundle.redaction import redacted
from tasks.crawl.addresses import is_file

_LONGEST_COLLECTION = 37  # the name of a Cloud Run service, "anime-genre-" with it, has at most 49 characters


@dataclass(frozen=True)
class TableConfig(Checked):
    """A table of titles to read instead of a site, and where its posters are."""

    catalogue: str = setting(
        "",
        "Table",
        "Address of the table: gs://, or https:// with a file name at its end. Without one, the site is read.",
        pattern=r"^$|^gs://.|^https?://[^/?#@\s]+([/?#]|$)",
    )
    posters: str = setting(
        "",
        "Posters",
        "Folder of the poster files: gs://BUCKET/FOLDER/. Posters without a file are downloaded from the table's "
        "addresses.",
        pattern="^$|^gs://.",
    )
    columns: tuple[str, ...] = setting(
        (), "Columns", "Columns by their meaning, where their names do not tell it, such as genres=Genre or file=path."
    )
    separator: str | None = setting(None, "Separator", "What separates the genres in a cell, where that is unclear.")
    image_base: str | None = setting(None, "Image base", "Address that completes the relative addresses of posters.")

    def __post_init__(self) -> None:
        for address in (self.catalogue, self.image_base or ""):
            if redacted(address) != address:
                raise SettingError(
                    "The address of a table or its posters has a password, token or signature, which Prefect would "
                    "store. Download the table, and name the file with --catalogue."
                )
        super().__post_init__()
        if self.catalogue and not is_file(self.catalogue):  # later steps would take it for a site
            raise SettingError(
                "The address of the table does not end with a file name such as films.csv. Download the table, and "
                "name the file with --catalogue."
            )

    @property
    def name(self) -> str:
        """The file name of the table."""
        return name_of(self.catalogue)

    @property
    def options(self) -> TableOptions:
        """How the table is read."""
        columns = {role.strip(): name.strip() for role, _, name in (entry.partition("=") for entry in self.columns)}
        return TableOptions(columns, self.separator, self.image_base)


def name_of(address: str) -> str:
    """The file name at the end of an address."""
    return unquote(PurePosixPath(urlsplit(address).path).name)


def collection_of(name: str) -> str:
    """The collection of a table by its file name: "Anime Dataset 2023.csv" is kept as "anime-dataset-2023"."""
    stem = re.sub(r"\.(?:csv|tsv|txt|jsonl?|ndjson|parquet|gz|zip)\b", "", name.lower())
    words = re.sub(r"[^a-z0-9]+", "-", stem).strip("-")[:_LONGEST_COLLECTION].strip("-") or "table"
    return f"{words}-table" if words in (MAIN_COLLECTION, BUILT_IN_COLLECTION) else words
