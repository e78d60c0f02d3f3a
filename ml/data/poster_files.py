"""Finds the poster files of a table's rows in a folder, whatever form the table's paths have.

Only files that are listed inside the folder are candidates, so no cell leads out of it.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import takewhile
from pathlib import Path
from urllib.parse import quote, unquote

import pandas as pd

from ml.data.table_cells import shown
from ml.data.table_images import ENDINGS
from ml.errors import DatasetError
from serving.bundle.wording import counted

NO_FILE, NOT_FOUND = "no file named", "file not found"
AMBIGUOUS = "several files or rows for one name"
_SIMILAR = 3
_BY_CHANCE = 2  # times as many files that another way must find
_NUMBERED = re.compile(r"([^\d\s/\\.]*)([0-9]+)")  # tt0012345
_Spell = Callable[[str], str]
_COMPARED = 20_000  # names among which similar ones are searched


@dataclass(frozen=True)
class PosterNames:
    """The relative name of each row's poster file, parallel to the rows; None with a reason for rows without a file.

    The reason of a row with a file is "".
    """

    names: list[str | None]
    reasons: list[str]
    notices: tuple[str, ...] = ()


def find_poster_files(rows: pd.DataFrame, folder: Path) -> PosterNames:
    """Find the files of rows (see `ml.data.table_rows.TableRows`) in a folder and its subfolders.

    The names are those of the column `file`, else the ids, else the last parts of the addresses: the first of them
    that leads to files. A column of numbers may match a few files by chance. So if all names are numbers, a later way
    that finds more than twice as many files is taken instead. Rows that no name leads to a file may still have one
    whose name has the same number (see `_by_number`).

    Raises DatasetError if the folder cannot be read or no file is found.
    """
    return match_poster_names(rows, _files_in(folder), str(folder))


def match_poster_names(rows: pd.DataFrame, names: Sequence[str], place: str) -> PosterNames:
    """The same for files that have these relative names in `place`, a folder or the address of one."""
    index = _Index(names)
    ways = (
        ("", list(rows["file"])),
        ("the ids", list(rows["id"])),
        ("the last parts of the addresses", list(rows["poster_url"])),
    )
    best, most, tried = None, 0, [cells for _, cells in ways[:2]]
    for label, cells in ways:
        if _BY_CHANCE * most >= len(rows):  # no other way can be better
            break
        found = _find_all(cells, index)
        if (count := sum(map(bool, found.names))) > _BY_CHANCE * most:
            notices = (f"The poster files are found by {label}.",) if label else ()
            best, most, tried = replace(found, notices=notices), count, [cells]
        if count and not all(cell.isdecimal() for cell in cells if cell):
            break
    for cells in tried:
        if numbered := _by_number(cells, best, names):
            return numbered
    if best is None:
        raise _nothing_found(rows, index, place)
    return best


def _find_all(cells: Sequence[str], index: "_Index") -> PosterNames:
    found = {cell: index.find(cell) for cell in set(cells) if cell}
    # Different paths that lead to one file only after parts of them were removed: at least one of them is wrong.
    claims: defaultdict[str, set[str]] = defaultdict(set)
    for path, _, asked in found.values():
        if path:
            claims[path].add(asked)
    names: list[str | None] = []
    reasons: list[str] = []
    for cell in cells:
        path, reason, asked = found.get(cell, ("", NO_FILE, ""))
        if path and len(claims[path]) > 1 and asked != path:
            path, reason = "", AMBIGUOUS
        names.append(path or None)
        reasons.append("" if path else reason)
    return PosterNames(names, reasons)


def _by_number(cells: Sequence[str], found: PosterNames | None, paths: Sequence[str]) -> PosterNames | None:
    """What was found, and the files of other rows by the numbers in their names; None if these find no other file.

    Programs that take ids for numbers remove their zeros and prefix: 12345 is tt0012345.jpg. A number may also mean
    something else. So none counts if two files or two cells have the same one, if the cells or the files have it in
    several forms, or if both have a prefix and these differ.
    """
    found = found or PosterNames([None] * len(cells), [NOT_FOUND if cell else NO_FILE for cell in cells])
    asked = {cell.strip() for cell in cells if cell}
    if None not in found.names or (prefix := _form(asked)) is None:
        return None
    numbered = defaultdict[str, list[str]](list)
    for path in paths:
        stem, ending = _split_ending(path.rpartition("/")[2])
        if ending and (match := _NUMBERED.fullmatch(stem)):
            numbered[_number(match)].append(path)
    numbers = {cell: _number(match) for cell in asked if (match := _NUMBERED.fullmatch(cell))}
    pairs = {cell: _preferred(numbered[number]) for cell, number in numbers.items() if number in numbered}
    files = [path for alike in pairs.values() for path in alike]
    of_files = _form([_split_ending(path.rpartition("/")[2])[0] for path in files])
    if len(files) > len(pairs) or len(set(files)) < len(files) or of_files is None or len({prefix, of_files, ""}) > 2:
        return None
    file_of = dict(zip(pairs, files, strict=True))
    names = [name or file_of.get(cell.strip()) for cell, name in zip(cells, found.names, strict=True)]
    added = [place for place, name in enumerate(names) if name != found.names[place]]
    if not added:
        return None
    reasons = ["" if name else reason for name, reason in zip(names, found.reasons, strict=True)]
    example = f"such as {shown(names[added[0]] or '')} for {shown(cells[added[0]])}"
    notice = f"{counted(len(added), 'poster file')} found by the number in the name, {example}."
    return PosterNames(names, reasons, (*found.notices, notice))


def _number(name: re.Match[str]) -> str:
    return name[2].lstrip("0") or "0"


def _form(names: Collection[str]) -> str | None:
    """The prefix of names such as tt0012345; None if not all have it, and zeros up to the same number of digits."""
    matches = [_NUMBERED.fullmatch(name) for name in names]
    parts = {(match[1], len(match[2]), match[2][0] == "0") for match in matches if match}
    prefixes = {prefix for prefix, _, _ in parts}
    longest = max((length for _, length, has_zeros in parts if has_zeros), default=0)
    if None in matches or len(prefixes) != 1 or any(length < longest for _, length, _ in parts):
        return None
    return prefixes.pop()


class _Index:
    """The files in a folder and its subfolders, by their paths in several spellings."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = paths
        self._exact = set(self.paths)
        self._by_name: dict[_Spell, dict[str, list[str]]] = {}

    def find(self, cell: str) -> tuple[str, str, str]:
        """The path of a cell's file relative to the folder, or ""; the reason; and the path that was asked for."""
        if cell in self._exact:
            return cell, "", cell
        plain = cell.strip().replace("\\", "/")
        if len(alike := self._alike(plain, _composed)) == 1:  # the usual form, and fast
            return alike[0], "", plain
        paths = _spellings(cell)
        for path in paths:
            if path in self._exact:
                return path, "", path
        for path in paths:
            for spell in _SPELLINGS:
                if alike := self._alike(path, spell):
                    # The file with the most folders in common, and the fewest others.
                    ranks = [(-_folders_in_common(each, path), each.count("/")) for each in alike]
                    best = [each for each, rank in zip(alike, ranks, strict=True) if rank == min(ranks)]
                    best = _preferred(best) if len(best) > 1 else best
                    return (best[0], "", paths[0]) if len(best) == 1 else ("", AMBIGUOUS, paths[0])
        return "", NOT_FOUND, paths[0] if paths else ""

    def _alike(self, path: str, spell: _Spell) -> list[str]:
        """The files whose names, spelled in this way, are that of a path."""
        if spell not in self._by_name:
            by_name = self._by_name[spell] = defaultdict(list)
            for each in self.paths:
                by_name[spell(each.rpartition("/")[2])].append(each)
        return self._by_name[spell].get(spell(path.rpartition("/")[2]), [])


