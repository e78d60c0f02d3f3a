"""What a collected catalogue and its posters look like: one HTML page on its own, and a few lines of Markdown.

    page = dataset_report(records, outcomes, folder / "posters", snapshot_date="2026-07-25")
    lines = dataset_summary(records, outcomes)

Both say the same for the same input, byte for byte. The page loads nothing from anywhere: its styles and its
thumbnails are inside it. Its markup is in dataset_report.html.
"""

import base64
import re
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from PIL import Image

from serving.bundle.errors import PosterError
from serving.bundle.image import FORMATS, decode
from tasks.catalogue.poster_download import PosterOutcome
from tasks.catalogue.seasons import Season, parse_season
from tasks.catalogue.titles import AnimeRecord, is_explicit
from tasks.errors import SeasonError

NO_OUTCOME = "no outcome"  # in the place of a status, for titles whose poster nobody has tried to get

_FIELDS = (
    "type", "source", "start_date", "episodes", "score", "members", "genres", "themes", "demographics", "studios",
    "poster_url",
)  # fmt: skip
_POSTERS_A_GENRE = 12
_THUMBNAIL_BOX = (112, 160)  # pixels; twice what it takes on a phone
_THUMBNAIL_QUALITY = 68
_COMMON_SIZES = 10
_COMMON_REASONS = 20
_EXAMPLES = 2
_ASPECT_EDGES = tuple(hundredths / 100 for hundredths in (*range(60, 81, 2), 100))
_KILOBYTE_EDGES = (5, 10, 20, 30, 40, 50, 75, 100, 200)
_ROUND_NUMBERS = (2, 4, 6, 8, 10, 12, 16, 20, 30, 40, 50, 60, 80, 100)

# What differs from title to title in reasons that are the same: addresses, hashes, ids and sizes, but no HTTP status.
_ADDRESS = re.compile(r"https?://[^\s'\"<>]*[^\s'\"<>.,:;)]")
_PARTICULAR = re.compile(r"\b[0-9a-f]{12,}\b|(?<!answered )\b\d+\b")


class Tally(NamedTuple):
    """A line of a table: how many there are of something, and what share that is of all (0 to 1)."""

    name: str
    number: int
    share: float


class Covered(NamedTuple):
    """Some titles, by genre or year, and how many of them have a usable poster."""

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
    """An image file: its header's width and height in pixels, and its length in units of 1,000 bytes."""

    width: int
    height: int
    kilobytes: float


def dataset_report(
    records: Sequence[AnimeRecord], outcomes: Sequence[PosterOutcome], posters: Path, snapshot_date: str
) -> str:
    """The report as an HTML page. `posters` is the folder of the files `{mal_id}.jpg`; only read, never written.

    Whatever is not there (titles, outcomes, files, images that can be read) is said in words. Explicit titles
    are counted; neither their posters nor their names are shown.
    """
    outcome_of = _outcome_of(records, outcomes)
    usable = _usable(outcome_of)
    paths = {mal_id: posters / f"{mal_id}.jpg" for mal_id in sorted(usable)}
    here = {mal_id: path for mal_id, path in paths.items() if path.is_file()}
    sizes = {mal_id: size for mal_id, path in here.items() if (size := _size(path))}
    genres = _genres(records, usable)
    years = _years(records, usable)
    seasons = [season for record in records if (season := _season(record))]
    return _template().render(
        snapshot_date=snapshot_date,
        titles=len(records),
        with_genres=sum(bool(record.genres) for record in records),
        usable=len(usable),
        seasons=(str(min(seasons)), str(max(seasons))) if seasons else None,
        years=years,
        year_scale=_scale(max((year.titles for year in years), default=0)),
        without_year=len(records) - sum(year.titles for year in years),
        genres=genres,
        together=_together(records, genres),
        sheet=_contact_sheet(records, genres, posters, sizes),
        sizes=sizes.values(),
        common_sizes=_common_sizes(sizes.values()),
        aspects=_histogram([size.width / size.height for size in sizes.values()], _ASPECT_EDGES, "{:.2f}"),
        kilobytes=_histogram([size.kilobytes for size in sizes.values()], _KILOBYTE_EDGES, "{}"),
        absent=len(paths) - len(here),
        unreadable=len(here) - len(sizes),
        lacking=_lacking(records),
        statuses=_statuses(outcome_of),
        reasons=_reasons(records, outcome_of),
        common_reasons=_COMMON_REASONS,
        strangers=len({outcome.mal_id for outcome in outcomes} - outcome_of.keys()),
    )


