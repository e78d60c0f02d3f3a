"""Builds BeautifulSoup tags of only those elements of a page that a parser reads.

BeautifulSoup spends most of its time creating tags. A `SoupStrainer` helps little: it keeps every element inside a
match, and the cards of a season page are nearly the whole page. The tree builder here also skips elements inside.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

from bs4 import BeautifulSoup, Tag
from bs4.builder import LXMLTreeBuilder  # type: ignore[attr-defined]  # bs4 adds it when lxml is installed

Match = Callable[[str, Mapping[str, Any]], bool]  # of an element's name and attributes


class _SelectiveTreeBuilder(LXMLTreeBuilder):  # type: ignore[misc]
    """Skips elements that do not match; their text and children go to the element around them."""

    def __init__(self, is_root: Match, is_part: Match) -> None:
        super().__init__(multi_valued_attributes=None)
        self._is_root = is_root
        self._is_part = is_part
        self._open: list[bool] = []  # per open element: does it match?
        self._depth = 0  # open elements that match

    def start(self, tag: Any, attrib: Any, nsmap: Any = {}) -> None:  # noqa: B006
        matches = self._is_root(tag, attrib) or (
            # BeautifulSoup leaves the text of scripts and styles out of the text around them.
            self._depth > 0 and (tag in ("script", "style") or self._is_part(tag, attrib))
        )
        self._open.append(matches)
        if matches:
            self._depth += 1
            super().start(tag, attrib, nsmap)

    def end(self, tag: Any) -> None:
        if self._open.pop():
            self._depth -= 1
            super().end(tag)

    def comment(self, text: Any) -> None:
        """Drops a comment: it would split the text around it."""


def roots_of(page: str, is_root: Match, is_part: Match) -> list[Tag]:
    """The elements of a page that match `is_root`, in document order, with the elements inside that match `is_part`.

    A root inside another root, such as a card after an unclosed card, is removed from the outer one.
    """
    tree = BeautifulSoup(page, builder=_SelectiveTreeBuilder(is_root, is_part))
    roots = [tag for tag in tree.find_all(True) if is_root(tag.name, tag.attrs)]
    for root in reversed(roots):
        root.extract()
    return roots


def tags_by_class(tag: Tag) -> dict[str, list[Tag]]:
    """The tags inside a tag by class, in document order."""
    found: dict[str, list[Tag]] = defaultdict(list)
    for inner in tag.find_all(True):
        for name in str(inner.attrs.get("class", "")).split():
            found[name].append(inner)
    return found