def _files_in(folder: Path) -> list[str]:
    """The relative paths of all files in a folder, in a fixed order."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()

    def walk(path: Path, prefix: str) -> None:
        status = path.stat()
        if (status.st_dev, status.st_ino) in seen:  # a link to a folder above
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                if entry.is_dir():
                    walk(Path(entry.path), f"{prefix}{entry.name}/")
                elif entry.is_file():
                    found.append(prefix + entry.name)

    try:
        walk(folder, "")
    except OSError as error:
        raise DatasetError(f"The folder {error.filename or folder} cannot be read: {error.strerror}.") from error
    return found


def _spellings(cell: str) -> list[str]:
    """The relative paths that a cell may mean, the most literal first."""
    text = cell.strip().strip("\"'").strip()
    plain = re.sub(r"^[A-Za-z][A-Za-z0-9+.-]+://[^/]*/", "", text)
    without_query = re.sub(r"[?#].*", "", plain) if plain != text else re.sub(r"\?.*", "", plain)
    texts = [plain, without_query, unquote(plain), unquote(without_query), quote(text, safe="")]
    paths = []
    for each in texts:
        parts = [part.strip() for part in re.split(r"[/\\]", each)]
        if ".." in parts:
            parts = parts[len(parts) - parts[::-1].index("..") :]
        parts = [part for part in parts if part not in ("", ".")]
        if parts and re.fullmatch(r"[A-Za-z]:", parts[0]):
            parts = parts[1:]
        if parts:
            paths.append("/".join(parts))
    return list(dict.fromkeys(paths))


def _folders_in_common(one: str, other: str) -> int:
    """How many folders before the names of two paths are the same."""
    folders = zip(*(_caseless(path).split("/")[-2::-1] for path in (one, other)), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], folders))


def _split_ending(path: str) -> tuple[str, str]:
    stem, dot, ending = path.rpartition(".")
    return (stem, f".{ending.casefold()}") if dot and f".{ending.casefold()}" in ENDINGS else (path, "")


def _composed(path: str) -> str:
    """Unicode's composed form, with the ending in lower case."""
    stem, ending = _split_ending(unicodedata.normalize("NFC", path))
    return stem + (".jpg" if ending == ".jpeg" else ending)


