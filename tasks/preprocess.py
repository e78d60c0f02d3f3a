"""Step 3: builds the dataset of pixels and labels from posters and genres, split by franchise.

The bucket holds the dataset's files and the posters. Pixels are decoded from the posters on each machine and cached in
the workspace.
"""

import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from infra.settings import read_settings
from infra.store import Store
from ml.configuration import PreprocessConfig
from ml.data.dataset import (
    LABELS,
    MANIFEST,
    ROWS,
    Dataset,
    build_dataset,
    dataset_folder,
    dataset_key,
    read_parts,
    read_posters,
)
from ml.data.decoding import Poster, open_pixels, perceptual_hashes
from ml.data.duplicates import look_alikes
from ml.data.genres import Genre
from ml.data.shards import Shards
from ml.data.splits import (
    PARTS,
    PARTS_VERSION,
    TEST,
    PartTable,
    franchises,
    relations_notice,
    without_suspects,
)
from ml.errors import DatasetError
from serving.bundle.wording import counted
from tasks.artifacts import markdown_table, show_text
from tasks.catalogue.catalogue_table import fetch_catalogue, ids_with_relations, items, related_in
from tasks.catalogue.configuration import GENRES, DatasetConfig
from tasks.catalogue.labels import with_labels
from tasks.catalogue.poster_download import is_usable
from tasks.catalogue.source import Source
from tasks.crawl.ledger import poster_name
from tasks.posters import read_poster_set
from tasks.records import CatalogueRecord, DatasetRecord, PosterSetRecord
from tasks.reporters import ProgressLog
from tasks.source_choice import source_for
from tasks.step import reused, step
from tasks.stored_posters import decode_stored
from tasks.table.source import Table

_OLD_PARTS_KEY = "parts.csv"  # of version 1
_PARTS_KEY = f"parts-{PARTS_VERSION}.csv"
_FILES = (LABELS, ROWS, MANIFEST)  # in the order of their upload: the manifest means that the dataset is complete

logger = logging.getLogger("tasks")


@step("preprocess")
def preprocess(catalogue: CatalogueRecord, posters: PosterSetRecord, config: DatasetConfig) -> DatasetRecord:
    """Decode the posters of all titles with labels and store their labels and parts in the bucket.

    Raises:
        DatasetError: most titles lack the chosen labels, or there are too few posters for two genres.
        StalePosterError: a poster in the bucket was replaced in the meantime.
        ServiceUnavailable: the bucket is not reachable (retryable).
    """
    settings = read_settings(catalogue.collection)
    store, workspace = Store(settings), settings.folder
    source = source_for(catalogue.site_url)
    titles = fetch_catalogue(store, workspace, catalogue.key)
    usable, left_out = usable_titles(titles, read_poster_set(store, posters.key), source, config.labels)
    # A title without a poster or labels may be what relates two others.
    dataset, is_new, notices = make_dataset(store, workspace, usable, strong_relations(titles, source), source, config)
    notices += left_out
    for notice in notices:
        logger.info("%s", notice)
    record = _record(dataset, catalogue, posters, notices)
    if not is_new:
        return reused(record, f"dataset {dataset.key[:12]}")
    show_text("dataset", _artifact(dataset, record), "The posters and genres of the dataset, and the genres left out")
    return record


def make_dataset(
    store: Store,
    workspace: Path,
    titles: pd.DataFrame,
    related: Mapping[str, Sequence[str]],
    source: Source,
    config: PreprocessConfig,
) -> tuple[Dataset, bool, list[str]]:
    """The dataset of these titles in workspace and bucket, whether it is new, and sentences about its parts.

    Raises as `preprocess`.

    `titles` is a catalogue with the posters' hashes in the column `sha256` (see `usable_titles`). `related` gives the
    related ids by id, also of titles that are not usable (see `strong_relations`).
    Posters whose pixels are not in the workspace are fetched and decoded.
    """
    pixels = open_pixels(workspace, config.image_size)
    sha256_of = dict(zip(titles["id"], titles["sha256"], strict=True))
    decode_stored(store, workspace, sha256_of, pixels, ProgressLog(workspace))
    alike = look_alikes(perceptual_hashes(sha256_of, pixels))
    parts, notices = _draw_parts(store, titles, related, source, alike)
    posters = labelled_posters(titles, parts, workspace / "posters")
    key = dataset_key(posters, config)
    present = store.keys(f"{_folder(key)}/")
    if all(f"{_folder(key)}/{name}" in present for name in _FILES):
        try:
            dataset = fetch_dataset(store, workspace, key, pixels)
        except DatasetError:
            logger.warning("The dataset %s is damaged in the bucket and is uploaded again.", key[:12])
        else:
            return dataset, False, [*notices, *filter(None, [dataset.suspects_notice()])]
    dataset = build_dataset(posters, workspace, config, ProgressLog(workspace), pixels)
    for name in _FILES:  # all of them, because titles may have other names than at the first upload
        store.upload({f"{_folder(key)}/{name}": dataset.folder / name})
    if present:
        logger.warning("The dataset %s is complete in the bucket again.", key[:12])
    return dataset, not present, [*notices, *filter(None, [dataset.suspects_notice()])]


