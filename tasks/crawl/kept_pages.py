"""The pages that were read, kept compressed under the hash of their content: `pages/{sha256}.html.gz`.

What is made of a page can be made anew at any time, without asking the site.
"""

import gzip
import zlib
from collections.abc import Collection
from pathlib import Path

from infra.files import sha256_of, write_bytes
from tasks.errors import KeptPageError

_LEVEL = 6  # of zlib's nine: a tenth of the page, in 10 ms


class KeptPages:
    """The pages in a folder, by the sha256 of their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """Where a page is, or would be."""
        return self.folder / f"{sha256}.html.gz"

    def keep(self, body: bytes) -> str:
        """Keep a page, and return its sha256."""
        sha256 = sha256_of(body)
        if not self.has(sha256):
            write_bytes(self.path(sha256), gzip.compress(body, _LEVEL, mtime=0))
        return sha256

    def remove_all_but(self, wanted: Collection[str | None]) -> None:
        """Remove the pages that others have taken the place of."""
        for path in self.folder.glob("*.html.gz"):
            if path.name.removesuffix(".html.gz") not in wanted:
                path.unlink(missing_ok=True)

    def has(self, sha256: str) -> bool:
        """Whether a page is here, and whole."""
        try:
            self.read(sha256)
        except KeptPageError:
            return False
        return True

    def read(self, sha256: str) -> bytes:
        """A page as it came.

        Raises:
            KeptPageError: it is not here, or not whole.
        """
        path = self.path(sha256)
        try:
            body = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise KeptPageError(f"The kept page {path} cannot be read: {error}.") from error
        if sha256_of(body) != sha256:
            raise KeptPageError(f"The kept page {path} is not what its name says.")
        return body
