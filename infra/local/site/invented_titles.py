"""The invented titles of the small site: ids, names, genres, dates and franchises, all drawn from one seed.

The names are random syllables. Genres, themes and demographics have the numeric ids and names of MyAnimeList. About a
third of the titles continue another one. A few are explicit, have no genres or have no usable poster.
"""

import random
from dataclasses import dataclass, replace
from datetime import date, timedelta
from enum import StrEnum

FIRST_YEAR, LAST_YEAR = 2015, 2019
SEASONS = tuple(
    f"{year}-{name}" for year in range(FIRST_YEAR, LAST_YEAR + 1) for name in ("winter", "spring", "summer", "fall")
)


class PosterState(StrEnum):
    """What the site has as the poster of a title."""

    DRAWN = "drawn"
    PLACEHOLDER = "placeholder"  # the page has the address of the placeholder image
    MISSING = "missing"  # the response is 404
    BROKEN = "broken"  # the response is half a JPEG


@dataclass(frozen=True)
class Label:
    """A genre, theme, demographic or studio with the site's numeric id."""

    id: int
    name: str


@dataclass(frozen=True)
class Relation:
    """A related title; `kind` is its relation to this one, such as Sequel or Side Story."""

    kind: str
    mal_id: int
    title: str
    type: str


@dataclass(frozen=True)
class InventedTitle:
    """A title with all that the pages show. `pages` are the season pages that list it, its own season first."""

    mal_id: int
    title: str
    franchise: int
    type: str
    source: str | None
    start_date: str
    aired_to: str | None
    episodes: int | None
    minutes: int
    score: float | None
    members: int
    genres: tuple[Label, ...]
    themes: tuple[Label, ...]
    demographics: tuple[Label, ...]
    studios: tuple[Label, ...]
    season: str
    pages: tuple[str, ...]
    rating: str | None
    related: tuple[Relation, ...]
    poster: PosterState


GENRES = {
    "Action": Label(1, "Action"),
    "Adventure": Label(2, "Adventure"),
    "Comedy": Label(4, "Comedy"),
    "Mystery": Label(7, "Mystery"),
    "Drama": Label(8, "Drama"),
    "Fantasy": Label(10, "Fantasy"),
    "Horror": Label(14, "Horror"),
    "Romance": Label(22, "Romance"),
    "Sci-Fi": Label(24, "Sci-Fi"),
    "Sports": Label(30, "Sports"),
    "Slice of Life": Label(36, "Slice of Life"),
    "Supernatural": Label(37, "Supernatural"),
    "Suspense": Label(41, "Suspense"),
}
EXPLICIT_GENRE = Label(12, "Hentai")

# The weights of a title's first genre, and the genres that can follow it. Eight genres are frequent enough to be
# learned from 600 posters. The other five are too rare on purpose: training leaves them out with a notice.
LEADING_WEIGHTS = {
    "Action": 20, "Comedy": 17, "Fantasy": 14, "Romance": 13, "Sci-Fi": 13, "Slice of Life": 13,
    "Adventure": 12, "Horror": 11, "Sports": 3, "Mystery": 2, "Supernatural": 2, "Drama": 1, "Suspense": 1,
}  # fmt: skip
COMPANIONS = {
    "Action": ("Adventure", "Sci-Fi", "Fantasy", "Comedy", "Horror", "Supernatural"),
    "Adventure": ("Fantasy", "Action", "Comedy", "Sci-Fi"),
    "Comedy": ("Romance", "Slice of Life", "Action", "Fantasy", "Sports"),
    "Fantasy": ("Adventure", "Action", "Romance", "Comedy", "Supernatural"),
    "Horror": ("Action", "Fantasy", "Sci-Fi", "Mystery", "Suspense"),
    "Romance": ("Comedy", "Slice of Life", "Fantasy", "Adventure"),
    "Sci-Fi": ("Action", "Adventure", "Horror", "Comedy", "Mystery"),
    "Slice of Life": ("Comedy", "Romance", "Drama"),
    "Sports": ("Comedy", "Slice of Life", "Drama"),
    "Drama": ("Romance", "Sci-Fi", "Slice of Life"),
    "Mystery": ("Horror", "Suspense", "Sci-Fi"),
    "Supernatural": ("Action", "Comedy", "Fantasy"),
    "Suspense": ("Horror", "Mystery", "Action"),
}
THEMES = (
    Label(23, "School"), Label(29, "Space"), Label(18, "Mecha"), Label(19, "Music"), Label(62, "Isekai"),
    Label(13, "Historical"), Label(38, "Military"), Label(40, "Psychological"), Label(78, "Time Travel"),
)  # fmt: skip
DEMOGRAPHICS = (Label(27, "Shounen"), Label(25, "Shoujo"), Label(42, "Seinen"), Label(43, "Josei"))
KIDS = Label(15, "Kids")
STUDIOS = (
    Label(9001, "Studio Amberline"), Label(9002, "Kite & Lantern"), Label(9003, "Paper Tram"),
    Label(9004, "Norvik Works"), Label(9005, "Studio 3:15"), Label(9006, "Tidepool"),
)  # fmt: skip
SOURCES = ("Manga", "Original", "Light novel", "Novel", "Visual novel", "Web manga", "Game", "4-koma manga")
RATINGS = ("PG-13 - Teens 13 or older", "R - 17+ (violence & profanity)", "PG - Children", "R+ - Mild Nudity")

