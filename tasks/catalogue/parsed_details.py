"""What detail pages say, as the parser read it before, so that a run parses only new pages.

`parsed-details.json.gz` is a cache: any other version of the code or of the libraries starts a new one.
"""

import gzip
import json
import zlib
from collections.abc import Collection
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from infra.files import write_bytes
from serving.bundle.files import sha256_of
from tasks.catalogue.source import DetailSource
from tasks.catalogue.titles import Details, Related
from tasks.versions import code_version

FILE = "parsed-details.json.gz"
_LIBRARIES = ("beautifulsoup4", "lxml")


class ParsedDetails:
    """What a source's detail pages say, by the sha256 of the page, in the file of a folder."""

    def __init__(self, folder: Path, source: DetailSource) -> None:
        self._path = folder / FILE
        self._source = source
        self._version = " ".join([code_version(), *map(version, _LIBRARIES)])
        self._stored = self._read()
        self._details = dict(self._stored)

    def parse(self, body: bytes) -> Details:
        """As `source.parse_details`; a page that was parsed before is not parsed again."""
        sha256 = sha256_of(body)
        if sha256 not in self._details:
            details = self._source.parse_details(body)
            self._details[sha256] = json.dumps(asdict(details))
            return details
        values = json.loads(self._details[sha256])
        return Details(**values | {"related": [Related(**related) for related in values["related"]]})

    def write(self, pages: Collection[str | None]) -> None:
        """Write the file for the next run, with what is known about these pages."""
        details = {sha256: text for sha256, text in self._details.items() if sha256 in pages}
        if details != self._stored:
            text = json.dumps({"version": self._version, "titles": details})
            write_bytes(self._path, gzip.compress(text.encode(), mtime=0), durable=False)

    def _read(self) -> dict[str, str]:
        """The details as JSON, which needs a fraction of their memory; none if the file is absent, old or damaged."""
        try:
            stored = json.loads(gzip.decompress(self._path.read_bytes()))
        except (OSError, EOFError, zlib.error, ValueError):
            return {}
        details: dict[str, str] = stored["titles"] if stored["version"] == self._version else {}
        return details
