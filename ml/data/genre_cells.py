"""Genres in the cells of other people's tables: fillers, list literals and separators.

A cell is a list literal of Python, JSON, NumPy or PostgreSQL (of names, or of objects with a name and an id), or names
that are joined by a separator. The separator is the one whose parts recur in other cells: `Kids, Family` is one name
if neither `Kids` nor `Family` occurs elsewhere.
"""

import ast
import html
import json
import re
import unicodedata
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ml.data.table_cells import parsed, shortened, shown
from ml.errors import DatasetError

BAR = "|"
_SEPARATORS = (BAR, ";", ",", "/", "\n", "\t", "\u2022", "\u00b7", "\u3001", "\uff0c", " - ")
# Signs that are also parts of names. They separate only if nothing else does and all parts recur.
_PARTS_OF_NAMES = ("&", " and ", "+", ":", "~", "#", "\\", ">", "-", "_", " ")
_LABELS = {"\n": "a line break", "\t": "a tab", " ": "a blank"}
_FILLER_LINES = """
-
--
---
\u2013
\u2014
?
[]
{}
()
''
\"\"
['']
[\"\"]
[nan]
[none]
[null]
\\n
na
n/a
<na>
nan
nat
none
null
nil
unknown
unknown genre
undefined
unspecified
not specified
not available
missing
tba
tbd
no genre
no genres
no genres listed
(no genres listed)
no genres have been added yet
none listed
"""
_FILLERS = frozenset(_FILLER_LINES.splitlines())
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
_QUOTED_LIST = re.compile(rf"[\[({{]\s*{_QUOTED}(?:[\s,]*{_QUOTED})*[\s,]*[\])}}]", re.DOTALL)
_POSTGRESQL_ARRAY = re.compile(r'(?:[^{}",:\']+|"[^"]*")(?:,(?:[^{}",:\']+|"[^"]*"))*')
_CUT_LIST = re.compile(r"""^\s*[\[({]\s*['"{]|['"}]\s*[\])}]\s*$""")
_BRACKETS = {"[": "]", "{": "}", "(": ")"}
_NAME_KEYS = ("name", "Name", "title", "label", "description", "genre", "text", "value")
_ID_KEYS = ("id", "mal_id", "genre_id", "Id", "ID")
_SUPPORTED = 0.9  # share of cells
_OFTEN = 10  # rows
_RECURRING_ROWS, _FEW = 3, 0.05
_RARE = 0.01  # share of rows that may have another separator than all others
_WORDS_TOGETHER = 5  # times that two words occur, always together, before they count as one name
_READING = 3  # examples per reading in an error
_SHOWN_NAMES, _SHOWN_NAME = 150, 20  # characters in a message


_Items = tuple[tuple[str, str], ...]
"""Genres as (id or "", name)."""


@dataclass(frozen=True)
class Genres:
    """The genres of each row as (id or "", name); None for a cell that cannot be read. Notices name what was chosen."""

    of_rows: list[_Items | None]
    notices: tuple[str, ...]


def is_filler(cell: str) -> bool:
    """Whether a cell says only that its value is unknown, such as `N/A` or `[]`."""
    return " ".join(cell.split()).casefold() in _FILLERS


def read_genres(cells: Sequence[str], separator: str | None, name: str) -> Genres:
    """Read the genres of a column's cells.

    `separator` is the given one, None to find it; `name` is the table's name. Raises DatasetError if the cells can be
    read in two ways.
    """
    separator = separator or None
    cells = [html.unescape(cell) if "&" in cell and ";" in cell else cell for cell in cells]
    counts = Counter(cell for cell in cells if not is_filler(cell))
    literals = {cell: items for cell in counts if (items := _literal(cell)) is not None}
    read: dict[str, _Items | None] = {cell: None for cell in counts if cell not in literals and _CUT_LIST.search(cell)}
    plain = {cell: count for cell, count in counts.items() if cell not in literals and cell not in read}
    notices: list[str] = []
    if sum(counts[cell] for cell in literals) > sum(plain.values()):
        example = shortened(max(literals, key=lambda cell: counts[cell]))
        notices.append(f"The genres are lists, such as {example}.")
        names = {text for items in literals.values() for _, text in items}
        for cell in plain:
            if re.search(r"""[\[\]{}]|^['"]|['"]$""", cell):  # a list that was cut off
                read[cell] = None
            else:
                parts = _split_by(separator or ",")(cell)
                read[cell] = _named(parts if names.issuperset(parts) else [cell.strip()])
    elif plain:
        split, notice, unclear = _splitter(plain, separator, name)
        notices += [notice] if notice else []
        read.update({cell: None if cell in unclear else _named(split(cell)) for cell in plain})
    if any(BAR in text for items in (*literals.values(), *filter(None, read.values())) for _, text in items):
        notices.append(f"The names of some genres contain {BAR}; / replaces it.")
    read.update(literals)
    return Genres([read.get(cell, ()) for cell in cells], tuple(notices))