SYLLABLES = (
    "ka", "ki", "ko", "ku", "sa", "shi", "so", "su", "ta", "chi", "to", "te", "na", "ni", "no", "ha",
    "hi", "ho", "fu", "ma", "mi", "mo", "ra", "ri", "ru", "re", "ya", "yu", "yo", "wa", "ga", "gi",
    "za", "ji", "da", "bi", "rin", "ren", "kai", "sei", "ryo", "sho", "kyo", "kan", "sen", "hane",
)  # fmt: skip
NOUNS = ("Lantern", "Orbit", "Garden", "Signal", "Harbor", "Mirror", "Ember", "Parade", "Compass", "Tram")
SUBTITLES = ("The Last Tide", "Song of Glass", "A Road of Snow", "Night Without Bells", "The Paper Crown")


def invented_titles(count: int = 600, seed: int = 0) -> list[InventedTitle]:
    """Invent titles, sorted by id. The same seed gives the same titles.

    Every count includes at least one explicit title, one without genres, and one of each `PosterState`.

    Raises:
        ValueError: `count` is less than 20.
    """
    if count < 20:
        raise ValueError(f"The small site needs at least 20 titles, not {count}.")
    rng = random.Random(f"titles:{seed}")
    names = _Names(rng)
    titles: list[InventedTitle] = []
    while len(titles) < count:
        size = rng.choices((1, 2, 3, 4), (78, 12, 7, 3))[0]
        titles += _franchise(rng, names, 100_001 + 7 * len(titles), min(size, count - len(titles)))
    return _with_oddities(rng, titles)