def _caseless(path: str) -> str:
    return _composed(path).casefold()


def _without_ending(path: str) -> str:
    """The path of an image without its ending, so that an id or a bare name leads to it."""
    return _split_ending(unicodedata.normalize("NFC", path))[0]


_SPELLINGS: tuple[_Spell, ...] = (_composed, _caseless, _without_ending)


def _preferred(paths: Sequence[str]) -> list[str]:
    """Of files that differ only in their endings, the one with the preferred ending; else all."""
    if len({_split_ending(path)[0] for path in paths}) > 1:
        return list(paths)
    order = {ending: place for place, ending in enumerate(ENDINGS)}
    return sorted(paths, key=lambda path: order.get(_split_ending(path)[1], len(order)))[:1]


def _nothing_found(rows: pd.DataFrame, index: _Index, place: str) -> DatasetError:
    cells = next((rows[column] for column in ("file", "id", "poster_url") if (rows[column] != "").any()), rows["id"])
    example = next((path for cell in cells if cell for path in _spellings(cell)), "")
    if not index.paths:
        return DatasetError(
            f"Of the table's {counted(len(rows), 'file')}, none is in {place}, which has no files. Choose "
            "another folder."
        )
    names = index.paths[:_COMPARED]
    name = example.rpartition("/")[2]
    by_name = {path.rpartition("/")[2]: path for path in reversed(names)}
    similar = [by_name[each] for each in get_close_matches(name, list(by_name), _SIMILAR, 0.0)]
    return DatasetError(
        f"Of the table's {counted(len(rows), 'file')}, none is in {place}. Choose another folder, or another column "
        "with --columns file=NAME.",
        "\n".join([f"It was searched for {shown(example)}. The most similar files there are", *map(shown, similar)]),
    )
