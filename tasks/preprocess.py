"""Step 3: builds the dataset of pixels and labels from posters and genres, split by franchise.

The bucket holds the dataset's files and the posters. Pixels are decoded from the posters on each machine and cached in
the workspace.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from infra.errors import NotFound
from infra.settings import read_settings
from infra.store import Store
from ml.configuration import PreprocessConfig
from ml.data.dataset import LABELS, MANIFEST, ROWS, Dataset, build_dataset, dataset_folder, dataset_key, read_rows
from ml.data.decoding import Poster, decode_posters, open_pixels, perceptual_hashes
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre
from ml.data.shards import Shards
from ml.data.splits import PARTS, PartTable, franchises
from tasks.catalogue.catalogue_table import read_catalogue
from tasks.catalogue.titles import CROSSOVERS, AnimeRecord, is_explicit
from tasks.posters import fetch_posters, read_poster_set
from tasks.records import CatalogueRecord, DatasetRecord, PosterSetRecord
from tasks.reporters import ProgressLog
from tasks.step import reused, step

_PARTS_KEY = "parts.csv"


@step("preprocess")
def preprocess(catalogue: CatalogueRecord, posters: PosterSetRecord, config: PreprocessConfig) -> DatasetRecord:
    """Decode the posters of all titles with genres and store their labels and parts in the bucket.

    Raises:
        DatasetError: too few posters for two genres.
        StalePosterError: a poster in the bucket was replaced in the meantime.
        ServiceUnavailable: the bucket is not reachable (retryable).
    """
    settings = read_settings()
    store, workspace = Store(settings), settings.workspace
    titles = read_catalogue(store.fetch(catalogue.key, workspace / catalogue.key))
    sha256 = {o.mal_id: str(o.sha256) for o in read_poster_set(store, posters.key) if o.usable}
    dataset, is_new = make_dataset(store, workspace, usable_titles(titles, sha256), sha256, config)
    record = _record(dataset, catalogue, posters)
    if not is_new:
        return reused(record, f"dataset {dataset.key[:12]}")
    create_markdown_artifact(_report(dataset, record), key="dataset")
    return record


def make_dataset(
    store: Store, workspace: Path, titles: list[AnimeRecord], sha256_of: Mapping[int, str], config: PreprocessConfig
) -> tuple[Dataset, bool]:
    """The dataset of these titles, in the workspace and in the bucket; and whether it is new. Raises as `preprocess`.

    Posters whose pixels are not in the workspace are fetched and decoded.
    """
    folder = workspace / "posters"
    pixels = open_pixels(workspace, config.image_size)
    _decode(store, folder, {title.mal_id: sha256_of[title.mal_id] for title in titles}, pixels)
    undrawn = dataset_rows(titles, sha256_of, {str(title.mal_id): ("", "") for title in titles}, folder)
    parts = _parts(store, titles, look_alikes(perceptual_hashes(undrawn, pixels)))
    rows = dataset_rows(titles, sha256_of, parts, folder)
    key = dataset_key(rows, config)
    if store.exists(f"{_folder(key)}/{MANIFEST}"):
        return fetch_dataset(store, workspace, key), False
    dataset = build_dataset(rows, workspace, config, ProgressLog(), pixels)
    for name in (LABELS, ROWS, MANIFEST):  # the manifest last: it means that the dataset is complete
        store.upload({f"{_folder(key)}/{name}": dataset.folder / name})
    return dataset, True


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
    """Open a dataset of the bucket in the workspace. Files and pixels that the workspace has are reused.

    Raises StalePosterError if a poster in the bucket was replaced in the meantime.
    """
    folder = dataset_folder(workspace, key)
    for name in (LABELS, ROWS, MANIFEST):
        store.fetch(f"{_folder(key)}/{name}", folder / name)
    size = json.loads((folder / MANIFEST).read_bytes())["preprocessing"]["size"]
    rows = read_rows(folder)
    sha256_of = {int(id): sha256 for id, sha256 in zip(rows["id"], rows["sha256"], strict=True)}
    _decode(store, workspace / "posters", sha256_of, open_pixels(workspace, size))
    return Dataset.load(folder)


def _decode(store: Store, folder: Path, sha256_of: Mapping[int, str], pixels: Shards) -> None:
    """Fetch the posters whose pixels are missing into the folder, and decode them."""
    missing = set(pixels.missing(sha256_of.values()))
    needed = {mal_id: sha256 for mal_id, sha256 in sha256_of.items() if sha256 in missing}
    fetch_posters(store, folder, needed)
    decode_posters({sha256: folder / f"{mal_id}.jpg" for mal_id, sha256 in needed.items()}, pixels, ProgressLog())


def _folder(key: str) -> str:
    return f"datasets/{key}"


def _parts(store: Store, titles: list[AnimeRecord], alike: Iterable[tuple[str, str]]) -> Mapping[str, tuple[str, str]]:
    """Franchise and part of each title by its id, where pairs of titles have posters that look alike; the append-only
    table in the store learns new titles."""
    try:
        table = PartTable.parse(store.read(_PARTS_KEY).decode())
    except NotFound:
        table = PartTable()
    known = len(table.rows)
    franchise_of = franchises(
        {str(t.mal_id): t.title for t in titles},
        {str(t.mal_id): [str(r.mal_id) for r in t.related if r.relation not in CROSSOVERS] for t in titles},
        alike,
    )
    parts = table.assign(franchise_of)
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
    alike = f"{dataset.alike_posters} look like another one; each of their {dataset.alike_groups} groups is in one part"
    return f"{record.posters} posters: {parts}; {alike}.\n\n{table}\n\nLeft out:\n\n{left_out or '- none'}"
