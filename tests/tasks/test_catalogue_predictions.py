"""The table of a bundle's predictions for a catalogue in the bucket, on one machine and on a Dask cluster."""

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.errors import ConfigurationError, NotFound
from infra.settings import MAIN_COLLECTION
from infra.store import Store
from ml.reporting import NullReporter
from serving.bundle.errors import PosterError
from serving.bundle.files import sha256_of
from serving.bundle.model import Model
from tasks.bundles import upload_bundle
from tasks.catalogue.catalogue_table import catalogue_csv, catalogue_of
from tasks.catalogue.titles import Title
from tasks.catalogue_predictions import CataloguePredictions, predict_catalogue
from tasks.crawl.mirror import poster_key
from tasks.errors import CatalogueError
from tasks.posters import store_posters
from tasks.records import CatalogueRecord
from tests.dask_cluster import dask_cluster
from tests.serving.conftest import write_bundle
from tests.storage import bucket_of_the_settings
from tests.tasks.test_preprocess import drawn

pytestmark = pytest.mark.stack


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A bucket, which the settings name."""
    with bucket_of_the_settings(tmp_path, monkeypatch) as store:
        monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path / "workspace"))
        yield store


@pytest.fixture
def posters(store: Store) -> dict[str, bytes]:
    """The usable posters by title. The bucket has a catalogue of them and of a title without a poster."""
    posters = {str(number): drawn(number) for number in range(1, 8)} | {"8": b"no image"}
    titles = [Title(id, f"Tale {id}", genres=["Drama"] if int(id) < 3 else []) for id in (*posters, "9")]
    content = catalogue_csv(catalogue_of(titles)).encode()
    sha256 = sha256_of(content)
    store.write(f"catalogues/{sha256}.csv", content)
    for id, poster in posters.items():
        store.write(poster_key(id), poster)
    rows = [[id, "new", "", sha256_of(poster), ""] for id, poster in posters.items()] + [["9", "missing", "", "", ""]]
    catalogue = CatalogueRecord(
        key=f"catalogues/{sha256}.csv",
        sha256=sha256,
        site_url="https://myanimelist.net",
        seasons="2015-winter..now",
        titles=len(titles),
        changes=0,
        snapshot_date="2026-11-30",
    )
    store_posters(store, catalogue, pd.DataFrame(rows, columns=["id", "status", "reason", "sha256", "url"]), b"report")
    return posters


@pytest.fixture
def bundle(store: Store, tmp_path: Path) -> Model:
    folder = write_bundle(tmp_path / "bundle")
    (folder / "weights.safetensors").write_bytes(b"")
    model = Model.load(folder)
    upload_bundle(store, folder, model.sha256)
    return model


def predict(bundle: str | None) -> CataloguePredictions:
    return predict_catalogue(MAIN_COLLECTION, bundle, NullReporter())


def test_table_has_the_bundles_predictions_for_every_title(
    store: Store, posters: dict[str, bytes], bundle: Model
) -> None:
    result = predict(bundle.sha256[:8])
    table = pd.read_parquet(io.BytesIO(store.read_address(result.uri)))
    pd.testing.assert_frame_equal(table, pd.read_parquet(result.file))
    assert list(table["id"]) == [str(number) for number in range(1, 10)]
    assert [list(genres) for genres in table["genres"]] == [["Drama"]] * 2 + [[]] * 7
    assert set(table["model"]) == {bundle.sha256} and set(table["date"]) == {"2026-11-30"}
    for row in table.to_dict("records"):
        try:
            (expected,) = bundle.predict([posters[row["id"]]])
        except (KeyError, PosterError):
            assert row["predicted"] is None
            assert all(np.isnan(row[f"probability/{genre.name}"]) for genre in bundle.manifest.genres)
            continue
        assert list(row["predicted"]) == [genre.name for genre in expected if genre.predicted]
        for genre in expected:
            assert row[f"probability/{genre.name}"] == pytest.approx(genre.probability, abs=1e-6)
    assert table["predicted"].isna().sum() == 2


def test_table_of_a_cluster_equals_that_of_one_machine_byte_for_byte(
    store: Store, posters: dict[str, bytes], bundle: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = predict(bundle.sha256).file.read_bytes()
    for key in store.keys("predictions/"):
        store.delete(key)
    with dask_cluster(tmp_path) as cluster:
        cluster.add_worker({})
        monkeypatch.setenv("ANIME_GENRE_DASK", cluster.address)
        monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(tmp_path / "another"))
        result = predict(bundle.sha256)
    assert result.file.read_bytes() == store.read_address(result.uri) == expected
    assert not (tmp_path / "another" / "posters").exists()


def test_bundle_that_is_not_one_of_the_bucket_is_refused(
    store: Store, posters: dict[str, bytes], bundle: Model
) -> None:
    store.write(f"bundles/{bundle.sha256[:4]}{'0' * 60}/manifest.json", b"another")
    for start, count in ((bundle.sha256[:4], 2), ("xyz", 0)):
        with pytest.raises(NotFound, match=rf"/bundles/ has {count} bundles that begin with {start}\. Name one"):
            predict(start)


def test_bundle_of_another_decoder_is_refused(
    store: Store, posters: dict[str, bytes], bundle: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.catalogue_predictions.PREPROCESSING_VERSION", 2)
    with pytest.raises(ConfigurationError, match=r"of decoder version 1, and this program has 2\. Name another one"):
        predict(bundle.sha256)
    assert store.keys("predictions/") == []


def test_catalogue_that_was_not_collected_is_told(store: Store, bundle: Model) -> None:
    with pytest.raises(CatalogueError, match="nothing was collected yet"):
        predict(bundle.sha256)
