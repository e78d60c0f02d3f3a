"""The pages of the last visits, compressed, named by the hash of their content: `pages/{sha256}.html.gz`.

Catalogues can be rebuilt from them without a request to the site.
"""

import gzip
import zlib
from collections.abc import Collection
from pathlib import Path

from infra.files import write_bytes
from serving.bundle.files import sha256_of
from tasks.errors import KeptPageError

_MEND = "Run `collect` to fetch it again."
_LEVEL = 6  # of zlib's nine; reduces a page to a tenth in 10 ms


class KeptPages:
    """The pages in a folder by the sha256 of their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        """The file of a page, which may not exist."""
        return self.folder / f"{sha256}.html.gz"

    def keep(self, body: bytes) -> str:
        """Keep a page and return its sha256."""
        sha256 = sha256_of(body)
        if not self.has(sha256):
            write_bytes(self.path(sha256), gzip.compress(body, _LEVEL, mtime=0), durable=False)
        return sha256

    def remove_all_but(self, wanted: Collection[str | None]) -> None:
        """Remove all pages except these."""
        for path in self.folder.glob("*.html.gz"):
            if path.name.removesuffix(".html.gz") not in wanted:
                path.unlink(missing_ok=True)

    def has(self, sha256: str) -> bool:
        """Whether a page is kept and intact."""
        try:
            self.read(sha256)
        except KeptPageError:
            return False
        return True

    def read(self, sha256: str) -> bytes:
        """The content of a page.

        Raises:
            KeptPageError: the page is not kept, or is damaged.
        """
        path = self.path(sha256)
        try:
            body = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            why = getattr(error, "strerror", None) or error
            raise KeptPageError(f"The kept page {path} cannot be read: {why}. {_MEND}") from error
        if sha256_of(body) != sha256:
            raise KeptPageError(f"The content of the kept page {path} does not match its name. {_MEND}")
        return body
