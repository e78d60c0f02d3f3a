"""What a catalogue and its posters look like: an HTML page without references, and a few lines of Markdown.

    page = dataset_report(catalogue, posters, source, folder / "posters", snapshot_date="2026-07-25")
    lines = dataset_summary(catalogue, posters)

The same input gives the same bytes. Styles and thumbnails are inside the page. Its template is dataset_report.html.
"""

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from serving.bundle.errors import PosterError
from serving.bundle.image import FORMATS, decode
from serving.bundle.wording import counted
from tasks.catalogue.catalogue_table import LIST_SEPARATOR, sorted_by_id
from tasks.catalogue.poster_download import is_usable
from tasks.catalogue.seasons import Season, parse_season
from tasks.catalogue.source import Source
from tasks.crawl.ledger import poster_name
from tasks.errors import SeasonError

NO_OUTCOME = "no outcome"  # the status of titles that are not in the poster table

_FIELDS = [
    "type", "source", "start_date", "episodes", "score", "members", "genres", "themes", "demographics", "studios",
    "poster_url",
]  # fmt: skip
_POSTERS_PER_GENRE = 12
_THUMBNAIL_BOX = (112, 160)  # pixels; twice the size on a phone
_THUMBNAIL_QUALITY = 68
_COMMON_SIZES = 10
_COMMON_REASONS = 20
_EXAMPLES = 2
_ASPECT_EDGES = tuple(hundredths / 100 for hundredths in (*range(60, 81, 2), 100))
_KILOBYTE_EDGES = (5, 10, 20, 30, 40, 50, 75, 100, 200)
_ROUND_NUMBERS = (2, 4, 6, 8, 10, 12, 16, 20, 30, 40, 50, 60, 80, 100)

# What differs between titles in the same reason: addresses, hashes, ids and sizes, but not the HTTP status.
_ADDRESS = r"https?://[^\s'\"<>]*[^\s'\"<>.,:;)]"
_PARTICULAR = r"\b[0-9a-f]{12,}\b|(?<!answered )\b\d+\b"


class Tally(NamedTuple):
    """A row of a table: a count, and its share of the whole (0 to 1)."""

    name: str
    number: int
    share: float


class Covered(NamedTuple):
    """The number of titles of a genre or year, and how many of them have a usable poster."""

    name: str
    titles: int
    posters: int


class Reason(NamedTuple):
    """Why some titles have no usable poster, with a few of them by name."""

    status: str
    text: str
    titles: int
    examples: list[str]


class Size(NamedTuple):
    """An image file: width and height in pixels, and its size in units of 1,000 bytes."""

    width: int
    height: int
    kilobytes: float


def dataset_report(
    catalogue: pd.DataFrame, posters: pd.DataFrame, source: Source, folder: Path, snapshot_date: str
) -> str:
    """The report as an HTML page. `folder` contains the poster files; it is only read.

    The page says in words what is missing (titles, posters, files, readable images). Explicit titles are counted, but
    neither their posters nor their names are shown.
    """
    titles = _joined(catalogue, posters).assign(explicit=lambda joined: source.is_explicit(joined))
    paths = {id: folder / poster_name(id) for id in titles.loc[titles["usable"], "id"]}
    present = {id: path for id, path in paths.items() if path.is_file()}
    sizes = {id: size for id, path in present.items() if (size := _size(path))}
    by_genre = _by_genre(titles)
    genres = _genres(by_genre)
    seasons = [season for text in titles["season"].unique() if (season := _season(text))]
    years = _years(titles, seasons)
    return _template().render(
        snapshot_date=snapshot_date,
        titles=len(titles),
        with_genres=int((titles["genres"] != "").sum()),
        usable=len(paths),
        seasons=(str(min(seasons)), str(max(seasons))) if seasons else None,
        years=years,
        year_scale=_scale(max((year.titles for year in years), default=0)),
        without_year=len(titles) - sum(year.titles for year in years),
        genres=genres,
        together=_together(by_genre, genres),
        sheet=_contact_sheet(by_genre, genres, present, sizes),
        sizes=sizes.values(),
        common_sizes=_common_sizes(sizes.values()),
        aspects=_histogram([size.width / size.height for size in sizes.values()], _ASPECT_EDGES, "{:.2f}"),
        kilobytes=_histogram([size.kilobytes for size in sizes.values()], _KILOBYTE_EDGES, "{}"),
        absent=len(paths) - len(present),
        unreadable=len(present) - len(sizes),
        missing_fields=_tallies((titles[_FIELDS] == "").sum(), len(titles)) if len(titles) else [],
        statuses=_statuses(titles),
        reasons=_reasons(titles),
        common_reasons=_COMMON_REASONS,
        other_posters=int((~posters["id"].isin(titles["id"])).sum()),
    )