def unify(rows: Sequence[_Items | None], places: Sequence[object], name: str) -> tuple[list[_Items | None], list[str]]:
    """Write each genre in one way: its most frequent spelling, and its id where the table knows one.

    Fillers and repeated genres are removed. `places` says where each row is in the table `name`. Raises DatasetError
    if a genre has two ids, or if two genres of a row have one.
    """
    spellings: defaultdict[str, Counter[str]] = defaultdict(Counter)
    ids: dict[str, tuple[str, object]] = {}
    for genres, place in zip(rows, places, strict=True):
        in_row: dict[str, tuple[str, str]] = {}
        for id, text in genres or ():
            key = _folded(text)
            spellings[key][_tidy(text)] += 1
            known, where = ids.setdefault(key, (id, place)) if id else ("", place)
            if known != id or (id and in_row.setdefault(id, (key, text))[0] != key):
                other = (
                    f"{shown(text)} has the id {id} in row {place} and {known} in row {where}"
                    if known != id
                    else f"{shown(in_row[id][1])} and {shown(text)} in row {place} have the id {id}"
                )
                raise DatasetError(
                    f"The genre ids of the table {name} do not fit its genres: {other}. --columns genre_ids= ignores "
                    "the ids."
                )
    by_id: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for key, names in spellings.items():
        by_id[ids[key][0] if key in ids else key].update(names)
    best = {key: sorted(names, key=lambda text: (-names[text], text)) for key, names in by_id.items()}
    same = sorted(" = ".join(names) for names in best.values() if len(names) > 1)
    notices = [f"Names of one genre: {shortened(', '.join(same), _SHOWN_NAMES)}."] if same else []

    def unified(genres: _Items | None) -> _Items | None:
        found = {}
        for _, text in genres or ():
            id = ids[_folded(text)][0] if _folded(text) in ids else ""
            if id or not is_filler(text):
                found[id or _folded(text)] = (id, best[id or _folded(text)][0])
        return None if genres is None else tuple(found.values())

    cache = {genres: unified(genres) for genres in set(rows)}
    return [cache[genres] for genres in rows], notices


def _named(parts: Iterable[str]) -> _Items:
    return tuple(("", part) for part in parts)


def _tidy(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).replace(BAR, "/").split())


def _folded(text: str) -> str:
    return _tidy(text).casefold()


def _literal(cell: str) -> _Items | None:
    """The items (id or "", name) of a list literal; None if the cell is not one."""
    text = cell.strip()
    if re.fullmatch(rf"{_QUOTED}(?:\s*,\s*{_QUOTED})*", text, re.DOTALL):  # a list without its brackets
        text = f"[{text}]"
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return None
    if _QUOTED_LIST.fullmatch(text):  # also NumPy's, without commas, and sets, whose order Python would change
        return tuple(("", _unquote(item)) for item in re.findall(_QUOTED, text, re.DOTALL))
    value = literal_value(text)
    if value is not None:
        return _items(value)
    inside = text[1:-1]
    names_only = text[0] in "[{" and not re.search(r"""[\[\]{}:]|['"]\s*,|,\s*['"]|^\s*['"]""", inside)
    if names_only or (text[0] == "{" and _POSTGRESQL_ARRAY.fullmatch(inside)):
        parts = re.findall(r'"[^"]*"|[^,"]+', inside)
        return tuple(("", part.strip().strip('"')) for part in parts if part.strip())
    return None


def literal_value(text: str) -> Any:
    """The value of a JSON or Python literal; None if it is none."""
    try:
        return parsed(text, json.loads)
    except (ValueError, RecursionError):
        pass
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown escapes in strings
            return parsed(text, ast.literal_eval)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _unquote(item: str) -> str:
    return re.sub(r"\\(.)", r"\1", item[1:-1]) if "\\u" not in item else str(literal_value(item) or item[1:-1])


