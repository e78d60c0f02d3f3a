"""The predictions of one bundle for all titles of a catalogue, also those that have no genres on their site.

predictions/{bundle sha256}/{shard}.npy, .json        probabilities per poster (see `tasks.poster_rows`)
predictions/{bundle sha256}/{table sha256}.parquet    the table
"""

import logging
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infra.cloud_run import CloudRun
from infra.errors import ConfigurationError, NotFound
from infra.files import write_bytes
from infra.settings import read_settings
from infra.store import Store
from ml.data.decoding import PREPROCESSING_VERSION
from ml.reporting import Reporter
from serving.bundle.files import sha256_of
from serving.bundle.model import MANIFEST, Manifest, Model
from tasks.bundles import bundle_key
from tasks.catalogue.catalogue_table import fetch_catalogue, items
from tasks.catalogue.poster_download import is_usable
from tasks.poster_rows import RowsOf, complete_rows
from tasks.posters import read_last_collected, read_poster_set, without_replaced

logger = logging.getLogger("tasks")

PREDICTIONS = "predictions"


@dataclass(frozen=True)
class PredictionWork:
    """The probabilities of a bundle's genres; NaN for a poster that cannot be decoded."""

    bundle_sha256: str
    width: int
    image_size: int
    batch_size: int = 64
    doing: str = "predicting posters"

    @property
    def key(self) -> str:
        return f"{PREDICTIONS}/{self.bundle_sha256}"

    def load(self, store: Store, workspace: Path) -> RowsOf:
        model = Model.read(lambda name: store.read(f"{bundle_key(self.bundle_sha256)}/{name}"), self.bundle_sha256)

        def probabilities(images: NDArray[np.uint8], is_decoded: NDArray[np.bool_]) -> NDArray[np.float32]:
            rows = model.probabilities(images)
            rows[~is_decoded] = np.nan
            return rows

        return probabilities


@dataclass(frozen=True)
class CataloguePredictions:
    """The table, its address in the bucket and its file in the workspace, and the bundle that predicted it.

    The table has one row per title: `id`, `title`, `genres` (of the catalogue), `predicted` (names of genres), one
    column `probability/{genre}` per genre (float32), `model` (the bundle's sha256) and `date` (of the catalogue).
    Without a usable poster, `predicted` is None and probabilities are NaN.
    """

    table: pd.DataFrame
    uri: str
    file: Path
    bundle_sha256: str


def predict_catalogue(collection: str, bundle: str | None, reporter: Reporter) -> CataloguePredictions:
    """Predict the genres of all titles of the catalogue that was collected last.

    Args:
        collection: whose catalogue it is.
        bundle: the beginning of the sha256 of a bundle in the bucket; None for the live one.
        reporter: receives the progress. Posters that the bundle has predicted before take no time.

    Raises:
        CatalogueError: nothing was collected yet.
        NotFound: no model is live, or the bucket has no such bundle.
        ConfigurationError: the bundle was trained on posters that another version of the decoder read.
        AnimeGenreError: see `complete_rows`.
    """
    settings = read_settings(collection)
    store, folder = Store(settings), settings.folder
    sha256 = _bundle(store, bundle) if bundle else _live_bundle(collection)
    manifest = Manifest.parse(store.read(f"{bundle_key(sha256)}/{MANIFEST}"))
    if manifest.preprocessing.version != PREPROCESSING_VERSION:  # it would get other pixels than in its training
        raise ConfigurationError(
            f"The bundle {sha256[:8]} was trained on posters of decoder version {manifest.preprocessing.version}, and "
            f"this program has {PREPROCESSING_VERSION}. Name another one with --bundle, or train one."
        )
    collected = without_replaced(store, read_last_collected(store))
    titles = fetch_catalogue(store, folder, collected.catalogue.key)
    posters = read_poster_set(store, collected.posters.key)
    posters = posters.loc[is_usable(posters), ["id", "sha256"]]
    work = PredictionWork(sha256, len(manifest.genres), manifest.preprocessing.size)
    rows = complete_rows(work, collection, dict(zip(posters["sha256"], posters["id"], strict=True)), reporter)
    probabilities = pd.DataFrame(
        rows.rows(tuple(posters["sha256"]))[:], index=posters["id"], columns=[genre.name for genre in manifest.genres]
    )
    table = _table(titles, probabilities, manifest)
    table["model"], table["date"] = sha256, collected.catalogue.snapshot_date
    content = BytesIO()
    table.to_parquet(content, index=False)
    key = f"{work.key}/{sha256_of(content.getvalue())}.parquet"
    store.write(key, content.getvalue())
    write_bytes(folder / key, content.getvalue())
    return CataloguePredictions(table, store.uri(key), folder / key, sha256)


def _live_bundle(collection: str) -> str:
    settings = read_settings(collection)
    live = CloudRun(settings).live()
    if live is None:
        raise NotFound(f"No model of {collection} is live. Name a bundle with --bundle, or train one.")
    return live.bundle_sha256


def _bundle(store: Store, start: str) -> str:
    """The sha256 of the bundle in the bucket that begins with `start`."""
    found = [key.split("/")[1] for key in store.keys(f"bundles/{start}") if key.endswith(f"/{MANIFEST}")]
    if len(found) != 1:
        raise NotFound(f"{store.uri('bundles/')} has {len(found)} bundles that begin with {start}. Name one of them.")
    return found[0]


def _table(titles: pd.DataFrame, probabilities: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """One row per title. `probabilities` has those with a usable poster as index, and one column per genre."""
    table = pd.DataFrame({"id": titles["id"], "title": titles["title"], "genres": titles["genres"].map(items)})
    values = probabilities.reindex(titles["id"])
    thresholds = np.array([genre.threshold for genre in manifest.genres])
    names = np.array(values.columns)
    table["predicted"] = [
        None if np.isnan(row).any() else names[row >= thresholds].tolist() for row in values.to_numpy()
    ]
    return table.assign(**{f"probability/{name}": values[name].to_numpy() for name in values.columns})