def dataset_summary(records: Sequence[AnimeRecord], outcomes: Sequence[PosterOutcome]) -> str:
    """The main figures as Markdown: titles, usable posters, those a genre, and what is missing by status."""
    outcome_of = _outcome_of(records, outcomes)
    usable = _usable(outcome_of)
    genres = "\n".join(
        f"| {_markdown(genre.name)} | {genre.titles} | {genre.posters} |" for genre in _genres(records, usable)
    )
    table = f"| genre | titles | posters |\n| --- | ---: | ---: |\n{genres}" if genres else "No title has a genre."
    missing = "\n".join(f"- {_markdown(status.name)}: {status.number}" for status in _statuses(outcome_of))
    return f"{len(records)} titles, {len(usable)} usable posters.\n\n{table}\n\nMissing:\n\n{missing or '- none'}"


def _outcome_of(records: Sequence[AnimeRecord], outcomes: Iterable[PosterOutcome]) -> dict[int, PosterOutcome]:
    """What became of each title's poster, in the order of the ids, also of those that nobody tried to get."""
    known = {outcome.mal_id: outcome for outcome in outcomes}
    ids = sorted({record.mal_id for record in records})
    return {mal_id: known.get(mal_id) or PosterOutcome(mal_id, NO_OUTCOME) for mal_id in ids}


def _usable(outcome_of: Mapping[int, PosterOutcome]) -> set[int]:
    return {mal_id for mal_id, outcome in outcome_of.items() if outcome.usable}


def _genres(records: Iterable[AnimeRecord], usable: set[int]) -> list[Covered]:
    """The genres with the most titles first."""
    pairs = [(genre, record.mal_id in usable) for record in records for genre in set(record.genres)]
    return sorted(_covered(pairs), key=lambda genre: (-genre.titles, genre.name))


def _covered(pairs: Sequence[tuple[str, bool]]) -> list[Covered]:
    posters = Counter(name for name, has_poster in pairs if has_poster)
    return [Covered(name, titles, posters[name]) for name, titles in Counter(name for name, _ in pairs).items()]


def _years(records: Iterable[AnimeRecord], usable: set[int]) -> list[Covered]:
    """Each year from the first to the last, also those without a title."""
    pairs = [(year, record.mal_id in usable) for record in records if (year := _year(record))]
    known = {int(covered.name): covered for covered in _covered(pairs)}
    if not known:
        return []
    return [known.get(year) or Covered(str(year), 0, 0) for year in range(min(known), max(known) + 1)]


def _year(record: AnimeRecord) -> str | None:
    if season := _season(record):
        return str(season.year)
    match = re.match(r"\d{4}", record.start_date or "", re.ASCII)
    return match[0] if match else None


def _season(record: AnimeRecord) -> Season | None:
    try:
        return parse_season(record.season or "")
    except SeasonError:
        return None


def _scale(most: int) -> int:
    """The upper end of an axis: a round number, the half of which is whole."""
    unit: int = 10 ** max(len(str(most)) - 2, 0)
    return next(number * unit for number in _ROUND_NUMBERS if number * unit >= most)


def _together(records: Iterable[AnimeRecord], genres: Sequence[Covered]) -> list[list[float | None]]:
    """A row for each genre: the share of its titles (0 to 1) that have each other genre too, None for itself."""
    pairs = Counter((row, column) for record in records for row in {*record.genres} for column in {*record.genres})
    return [
        [None if row == column else pairs[row.name, column.name] / row.titles for column in genres] for row in genres
    ]


