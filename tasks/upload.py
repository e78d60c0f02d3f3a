"""Step 7: the bundle of a registered version goes to the bucket, where the function loads it from."""

from infra.registry import Registry
from infra.settings import read_settings
from infra.store import Store
from serving.bundle.model import MANIFEST
from tasks.bundles import bundle_key, fetch_bundle, upload_bundle
from tasks.records import BundleRecord, ModelRecord
from tasks.step import reused, step


@step("upload")
def upload(model: ModelRecord) -> BundleRecord:
    """Put the bundle into the bucket, and its address on the version.

    Raises:
        ServiceUnavailable: the store or MLflow does not answer (retryable).
        BundleError: the bundle is not what its hash says.
    """
    settings = read_settings()
    store, registry = Store(settings), Registry(settings)
    record = BundleRecord(uri=store.uri(bundle_key(model.bundle_sha256)), sha256=model.bundle_sha256)
    registry.tag_version(model.version, {"bundle_uri": record.uri})
    if store.exists(f"{bundle_key(model.bundle_sha256)}/{MANIFEST}"):
        return reused(record, f"{record.uri} is there")
    folder = fetch_bundle(registry, settings.workspace, model.run_id, model.bundle_sha256)
    upload_bundle(store, folder, model.bundle_sha256)
    return record