def usable_titles(
    catalogue: pd.DataFrame, posters: pd.DataFrame, source: Source, labels: Collection[str] = (GENRES,)
) -> tuple[pd.DataFrame, list[str]]:
    """The titles with labels and a usable poster that are not explicit, and sentences about titles without labels.

    The column `sha256` has the poster's hash, the columns `genres` and `genre_ids` have the labels of whatever kind.
    Raises DatasetError if most titles lack labels of a kind.
    """
    titles, notices = with_labels(catalogue[~source.is_explicit(catalogue)], labels, source.label_ids)
    titles = titles[titles["genres"] != ""]
    return titles.merge(posters.loc[is_usable(posters), ["id", "sha256"]], on="id"), notices


def labelled_posters(titles: pd.DataFrame, parts: Mapping[str, tuple[str, str]], folder: Path) -> list[Poster]:
    """The posters of titles with their labels. `parts` gives franchise and part of each id."""
    return [
        Poster(
            id=title.id,
            title=title.title,
            genres=_genres(title.genre_ids, title.genres),
            franchise=parts[title.id][0],
            part=parts[title.id][1],
            file=folder / poster_name(title.id),
            sha256=title.sha256,
        )
        for title in titles.itertuples()
    ]


def _genres(ids: str, names: str) -> tuple[Genre, ...]:
    if not ids:
        return tuple(Genre(None, name) for name in items(names))
    return tuple(Genre(int(id) if id else None, name) for id, name in zip(items(ids), items(names), strict=True))


def fetch_dataset(store: Store, workspace: Path, key: str, pixels: Shards | None = None) -> Dataset:
    """Open a dataset of the bucket in the workspace. Files and pixels that the workspace has, undamaged, are reused.

    `pixels` is the workspace's cache if it is open already: opening it reads all of it, to check it.

    Raises DatasetError if the dataset in the bucket is damaged, and StalePosterError if a poster in the bucket was
    replaced in the meantime.
    """
    folder = dataset_folder(workspace, key)
    for name in _FILES:
        store.fetch(f"{_folder(key)}/{name}", folder / name)
    size, sha256_of = read_posters(folder)
    pixels = open_pixels(workspace, size) if pixels is None else pixels
    decode_stored(store, workspace, sha256_of, pixels, ProgressLog(workspace))
    return Dataset.load(folder, pixels)


def read_dataset_parts(store: Store, key: str) -> dict[str, tuple[str, str]]:
    """Franchise and part by id of a dataset in the bucket, empty if it is missing or damaged."""
    return store.read_parsed(f"{_folder(key)}/{ROWS}", read_parts) or {}


def read_test_ids(store: Store, key: str) -> list[str]:
    """The ids of the test part of a dataset in the bucket, empty if it is missing or damaged."""
    return [id for id, (_, part) in read_dataset_parts(store, key).items() if part == TEST]


def _folder(key: str) -> str:
    return f"datasets/{key}"


