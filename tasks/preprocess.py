"""Step 3: posters and genres become a dataset of pixels and labels, split by franchise."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from infra.errors import NotFound
from infra.settings import read_settings
from infra.store import Store
from ml.configuration import PreprocessConfig
from ml.dataset import Dataset, build_dataset, dataset_key
from ml.genres import Genre
from ml.posters import Poster
from ml.splits import PARTS, PartTable, franchises
from tasks.myanimelist.catalogue import read_catalogue
from tasks.myanimelist.records import CROSSOVERS, AnimeRecord, is_explicit
from tasks.posters import fetch_posters, read_poster_set
from tasks.records import CatalogueRecord, DatasetRecord, PosterSetRecord
from tasks.reporters import ProgressLog
from tasks.step import reused, step

_PARTS_KEY = "parts.csv"
_FILES = ("images.npy", "labels.npy", "rows.csv", "manifest.json")


@step("preprocess")
def preprocess(catalogue: CatalogueRecord, posters: PosterSetRecord, config: PreprocessConfig) -> DatasetRecord:
    """Decode the posters of all titles with genres, and keep them with their labels and parts in the store.

    Raises:
        DatasetError: too few posters for two genres.
        ServiceUnavailable: the store does not answer (retryable).
    """
    settings = read_settings()
    store = Store(settings)
    workspace = settings.workspace
    titles = read_catalogue(store.fetch(catalogue.key, workspace / catalogue.key))
    sha256 = {o.mal_id: str(o.sha256) for o in read_poster_set(store, posters.key) if o.usable}
    usable = usable_titles(titles, sha256)
    rows = dataset_rows(usable, sha256, _parts(store, usable), workspace / "posters")
    key = dataset_key(rows, config)
    if store.exists(f"{_folder(key)}/manifest.json"):
        return reused(_record(fetch_dataset(store, workspace, key), catalogue, posters), f"dataset {key[:12]}")
    fetch_posters(store, workspace / "posters", {title.mal_id: sha256[title.mal_id] for title in usable})
    dataset = build_dataset(rows, workspace / "datasets", config, ProgressLog())
    for name in _FILES:  # in this order: the manifest says that all is there
        store.upload({f"{_folder(key)}/{name}": dataset.folder / name})
    record = _record(dataset, catalogue, posters)
    create_markdown_artifact(_report(dataset, record), key="dataset")
    return record


def usable_titles(titles: Iterable[AnimeRecord], sha256_of: Mapping[int, str]) -> list[AnimeRecord]:
    """The titles that can be learned from: with genres and a poster (its hash by the title's id), not explicit."""
    return [title for title in titles if title.mal_id in sha256_of and title.genres and not is_explicit(title)]


def dataset_rows(
    titles: Iterable[AnimeRecord], sha256_of: Mapping[int, str], parts: Mapping[str, tuple[str, str]], folder: Path
) -> list[Poster]:
    """The dataset's rows, of titles with franchise and part by their ids and posters in the folder."""
    return [
        Poster(
            id=str(title.mal_id),
            title=title.title,
            genres=tuple(Genre(i, name) for i, name in zip(title.genre_ids, title.genres, strict=True)),
            franchise=parts[str(title.mal_id)][0],
            part=parts[str(title.mal_id)][1],
            file=folder / f"{title.mal_id}.jpg",
            sha256=sha256_of[title.mal_id],
        )
        for title in titles
    ]


def fetch_dataset(store: Store, workspace: Path, key: str) -> Dataset:
    """A dataset of the store on this machine; what is here already is not fetched again."""
    folder = workspace / _folder(key)
    for name in _FILES:
        store.fetch(f"{_folder(key)}/{name}", folder / name)
    return Dataset.load(folder)


def _folder(key: str) -> str:
    return f"datasets/{key}"


def _parts(store: Store, titles: list[AnimeRecord]) -> Mapping[str, tuple[str, str]]:
    """Franchise and part of each title by its id; the append-only table in the store learns new titles."""
    try:
        table = PartTable.parse(store.read(_PARTS_KEY).decode())
    except NotFound:
        table = PartTable()
    known = len(table.rows)
    franchise_of = franchises(
        {str(t.mal_id): t.title for t in titles},
        {str(t.mal_id): [str(r.mal_id) for r in t.related if r.relation not in CROSSOVERS] for t in titles},
    )
    parts = table.assign(franchise_of).parts
    if len(table.rows) > known:
        store.write(_PARTS_KEY, table.text().encode())
    return {i: (franchise_of[i], parts[i]) for i in franchise_of}


def _record(dataset: Dataset, catalogue: CatalogueRecord, posters: PosterSetRecord) -> DatasetRecord:
    return DatasetRecord(
        key=_folder(dataset.key),
        dataset_key=dataset.key,
        snapshot_date=catalogue.snapshot_date,
        image_size=dataset.preprocessing.size,
        posters=len(dataset.ids),
        parts={part: len(dataset.rows(part)) for part in PARTS},
        genres=[genre.name for genre in dataset.genres],
        report_key=posters.report_key,
    )


def _report(dataset: Dataset, record: DatasetRecord) -> str:
    learned = "\n".join(
        f"| {genre.name} | {int(count)} |" for genre, count in zip(dataset.genres, dataset.labels.sum(0), strict=True)
    )
    left_out = "\n".join(f"- {lacking.genre.name}: {lacking.reason}" for lacking in dataset.left_out)
    parts = ", ".join(f"{count} {part}" for part, count in record.parts.items())
    table = f"| genre | posters |\n| --- | --- |\n{learned}"
    return f"{record.posters} posters: {parts}.\n\n{table}\n\nLeft out:\n\n{left_out or '- none'}"
