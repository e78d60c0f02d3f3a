"""The meaning of a table's columns: names suggest, values decide."""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ml.data.genre_cells import is_filler, literal_value
from ml.data.table_cells import shortened, shown
from ml.data.table_images import ENDINGS
from ml.errors import DatasetError

ROLES = ("id", "title", "genres", "genre_ids", "franchise", "file", "poster_url", "rating", "explicit")

# Names of columns, the best first, without case, accents, blanks and punctuation. Other languages than English stand
# in lines of their own.
_IDS = """id malid animeid mangaid movieid filmid tmdbid imdbid tconst uid showid bookid gameid appid itemid asin isbn13
    isbn"""
_TITLES = """title name titel titre titulo movietitle animetitle booktitle gametitle filmtitle seriestitle primarytitle
    canonicaltitle titles names displayname moviename animename gamename originaltitle titleenglish titleromaji
    englishtitle romaji movie film anime game book show album
    titulos titolo titoli tytuł название タイトル 作品名 标题 標題 제목"""
# Columns with these names are preferred to columns of 1 and 0; those with the other names of genres are not.
_LISTS_OF_GENRES = """genres genre genero listedin genrenames genrename genrelist genreslist animegenres moviegenres
    gamegenres bookgenres genresall allgenres maingenres
    generos genere generi gattung gattungen gatunek gatunki turler жанр жанры ジャンル 类型 類型 장르"""
_GENRES = f"""{_LISTS_OF_GENRES} maingenre primarygenre categories category shelves subjects subject
    tags tag themes labels label classes class"""
_GENRE_IDS = "genreids genresids genreid genresid"
_FRANCHISES = """franchise belongstocollection collection collectionname franchisename
    franquicia franquia франшиза シリーズ 系列"""
_IMAGES = """imagen imagem immagine bild affiche cartel locandina plakat portada изображение постер афиша
    画像 ポスター 图片 海报 포스터"""
_FILES = f"""file filename filepath path imagepath imagepaths imagefile imagefilename imagename posterfile postername
    posterfilename localpath localposter imgpath imgfile imgname coverfile coverpath coverfilename files filenames paths
    image images img poster posters cover covers picture thumbnail posterpath mainpicture photo
    archivo fichero arquivo fichier datei файл ファイル 文件 파일 {_IMAGES}"""
_ADDRESSES = f"""posterurl imageurl imgurl coverurl posterlink imagelink coverlink picurl pictureurl posterimageurl
    posterimage poster image img cover picture mainpicture coverimage coverimg posterpath headerimage headerurl
    largeimageurl imageurllarge imageurll imageurlm images thumbnailurl thumbnail imageurlsmall imageurls posterurls
    coverurls thumbnails posters covers photos
    imagepath imagesjpgimageurl filepath file photo artwork boxart boxarturl {_IMAGES}"""
_LAST_ADDRESSES = "backgroundimage"  # RAWG's only image of a game
_RATINGS = "rating contentrating agerating ratingname certificate certification mpaa mpaarating rated"
_NEVER_GENRES = "nsfw isnsfw isadult adult explicit isexplicit adultcontent isadultcontent sfw issfw"
_EXPLICIT = f"{_NEVER_GENRES} is18 18 r18 hentai ishentai erotica iserotica porn mature"
# Columns of 1 and 0 are genres if two of them have these names; other columns of 1 and 0 are flags.
_KNOWN_GENRES = """action adventure animation biography comedy crime documentary drama ecchi family fantasy fiction
    horror humor indie mystery poetry puzzle racing romance rpg sci-fi shooter simulation sport sports strategy
    supernatural thriller war western"""
_SECOND_GENRES = re.compile(r"(?:side|other|second(?:ary)?|third|tertiary)genres?")  # beside a main or primary one
_NOT_POSTERS = re.compile(r"backdrop|background|banner|logo|screenshot|trailer|avatar|icon|author|user|studio|video")