def _draw_parts(
    store: Store,
    titles: pd.DataFrame,
    related: Mapping[str, Sequence[str]],
    source: Source,
    alike: Iterable[tuple[str, str]],
) -> tuple[Mapping[str, tuple[str, str]], list[str]]:
    """Franchise and part of each title by its id, and sentences about how well the parts are separated.

    New titles are appended to the table of parts in the bucket. `related` is as in `make_dataset`. `alike` are pairs of
    titles whose posters look alike: both are put into one part.
    """
    title_of = dict(zip(titles["id"], titles["title"], strict=True))
    franchise_of = franchises(title_of, related, alike)
    table = _read_table(store, _PARTS_KEY)
    before, notices = dict(table.rows) if table else {}, []
    table = table or _restored_parts(store, PARTS_VERSION)
    if table is None:
        old = _read_table(store, _OLD_PARTS_KEY) or _restored_parts(store, 1)
        table = (old or PartTable()).redrawn(franchise_of)
        if old:
            notices.append(_redrawn_notice(old, table))
    parts = table.assign(franchise_of)
    if table.rows != before:
        store.write(_PARTS_KEY, table.text().encode())
    known = ids_with_relations(titles)
    by_page, named = (set[str](), known) if isinstance(source, Table) else (known, set[str]())
    parts = without_suspects(parts, title_of, franchise_of, by_page, named)
    notices.append(relations_notice(title_of, related, parts, known))
    return {id: (franchise_of[id], parts[id]) for id in franchise_of}, notices


def strong_relations(titles: pd.DataFrame, source: Source) -> dict[str, list[str]]:
    """The ids of the titles of the same franchise by id, as the detail pages name them."""
    return {
        title.id: [other.id for other in related_in(title.related) if other.relation not in source.weak_relations]
        for title in titles.itertuples()
    }


def parts_so_far(store: Store) -> dict[str, str]:
    """The part of each title in the bucket's table of parts by id, empty if there is none yet."""
    table = _read_table(store, _PARTS_KEY)
    return {id: part for id, (_, part) in table.rows.items()} if table else {}


def _read_table(store: Store, key: str) -> PartTable | None:
    """A table of parts in the bucket, None if there is none or if it is damaged, which is logged."""
    return store.read_parsed(key, lambda content: PartTable.parse(content.decode()))


def _restored_parts(store: Store, version: int) -> PartTable | None:
    """The table of parts as the bucket's datasets of a version of the rules have it; None if there are none."""
    rows: dict[str, tuple[str, str]] = {}
    for key in store.keys("datasets/"):
        if key.endswith(f"/{ROWS}"):
            manifest = store.read_parsed(key.replace(ROWS, MANIFEST), json.loads) or {}
            if manifest.get("parts_version", 1) == version:
                rows |= store.read_parsed(key, read_parts) or {}
    if not rows:
        return None
    logger.warning("The table of parts is made again with the parts of %d titles in datasets.", len(rows))
    return PartTable(rows)


def _redrawn_notice(old: PartTable, new: PartTable) -> str:
    both = old.rows.keys() & new.rows.keys()
    moved = sum(old.rows[id][1] != new.rows[id][1] for id in both)
    return (
        f"The parts were drawn again, once, because franchises are found better now: {moved} of {len(both)} titles "
        "moved to another part. All models are scored again, the champion only on titles that it has not seen."
    )


def _record(
    dataset: Dataset, catalogue: CatalogueRecord, posters: PosterSetRecord, notices: list[str]
) -> DatasetRecord:
    return DatasetRecord(
        dataset_key=dataset.key,
        snapshot_date=catalogue.snapshot_date,
        posters=len(dataset.ids),
        parts={part: len(dataset.rows(part)) for part in PARTS},
        genres=[genre.name for genre in dataset.genres],
        report_key=posters.report_key,
        collection=catalogue.collection,
        notices=notices,
    )


def _artifact(dataset: Dataset, record: DatasetRecord) -> str:
    counts_of = zip(dataset.genres, dataset.labels.sum(0), strict=True)
    table = markdown_table(["genre", "posters"], [[genre.name, str(int(count))] for genre, count in counts_of])
    left_out = "\n".join(f"- {genre.genre.name}: {genre.sentence}" for genre in dataset.left_out)
    parts = ", ".join(f"{count} {part}" for part, count in record.parts.items())
    alike = f"{counted(dataset.alike_posters, 'look-alike')} in {counted(dataset.alike_groups, 'group')}"
    counts = f"{counted(record.posters, 'poster')}: {parts}; {alike}"
    notices = "".join(f"{notice}\n\n" for notice in record.notices)
    return f"{counts}.\n\n{notices}{table}\n\nGenres left out:\n\n{left_out or '- none'}"
