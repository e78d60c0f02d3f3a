"""A table on this machine, with its posters: checked before the services start, then uploaded for the flow.

The flow may run on another machine, so it reads the table and the posters from the bucket.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from infra.errors import ConfigurationError
from infra.settings import read_settings
from infra.store import Store
from ml.data.poster_files import find_poster_files
from ml.data.table_rows import read_rows
from ml.errors import DatasetError
from serving.bundle.files import sha256_of
from serving.bundle.wording import counted
from tasks.crawl.addresses import check_contact
from tasks.table.configuration import TableConfig
from tasks.table.poster_folder import upload_posters


@dataclass(frozen=True)
class LocalTable:
    """The content of a table, and the poster files that its rows name, by their paths in the folder.

    `downloads` is the number of posters without a file that the run downloads from their addresses. Rows of explicit
    titles count for nothing: their posters are neither uploaded nor downloaded.
    """

    name: str
    content: bytes
    posters: Mapping[str, Path]
    config: TableConfig
    downloads: int

    def upload(self, collection: str) -> TableConfig:
        """Upload table and posters under their hashes, and return their addresses.

        Raises:
            ServiceUnavailable: the bucket is not reachable.
        """
        store = Store(read_settings(collection))
        key = f"tables/{sha256_of(self.content)}/{self.name}"
        if not store.exists(key):
            store.write(key, self.content)
        posters = upload_posters(store, self.posters) if self.posters else ""
        return replace(self.config, catalogue=store.uri(key), posters=posters)


def read_local_table(table: Path, posters: Path | None, config: TableConfig) -> LocalTable:
    """Read a table, and find its posters in a folder. `config` says how to read it.

    Raises:
        DatasetError: the table or the folder cannot be read, or the rows name neither files nor addresses.
        ConfigurationError: posters are to be downloaded from other machines, and no contact is set.
    """
    try:
        content = table.read_bytes()
    except OSError as error:
        raise DatasetError(f"The table {table} cannot be read: {error.strerror}.") from None
    read = read_rows(content, table.name, config.options)
    rows = read.rows[read.rows["explicit"] == ""]
    names = find_poster_files(rows, posters).names if posters is not None else [None] * len(rows)
    files = {name: posters / name for name in names if posters is not None and name is not None}
    addresses = rows.loc[[name is None for name in names], "poster_url"]
    addresses = addresses[addresses != ""]
    if not files and addresses.empty:
        complete, mend = "", "Give"
        if read.incomplete_addresses:
            complete, mend = "complete ", "Complete them with --image-base ADDRESS, or give"
        raise DatasetError(
            f"The table {table} has no {complete}addresses of posters. {mend} the folder of its files with "
            "--posters DIR.",
            "\n".join(read.notices),
        )
    if not addresses.empty:
        try:
            check_contact(addresses.iloc[0], read_settings().contact)
        except ConfigurationError as error:
            downloads = f"{counted(len(addresses), 'poster')} without a file would be downloaded."
            leave_out = " --columns poster_url= leaves them out." if files else ""
            raise ConfigurationError(error.message, downloads + leave_out) from None
    # The bucket is known once the services run, so this address has only the table's name.
    config = replace(config, catalogue=f"gs://-/{table.name}")
    return LocalTable(table.name, content, files, config, len(addresses))