def dataset_summary(catalogue: pd.DataFrame, posters: pd.DataFrame) -> str:
    """The main figures as Markdown: titles, usable posters, both per genre, and missing posters by status."""
    titles = _joined(catalogue, posters)
    genres = "\n".join(
        f"| {_markdown(genre.name)} | {genre.titles} | {genre.posters} |" for genre in _genres(_by_genre(titles))
    )
    table = f"| genre | titles | posters |\n| --- | ---: | ---: |\n{genres}" if genres else "No title has a genre."
    missing = "\n".join(f"- {_markdown(status.name)}: {status.number}" for status in _statuses(titles))
    usable = int(titles["usable"].sum())
    counts = f"{counted(len(titles), 'title')}, {counted(usable, 'usable poster')}"
    return f"{counts}.\n\n{table}\n\nMissing:\n\n{missing or '- none'}"


def _joined(catalogue: pd.DataFrame, posters: pd.DataFrame) -> pd.DataFrame:
    """The catalogue sorted by id, with what is known of each title's poster."""
    joined = sorted_by_id(catalogue).merge(posters[["id", "status", "reason"]], on="id", how="left")
    joined = joined.fillna({"status": NO_OUTCOME, "reason": ""})
    return joined.assign(usable=is_usable(joined))


def _by_genre(titles: pd.DataFrame) -> pd.DataFrame:
    """One row per title and genre."""
    each = titles.assign(genre=titles["genres"].str.split(LIST_SEPARATOR)).explode("genre")
    return each[each["genre"] != ""].drop_duplicates(["id", "genre"])


def _covered(titles: pd.DataFrame, column: str) -> pd.DataFrame:
    """The number of titles and of usable posters per value of a column."""
    return titles.groupby(column)["usable"].agg(titles="size", posters="sum")


def _genres(by_genre: pd.DataFrame) -> list[Covered]:
    """The genres, those with the most titles first."""
    counts = _covered(by_genre, "genre").reset_index().sort_values(["titles", "genre"], ascending=[False, True])
    return [Covered(*row) for row in counts.itertuples(index=False)]


def _years(titles: pd.DataFrame, seasons: Iterable[Season]) -> list[Covered]:
    """Each year from the first to the last, also those without a title."""
    year_of = {str(season): season.year for season in seasons}
    started = pd.to_numeric(titles["start_date"].str.extract(r"^([0-9]{4})", expand=False))
    counts = _covered(titles.assign(year=titles["season"].map(year_of).astype(float).fillna(started)), "year")
    if counts.empty:
        return []
    every_year = range(int(counts.index.min()), int(counts.index.max()) + 1)
    return [Covered(str(row[0]), *row[1:]) for row in counts.reindex(every_year, fill_value=0).itertuples()]


def _season(text: str) -> Season | None:
    try:
        return parse_season(text)
    except SeasonError:
        return None


def _scale(most: int) -> int:
    """The upper end of an axis: a round number whose half is a whole number."""
    unit: int = 10 ** max(len(str(most)) - 2, 0)
    return next(number * unit for number in _ROUND_NUMBERS if number * unit >= most)


def _together(by_genre: pd.DataFrame, genres: Sequence[Covered]) -> list[list[float | None]]:
    """For each genre (row), the share of its titles (0 to 1) that also have each other genre; None for itself."""
    names = [genre.name for genre in genres]
    has = pd.crosstab(by_genre["id"], by_genre["genre"]).reindex(columns=names).to_numpy()
    both = has.T @ has
    return [
        [None if row == column else float(both[row, column] / both[row, row]) for column in range(len(names))]
        for row in range(len(names))
    ]


def _contact_sheet(
    by_genre: pd.DataFrame, genres: Iterable[Covered], paths: Mapping[str, Path], sizes: Mapping[str, Size]
) -> list[tuple[Covered, list[tuple[str, str]]]]:
    """For each genre, title and thumbnail of the posters to show: those of the titles with the most members."""
    thumbnail = cache(lambda id: _thumbnail(paths[id], sizes[id]))
    shown = by_genre[by_genre["id"].isin(sizes) & ~by_genre["explicit"]]
    popular = shown.assign(members=pd.to_numeric(shown["members"]).fillna(0))
    rows_of = dict(iter(popular.sort_values("members", ascending=False, kind="stable").groupby("genre", sort=False)))
    sheet = []
    for genre in genres:
        rows: Any = rows_of.get(genre.name, shown[:0]).itertuples()
        images = ((row.title, image) for row in rows if (image := thumbnail(row.id)))
        sheet.append((genre, list(islice(images, _POSTERS_PER_GENRE))))
    return [(genre, images) for genre, images in sheet if images]