_TRUE = frozenset({"1", "1.0", "true", "yes", "y", "t", "x", "black", "on"})
_FALSE = frozenset({"0", "0.0", "false", "no", "n", "f", "off"})
_SAYS_EXPLICIT = frozenset({"nsfw", "adult", "explicit", "mature", "unsafe", "18+", "r18", "r-18"})
_SAYS_HARMLESS = frozenset({"sfw", "safe", "clean", "white", "gray", "not explicit", "not adult", "general"})
_NAMED = 3  # columns in a message
_SHOWN_NAMES, _SHOWN_NAME = 150, 40  # characters in a message
_DISTINCT_IDS = 0.9  # share of rows
_MOST_FILLED = 0.9  # as many cells as in a column of smaller pictures
_SAMPLE = 2000  # filled cells that decide what a column contains
_IMAGE_PATH = re.compile(rf"(?:{'|'.join(map(re.escape, ENDINGS))})(?:[?#].*)?$", re.IGNORECASE)
_ADDRESS = re.compile(r"(?:https?:)?//[^/\s]", re.IGNORECASE)
_SIZE = re.compile(  # in a column's name
    r"extralarge|large|medium|small|tiny|thumbnail|thumb|original|w(\d{2,4})|(\d{2,4})(?:px|x\d{2,4})"
)
_SIZE_ORDER = ("tiny", "thumb", "small", "medium", "pixels", "", "large", "extralarge", "original")
_SIZES = (
    *("extra_large", "extraLarge", "large", "large_image_url", "original"),
    *("jpg", "image_url", "medium", "url", "path"),
)


def is_true(cell: str) -> bool:
    """Whether a cell of a column such as `nsfw` says yes."""
    return cell.strip().casefold() in _TRUE


def is_explicit(cell: str, column: str) -> bool:
    """Whether a cell of a column such as `nsfw`, or `sfw`, says that a title is explicit."""
    word = cell.strip().casefold()
    return word in _SAYS_EXPLICIT or word in (_FALSE if normalised(column) in ("sfw", "issfw") else _TRUE)


def is_image_path(cell: str) -> bool:
    """Whether a text ends like the name of an image file."""
    return _IMAGE_PATH.search(cell.strip()) is not None


def address_in(cell: str) -> str:
    """The address in a cell: the cell, or the largest image of an object or list of addresses; "" if there is none."""
    text = cell.strip()
    if text[:1] in ("{", "["):
        return _address_of(literal_value(text))
    return text


def text_in(cell: str) -> str:
    """The text in a cell: the cell, or the name in an object such as `{'id': 10194, 'name': 'Toy Story'}`."""
    text = cell.strip()
    if text[:1] == "{" and isinstance(value := literal_value(text), dict):
        keys = ("name", "romaji", "english", "title", *value)
        return next((each.strip() for key in keys if isinstance(each := value.get(key), str) and each.strip()), "")
    return text


def _address_of(value: Any) -> str:
    if isinstance(value, str):
        return value.strip() if _ADDRESS.match(value.strip()) or is_image_path(value) else ""
    if isinstance(value, dict):
        for key in (*_SIZES, *value):
            if found := _address_of(value.get(key)):
                return found
    if isinstance(value, list | tuple):
        return next((found for each in value if (found := _address_of(each))), "")
    return ""


def normalised(name: str) -> str:
    """A column's name without case, accents, blanks and punctuation."""
    return re.sub(r"[\W_]+", "", unicodedata.normalize("NFKD", name).casefold())


def _without_remark(column: str) -> str:
    """The same without a remark in brackets, as in `Genres (by commas)`."""
    return normalised(re.sub(r"\(.*?\)|\[.*?\]", "", column))


def _without_number(column: str) -> str:
    """The same of a column such as `genre_2`, without its number; "" for a column without one."""
    name = normalised(column)
    return name.rstrip("0123456789") if name[-1:].isdecimal() else ""