def _contact_sheet(
    records: Iterable[AnimeRecord], genres: Iterable[Covered], posters: Path, sizes: Mapping[int, Size]
) -> list[tuple[Covered, list[tuple[str, str]]]]:
    """Title and thumbnail of the posters to show of each genre: those of the titles with the most members."""
    thumbnail = cache(lambda mal_id: _thumbnail(posters / f"{mal_id}.jpg", sizes[mal_id]))
    candidates: dict[str, list[AnimeRecord]] = defaultdict(list)
    for record in sorted(records, key=lambda record: (-(record.members or 0), record.mal_id)):
        if record.mal_id in sizes and not is_explicit(record):
            for name in set(record.genres):
                candidates[name].append(record)
    sheet = []
    for genre in genres:
        images = ((record.title, thumbnail(record.mal_id)) for record in candidates[genre.name])
        sheet.append((genre, list(islice(((title, image) for title, image in images if image), _POSTERS_A_GENRE))))
    return [(genre, shown) for genre, shown in sheet if shown]


def _thumbnail(path: Path, size: Size) -> str | None:
    """A poster made small, as a data: address; None where it cannot be read to its end."""
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
    """What an image's header says; None where it has none that can be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            return Size(image.width, image.height, path.stat().st_size / 1000)
    except Exception:  # Pillow raises whatever damaged data leads it to, SyntaxError included
        return None


def _common_sizes(sizes: Iterable[Size]) -> list[Tally]:
    """The most frequent sizes in pixels, and the rest of them in one line."""
    counts = Counter((size.width, size.height) for size in sizes)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    common = [(f"{width} × {height}", number) for (width, height), number in ordered[:_COMMON_SIZES]]  # noqa: RUF001
    others = ordered[_COMMON_SIZES:]
    rest = [(f"{len(others):,} other sizes", sum(number for _, number in others))] if others else []
    return _tallies([*common, *rest], counts.total())


def _histogram(values: Sequence[float], edges: Sequence[float], label: str) -> list[Tally]:
    """How many values are between each two edges, the lower one included; without the empty ends."""
    low, high = label.format(edges[0]), label.format(edges[-1])
    between = [f"{label.format(lower)} to {label.format(upper)}" for lower, upper in pairwise(edges)]
    names = [f"below {low}", *between, f"from {high} on"]
    counts = Counter(bisect(edges, value) for value in values)
    places = range(min(counts), max(counts) + 1) if counts else ()
    return _tallies([(names[place], counts[place]) for place in places], len(values))


def _lacking(records: Sequence[AnimeRecord]) -> list[Tally]:
    """How many titles do not have each field of the catalogue."""
    lacking = [(name, sum(getattr(record, name) in (None, "", []) for record in records)) for name in _FIELDS]
    return _tallies(lacking, len(records)) if records else []


def _statuses(outcome_of: Mapping[int, PosterOutcome]) -> list[Tally]:
    """The titles without a usable poster by status, the most frequent first."""
    counts = Counter(outcome.status for outcome in outcome_of.values() if not outcome.usable)
    return _tallies(sorted(counts.items(), key=lambda item: (-item[1], item[0])), len(outcome_of))


def _tallies(counts: Iterable[tuple[str, int]], of: int) -> list[Tally]:
    return [Tally(name, number, number / of) for name, number in counts]


def _reasons(records: Iterable[AnimeRecord], outcome_of: Mapping[int, PosterOutcome]) -> list[Reason]:
    """Why titles have no usable poster, the most frequent reasons first; examples are those of the lowest ids."""
    record_of = {record.mal_id: record for record in records}
    ids: dict[tuple[str, str], list[int]] = defaultdict(list)
    for mal_id, outcome in outcome_of.items():
        if outcome.reason and not outcome.usable:
            text = _PARTICULAR.sub("…", _ADDRESS.sub("[address]", outcome.reason))
            ids[outcome.status, text].append(mal_id)
    reasons = []
    for (status, text), having in ids.items():
        nameable = [record_of[mal_id].title for mal_id in having if not is_explicit(record_of[mal_id])]
        reasons.append(Reason(status, text, len(having), nameable[:_EXAMPLES]))
    return sorted(reasons, key=lambda reason: (-reason.titles, reason.status, reason.text))


def _markdown(text: str) -> str:
    """Text of the site that means nothing to Markdown or HTML, on one line."""
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
    """A share (0 to 1) in whole percent; neither a little is called nothing, nor nearly all everything."""
    sign = "<" if 0 < share < 0.005 else ">" if 0.995 <= share < 1 else ""
    number = {"<": 1, ">": 99}.get(sign, round(100 * share))
    return f"{sign}{number}\N{NO-BREAK SPACE}%"