def _items(value: Any) -> _Items | None:
    """The genres in a value: names, objects with a name and an id, or an object whose keys are the names."""
    if value is None or value != value:
        return ()
    if isinstance(value, str):
        return (("", value.strip()),) if value.strip() else ()
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return (("", f"{value:g}" if isinstance(value, float) else str(value)),)
    if isinstance(value, dict):
        text = next((value[key] for key in _NAME_KEYS if isinstance(value.get(key), str)), None)
        if text is not None:
            id = next((str(value[key]) for key in _ID_KEYS if str(value.get(key, "")).isdecimal()), "")
            return ((id, text.strip()),) if text.strip() else ()
        if any(isinstance(value.get(key), list) for key in _NAME_KEYS):  # {"name": ["Action", "Drama"], "id": [1, 8]}
            if not all(isinstance(each, list) for each in value.values()):
                return None
            return _items([dict(zip(value, row, strict=False)) for row in zip(*value.values(), strict=False)])
        if all(isinstance(count, int | float) for count in value.values()):  # {"fantasy": 12, "fiction": 3}
            return tuple(("", str(key).strip()) for key, count in value.items() if count)
        values = list(value.values())  # {"0": {"id": 1, "name": "Action"}, ...}
        return _items(values) if all(isinstance(each, dict) for each in values) else None
    if isinstance(value, list | tuple | set | frozenset):
        items: list[tuple[str, str]] = []
        for each in value:
            found = _items(each)
            if found is None:
                return None
            items += found
        return tuple(items)
    return None


_Split = Callable[[str], list[str]]


def _split_by(separator: str) -> _Split:
    """A function that splits a cell. Several signs, such as `,|`, are separators each."""
    signs = separator.strip() or separator[:1]
    if len(signs) > 1 and not re.search(r"[\w\s]", signs):
        pattern = "|".join(map(re.escape, signs))
    elif signs == " ":
        pattern = r"\s+"
    else:  # words, and a hyphen if it is given so, stand between blanks
        between_blanks = signs[:1].isalnum() or separator == f" {signs} "
        pattern = rf"\s+{re.escape(signs)}\s+" if between_blanks else re.escape(signs)
    return lambda cell: [part.strip() for part in re.split(pattern, cell) if part.strip()]


def _splitter(counts: Mapping[str, int], separator: str | None, name: str) -> tuple[_Split, str | None, set[str]]:
    """How to split plain cells (`counts` says how often each occurs), and a notice about it.

    The third value has the cells with another separator than all others, if they are rare. Raises DatasetError if two
    readings are possible.
    """
    if separator is not None:
        return _split_by(separator), f"The genres are separated by {_label(separator)}, as given.", set()
    strong, weak = _supports(counts, _SEPARATORS), _supports(counts, _PARTS_OF_NAMES)
    clear = [sign for sign, share in strong.items() if share >= _SUPPORTED]
    partly_supported = [sign for sign, share in strong.items() if 0 < share < _SUPPORTED]
    unseen = [sign for sign, share in strong.items() if share == 0 and _may_be_list(counts, sign)]
    if not clear and BAR in unseen:
        clear = [BAR]  # too few rows to see a part twice; the product's own tables use it
    if clear and (rows := max(_rows_with(counts, sign) for sign in clear)) < _RARE * sum(counts.values()):
        commoner = [sign for sign in (*partly_supported, *unseen) if _rows_with(counts, sign) > rows]
        clear = [] if commoner else clear
        partly_supported = commoner or partly_supported
    if not clear and (partly_supported or unseen):
        raise _two_readings(counts, (partly_supported or unseen)[:1], name)
    if clear:
        chosen = max(clear, key=lambda sign: _rows_with(counts, sign))
        split = _split_by(chosen)
        total, unclear = sum(counts.values()), set[str]()
        for other in (sign for sign in strong if sign != chosen):
            cells = _with_known_names_between(counts, split, other)
            if sum(counts[cell] for cell in cells) < _RARE * total:
                unclear |= cells
            elif strong[other] > 0:
                raise _two_readings(counts, [chosen, other], name)
        share = f"{_rows_with(counts, chosen)} of {total} cells"
        return split, f"The genres are separated by {_label(chosen)} ({share}).", unclear
    clear = [sign for sign, share in weak.items() if share >= _SUPPORTED]
    if not clear and any(weak.values()):
        raise _two_readings(counts, [max(weak, key=lambda sign: weak[sign])], name)
    if not clear:
        return lambda cell: [cell.strip()], None, set()
    # The true separator gives the fewest names: others cut through names and leave them joined.
    chosen = min(
        clear, key=lambda sign: (len({part for cell in counts for part in _split_by(sign)(cell)}), sign == " ")
    )
    split = _split_between_names(counts, chosen)
    names = sorted({text for cell in counts for text in split(cell) if chosen in text})
    together = f"; always together, so one name: {shortened(', '.join(names), _SHOWN_NAMES)}" if names else ""
    return split, f"The genres are separated by {_label(chosen)}{together}.", set()