class Columns:
    """The columns of a table by meaning: `chosen` names one or several for each role that the table has."""

    def __init__(self, table: pd.DataFrame, given: Mapping[str, str], image_base: str | None, name: str) -> None:
        """Choose the columns; `given` and `image_base` are the options. Raises DatasetError if two are possible."""
        self._table, self._name = table, name
        self._image_base = image_base
        self.chosen: dict[str, list[str]] = {}
        self.notices: list[str] = []
        for role, columns in given.items():
            self.chosen[role] = [self._given(role, each) for each in columns.split("|") if each.strip()]
        for role, choose in self._choosers().items():
            if role not in given and (found := choose()):
                self.chosen[role] = found

    def _choosers(self) -> dict[str, Callable[[], list[str]]]:
        return {
            "genres": self._genres,
            "genre_ids": lambda: self._first(_GENRE_IDS, lambda cells: True),
            "id": self._id,
            "title": self._title,
            "franchise": lambda: self._first(_FRANCHISES, _has_words),
            "file": self._files,
            "poster_url": self._poster_url,
            "rating": lambda: self._first(_RATINGS, lambda cells: not _mostly(cells, _is_number)),
            "explicit": self._explicit,
        }

    def cells(self, role: str) -> list[str]:
        """The cells of a role's column; empty text where the table has no such column."""
        columns = self.chosen.get(role)
        return self.column(columns[0]) if columns else [""] * len(self._table)

    def column(self, name: str) -> list[str]:
        """The cells of a column by its name."""
        cells: list[str] = self._table[name].to_numpy(object).tolist()
        return cells

    def all_names(self) -> str:
        """The names of all columns, for a message."""
        return shortened(", ".join(map(str, self._table)), _SHOWN_NAMES)

    def binary_genre(self, column: str) -> str:
        """The genre of a column that holds 1 or 0 for each row; "" for a column that holds names."""
        if not {cell.casefold() for cell in self._sample(column)} <= _TRUE | _FALSE:
            return ""
        return re.sub(r"^genres?[_\s.:-]+", "", column, flags=re.IGNORECASE).replace("_", " ").strip()

    def sentence(self) -> str:
        """Which column is read as what."""
        choices = []
        for role in ROLES:
            if names := [shown(column, _SHOWN_NAME) for column in self.chosen.get(role, [])]:
                more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
                choices.append(f"{role} from {', '.join(names[:_NAMED])}{more}")
        return f"Columns: {'; '.join(choices)}."

    def _given(self, role: str, column: str) -> str:
        column = column.strip()
        if column in self._table:
            return column
        alike = [name for name in self._table if normalised(name) == normalised(column)]
        if len(alike) != 1:
            raise DatasetError(
                f"The table {self._name} has no column '{column}' for {role}. Choose one of its columns.",
                f"Columns: {self.all_names()}",
            )
        return str(alike[0])

    def _sample(self, column: str) -> list[str]:
        cells = self._table[column]
        return [cell.strip() for cell in cells.unique()[:_SAMPLE].tolist() if not is_filler(cell)]

    def _suggested(self, names: str) -> list[str]:
        """The columns with these names, in the order of the names; last those with a remark in brackets."""
        order = {normalised(name): place for place, name in enumerate(names.split())}
        found = [column for column in self._table if normalised(column) in order]
        remarked = [column for column in self._table if column not in found and _without_remark(column) in order]
        return [
            *sorted(found, key=lambda column: order[normalised(column)]),
            *sorted(remarked, key=lambda column: order[_without_remark(column)]),
        ]

    def _first(self, names: str, fits: Callable[[Sequence[str]], bool]) -> list[str]:
        """The first suggested column whose values fit."""
        for column in self._suggested(names):
            if (cells := self._sample(column)) and fits(cells):
                return [column]
        return []

    def _id(self) -> list[str]:
        suggested = self._suggested(_IDS)
        others = [
            column
            for column in self._table
            if re.search(r"(?:[_\s-]id|[a-z]I[Dd])$", column)
            and column not in suggested
            and "genre" not in column.lower()
        ]
        candidates = [column for column in (*suggested, *others) if self._sample(column)]
        for column in candidates:
            if self._table[column].nunique() >= _DISTINCT_IDS * len(self._table):
                return [column]
        return candidates[:1]

    def _title(self) -> list[str]:
        """The first column of titles that is filled in more than half of the rows, else the first one."""
        columns = [column for column in self._suggested(_TITLES) if _has_words(self._sample(column))]
        filled = [column for column in columns if _mostly(self.column(column), lambda cell: bool(cell.strip()))]
        return (filled or columns)[:1]

    def _genres(self) -> list[str]:
        lists = [normalised(name) for name in _LISTS_OF_GENRES.split()]
        numbered = [column for column in self._table if _without_number(column) in lists]
        others = [column for column in self._table if re.search(r"[_\s.-]genres?$", column, re.IGNORECASE)]
        suggested = [column for column in (*self._suggested(_GENRES), *others) if self._sample(column)]
        named = [column for column in suggested if not _mostly(self._sample(column), _is_number)]
        pair = [column for column in named if normalised(column) in ("genre", "genres")]
        pair = pair or [column for column in named if _without_remark(column) in ("genre", "genres")]
        if len(pair) > 1 and any((self._table[pair[0]] != self._table[column]).any() for column in pair[1:]):
            row = next(n for n in range(len(self._table)) if len(set(self._table[pair].iloc[n])) > 1)
            raise DatasetError(
                f"The table {self._name} has two columns of genres. Choose one with --columns.",
                f"The genres of row {self._table.index[row]} are\n"
                + "\n".join(
                    f"{shown(self._table[column].iloc[row])} with --columns genres={column}" for column in pair
                ),
            )
        binary = [
            column
            for column in self._table
            if (values := {cell.casefold() for cell in self._sample(column)})
            and values <= _TRUE | _FALSE
            and not re.match(r"(?:is|has|was|not|unnamed)[_\s]", column, re.IGNORECASE)
            and normalised(column) not in _NEVER_GENRES.split()
            and column not in suggested
        ]
        best = named[:1]
        if best and re.match(r"main|primary", normalised(best[0])):
            best += [column for column in named if _SECOND_GENRES.fullmatch(normalised(column))]
        if best and best[0] in self._suggested(_LISTS_OF_GENRES):
            return best
        if len(numbered) > 1:
            return numbered
        known = sum(self.binary_genre(column).casefold() in _KNOWN_GENRES.split() for column in binary)
        if known > 1 or (binary and all(re.match(r"genres?[_\s.:-]", column, re.IGNORECASE) for column in binary)):
            return binary
        return best or suggested[:1] or self._first(_GENRE_IDS, lambda cells: True)

    def _files(self) -> list[str]:
        for column in self._suggested(_FILES):
            cells = [address_in(cell) for cell in self._sample(column)]
            if _mostly(cells, lambda cell: bool(_ADDRESS.match(cell))):
                continue
            if self._image_base and _mostly(cells, lambda cell: cell.startswith("/")):
                continue
            fits = _is_name if re.search("file|path|name", normalised(column)) else _is_token
            if _mostly(cells, fits):
                return [self._largest(column, lambda cell: is_image_path(cell) and not _ADDRESS.match(cell))]
        return self._only_one("file", lambda cell: is_image_path(cell) and not _ADDRESS.match(cell))

    def _poster_url(self) -> list[str]:
        def addresses(cells: Sequence[str]) -> bool:
            return _mostly(cells, self._is_address)

        if found := self._first(_ADDRESSES, addresses):
            return [self._largest(found[0], self._is_address)]
        return self._only_one("poster_url", lambda cell: self._is_address(cell) and is_image_path(cell)) or (
            [] if self.chosen.get("file") else self._first(_LAST_ADDRESSES, addresses)
        )

    def _only_one(self, role: str, fits: Callable[[str], bool]) -> list[str]:
        """The one column, of any name, whose values fit. Raises DatasetError if there are several.

        Objects and lists do not fit: their images are those of genres, collections or shops.
        """
        columns = [
            column
            for column in self._table
            if not _NOT_POSTERS.search(normalised(column))
            and _mostly(self._sample(column), lambda cell: cell[:1] not in ("{", "[") and fits(cell))
        ]
        if columns and len(self._sizes(columns[0], columns)) == len(columns):
            return [self._largest(columns[0], fits)]
        if len(columns) > 1:
            raise DatasetError(
                f"The table {self._name} has {len(columns)} columns for {role}. Choose one with --columns.",
                "\n".join(
                    f"{shown(self._sample(column)[0], _SHOWN_NAME)} with --columns {role}={column}"
                    for column in columns[:_NAMED]
                ),
            )
        return columns

    def _sizes(self, column: str, columns: Iterable[str]) -> list[str]:
        """Those of the columns whose names differ from that of `column` at most in a size."""
        plain = _SIZE.sub("", normalised(column))
        return [each for each in columns if _SIZE.sub("", normalised(each)) == plain]

    def _largest(self, column: str, fits: Callable[[str], bool]) -> str:
        """Of the columns with the picture of `column` in several sizes, that of the largest in which few are missing.

        A notice says which one it is.
        """
        sizes = [
            each for each in self._sizes(column, self._table) if each == column or _mostly(self._sample(each), fits)
        ]
        if len(sizes) == 1:
            return column
        filled = {each: sum(not is_filler(cell) for cell in self.column(each)) for each in sizes}
        largest = max((each for each in sizes if filled[each] >= _MOST_FILLED * filled[column]), key=_size)
        self.notices.append(f"Of {len(sizes)} columns with one picture in several sizes, {shown(largest)} is read.")
        return largest

    def _is_address(self, cell: str) -> bool:
        address = address_in(cell)
        return bool(_ADDRESS.match(address)) or (
            is_image_path(address) and (address.startswith("/") or self._image_base is not None)
        )

    def _explicit(self) -> list[str]:
        words = _TRUE | _FALSE | _SAYS_EXPLICIT | _SAYS_HARMLESS
        return [
            column
            for column in self._suggested(_EXPLICIT)
            if _mostly(self._sample(column), lambda cell: cell.casefold() in words)
        ]

    def unclear_explicit(self) -> list[str]:
        """Columns that may say which titles are explicit, but in other words."""
        used = {column for columns in self.chosen.values() for column in columns}
        return [column for column in self._suggested(_EXPLICIT) if column not in used and self._sample(column)]


def _size(column: str) -> tuple[int, int]:
    """The place of a column such as `cover_large` or `cover_w500` among the sizes of one picture."""
    found = _SIZE.search(normalised(column))
    if found is None:
        return _SIZE_ORDER.index(""), 0
    if pixels := found[1] or found[2]:
        return _SIZE_ORDER.index("pixels"), int(pixels)
    return _SIZE_ORDER.index(found[0].replace("thumbnail", "thumb")), 0


def _mostly(cells: Sequence[str], fits: Callable[[str], bool]) -> bool:
    """Whether more than half of the cells fit; False if there are none."""
    return 2 * sum(map(fits, cells)) > len(cells) > 0


def _is_name(cell: str) -> bool:
    return cell != ""


def _is_token(cell: str) -> bool:
    """Whether a text may be the name of a file, not a sentence."""
    return is_image_path(cell) or not re.search(r"\s|^$", cell)


def _has_words(cells: Sequence[str]) -> bool:
    return any(re.search(r"\w", cell) for cell in cells)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[-+]?\d+(?:[.,]\d+)?%?", cell) is not None