class _Names:
    """Pronounceable names. Franchises differ in the first word, so that none looks like the sequel of another."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.taken: set[str] = set()

    def word(self) -> str:
        while True:
            word = "".join(self.rng.choices(SYLLABLES, k=self.rng.choice((2, 3, 3)))).capitalize()
            if word not in self.taken:
                self.taken.add(word)
                return word

    def title(self) -> str:
        first, second, noun = self.word(), self.word(), self.rng.choice(NOUNS)
        patterns = (
            first, f"{first} {second}", f"{first} no {second}", f"{first} {noun}", f"{first} {noun}",
            f"{first} & {second}", f"{first}☆{noun}", f'{first} "{noun}"', f"{first}'s {noun}",
        )  # fmt: skip
        return self.rng.choice(patterns)


def _franchise(rng: random.Random, names: _Names, first_id: int, size: int) -> list[InventedTitle]:
    """A first title and its continuations. Each lists the others as related."""
    name = names.title()
    genres = _genres(rng)
    season = rng.randrange(len(SEASONS) - (size - 1))
    source = rng.choice((*SOURCES, *SOURCES, None))
    first_type = rng.choices(("TV", "Movie", "OVA", "ONA", "Special", "TV Special"), (68, 10, 8, 8, 3, 3))[0]
    studios = tuple(rng.sample(STUDIOS, k=rng.choices((0, 1, 2), (8, 84, 8))[0]))
    demographics = tuple(rng.sample((*DEMOGRAPHICS, KIDS), k=rng.choices((0, 1), (50, 50))[0]))
    members: list[InventedTitle] = []
    season_number = 1
    for index in range(size):
        title, title_type = name, first_type
        if index:
            season_number += 1
            title, title_type = rng.choice(
                (
                    (f"{name} {_ordinal(season_number)} Season", "TV"),
                    (f"{name} {_ordinal(season_number)} Season", "TV"),
                    (f"{name} Movie: {SUBTITLES[index]}", "Movie"),
                    (f"{name}: {SUBTITLES[-index]}", "OVA"),
                )
            )
            season = min(season + rng.randint(1, 5), len(SEASONS) - size + index)
        members.append(
            _title(
                rng,
                mal_id=first_id + 7 * index,
                franchise=first_id,
                title=title,
                title_type=title_type,
                source=source,
                # A continuation has the same genres, in a fifth of the cases with one more.
                genres=genres if index == 0 or rng.random() < 0.8 else _sorted({*genres, *_genres(rng)[:1]}),
                demographics=demographics,
                studios=studios,
                season_index=season,
            )
        )
    return [replace(member, related=_relations(members, member)) for member in members]


def _title(
    rng: random.Random,
    *,
    mal_id: int,
    franchise: int,
    title: str,
    title_type: str,
    source: str | None,
    genres: tuple[Label, ...],
    demographics: tuple[Label, ...],
    studios: tuple[Label, ...],
    season_index: int,
) -> InventedTitle:
    """A title of a season; the other fields are random."""
    year, quarter = FIRST_YEAR + season_index // 4, season_index % 4
    start = date(year, 1 + 3 * quarter + rng.choice((0, 0, 0, 1, 2)), rng.randint(1, 28))
    series = title_type in ("TV", "ONA")
    episodes = rng.choice((12, 12, 13, 24, 25, 52)) if series else 1
    weeks = episodes - 1
    end = start + timedelta(weeks=weeks)
    # The next season pages list a series of two or more quarters as continuing.
    quarters = min(weeks // 13, 3) if title_type == "TV" else 0
    pages = SEASONS[season_index : season_index + 1 + quarters]
    rated = rng.random() > 0.07
    return InventedTitle(
        mal_id=mal_id,
        title=title,
        franchise=franchise,
        type=title_type,
        source=source,
        # As on the site, a few start dates have no day.
        start_date=start.isoformat() if rng.random() > 0.03 else start.isoformat()[:7],
        aired_to=end.isoformat() if weeks else None,
        episodes=episodes if rng.random() > 0.03 else None,
        minutes=rng.choice((23, 24, 24, 25, 5)) if series else rng.randint(40, 120),
        score=round(min(9.1, max(4.2, rng.gauss(6.9, 0.8))), 2) if rated else None,
        members=int(rng.lognormvariate(9, 1.6)) + 40,
        genres=genres,
        themes=tuple(rng.sample(THEMES, k=rng.choices((0, 1, 2), (40, 40, 20))[0])),
        demographics=demographics,
        studios=studios,
        season=SEASONS[season_index],
        pages=pages,
        rating=rng.choice(RATINGS) if rng.random() > 0.04 else None,
        related=(),
        poster=PosterState.DRAWN,
    )


def _genres(rng: random.Random) -> tuple[Label, ...]:
    leading = rng.choices(tuple(LEADING_WEIGHTS), tuple(LEADING_WEIGHTS.values()))[0]
    others = rng.sample(COMPANIONS[leading], k=rng.choices((0, 1, 2), (30, 48, 22))[0])
    return _sorted({GENRES[name] for name in (leading, *others)})


def _sorted(labels: set[Label]) -> tuple[Label, ...]:
    return tuple(sorted(labels, key=lambda label: label.name))


def _relations(members: list[InventedTitle], title: InventedTitle) -> tuple[Relation, ...]:
    """The related titles in the order of the site: prequel and sequel first, then the others."""
    position = members.index(title)
    neighbours = {position - 1: "Prequel", position + 1: "Sequel"}
    near = [(neighbours[index], member) for index, member in enumerate(members) if index in neighbours]
    far = [
        ("Side Story" if index > position else "Parent Story", member)
        for index, member in enumerate(members)
        if abs(index - position) > 1
    ]
    far.sort(key=lambda pair: pair[0])
    return tuple(Relation(kind, other.mal_id, other.title, other.type) for kind, other in (*near, *far))


def _with_oddities(rng: random.Random, titles: list[InventedTitle]) -> list[InventedTitle]:
    """Make a few titles without relations explicit, genreless or without a usable poster, as on the real site."""
    share = max(1, len(titles) // 120)
    unrelated = [index for index, title in enumerate(titles) if not title.related]
    chosen = iter(rng.sample(unrelated, k=min(len(unrelated), 5 * share)))
    odd = list(titles)
    for _ in range(share):
        index = next(chosen)
        odd[index] = replace(
            odd[index], type="OVA", genres=(EXPLICIT_GENRE,), themes=(), demographics=(),
            rating="Rx - Hentai", pages=odd[index].pages[:1], episodes=2, aired_to=None,
        )  # fmt: skip
        index = next(chosen)
        odd[index] = replace(odd[index], genres=())
        for state in (PosterState.PLACEHOLDER, PosterState.MISSING, PosterState.BROKEN):
            index = next(chosen)
            odd[index] = replace(odd[index], poster=state)
    return odd


def _ordinal(number: int) -> str:
    return f"{number}{({2: 'nd', 3: 'rd'}).get(number, 'th')}"