def _thumbnail(path: Path, size: Size) -> str | None:
    """A small copy of a poster as a data: URL; None if the file cannot be decoded."""
    try:
        pixels = decode(path.read_bytes(), 2 * max(_THUMBNAIL_BOX))
    except (OSError, PosterError):
        return None
    scale = min(_THUMBNAIL_BOX[0] / size.width, _THUMBNAIL_BOX[1] / size.height)
    fitting = (max(1, round(size.width * scale)), max(1, round(size.height * scale)))
    data = BytesIO()
    small = Image.fromarray(pixels.transpose(1, 2, 0)).resize(fitting, Image.Resampling.BILINEAR)
    small.save(data, "JPEG", quality=_THUMBNAIL_QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


def _size(path: Path) -> Size | None:
    """The size in an image's header; None if it cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return Size(image.width, image.height, path.stat().st_size / 1000)
    except Exception:  # Pillow raises all kinds of errors for damaged data, SyntaxError included
        return None


def _common_sizes(sizes: Iterable[Size]) -> list[Tally]:
    """The most frequent sizes in pixels, and the others in one row."""
    counts = pd.Series([(size.width, size.height) for size in sizes], dtype=object).value_counts()
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    common = {f"{width} × {height}": number for (width, height), number in ordered[:_COMMON_SIZES]}  # noqa: RUF001
    others = ordered[_COMMON_SIZES:]
    rest = {counted(len(others), "other size"): sum(number for _, number in others)} if others else {}
    return _tallies(common | rest, int(counts.sum()))


def _histogram(values: Sequence[float], edges: Sequence[float], label: str) -> list[Tally]:
    """How many values are between two edges, the lower one included; empty bins at both ends are omitted."""
    between = [f"{label.format(lower)} to {label.format(upper)}" for lower, upper in pairwise(edges)]
    names = [f"below {label.format(edges[0])}", *between, f"from {label.format(edges[-1])} on"]
    counts = pd.cut(values, [-np.inf, *edges, np.inf], right=False, labels=names).value_counts()
    filled = np.flatnonzero(counts)
    return _tallies(counts.iloc[filled[0] : filled[-1] + 1], len(values)) if len(filled) else []


def _statuses(titles: pd.DataFrame) -> list[Tally]:
    """The titles without a usable poster by status, the most frequent first."""
    counts = titles.loc[~titles["usable"], "status"].value_counts().sort_index()
    return _tallies(counts.sort_values(ascending=False, kind="stable"), len(titles))


def _tallies(counts: Mapping[str, int], whole: int) -> list[Tally]:
    return [Tally(name, int(number), number / whole) for name, number in counts.items()]


def _reasons(titles: pd.DataFrame) -> list[Reason]:
    """Why titles have no usable poster, the most frequent reasons first, with the first titles as examples."""
    without_poster = titles[~titles["usable"] & (titles["reason"] != "")]
    text = (
        without_poster["reason"]
        .str.replace(_ADDRESS, "[address]", regex=True)
        .str.replace(_PARTICULAR, "…", regex=True)
    )
    reasons = []
    for (status, reason), group in without_poster.groupby([without_poster["status"], text]):
        examples = group.loc[~group["explicit"], "title"].head(_EXAMPLES)
        reasons.append(Reason(status, reason, len(group), list(examples)))
    return sorted(reasons, key=lambda reason: (-reason.titles, reason.status, reason.text))


def _markdown(text: str) -> str:
    """Text on one line, with the special characters of Markdown and HTML escaped."""
    return re.sub(r"([\\`*\[\]<>|&~])", r"\\\1", " ".join(text.split()))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number="{:,}".format, percent=_percent)
    return environment.get_template("dataset_report.html")


def _percent(share: float) -> str:
    """A share (0 to 1) in whole percent. Only 0 and 1 themselves are shown as 0 % and 100 %."""
    sign = "<" if 0 < share < 0.005 else ">" if 0.995 <= share < 1 else ""
    number = {"<": 1, ">": 99}.get(sign, round(100 * share))
    return f"{sign}{number}\N{NO-BREAK SPACE}%"
