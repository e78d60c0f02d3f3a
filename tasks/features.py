"""Features of backbones in the bucket, and jobs that compute them on a Dask cluster."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from infra.errors import WorkerError
from infra.settings import Settings
from infra.store import Store
from ml.compute import choose_compute
from ml.networks.backbones import Normalisation, read_backbone
from ml.networks.hub import CONFIG, WEIGHTS
from ml.networks.pooling import pooled
from ml.networks.weights import WeightsFile, safetensors_of
from ml.reporting import Reporter
from ml.training.bench import Bench
from ml.training.features import BATCH_SIZE, Extractor
from serving.bundle.model import Preprocessing
from tasks.poster_rows import RowsOf, compute_on_cluster, fetch_rows, publish_rows

logger = logging.getLogger("tasks")


@dataclass(frozen=True)
class FeatureWork:
    """The features of an `Extractor`, which another machine makes again from these values and files in the bucket.

    Attributes:
        key, width: those of the extractor.
        preprocessing: how posters become pixels.
        backbone: the backbone's name, and `backbone_key` its key.
        has_config: whether the bucket has the network's description, because it is not known by its name.
        weights_sha256: the hash of the file that the weights were read from.
        normalisation: what the backbone's input is.
        is_pooled: whether the body has pooled features of several stages.
        bf16: whether features are computed in bfloat16.
    """

    key: str
    width: int
    preprocessing: Preprocessing
    backbone: str
    backbone_key: str
    has_config: bool
    weights_sha256: str
    normalisation: Normalisation
    is_pooled: bool
    bf16: bool
    batch_size: int = BATCH_SIZE
    doing: str = "backbone's features"

    @property
    def image_size(self) -> int:
        return self.preprocessing.size

    def load(self, store: Store, workspace: Path) -> RowsOf:
        """The extractor's function. Raises WorkerError if it is not the one that this describes."""
        folder = workspace / "weights" / self.weights_sha256
        for name in (CONFIG, WEIGHTS) if self.has_config else (WEIGHTS,):
            store.fetch(_weights_key(self.weights_sha256, name), folder / name)
        backbone = read_backbone(
            f"local-dir:{folder}" if self.has_config else self.backbone, str(folder / WEIGHTS), folder
        )
        assert backbone.weights is not None
        backbone = replace(
            backbone,
            name=self.backbone,
            key=self.backbone_key,
            normalisation=self.normalisation,
            weights=replace(backbone.weights, file=WeightsFile(self.weights_sha256)),
        )
        body = pooled(backbone.body(), self.image_size, self.backbone) if self.is_pooled else backbone.body()
        extractor = Extractor(body, backbone, self.preprocessing, replace(choose_compute("auto"), bf16=self.bf16))
        if extractor.key != self.key:
            raise WorkerError(f"The features of {self.backbone} are other ones here: {extractor.key}, not {self.key}.")
        network = extractor.network()
        return lambda images, is_decoded: extractor.extract(network, images)


class StoredFeatures:
    """The features of a collection in the bucket; missing ones are computed on the Dask cluster, if there is one."""

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store, self._settings = store, settings

    def fetch(self, extractor: Extractor, bench: Bench, reporter: Reporter) -> None:
        """Download the features that the bucket has. Raises as `compute_on_cluster`."""
        folder, dataset = self._settings.folder, bench.dataset
        fetch_rows(self._store, folder, extractor.key)
        if not self._settings.dask:
            return
        missing = set(extractor.shards(folder).missing(dataset.sha256))
        if missing:
            id_of = dict(zip(dataset.sha256, dataset.ids, strict=True))
            work = self._work(extractor)
            compute_on_cluster(work, self._settings.collection, {each: id_of[each] for each in missing}, reporter)
            fetch_rows(self._store, folder, extractor.key)

    def publish(self, extractor: Extractor) -> None:
        """Upload the features that the bucket lacks."""
        publish_rows(self._store, self._settings.folder, extractor.key)

    def _work(self, extractor: Extractor) -> FeatureWork:
        """The work of an extractor. Afterwards the bucket has its files."""
        backbone = extractor.backbone
        assert backbone.weights is not None
        sha256 = backbone.weights.file.sha256
        files = {CONFIG: backbone.config_file.read_bytes()} if backbone.config_file else {}
        present = self._store.keys(_weights_key(sha256, ""))
        if _weights_key(sha256, WEIGHTS) not in present:
            files[WEIGHTS] = safetensors_of(backbone.weights.state)
        for name, content in files.items():
            self._store.write(_weights_key(sha256, name), content)
        return FeatureWork(
            key=extractor.key,
            width=extractor.width,
            preprocessing=extractor.preprocessing,
            backbone=backbone.name,
            backbone_key=backbone.key,
            has_config=backbone.config_file is not None,
            weights_sha256=sha256,
            normalisation=backbone.normalisation,
            is_pooled=extractor.is_pooled,
            bf16=extractor.compute.bf16,
        )


def _weights_key(sha256: str, name: str) -> str:
    return f"weights/{sha256}/{name}"