def _supports(counts: Mapping[str, int], signs: Sequence[str]) -> dict[str, float]:
    """The support of each sign that occurs."""
    return {sign: support for sign in signs if (support := _support(counts, sign)) is not None}


def _rows_with(counts: Mapping[str, int], sign: str) -> int:
    return sum(count for cell, count in counts.items() if sign in cell)


def _support(counts: Mapping[str, int], sign: str) -> float | None:
    """The share of different cells with this sign whose parts occur in other cells; None without such cells."""
    split = _split_by(sign)
    several = {cell: parts for cell in counts if sign in cell and len(parts := list(dict.fromkeys(split(cell)))) > 1}
    if not several:  # `Action|`
        return 1.0 if sign in (BAR, ";", ",") and any(sign in cell for cell in counts) else None
    occurs = Counter(part for cell in counts for part in set(several.get(cell, split(cell))))
    supported = 0
    for cell, parts in several.items():
        recurring = sum(occurs[part] > 1 for part in parts)
        # A frequent cell of which only one part recurs may be a name.
        rarely = counts[cell] < _OFTEN and sign not in _PARTS_OF_NAMES
        supported += recurring == len(parts) or (recurring > 0 and rarely)
    return supported / len(several)


def _may_be_list(counts: Mapping[str, int], sign: str) -> bool:
    """Whether cells with this sign, whose parts occur nowhere else, may be lists: they are many and do not recur."""
    several = [count for cell, count in counts.items() if sign in cell]
    total = sum(counts.values())
    return sum(several) < _RECURRING_ROWS * len(several) and sum(several) > _FEW * total


def _with_known_names_between(counts: Collection[str], split: _Split, sign: str) -> set[str]:
    """The cells with a name that contains a sign, and consists of other names of the table."""
    split_again = _split_by(sign)
    names = {name for cell in counts for name in split(cell)}
    pieces = {name: split_again(name) for name in names if sign in name}
    joined = {name for name, each in pieces.items() if len(each) > 1 and names.issuperset(each)}
    return {cell for cell in counts if sign in cell and not joined.isdisjoint(split(cell))}


def _split_between_names(counts: Mapping[str, int], sign: str) -> _Split:
    """A function that splits a cell, but not between words that occur only together, as `Science Fiction`."""
    words: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    cells: Counter[tuple[str, str]] = Counter()
    split = _split_by(sign)
    for cell, count in counts.items():
        in_cell = split(cell)
        for word in in_cell:
            words[word] += count
        for pair in pairwise(in_cell):
            pairs[pair] += count
            cells[pair] += 1
    together = {
        pair
        for pair, count in pairs.items()
        if count >= _WORDS_TOGETHER and cells[pair] > 2 and words[pair[0]] == words[pair[1]] == count
    }

    def split_between_names(cell: str) -> list[str]:
        names: list[str] = []
        last = None
        for word in split(cell):
            if last is not None and (last, word) in together:
                names[-1] += f"{sign}{word}"
            else:
                names.append(word)
            last = word
        return names

    return split_between_names


def _two_readings(counts: Mapping[str, int], signs: Iterable[str], name: str) -> DatasetError:
    signs = list(signs)
    cell = max((cell for cell in counts if all(sign in cell for sign in signs[-1:])), key=lambda cell: counts[cell])
    readings = [f"{_names(_split_by(sign)(cell))} with --separator {_quoted(sign)}" for sign in signs]
    if len(signs) == 1:
        other = BAR if signs[0] != BAR else ";"
        readings.append(f"{_names([cell.strip()])} with --separator {_quoted(other)}")
    else:
        readings.append(f"both with --separator {_quoted(''.join(signs))}")
    return DatasetError(
        f"The genres of the table {name} can be read in two ways. Choose one with --separator.",
        "\n".join([f"{_quoted(shortened(cell))} is", *readings]),
    )


def _names(parts: Sequence[str]) -> str:
    head = " and ".join(shown(part, _SHOWN_NAME) for part in parts[:_READING])
    return head + (" ..." if len(parts) > _READING else "")


def _label(sign: str) -> str:
    return _LABELS.get(sign, _quoted(sign.strip() or sign))


def _quoted(text: str) -> str:
    return f"'{text}'"
