"""BeautifulSoup's tree of the few elements of a page that are read.

lxml parses a page in some milliseconds; BeautifulSoup's tree of it takes twenty times as long, and the more, the
more elements it has. A SoupStrainer would choose whole subtrees only, such as a card with all that is in it.
"""

from collections.abc import Callable, Mapping
from typing import Any

from bs4 import BeautifulSoup
from bs4.builder._lxml import LXMLTreeBuilder

Wanted = Callable[[str, Mapping[str, str]], bool]


def sparse_tree(page: str, wanted: Wanted) -> BeautifulSoup:
    """The tree of the elements for whose name and attributes `wanted` is true.

    What is in an element that is not wanted hangs from the nearest wanted one around it; only text directly in a
    wanted element is kept.
    """
    return BeautifulSoup(page, builder=_SparseTreeBuilder(wanted))


class _SparseTreeBuilder(LXMLTreeBuilder):
    """Passes on from lxml's parser to BeautifulSoup what is wanted, and drops the rest at once."""

    CHUNK_SIZE = 1 << 16  # characters at a time; 512 of them, the default, are a tenth of the whole time

    def __init__(self, wanted: Wanted) -> None:
        super().__init__()
        self._wanted = wanted
        self._path: list[bool] = []  # from the root to the present element: is it wanted?

    def start(self, tag: Any, attrib: Any, nsmap: Any = {}) -> None:  # noqa: B006 (as lxml calls it)
        self._path.append(self._wanted(tag, attrib))
        if self._path[-1]:
            super().start(tag, attrib, nsmap)

    def end(self, tag: Any) -> None:
        if self._path.pop():
            super().end(tag)

    def data(self, data: Any) -> None:
        if self._path and self._path[-1]:
            super().data(data)
