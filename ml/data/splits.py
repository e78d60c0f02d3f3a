"""Train, validation and test parts by franchise, drawn once and for good.

A random split puts siblings of half of all test titles into training, and a model that copies a sibling's
genres scores well without reading a pixel. So a franchise is in one part, drawn from a hash of its key, and
the table of parts only grows. Titles whose posters are one picture count as one franchise.
"""

import csv
import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import StringIO
from itertools import chain
from typing import Self

from ml.errors import DatasetError

TRAIN, VALIDATION, TEST, LEFT_OUT = "train", "validation", "test", "left_out"
PARTS = (TRAIN, VALIDATION, TEST)
_VALIDATION_SHARE, _TEST_SHARE = 0.15, 0.15
_COLUMNS = ("id", "franchise", "part")

# A subtitle: what follows ": ", " - ", a tilde or a bracket. "Re:Zero" and "Fate/stay night" have none.
_SUBTITLE = re.compile(r"(?<=.)(?::\s|\s[-\u2013\u2014]+\s|\s?[~〜(\[「]).*")
_LEADING_FORM = re.compile(r"^(?:gekijou?ban|eiga|zoku|shin)\s+")
_ORDINAL = r"(?:\d+(?:st|nd|rd|th)|first|second|third|fourth|fifth|final|the final)"
_TRAILING_FORM = re.compile(
    rf"\s+(?:{_ORDINAL}\s+(?:season|stage|series|part|cour)"
    r"|(?:season|part|cour|vol|volume|chapter|episode|movie|stage)\s+(?:\d+|[ivx]+)"
    r"|(?:the\s+)?(?:movies?|gekijou?ban|eiga|ova|oad|ona|tv|specials?|recaps?|soushuuhen|picture drama|"
    r"season|part|pilot|final|next|new)"
    r"|s?\d+|[ivx]{2,}|[rsxz]|2nd|3rd|[4-9]th)$"
)


def franchise_key(title: str) -> str:
    """The franchise that a title names: the title without season, part, form, numeral and subtitle.

    Two titles of one key count as one franchise; a key that is too broad costs a little balance between the
    parts, a key that is too narrow would leak, so the rules prefer too broad.
    """
    folded = unicodedata.normalize("NFKC", title).casefold().strip()
    key = _words(_SUBTITLE.sub("", folded))
    key = _LEADING_FORM.sub("", key)
    while (shorter := _TRAILING_FORM.sub("", key)) != key:
        key = shorter
    return key or _words(folded) or folded


def draw_part(franchise: str) -> str:
    """The part of a new franchise: 70 % train, 15 % validation, 15 % test, drawn from the hash of its key."""
    draw = int.from_bytes(hashlib.sha256(franchise.encode()).digest()[:8]) / 2**64
    if draw < _TEST_SHARE:
        return TEST
    return VALIDATION if draw < _TEST_SHARE + _VALIDATION_SHARE else TRAIN


def franchises(
    titles: Mapping[str, str],
    related: Mapping[str, Iterable[str]] | None = None,
    alike: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """The franchise key of each title by its id; titles that are related, or whose posters look alike, share one.

    `related` gives the ids of the titles related to a title; ids that are not in `titles` still join those
    that name them. `alike` are pairs of ids (see `ml.data.duplicates.look_alikes`).
    """
    keys = {id: franchise_key(title) or id for id, title in titles.items()}
    pairs = ((id, other) for id, others in (related or {}).items() for other in others)
    return join_franchises(keys, chain(pairs, alike))


def join_franchises(keys: Mapping[str, str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The franchise key of each title by its id, where pairs of ids are of one franchise.

    The key of a joined franchise is the alphabetically first of its titles' keys.
    """
    groups = _Groups()
    for id, key in keys.items():
        groups.join(("title", id), ("franchise", key))
    for one, other in pairs:
        groups.join(("title", one), ("title", other))
    first: dict[tuple[str, str], str] = {}
    for id, key in keys.items():
        group = groups.of(("title", id))
        first[group] = min(first.get(group, key), key)
    return {id: first[groups.of(("title", id))] for id in keys}


@dataclass(frozen=True)
class Assignment:
    """The part of each title by its id, `LEFT_OUT` for those of `left_out`: members of franchises that turned
    out to be one while they stood in several parts."""

    parts: Mapping[str, str]
    left_out: tuple[str, ...]


@dataclass
class PartTable:
    """Which part each title was drawn into: rows are added, none ever changes."""

    rows: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Franchise and part by the title's id."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the table from csv text; DatasetError where it is none."""
        reader = csv.DictReader(StringIO(text))
        if tuple(reader.fieldnames or ()) != _COLUMNS:
            raise DatasetError(f"The table of parts must have the columns {', '.join(_COLUMNS)}.")
        rows: dict[str, tuple[str, str]] = {}
        for row in reader:
            if row["part"] not in PARTS or row["id"] in rows:
                raise DatasetError(f"The table of parts is damaged at the title '{row['id']}'.")
            rows[row["id"]] = row["franchise"], row["part"]
        return cls(rows)

    def text(self) -> str:
        """The table as csv, in the order in which its rows were added."""
        out = StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((id, *row) for id, row in self.rows.items())
        return out.getvalue()

    def assign(self, franchise_of: Mapping[str, str]) -> Assignment:
        """The part of each title of `franchise_of` (id to franchise key); titles new to the table join it.

        A new title takes its franchise's part; a new franchise draws one. Where franchises that stand in
        several parts turn out to be one, its titles in test stay (else those in validation), the others are
        left out, and new titles take the part that stays.
        """
        groups = _Groups()
        for id, franchise in franchise_of.items():
            groups.join(("title", id), ("franchise", franchise))
        for id, (franchise, _) in self.rows.items():
            groups.join(("title", id), ("franchise", franchise))
        drawn: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        for id, (_, part) in self.rows.items():
            drawn[groups.of(("title", id))].add(part)
        parts: dict[str, str] = {}
        for id in sorted(franchise_of):
            franchise = franchise_of[id]
            group = drawn[groups.of(("title", id))] or {draw_part(franchise)}
            stays = max(group, key=PARTS.index)
            if id not in self.rows:
                self.rows[id] = franchise, stays
            parts[id] = stays if self.rows[id][1] == stays else LEFT_OUT
        return Assignment(parts, tuple(id for id, part in parts.items() if part == LEFT_OUT))


class _Groups:
    """Disjoint sets (union-find with path halving; Tarjan and van Leeuwen 1984)."""

    def __init__(self) -> None:
        self._parent: dict[tuple[str, str], tuple[str, str]] = {}

    def of(self, member: tuple[str, str]) -> tuple[str, str]:
        parent = self._parent
        parent.setdefault(member, member)
        while parent[member] != member:
            parent[member] = parent[parent[member]]
            member = parent[member]
        return member

    def join(self, one: tuple[str, str], other: tuple[str, str]) -> None:
        self._parent[self.of(one)] = self.of(other)


def _words(text: str) -> str:
    """Letters and digits, single spaces between them."""
    return " ".join(re.findall(r"\w+", text))
