"""Features in the bucket. A worker of a Dask cluster computes them from files of the bucket alone."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from infra.settings import read_settings
from infra.store import Store
from ml.compute import choose_compute
from ml.configuration import PreprocessConfig, TrainConfig
from ml.data.dataset import Dataset, build_dataset
from ml.networks.backbones import HALF, Backbone, read_backbone
from ml.reporting import NullReporter
from ml.training.bench import Bench
from ml.training.features import Pretrained
from tasks.crawl.mirror import poster_key
from tasks.features import StoredFeatures
from tests.dask_cluster import dask_cluster
from tests.ml.conftest import make_posters
from tests.ml.networks.test_timm import RESNET, write_repository
from tests.no_checkpoints import NoCheckpoints
from tests.storage import bucket_of_the_settings

pytestmark = [pytest.mark.stack, pytest.mark.train]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A bucket with some posters, which the settings name."""
    with bucket_of_the_settings(tmp_path, monkeypatch) as store:
        for poster in make_posters(tmp_path / "posters", 40):
            store.write(poster_key(poster.id), poster.file.read_bytes())
        yield store


def features(
    store: Store, backbone: Backbone, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[str, bytes], float | None]:
    """The files with features of all posters in a new workspace, and the rate at which this process computed them."""
    monkeypatch.setenv("ANIME_GENRE_WORKSPACE", str(workspace))
    config = PreprocessConfig(image_size=32, min_posters=5, min_posters_per_part=1)
    dataset: Dataset = build_dataset(make_posters(tmp_path / "posters", 40), workspace, config, NullReporter())
    bench = Bench(dataset, TrainConfig(), backbone, choose_compute("cpu"), NoCheckpoints())
    pretrained = Pretrained.load(bench, NullReporter(), StoredFeatures(store, read_settings()))
    found = workspace.glob("features/*/*.[nj]*")
    return {path.name: path.read_bytes() for path in found}, pretrained.images_per_second


def test_features_of_a_worker_equal_those_of_this_machine_byte_for_byte(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeezenet = read_backbone("squeezenet1_1", "none", tmp_path)
    save_file(squeezenet.make().state_dict(), tmp_path / "weights.safetensors")
    squeezenet = read_backbone("squeezenet1_1", str(tmp_path / "weights.safetensors"), tmp_path)
    backbones = {
        "known": replace(squeezenet, normalisation=HALF),  # as for the recipe: not the backbone's own
        "repository": read_backbone(f"local-dir:{write_repository(tmp_path / 'net', RESNET)}", "imagenet", tmp_path),
    }
    with dask_cluster(tmp_path) as cluster:
        workspace = cluster.add_worker({})
        for name, backbone in backbones.items():
            expected, rate = features(store, backbone, tmp_path / name / "here", tmp_path, monkeypatch)
            assert rate is not None and len(expected) == 2
            again, rate = features(store, backbone, tmp_path / name / "fresh", tmp_path, monkeypatch)
            assert (again, rate) == (expected, None)  # from the bucket
            for key in store.keys("features/"):
                store.delete(key)
            with monkeypatch.context() as patch:
                patch.setenv("ANIME_GENRE_DASK", cluster.address)
                found, rate = features(store, backbone, tmp_path / name / "another", tmp_path, patch)
            assert (found, rate) == (expected, None)
    kept = {path.relative_to(workspace).parts[0] for path in workspace.rglob("*") if path.is_file()}
    assert kept == {"weights"}  # neither posters nor pixels
