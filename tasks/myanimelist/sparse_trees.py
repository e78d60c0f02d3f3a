"""BeautifulSoup's trees of the few elements of a page that are read.

lxml parses a page in a few milliseconds; BeautifulSoup takes ten to twenty times as long to build its tree of it, and
the longer, the more elements that has. (Its SoupStrainer would choose whole subtrees only, such as a card with all
that is in it.) So lxml parses the page, and BeautifulSoup's trees are of what is read alone: a small one for each card
or field, which can be read and forgotten before the next one comes.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from bs4 import Tag
from bs4.builder import HTMLTreeBuilder
from bs4.element import NavigableString
from lxml import etree

_NO_TEXT = ("script", "style")


@dataclass(frozen=True)
class Part:
    """What is read of an element besides its attributes: elements in it by their names, and its text."""

    by_name: Mapping[str, "Part"] = field(default_factory=dict)
    text: bool = True
    is_root: bool = False  # has a tree of its own, even where it is in another root


@dataclass(frozen=True)
class SparseTree:
    """The tree of a root: what the root is told by, its tag, and the parts that hang from it, by class."""

    told_by: str
    tag: Tag
    parts: dict[str, list[Tag]]

    def first(self, name: str) -> Tag | None:
        """The first part of a class; None where there is none."""
        return next(iter(self.parts[name]), None)


class Layout:
    """What is read of one kind of pages.

    Roots and parts are told by one of their classes, and some roots by their name, or by an attribute with its value.
    What is told by class or attribute is a root only if its name is one of `root_names`. Parts are found however deep
    in a root, and in another part.
    """

    def __init__(
        self,
        root_names: tuple[str, ...],
        by_class: Mapping[str, Part],
        by_name: Mapping[str, Part] | None = None,
        by_attribute: Mapping[tuple[str, str], Part] | None = None,
    ) -> None:
        self._root_names = root_names
        self._by_name = by_name or {}
        self._by_attribute = by_attribute or {}

        @lru_cache(maxsize=4096)  # a page has thousands of elements, but few different values of `class`
        def part_of(classes: str | None) -> tuple[str, Part] | None:
            return next(((name, by_class[name]) for name in (classes or "").split() if name in by_class), None)

        self._part_of = part_of

    def trees(self, page: str) -> Iterator[SparseTree]:
        """The trees of a page in its order, but first those of the roots told by their name.

        What is in an element that is not read hangs from the nearest one around it that is. White space between
        two elements becomes a blank before the next text. `class` is one string, as in the page.
        """
        parser = etree.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, collect_ids=False)
        document = etree.fromstring(page.encode(), parser)
        if document is None:
            return
        tops = (document, *document.itersiblings())  # what comes after a first </html> is beside it
        for name, part in self._by_name.items():
            for element in (element for top in tops for element in top.iter(name)):
                yield from self._trees_from(element, name, part)
        for top in tops:
            walk = etree.iterwalk(top, events=("start",), tag=self._root_names)
            for _, element in walk:
                if root := self._root(element):
                    walk.skip_subtree()
                    yield from self._trees_from(element, *root)

    def _root(self, element: Any) -> tuple[str, Part] | None:
        found = self._part_of(element.get("class"))
        if found and found[1].is_root:
            return found
        for (name, value), part in self._by_attribute.items():
            if element.get(name) == value:
                return value, part
        return None

    def _trees_from(self, element: Any, told_by: str, part: Part) -> Iterator[SparseTree]:
        """The tree of a root, then those of the roots in it: cards in their list, or in a card that is not closed."""
        roots = [(element, told_by, part)]
        while roots:
            element, told_by, part = roots.pop()
            tree = SparseTree(told_by, _SparseTag(element), defaultdict(list))
            inner_roots: list[tuple[Any, str, Part]] = []
            self._fill(tree.tag, element, part, tree.parts, inner_roots)
            yield tree
            roots += reversed(inner_roots)

    def _fill(
        self,
        tag: Tag,
        element: Any,
        part: Part,
        parts: dict[str, list[Tag]],
        inner_roots: list[tuple[Any, str, Part]],
    ) -> Tag | NavigableString:
        """Hang from a tag what is read of its element, and return the last thing that hangs there.

        BeautifulSoup's own way, from a parser's events to tags and strings, takes twice as long.
        """
        text = element.text if part.text else None
        if not len(element):
            return _hang(text, tag, tag) if text else tag
        last: Tag | NavigableString = tag
        blank = ""
        walk = etree.iterwalk(element, events=("start", "end") if part.text else ("start",))
        next(walk)
        for event, inner in walk:
            if text and text.isspace():
                blank = " "
            elif text:
                last, blank = _hang(blank + text, tag, last), ""
            if event == "end":
                text = inner.tail
                continue
            found = self._part_of(inner.get("class"))
            inner_part = found[1] if found else part.by_name.get(inner.tag) if part.by_name else None
            if inner_part is None:
                text = inner.text if part.text and inner.tag not in _NO_TEXT else None
                continue
            text = None
            walk.skip_subtree()
            if found and inner_part.is_root:
                inner_roots.append((inner, *found))
                continue
            if blank and last is not tag:
                last, blank = _hang(blank, tag, last), ""
            inner_tag = _SparseTag(inner, tag, last)
            tag.contents.append(inner_tag)
            if found:
                parts[found[0]].append(inner_tag)
            last = self._fill(inner_tag, inner, inner_part, parts, inner_roots)
        return last


class _SparseTag(Tag):
    """A tag with nothing of its own but what differs from tag to tag, and so made in half of the time."""

    def __init__(self, element: Any, parent: Tag | None = None, previous: Tag | NavigableString | None = None) -> None:
        self.name = element.tag
        self.attrs = dict(element.items())
        self.contents = []
        self.setup(parent, previous)


for _name, _value in vars(Tag(builder=HTMLTreeBuilder(), name="")).items():
    setattr(_SparseTag, _name, _value)  # what BeautifulSoup's constructor would set anew for each


def _hang(text: str, tag: Tag, previous: Tag | NavigableString) -> NavigableString:
    string = NavigableString(text)
    string.setup(tag, previous)
    tag.contents.append(string)
    return string
