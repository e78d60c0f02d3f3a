"""Step 3: posters and genres become a dataset of pixels and labels, split by franchise.

Pixels stand in shards, `pixels/{size}-v{version}/`, that all datasets share: a poster is decoded once, on one machine.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from prefect.artifacts import create_markdown_artifact

from infra.errors import NotFound
from infra.settings import read_settings
from infra.store import Store
from ml.configuration import PreprocessConfig
from ml.data.dataset import Dataset, build_dataset, dataset_folder, dataset_key
from ml.data.decoding import Poster, decode_posters, open_pixels, perceptual_hashes, pixels_folder
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre
from ml.data.shards import ARRAY, INDEX, Shards
from ml.data.splits import PARTS, PartTable, franchises
from tasks.catalogue.catalogue_table import read_catalogue
from tasks.catalogue.titles import CROSSOVERS, AnimeRecord, is_explicit
from tasks.posters import fetch_posters, read_poster_set
from tasks.records import CatalogueRecord, DatasetRecord, PosterSetRecord
from tasks.reporters import ProgressLog
from tasks.step import reused, step

_PARTS_KEY = "parts.csv"
_PIXELS = "pixels"
_FILES = ("labels.npy", "rows.csv", "manifest.json")


@step("preprocess")
def preprocess(catalogue: CatalogueRecord, posters: PosterSetRecord, config: PreprocessConfig) -> DatasetRecord:
    """Decode the posters of all titles with genres, and keep them with their labels and parts in the store.

    Raises:
        DatasetError: too few posters for two genres.
        StalePosterError: a poster that is not decoded yet is another one in the store by now.
        ServiceUnavailable: the store does not answer (retryable).
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
    """The dataset of these titles, on this machine and in the store; and whether it is new.

    Only posters whose pixels are neither here nor in the store are fetched and decoded. Raises as `preprocess`.
    """
    folder = workspace / "posters"
    undrawn = dataset_rows(titles, sha256_of, {str(title.mal_id): ("", "") for title in titles}, folder)
    needed = [poster.sha256 for poster in undrawn]
    pixels, in_the_store = _open_pixels(store, workspace, config.image_size)
    missing = set(pixels.missing(needed))
    fetch_posters(store, folder, {t.mal_id: sha256_of[t.mal_id] for t in titles if sha256_of[t.mal_id] in missing})
    decode_posters(undrawn, pixels, ProgressLog())
    _upload_shards(store, pixels, set(pixels.names(needed)) - in_the_store)

    parts = _parts(store, titles, look_alikes(perceptual_hashes(undrawn, pixels)))
    rows = dataset_rows(titles, sha256_of, parts, folder)
    key = dataset_key(rows, config)
    if store.exists(f"{_folder(key)}/manifest.json"):
        return fetch_dataset(store, workspace, key), False
    _fetch_shards(store, pixels, pixels.absent(needed))
    dataset = build_dataset(rows, workspace, config, ProgressLog(), pixels)
    # One that was built here by a run that could not upload it may have its pixels from other shards.
    _upload_shards(store, pixels, set(dataset.shards) - in_the_store - set(pixels.names(needed)))
    for name in _FILES:  # in this order: the manifest says that all is there
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
    """A dataset of the store on this machine, and the shards that it needs; what is here already is not fetched."""
    folder = dataset_folder(workspace, key)
    for name in _FILES:
        store.fetch(f"{_folder(key)}/{name}", folder / name)
    manifest = json.loads((folder / _FILES[-1]).read_bytes())
    names = manifest["shards"]
    pixels = pixels_folder(workspace, manifest["preprocessing"]["size"])
    here = [name for name in names if (pixels / f"{name}{INDEX}").exists()]
    _fetch_shards(store, open_pixels(pixels, only=here, elsewhere=names), names)
    return Dataset.load(folder)


def _open_pixels(store: Store, workspace: Path, size: int) -> tuple[Shards, set[str]]:
    """The shards of pixels on this machine and in the store, the latter by their indexes; and the latter's names."""
    folder = pixels_folder(workspace, size)
    indexes = [PurePosixPath(key) for key in store.keys(f"{_PIXELS}/{folder.name}/") if key.endswith(INDEX)]
    names = {index.stem for index in indexes}
    here = open_pixels(folder, elsewhere=names)  # a shard that is damaged here is dropped, so that it is fetched anew
    store.download({_shard_key(here, n, INDEX): here.file(n, INDEX) for n in names if not here.file(n, INDEX).exists()})
    return open_pixels(folder, elsewhere=names), names


def _upload_shards(store: Store, pixels: Shards, names: Iterable[str]) -> None:
    names = sorted(names)
    for ending in (ARRAY, INDEX):  # in this order: the index says that all is there
        store.upload({_shard_key(pixels, name, ending): pixels.file(name, ending) for name in names})


def _fetch_shards(store: Store, pixels: Shards, names: Iterable[str]) -> None:
    for ending in (ARRAY, INDEX):  # in this order: the index says that all is there
        files = {_shard_key(pixels, name, ending): pixels.file(name, ending) for name in names}
        store.download({key: file for key, file in files.items() if not file.exists()})


def _shard_key(pixels: Shards, name: str, ending: str) -> str:
    return f"{_PIXELS}/{pixels.folder.name}/{name}{ending}"


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
    alike = f"{dataset.alike_posters} look like another one; each of their {dataset.alike_groups} groups is in one part"
    return f"{record.posters} posters: {parts}; {alike}.\n\n{table}\n\nLeft out:\n\n{left_out or '- none'}"
